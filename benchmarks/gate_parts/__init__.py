"""What the parts of `benchmarks/gate.py` share: their data on disk, and the intervals of their proportions.

A part keeps its data in `<folder>/<part>.jsonl`; its `section(folder)` is what the page says of them.
"""

from __future__ import annotations

from published import store
from published.store import DataError, machine

__all__ = ["PARTS", "DataError", "Store", "exact_interval", "machine", "rate", "share"]

#: The parts, in the order of the page.
PARTS = ("gates", "duration", "simulation")


class Store(store.Store):
    """The data of a part."""

    command = "python benchmarks/gate.py"


def exact_interval(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a binomial proportion after Clopper and Pearson, which holds the level at least.

    Raises:
        ValueError: no trials, or more hits than trials.
    """
    from scipy.stats import binomtest

    interval = binomtest(hits, trials).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def share(hits: int, trials: int) -> str:
    """`3 of 300: 1.0% (0.2–2.9)`, with the 95% interval; a dash without trials."""
    if not trials:
        return "–"
    return f"{hits} of {trials}: {rate(hits, trials)}"


def rate(hits: int, trials: int) -> str:
    """`1.0% (0.2–2.9)`, with the 95% interval; a dash without trials."""
    if not trials:
        return "–"
    low, high = exact_interval(hits, trials)
    return f"{hits / trials:.1%} ({100 * low:.1f}–{100 * high:.1f})"
