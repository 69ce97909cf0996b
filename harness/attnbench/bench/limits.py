"""What a bench may take: a ceiling on its memory, no core dumps, and the first to go when memory is short."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

__all__ = ["data_bytes", "limit_memory", "take_the_blame"]


def data_bytes() -> int:
    """This process's private writable memory, which is what RLIMIT_DATA counts (VmData; Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmData")


def limit_memory(allowance_bytes: int) -> None:
    """Let this process take `allowance_bytes` more than it holds; allocations beyond that fail (Linux).

    RLIMIT_DATA, never RLIMIT_AS: CUDA reserves far more address space than there is memory.
    """
    if sys.platform != "linux":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = data_bytes() + allowance_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def take_the_blame() -> None:
    """Write no core file, and be what the system kills first when memory runs out."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
