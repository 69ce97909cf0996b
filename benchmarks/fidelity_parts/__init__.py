"""What the parts of `benchmarks/fidelity.py` share: their data on disk, and what they contribute to the page.

A part is a module of this package with

- `measure(folder, *, quick)`: takes its measurements and appends each to `<folder>/<part>.jsonl` at once.
  What is there already is not measured again, so it can be interrupted and resumed.
- `section(folder)`: its `Section` of the page, from that file alone.
"""

from __future__ import annotations

from published import store
from published.page import Aim, Section, markdown_table, png
from published.store import DataError, machine

__all__ = [
    "MEASURED_PARTS",
    "Aim",
    "DataError",
    "Section",
    "Store",
    "machine",
    "markdown_table",
    "png",
    "proportion_interval",
]

#: The parts that measure, in the order of the page.
MEASURED_PARTS = ("durations", "coverage", "ratios", "precision")


class Store(store.Store):
    """The data of a part."""

    command = "python benchmarks/fidelity.py {part}"


def proportion_interval(hits: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a binomial proportion: Wilson's score interval.

    Raises:
        ValueError: no trials, or more hits than trials.
    """
    from scipy.stats import binomtest

    interval = binomtest(hits, trials).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)
