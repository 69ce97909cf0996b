"""Spreads of repeated results: how far apart they lie, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from random import Random

from attnbench import stats

__all__ = ["central_80", "spread_interval", "spread_ratio"]

RESAMPLES = 1000

#: Draws as many of the values as there are, with replacement.
Draw = Callable[[Sequence[float]], list[float]]


def central_80(values: Sequence[float]) -> float:
    """Half the width of the central 80% of the logarithms of `values`: 0.01 is ±1% or so."""
    logarithms = [log(value) for value in values]
    return (stats.percentile(logarithms, 90) - stats.percentile(logarithms, 10)) / 2


def spread_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% bootstrap interval of `central_80`."""
    return _bootstrap(lambda draw: central_80(draw(values)))


def spread_ratio(values: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """The spread of `values` over that of `others`, and its 95% bootstrap interval.

    Resamples of the others that have no spread, one value drawn again and again, are left out.

    Raises:
        ZeroDivisionError: the others have no spread.
    """

    def ratio(draw: Draw) -> float | None:
        own, other = central_80(draw(values)), central_80(draw(others))
        return own / other if other > 0 else None

    low, high = _bootstrap(ratio)
    return central_80(values) / central_80(others), low, high


def _bootstrap(statistic: Callable[[Draw], float | None]) -> tuple[float, float]:
    """The 95% interval of `statistic`, which is given a way to draw with replacement."""
    rng = Random(0)
    found = [statistic(lambda values: rng.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    drawn = [value for value in found if value is not None]
    return stats.percentile(drawn, 2.5), stats.percentile(drawn, 97.5)
