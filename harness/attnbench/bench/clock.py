"""How long calls take: warm samples, cold samples, on the CPU's clocks and on CUDA events.

A sample is everything between two readings of the clock. On the CPU that is `calls` calls in a bare loop;
an empty call in this loop costs about 20 ns (measured: `sample` of `lambda: None`, 10⁶ calls), so nothing is
subtracted: it is below 1% of any call that takes 3 µs, and torch's cheapest attention call takes ten.
Results are dropped as soon as the next call may start, so no two outputs are held at once.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any

from attnbench.protocol import SampleReply
from attnbench.units import MIB

__all__ = ["FALLBACK_CACHE_BYTES", "Flush", "last_level_cache_bytes", "sample"]

Call = Callable[[], Any]

#: What the last-level cache is taken to hold where the system does not say.
FALLBACK_CACHE_BYTES = 32 * MIB

_CPUS = Path("/sys/devices/system/cpu")


def sample(call: Call, calls: int, *, device: str = "cpu", flush: Flush | None = None) -> SampleReply:
    """One sample of `calls` calls: warm, after an untimed priming call; cold when there is a `flush`.

    Cold calls are timed singly, each after a flush, and their times added. `launch_s`, on CUDA, is the time
    the host needed to launch the work that `elapsed_s` lasted.

    Raises:
        ValueError: `calls` is less than 1.
        Exception: whatever `call` raises.
    """
    if calls < 1:
        raise ValueError(f"a sample needs at least one call, got {calls}")
    time = _cuda_timer(device) if device.split(":")[0] == "cuda" else _time_on_cpu
    with _no_garbage_collection():
        if flush is None:
            call()
            return time(call, calls)
        singles = []
        for _ in range(calls):
            flush()
            singles.append(time(call, 1))
    launches = [single["launch_s"] for single in singles if single["launch_s"] is not None]
    return SampleReply(
        elapsed_s=sum(single["elapsed_s"] for single in singles),
        cpu_s=sum(single["cpu_s"] for single in singles),
        launch_s=sum(launches) if launches else None,
    )


def _time_on_cpu(call: Call, calls: int) -> SampleReply:
    times = repeat(None, calls)
    cpu = process_time_ns()
    began = perf_counter_ns()
    for _ in times:
        call()
    ended = perf_counter_ns()
    return SampleReply(elapsed_s=(ended - began) / 1e9, cpu_s=(process_time_ns() - cpu) / 1e9, launch_s=None)


def _cuda_timer(device: str) -> Callable[[Call, int], SampleReply]:
    from torch import cuda

    def time(call: Call, calls: int) -> SampleReply:
        times = repeat(None, calls)
        with cuda.device(device):
            first, last = _cuda_event(), _cuda_event()
            cuda.synchronize(device)
            cpu = process_time_ns()
            first.record()
            began = perf_counter_ns()
            for _ in times:
                call()
            launched = perf_counter_ns()
            last.record()
            cuda.synchronize(device)
        return SampleReply(
            elapsed_s=first.elapsed_time(last) / 1e3,
            cpu_s=(process_time_ns() - cpu) / 1e9,
            launch_s=(launched - began) / 1e9,
        )

    return time


def _cuda_event() -> Any:
    from torch import cuda

    return cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch left it untyped


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect before, then not until the end: a collection is the harness's affair, not the kernel's."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Flush:
    """Empties the caches of a device by reading and writing a buffer twice their size.

    On the CPU by all of torch's threads with ordinary loads and stores: each core's own caches are emptied
    too, and stores that bypass the caches (as a plain fill of memory may use) would leave them as they were.
    """

    def __init__(self, device: str = "cpu", cache_bytes: int | None = None) -> None:
        import torch

        if cache_bytes is None:
            cache_bytes = _cache_bytes(device)
        self._buffer = torch.zeros(max(1, 2 * cache_bytes // 4), dtype=torch.int32, device=device)

    @property
    def buffer_bytes(self) -> int:
        """The buffer's size."""
        return self._buffer.numel() * self._buffer.element_size()

    def __call__(self) -> None:
        """Read and write the whole buffer."""
        self._buffer.add_(1)


def _cache_bytes(device: str) -> int:
    if device.split(":")[0] != "cuda":
        return last_level_cache_bytes()
    from torch import cuda

    return int(cuda.get_device_properties(device).L2_cache_size)


def last_level_cache_bytes(cpus: Path = _CPUS) -> int:
    """The last-level caches of the CPUs that this process may use, together.

    Chips made of several dies have several; each is counted once.
    """
    caches: dict[tuple[int, str], int] = {}
    try:
        for cpu in os.sched_getaffinity(0):
            levels = [_read_cache(index) for index in (cpus / f"cpu{cpu}" / "cache").glob("index[0-9]*")]
            if levels:
                level, sharers, size = max(levels)
                caches[level, sharers] = size
    except (OSError, ValueError, AttributeError):  # AttributeError: no affinity on this system
        return FALLBACK_CACHE_BYTES
    return sum(caches.values()) or FALLBACK_CACHE_BYTES


def _read_cache(index: Path) -> tuple[int, str, int]:
    """A cache's level, the CPUs that share it, and its bytes."""
    text = (index / "size").read_text().strip()
    unit = {"K": 1024, "M": MIB, "G": 1024 * MIB}.get(text[-1:], 1)
    size = int(text.rstrip("KMG")) * unit
    return int((index / "level").read_text()), (index / "shared_cpu_list").read_text().strip(), size
