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

__all__ = ["Call", "no_garbage_collection", "sample"]

Call = Callable[[], Any]

#: A warm sample begins with so many untimed calls, or as many as take so long; one at least. One alone does
#: not bring back what the cases between have taken from the last-level cache: decoding from 16 MiB of keys
#: and values took 1.5 times as long after one call as after four, and no less after eight (on an EPYC with
#: 32 MiB, two kernels taking turns). A call of several milliseconds passes over that much memory itself.
PRIMING_CALLS = 4
PRIMING_NS = 4_000_000


def sample(call: Call, calls: int, flush: Callable[[], object] | None = None) -> SampleReply:
    """One sample of `calls` calls: warm, after untimed priming calls; cold when there is a `flush`.

    Cold calls are timed singly, each after a flush, and their times added.

    Raises:
        ValueError: `calls` is less than 1.
        Exception: whatever `call` raises.
    """
    if calls < 1:
        raise ValueError(f"a sample needs at least one call, got {calls}")
    with no_garbage_collection():
        if flush is None:
            _prime(call)
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


def _prime(call: Call) -> None:
    until = perf_counter_ns() + PRIMING_NS
    for _ in range(PRIMING_CALLS):
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
