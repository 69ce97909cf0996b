"""Which scores a chunked attention has to compute, and in which order: what chunked and numpy_chunked share.

Every mask lets a query see one range of keys. So the keys that a block of queries sees are a range too, all
others are skipped, and of a tile within it either every score counts or some have to be masked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from attnbench.implementation import Options
from attnbench.masks import Mask
from attnbench.workload import Workload

__all__ = ["LOG2_E", "QueryBlock", "Tile", "query_blocks", "schedule", "supports"]

#: Scores times this are in units of log 2: exp(x) = exp2(x · LOG2_E), and exp2 is much the cheaper.
LOG2_E = math.log2(math.e)

#: How many scores are computed at a time, as far as the blocks' sizes allow: 2 MiB of them in float32.
SCORES_AT_ONCE = 2**19


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


def schedule(
    mask: Mask, kv_heads: int, group: int, q_size: int, size: int
) -> tuple[list[tuple[slice, QueryBlock]], int]:
    """What to work on, one after another, and the number of scores in the largest tile.

    Each item is a slice of the B·Hkv key heads of the batch, `group` query heads sharing each, and a block of
    `q_size` queries, whose tiles are of `size` keys.
    """
    per_head = group * min(q_size, mask.q_len) * min(size, mask.kv_len)
    at_once = max(1, SCORES_AT_ONCE // per_head)
    work = [
        (slice(first, min(first + at_once, block.batch.stop * kv_heads)), block)
        for block in query_blocks(mask, q_size)
        for first in range(block.batch.start * kv_heads, block.batch.stop * kv_heads, at_once)
    ]
    # All queries of some heads, then those of the next, so that the heads' keys stay in the cache.
    work.sort(key=lambda item: item[0].start)
    return work, per_head * max(part.stop - part.start for part, _ in work)


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """Any workload, with blocks of at least one query or key."""
    del workload, device
    for name, size in options.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            return f"{name} must be a whole number, at least 1; got {size!r}"
    return None
