"""How much memory there is to give to a bench, and whether the system has killed for want of it."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["OomCounter", "available_bytes", "cgroup_folders", "memory_limit"]

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_VMSTAT = Path("/proc/vmstat")

#: What a limit is called: in version 2 of control groups, then in version 1.
_LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
_EVENT_FILES = ("memory.events", "memory.oom_control")


def memory_limit(fraction: float) -> int | None:
    """`fraction` of what there is to have: what a bench may take. None where no ceiling can be set.

    Raises:
        ValueError: a fraction that is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"memory_fraction must be above 0 and at most 1, got {fraction!r}")
    return int(fraction * available_bytes()) if sys.platform == "linux" else None


def available_bytes() -> int:
    """The smaller of the memory that is available and the control groups' limits."""
    import psutil

    return min([psutil.virtual_memory().available, *_limits(cgroup_folders())])


def cgroup_folders(own: Path = _OWN_CGROUP, root: Path = _CGROUPS) -> list[Path]:
    """The folders of this process's memory control group and of those above it, of either version."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top = root
        elif "memory" in controllers.split(","):
            top = root / "memory"
        else:
            continue
        folder = top / path.strip("/")
        folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(top))]
    return [folder for folder in folders if folder.is_dir()]


def _limits(folders: list[Path]) -> list[int]:
    texts = [text for folder in folders for name in _LIMIT_FILES if (text := _read(folder / name))]
    return [int(text) for text in texts if text.strip().isdigit()]  # no limit is called "max"


class OomCounter:
    """How often the system has killed a process because memory ran out, as far as we can see."""

    def __init__(self, folders: list[Path] | None = None, vmstat: Path = _VMSTAT) -> None:
        found = cgroup_folders() if folders is None else folders
        self._files = [vmstat, *(folder / name for folder in found for name in _EVENT_FILES)]
        self._last = self._read()

    def risen(self) -> bool:
        """Whether it has happened since the last time this was asked."""
        before, self._last = self._last, self._read()
        return any(now > then for now, then in zip(self._last, before, strict=True))

    def _read(self) -> list[int]:
        return [_oom_kills(_read(file)) for file in self._files]


def _oom_kills(text: str) -> int:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
