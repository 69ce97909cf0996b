"""/proc/stat: what CPUs have done since the system started."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from attnbench.doctor.readings.files import text

__all__ = ["busy_s", "stolen_s"]


def busy_s(root: Path, cpus: Collection[int | None]) -> float:
    """Seconds in which `cpus` worked: neither idle, nor waiting for input or output, nor stolen.

    Raises:
        ValueError: the system does not tell.
    """
    return sum(
        user + nice + system + irq + softirq
        for user, nice, system, _idle, _iowait, irq, softirq, *_ in _seconds(root, cpus)
    )


def stolen_s(root: Path, cpus: Collection[int | None]) -> float:
    """Seconds in which a hypervisor gave `cpus` to others though there was work.

    Raises:
        ValueError: the system does not tell.
    """
    return sum(line[7] for line in _seconds(root, cpus))


def _seconds(root: Path, cpus: Collection[int | None]) -> list[list[float]]:
    """The lines of `cpus` (None among them: of all that there are) in seconds."""
    wanted = {f"cpu{cpu}" for cpu in cpus} if None not in cpus else {"cpu"}
    lines = [line.split() for line in (text(root / "proc/stat") or "").splitlines()]
    found = [
        [int(word) / os.sysconf("SC_CLK_TCK") for word in words[1:]] for words in lines if words[0] in wanted
    ]
    if not found or any(len(line) < 8 for line in found):
        raise ValueError("/proc/stat has not what is wanted")
    return found
