"""Emptying the caches of a device before a call that is to find nothing there."""

from __future__ import annotations

import os
from pathlib import Path

from attnbench.units import MIB

__all__ = ["FALLBACK_CACHE_BYTES", "Flush", "cache_bytes_of", "last_level_cache_bytes"]

#: What the last-level cache is taken to hold where the system does not say.
FALLBACK_CACHE_BYTES = 32 * MIB

_CPUS = Path("/sys/devices/system/cpu")


class Flush:
    """Empties the caches of a device by reading and writing a buffer twice their size.

    On the CPU by all of torch's threads with ordinary loads and stores: each core's own caches are emptied
    too, and stores that bypass the caches (as a plain fill of memory may use) would leave them as they were.
    On a GPU it is one kernel in the current stream, whose end nobody waits for.
    """

    def __init__(self, device: str = "cpu", cache_bytes: int | None = None) -> None:
        import torch

        if cache_bytes is None:
            cache_bytes = cache_bytes_of(device)
        self._buffer = torch.zeros(max(1, 2 * cache_bytes // 4), dtype=torch.int32, device=device)

    @property
    def buffer_bytes(self) -> int:
        """The buffer's size."""
        return self._buffer.numel() * self._buffer.element_size()

    def __call__(self) -> None:
        """Read and write the whole buffer."""
        self._buffer.add_(1)


def cache_bytes_of(device: str) -> int:
    """What the last-level cache of `device` holds."""
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
