"""How findings say numbers; whatever a reading holds can be said."""

from __future__ import annotations

import math
from collections.abc import Iterable

from attnbench.units import significant

__all__ = ["counted", "joined", "percent", "ranges", "share"]


def percent(part: float) -> str:
    """0.0123 → `1.2%`."""
    return f"{significant(100 * part, 2)}%"


def share(part: float | None, whole: float | None) -> float | None:
    """`part` of `whole`; None where one of them is unknown or makes no sense."""
    if part is None or whole is None or not math.isfinite(part) or not math.isfinite(whole) or whole <= 0:
        return None
    return part / whole


def counted(number: float, what: str) -> str:
    """`1 CPU`, `3 CPUs`, `1.5 CPUs`."""
    written = f"{number:d}" if isinstance(number, int) else significant(number, 2)
    return f"{written} {what}" if number == 1 else f"{written} {what}s"


def joined(names: Iterable[object]) -> str:
    """`a, b and c`."""
    *first, last = map(str, names) if names else ("",)
    return f"{', '.join(first)} and {last}" if first else last


def ranges(cpus: Iterable[int]) -> str:
    """The kernel's way to write a list of CPUs: (0, 1, 2, 8) → `0-2,8`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
