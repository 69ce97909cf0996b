"""How the scores of the checked rows are cut into tiles that fit in the cache, without the unseen ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["Operands", "Softmax", "Tile", "cut"]

#: Scores held at a time, in elements: 128 MiB in float64.
PIECE_ELEMENTS = 16 * 1024 * 1024

#: Elements of a tile, of its keys and of its values: what is done to it step by step stays in the cache.
TILE_ELEMENTS = 512 * 1024


@dataclass(frozen=True, slots=True)
class Tile:
    """The scores of some consecutive query rows with some consecutive keys.

    `unseen` is boolean `[rows, keys]`, True where the mask forbids; None where it allows all.
    """

    rows: slice
    keys: slice
    unseen: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Operands:
    """Attention of some query rows of one head: q `[r, D]`, k `[Lk, D]`, v `[Lk, Dv]`, and what they see."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scale: float
    tiles: Sequence[Tile]


@dataclass(frozen=True, slots=True)
class Softmax:
    """The weights P = exps / totals: `exps` `[rows, keys]` of each tile, `totals` `[r, 1]`.

    `largest` `[r, 1]` are the scores that were subtracted: exps are 1 there.
    """

    exps: Sequence[torch.Tensor]
    totals: torch.Tensor
    largest: torch.Tensor


def cut(
    start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], width: int
) -> Iterator[tuple[slice, list[Tile]]]:
    """Pieces of rows, each with the tiles that hold every key which one of its rows sees.

    Row i, of `[R]`, sees the keys start[i] ≤ j < stop[i]; `width` is the most numbers that a key or a value
    has. Tiles count their rows from the beginning of their piece, and ascend in their keys.
    """
    seeing = stop > start
    longest = int(stop[seeing].max(initial=1)) - int(start[seeing].min(initial=0))
    step = max(1, PIECE_ELEMENTS // longest)
    for first in range(0, len(start), step):
        piece = slice(first, min(first + step, len(start)))
        yield piece, list(_tiles(start[piece], stop[piece], width))


def _tiles(start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], width: int) -> Iterator[Tile]:
    import torch

    seeing = np.flatnonzero(stop > start)
    if not len(seeing):
        return
    step = max(1, TILE_ELEMENTS // max(len(start), width))
    last = int(stop[seeing].max())
    for low in range(int(start[seeing].min()), last, step):
        high = min(low + step, last)
        some = np.flatnonzero(np.maximum(start, low) < np.minimum(stop, high))
        if not len(some):
            continue
        rows = slice(int(some[0]), int(some[-1]) + 1)
        begin, end = start[rows, None], stop[rows, None]
        unseen = None
        if (begin > low).any() or (end < high).any():
            keys = np.arange(low, high)
            unseen = torch.from_numpy((keys < begin) | (keys >= end))
        yield Tile(rows, slice(low, high), unseen)
