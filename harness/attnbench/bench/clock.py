"""How long calls take on the CPU: warm samples and cold ones.

A sample is everything between two readings of the clock. On the CPU that is `calls` calls in a bare loop;
an empty call in this loop costs about 20 ns (measured: `sample` of `lambda: None`, 10⁶ calls), so nothing
is subtracted: it is below 1% of any call that takes 3 µs, and torch's cheapest attention call takes ten.
Cold calls are timed singly, and what is emptied with the cache is the clock's own code too: an empty call
after a flush takes 1 µs (measured: the median of 100 on an EPYC; 3 µs had the clock not been read once
before). That is 1% of a call that takes 100 µs. Results are dropped as soon as the next call may start, so
no two outputs are held at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from time import perf_counter_ns, process_time_ns
from typing import Any

from attnbench.protocol import SampleReply

__all__ = ["Call", "no_garbage_collection", "priming_calls", "sample"]

Call = Callable[[], Any]

#: A warm sample begins with so many untimed calls, as long as they take less than `PRIMING_NS`; one at least.
#: One alone leaves 1 to 3% (measured, like all that follows, on an EPYC with 32 MiB of last-level cache and
#: four kernels taking turns, against the times after eight calls).
PRIMING_CALLS = 2

#: So many where the case's data are a good part of that cache, which does not take back at once what the
#: cases between have driven out: decoding from 16 MiB of keys and values takes 2.3 to 2.5 times as long after
#: one call, 1.6 to 1.8 after two, 1.1 after four; from 4 MiB 1.09 after one, 1.01 after two.
PRIMING_CALLS_OF_MUCH_DATA = 8
LEAST_SHARE_OF_CACHE, MOST_SHARE_OF_CACHE = 1 / 16, 2.0

#: A call of several milliseconds passes over its data more than once, or over more than the cache holds.
PRIMING_NS = 5_000_000


def priming_calls(data_bytes: int, cache_bytes: int) -> int:
    """How many calls prime a sample of a case whose inputs and output are `data_bytes`, at most."""
    much = LEAST_SHARE_OF_CACHE * cache_bytes < data_bytes < MOST_SHARE_OF_CACHE * cache_bytes
    return PRIMING_CALLS_OF_MUCH_DATA if much else PRIMING_CALLS


def sample(
    call: Call, calls: int, flush: Callable[[], object] | None = None, *, primings: int = PRIMING_CALLS
) -> SampleReply:
    """One sample of `calls` calls: warm, after up to `primings` untimed ones; cold when there is a `flush`.

    Cold calls are timed singly, each after a flush, and their times added.

    Raises:
        ValueError: `calls` is less than 1.
        Exception: whatever `call` raises.
    """
    if calls < 1:
        raise ValueError(f"a sample needs at least one call, got {calls}")
    with no_garbage_collection():
        if flush is None:
            _prime(call, primings)
            return _time(call, calls)
        singles = []
        for _ in range(calls):
            flush()
            _time(_nothing, 1)
            singles.append(_time(call, 1))
    return SampleReply(
        elapsed_s=sum(single["elapsed_s"] for single in singles),
        cpu_s=sum(single["cpu_s"] for single in singles),
        launch_s=None,
    )


def _prime(call: Call, calls: int) -> None:
    until = perf_counter_ns() + PRIMING_NS
    for _ in range(calls):
        call()
        if perf_counter_ns() >= until:
            return


def _nothing() -> None:
    """Timed after a flush, it brings the clock's own code back into the cache, and that of nobody else."""


def _time(call: Call, calls: int) -> SampleReply:
    times = repeat(None, calls)
    cpu = process_time_ns()
    began = perf_counter_ns()
    for _ in times:
        call()
    ended = perf_counter_ns()
    return SampleReply(elapsed_s=(ended - began) / 1e9, cpu_s=(process_time_ns() - cpu) / 1e9, launch_s=None)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect before, then not until the end: a collection is the harness's affair, not the kernel's."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
