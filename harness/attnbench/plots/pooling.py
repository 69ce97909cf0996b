"""What the cells of a heat map show where there are more weights than room for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["WRONG", "Cells", "pooled"]

#: Stands for a cell that holds what no attention weight can be; below every weight.
WRONG = -1.0

#: What rounding may leave of a weight where attention is not allowed: exp of a very low score is not quite 0.
LEFT_BY_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Cells:
    """What the heat maps of all heads show.

    `values` `[H, rows, columns]`, float64: the largest weight of the `step` queries × keys that share a cell,
    `WRONG` where one of them cannot be a weight, and NaN where attention is allowed for none of them.
    `faults` says in words what is wrong with those that cannot.
    """

    values: npt.NDArray[np.float64]
    step: tuple[int, int]
    faults: tuple[str, ...]

    @property
    def largest(self) -> float:
        """The largest weight shown; 1 where there is none above 0, so that a scale can end there."""
        shown = self.values[np.isfinite(self.values) & (self.values > 0)]
        return float(shown.max()) if shown.size else 1.0


def pooled(weights: npt.NDArray[np.float64], allowed: npt.NDArray[np.bool_], most: tuple[int, int]) -> Cells:
    """Cells for `weights` `[H, Lq, Lk]`, `allowed` alike: at most `most` rows and columns a head."""
    faulty = {
        "not finite": ~np.isfinite(weights),
        "negative": weights < 0,
        "a weight where attention is not allowed": ~allowed & (np.abs(weights) > LEFT_BY_ROUNDING),
    }
    wrong = np.logical_or.reduce(list(faulty.values()))
    shown = np.where(wrong, np.inf, np.where(allowed, weights, -np.inf))
    step = (-(-weights.shape[1] // most[0]), -(-weights.shape[2] // most[1]))
    largest = _largest(_largest(shown, step[0], 1), step[1], 2)
    values = np.where(np.isposinf(largest), WRONG, np.where(np.isneginf(largest), np.nan, largest))
    return Cells(values, step, tuple(name for name, cells in faulty.items() if cells.any()))


def _largest(values: npt.NDArray[np.float64], step: int, axis: int) -> npt.NDArray[np.float64]:
    """The largest of each `step` neighbours along `axis`; the last have fewer where it does not divide."""
    starts = np.arange(0, values.shape[axis], step)
    largest: npt.NDArray[np.float64] = np.maximum.reduceat(values, starts, axis=axis)
    return largest
