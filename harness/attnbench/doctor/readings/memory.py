"""What there is of memory, how it is paged and what of it was swapped out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from attnbench.doctor.readings.files import text, tried
from attnbench.environment import cgroup_memory_bytes, huge_pages

__all__ = ["Memory", "read_memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Sizes in bytes; `granted_bytes` is the control groups' limit (None: there is none).

    `huge_pages` and `defrag` are the kernel's policies for transparent huge pages.
    """

    total_bytes: int | None = None
    available_bytes: int | None = None
    granted_bytes: int | None = None
    swap_used_bytes: int | None = None
    huge_pages: str | None = None
    defrag: str | None = None


def read_memory(root: Path = Path("/")) -> Memory:
    """What can be known of memory."""
    sizes = _sizes(root)
    swap, free = sizes.get("SwapTotal"), sizes.get("SwapFree")
    return Memory(
        total_bytes=sizes.get("MemTotal"),
        available_bytes=sizes.get("MemAvailable"),
        granted_bytes=tried(lambda: cgroup_memory_bytes(root)),
        swap_used_bytes=None if swap is None or free is None else swap - free,
        huge_pages=tried(lambda: huge_pages(root)),
        defrag=_defrag(root),
    )


def _sizes(root: Path) -> dict[str, int]:
    """What /proc/meminfo says, in bytes; from psutil where there is none."""
    found = {
        name: int(kib) * 1024
        for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text(root / "proc/meminfo") or "", re.MULTILINE)
    }
    return found or (tried(_by_psutil) or {} if root == Path("/") else {})


def _by_psutil() -> dict[str, int]:
    import psutil

    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "MemTotal": memory.total,
        "MemAvailable": memory.available,
        "SwapTotal": swap.total,
        "SwapFree": swap.free,
    }


def _defrag(root: Path) -> str | None:
    """The policy in brackets: `always defer [madvise] never` → `madvise`."""
    found = re.search(r"\[([\w+]+)\]", text(root / "sys/kernel/mm/transparent_hugepage/defrag") or "")
    return found.group(1) if found else None
