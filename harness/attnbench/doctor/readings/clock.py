"""The clock that kernels are timed by, and what reading it costs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from attnbench.doctor.readings.files import text

__all__ = ["ClockReading", "read_clock"]

#: Readings in a row, of which there are several rows: the cost is that of the fastest.
READINGS = 20_000
ROWS = 5

SOURCES = Path("sys/devices/system/clocksource/clocksource0")


@dataclass(frozen=True, slots=True)
class ClockReading:
    """`perf_counter_ns`: its smallest step, what one reading costs, and where the kernel has it from."""

    resolution_s: float | None = None
    cost_s: float | None = None
    monotonic: bool | None = None
    source: str | None = None
    sources: tuple[str, ...] = ()


def read_clock(root: Path = Path("/")) -> ClockReading:
    """The clock's properties, measured in some 10 ms."""
    smallest, cheapest = 0, float("inf")
    for _ in range(ROWS):
        step, cost = _row()
        smallest = min(smallest, step) if smallest else step
        cheapest = min(cheapest, cost)
    return ClockReading(
        resolution_s=smallest * 1e-9 if smallest else None,
        cost_s=cheapest,
        monotonic=time.get_clock_info("perf_counter").monotonic,
        source=text(root / SOURCES / "current_clocksource"),
        sources=tuple((text(root / SOURCES / "available_clocksource") or "").split()),
    )


def _row() -> tuple[int, float]:
    """The smallest step above 0 in nanoseconds (0: it never moved), and the seconds of one reading."""
    read = time.perf_counter_ns
    readings = [0] * READINGS
    for index in range(READINGS):
        readings[index] = read()
    steps = [after - before for before, after in pairwise(readings) if after > before]
    return min(steps, default=0), (readings[-1] - readings[0]) * 1e-9 / (READINGS - 1)
