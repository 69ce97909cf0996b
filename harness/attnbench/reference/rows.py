"""Which query rows are checked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LARGEST_SAMPLE", "few_rows", "sampled_rows"]

#: Up to this many query rows all are checked, beyond it this many.
LARGEST_SAMPLE = 256

#: Kernels cut sequences into tiles of multiples of this; rows beside the cuts are where they go wrong.
TILE = 64

#: How many of the sampled rows lie beside a cut.
BESIDE_CUTS = 64

#: How many rows are a few.
FEW = 16


def sampled_rows(q_len: int, seed: int) -> npt.NDArray[np.int64]:
    """The query rows that are checked, ascending, int64: all of up to 256, otherwise 256.

    Of 256, the first and the last are always among them, up to 64 are drawn from those beside a multiple of
    64 (the last row of a tile and the first of the next), the others from all the rest.
    """
    rows = np.arange(q_len, dtype=np.int64)
    if q_len <= LARGEST_SAMPLE:
        return rows
    rng = np.random.Generator(np.random.PCG64([seed, q_len]))
    chosen = np.zeros(q_len, dtype=np.bool_)
    chosen[[0, q_len - 1]] = True
    cuts = np.arange(TILE, q_len, TILE)
    beside = np.setdiff1d(np.concatenate([cuts - 1, cuts]), [q_len - 1])
    chosen[rng.choice(beside, min(BESIDE_CUTS, len(beside)), replace=False)] = True
    rest = rows[~chosen]
    chosen[rng.choice(rest, LARGEST_SAMPLE - int(chosen.sum()), replace=False)] = True
    return rows[chosen]


def few_rows(q_len: int, seed: int) -> npt.NDArray[np.int64]:
    """At most 16 of the `sampled_rows`, evenly among them, the first and the last included."""
    rows = sampled_rows(q_len, seed)
    return rows[np.unique(np.linspace(0, len(rows) - 1, FEW).astype(np.int64))]
