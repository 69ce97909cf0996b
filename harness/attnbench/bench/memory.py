"""How much memory a call needs at its peak, above what was held before it.

Two figures, because each is blind to something. `peak_alloc_bytes` comes from the framework's own
allocator: exact and deterministic, but torch's CPU profiler sees only the threads it follows.
`peak_rss_bytes` is the operating system's: it sees everything, page by page.
"""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnbench.bench.malloc import malloc_keeps_nothing
from attnbench.protocol import MemoryReply
from attnbench.units import MIB, format_bytes

__all__ = ["alloc_is_partial", "measure", "peak_alloc_bytes", "peak_rss_bytes"]

Call = Callable[[], Any]

#: RSS may exceed the allocator's peak by this much (pages, thread stacks, the allocator's own tables) before
#: that peak is called partial.
RSS_SURPLUS_SHARE = 0.10
RSS_SURPLUS_BYTES = 8 * MIB

#: What is kept between calls is told from this size on, and from this share of the peak.
LEAST_KEPT_BYTES = MIB
KEPT_SHARE = 0.01

#: How often memory is read where the system keeps no peak.
POLL_S = 0.001


def measure(
    prepare_call: Callable[[], Call], framework: str, device: str, kept_bytes: int = 0
) -> MemoryReply:
    """Both peaks, each over one call from a fresh `prepare_call()`: a backward pass gets a fresh graph.

    RSS is the host's memory: it says nothing of a call on another device and is null there. The allocator's
    peak is null on devices whose allocator is not asked (mps, xpu). `kept_bytes` were left behind by the
    first call, and so are in neither peak.
    """
    kind = device.split(":")[0]
    rss, is_lower_bound = peak_rss_bytes(prepare_call()) if kind == "cpu" else (None, False)
    alloc = peak_alloc_bytes(prepare_call(), framework, device) if kind in ("cpu", "cuda") else None
    return MemoryReply(
        peak_alloc_bytes=alloc,
        peak_alloc_partial=None if alloc is None else alloc_is_partial(alloc, rss, kept_bytes),
        peak_rss_bytes=rss,
        peak_rss_is_lower_bound=is_lower_bound,
    )


def alloc_is_partial(alloc_bytes: int, rss_bytes: int | None, kept_bytes: int = 0) -> str | None:
    """Why the allocator's peak does not tell all, or None."""
    reasons = []
    if rss_bytes is not None and rss_bytes > alloc_bytes * (1 + RSS_SURPLUS_SHARE) + RSS_SURPLUS_BYTES:
        reasons.append("allocations on foreign threads, or past the framework's allocator, are not seen")
    if kept_bytes >= LEAST_KEPT_BYTES and kept_bytes > KEPT_SHARE * alloc_bytes:
        reasons.append(f"{format_bytes(kept_bytes)} that are kept from call to call are not counted")
    return "; ".join(reasons) or None


def peak_alloc_bytes(call: Call, framework: str, device: str = "cpu") -> int:
    """The peak of the framework's allocator during `call`, above what it held before."""
    gc.collect()
    if framework == "numpy":
        return _traced_peak(call)
    return _cuda_peak(call, device) if device.split(":")[0] == "cuda" else _profiled_peak(call)


def _traced_peak(call: Call) -> int:
    """NumPy reports its allocations to `tracemalloc`; so do Python's own objects (a few KiB)."""
    tracemalloc.start(1)
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def _cuda_peak(call: Call, device: str) -> int:
    from torch import cuda

    cuda.synchronize(device)
    cuda.reset_peak_memory_stats(device)
    before = cuda.memory_allocated(device)
    call()
    cuda.synchronize(device)
    return int(cuda.max_memory_allocated(device)) - int(before)


def _profiled_peak(call: Call) -> int:
    """The running sum of the CPU allocator's events, as torch's profiler records them.

    The old profiler class, because `torch.profiler.profile` imports the compiler (over a second).
    """
    from torch.autograd.profiler import profile

    with profile(profile_memory=True) as profiler:
        call()
    if profiler.kineto_results is None:
        raise RuntimeError("torch's profiler returned no events")
    changes = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def peak_rss_bytes(call: Call) -> tuple[int, bool]:
    """The peak of resident memory during `call` above what was resident, and whether it is a lower bound.

    On Linux the kernel keeps the peak (`VmHWM`, reset by writing 5 to `clear_refs`).
    """
    gc.collect()
    if sys.platform != "linux":
        return _polled_rss_peak(call), True
    with malloc_keeps_nothing():
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
        call()
        return max(0, _status_bytes("VmHWM") - before), False


def _status_bytes(field: str) -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _polled_rss_peak(call: Call) -> int:
    """The highest of many readings, taken by a thread while `call` runs; shorter peaks go unseen."""
    import psutil

    process = psutil.Process()
    before = process.memory_info().rss
    readings = [before]
    done = threading.Event()

    def poll() -> None:
        while not done.wait(POLL_S):
            readings.append(process.memory_info().rss)

    poller = threading.Thread(target=poll, name="rss-poller")
    poller.start()
    try:
        result = call()
        readings.append(process.memory_info().rss)
        del result
    finally:
        done.set()
        poller.join()
    return max(readings) - before
