"""Which scores a chunked attention has to compute: blocks of queries, and for each the tiles of keys it sees.

Every mask lets a query see one range of keys. So the keys that a block of queries sees are a range too, all
others are skipped, and of a tile within it either every score counts or some have to be masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from attnbench.implementation import Options
from attnbench.masks import Mask
from attnbench.workload import Workload

__all__ = ["QueryBlock", "Tile", "query_blocks", "supports"]


@dataclass(frozen=True, slots=True)
class Tile:
    """Scores to compute: `keys`, and those `rows` of the query block that see any of them.

    `hidden` tells which of these scores do not count, boolean `[rows, keys]`; None when all do.
    """

    rows: slice
    keys: slice
    hidden: npt.NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, eq=False)
class QueryBlock:
    """Consecutive `queries` of the batch elements `batch`, which have them masked alike.

    The i-th of them sees the keys `starts[i]` ≤ j < `stops[i]`.
    """

    batch: slice
    queries: slice
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]

    def tiles(self, size: int) -> Iterator[Tile]:
        """The tiles of at most `size` keys that hold all the scores that count, in order; none is empty."""
        seeing = self.starts < self.stops
        if not seeing.any():
            return
        every = slice(0, len(seeing))
        first, last = int(self.starts[seeing].min()), int(self.stops[seeing].max())
        # Every query sees the keys from `inner_first` to `inner_last`, if there are any.
        inner_first, inner_last = int(self.starts.max()), int(self.stops.min())
        for low in range(first, last, size):
            high = min(low + size, last)
            keys = slice(low, high)
            if inner_first <= low and high <= inner_last:
                yield Tile(every, keys, None)
                continue
            seen = np.flatnonzero(seeing & (self.starts < high) & (self.stops > low))
            if len(seen):  # documents may leave keys out that lie between those of two queries
                rows = slice(int(seen[0]), int(seen[-1]) + 1)
                starts, stops = (
                    (ends[rows] - low).clip(0, high - low).tobytes() for ends in (self.starts, self.stops)
                )
                yield Tile(rows, keys, _hidden(starts, stops, high - low))


@lru_cache(maxsize=16)
def _hidden(starts: bytes, stops: bytes, size: int) -> npt.NDArray[np.bool_] | None:
    """Which of `size` keys the queries with these ranges (int64, from the first of the keys) do not see.

    Kept by its arguments' values: the tiles along a diagonal are all cut alike, and for every head.
    """
    keys = np.arange(size)
    hidden: npt.NDArray[np.bool_] = keys < np.frombuffer(starts, np.int64)[:, None]
    hidden |= keys >= np.frombuffer(stops, np.int64)[:, None]
    return hidden if hidden.any() else None


@lru_cache(maxsize=8)
def query_blocks(mask: Mask, size: int) -> tuple[QueryBlock, ...]:
    """All queries in blocks of `size`, per batch element where the mask differs between them.

    Kept, as masks are: kernels ask within their timed call.
    """
    starts, stops = mask.key_ranges()
    shared = len(starts) == 1
    return tuple(
        QueryBlock(
            slice(0, mask.batch) if shared else slice(element, element + 1),
            slice(low, min(low + size, mask.q_len)),
            starts[element, low : low + size],
            stops[element, low : low + size],
        )
        for element in range(len(starts))
        for low in range(0, mask.q_len, size)
    )


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """Any workload, with blocks of at least one query or key."""
    del workload, device
    for name, size in options.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            return f"{name} must be a whole number, at least 1; got {size!r}"
    return None
