"""Which scores a chunked attention has to compute, and in which order: what chunked and numpy_chunked share.

Every mask lets a query see one range of keys. So the keys that a block of queries sees are a range too, all
others are skipped, and of a tile within it either every score counts or some have to be masked. All of this
follows from the mask alone, so it is planned once per mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbench.implementation import Options
from attnbench.masks import Mask
from attnbench.workload import Workload

__all__ = ["KEPT_BYTES", "LOG2_E", "Plan", "QueryBlock", "Tile", "plan", "supports"]

#: Scores times this are in units of log 2: exp(x) = exp2(x · LOG2_E), and exp2 is much the cheaper.
LOG2_E = math.log2(math.e)

#: How many scores are computed at a time, as far as the blocks' sizes allow: 2 MiB of them in float32.
SCORES_AT_ONCE = 2**19

#: How much of a plan may be patterns of hidden scores, a byte a score: 256 patterns of 512 × 256. Tiles along
#: a diagonal are all cut alike, but every document's boundary cuts them in its own way.
KEPT_BYTES = 2**25

#: No rows.
NONE = slice(0, 0)

Integers = npt.NDArray[np.int64]
#: Moves an ndarray to where the scores are, as their framework's array.
Place = Callable[[npt.NDArray[Any]], Any]
#: Which scores of a tile's cut rows do not count: a boolean array of the framework, `[cut rows, 1, keys]`.
Hidden = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Tile:
    """Scores to compute: `keys`, and those `rows` of the query block that see any of them.

    `hidden` gives those of these scores that do not count, in the tile's rows `cut`; None when all do. Of the
    other rows all scores count: masking costs more than a comparison a score, and need not touch them.
    """

    rows: slice
    keys: slice
    cut: slice
    hidden: Hidden | None


@dataclass(frozen=True, slots=True, eq=False)
class QueryBlock:
    """Consecutive `queries` of the batch elements `batch`, which have them masked alike.

    `whole` are the first keys of the tiles whose scores all count, which follow one another; those that the
    mask cuts stand `before` and `after`. Whole tiles are not listed: their number grows quadratically with
    the length, that of all others linearly.
    """

    batch: slice
    queries: slice
    before: tuple[Tile, ...]
    whole: range
    after: tuple[Tile, ...]

    def tiles(self) -> Iterator[Tile]:
        """The tiles that hold all the scores that count, in the order of their keys; none is empty."""
        yield from self.before
        every, size, end = slice(0, self.queries.stop - self.queries.start), self.whole.step, self.whole.stop
        for low in self.whole:
            yield Tile(every, slice(low, min(low + size, end)), NONE, None)
        yield from self.after


@dataclass(frozen=True, slots=True)
class Plan:
    """What to work on, one after another, and the number of scores in the largest tile.

    Each item is a slice of the B·Hkv key heads of the batch and a block of queries.
    """

    work: Sequence[tuple[slice, QueryBlock]]
    largest_tile: int


class _Patterns:
    """What hides the scores of the tiles that are cut: one `Hidden` for all that are cut alike.

    The first KEPT_BYTES of patterns are kept as they are applied. Of the others only the ends of the rows'
    ranges are, and the pattern is made whenever it is asked for: two comparisons where the tile lies.
    """

    def __init__(self, place: Place, size: int) -> None:
        self._place = place
        self._keys = np.arange(size, dtype=np.int32)
        self._placed_keys = place(self._keys)
        self._room = KEPT_BYTES
        self._known: dict[tuple[bytes, bytes, int], Hidden] = {}

    def of(self, starts: Integers, stops: Integers, width: int) -> Hidden:
        """For rows that see `starts` ≤ j < `stops` of `width` keys."""
        starts, stops = starts.astype(np.int32), stops.astype(np.int32)
        ends = starts[:, None, None], stops[:, None, None]
        known = starts.tobytes(), stops.tobytes(), width
        if known not in self._known:
            if len(starts) * width <= self._room:
                self._room -= len(starts) * width
                kept = self._place(_outside(self._keys[:width], *ends))
                self._known[known] = lambda: kept
            else:
                self._known[known] = partial(_outside, self._placed_keys[:width], *map(self._place, ends))
        return self._known[known]


def _outside(keys: Any, starts: Any, stops: Any) -> Any:
    """Whether a key is none of start ≤ j < stop; ndarrays or tensors."""
    hidden = keys < starts
    hidden |= keys >= stops
    return hidden


def _cut_tile(rows: slice, keys: slice, starts: Integers, stops: Integers, patterns: _Patterns) -> Tile:
    """The tile whose i-th row sees `starts[i]` ≤ j < `stops[i]`, counted from its first key."""
    width = keys.stop - keys.start
    starts, stops = starts.clip(0, width), stops.clip(0, width)
    blind = np.flatnonzero((starts > 0) | (stops < width))
    if not len(blind):
        return Tile(rows, keys, NONE, None)
    cut = slice(int(blind[0]), int(blind[-1]) + 1)
    return Tile(rows, keys, cut, patterns.of(starts[cut], stops[cut], width))


def _query_block(
    batch: slice, first_query: int, starts: Integers, stops: Integers, size: int, patterns: _Patterns
) -> QueryBlock:
    """The block whose i-th query sees the keys `starts[i]` ≤ j < `stops[i]`, in tiles of at most `size`."""
    queries = slice(first_query, first_query + len(starts))
    seeing = starts < stops
    if not seeing.any():
        return QueryBlock(batch, queries, (), range(0), ())
    first, last = int(starts[seeing].min()), int(stops[seeing].max())

    def cut(lows: range) -> Iterator[Tile]:
        for low in lows:
            high = min(low + size, last)
            seen = np.flatnonzero(seeing & (starts < high) & (stops > low))
            if len(seen):  # documents may leave keys out that lie between those of two queries
                rows = slice(int(seen[0]), int(seen[-1]) + 1)
                yield _cut_tile(rows, slice(low, high), starts[rows] - low, stops[rows] - low, patterns)

    # Every query sees the keys from `inner_first` to `inner_last`, if there are any.
    inner_first, inner_last = int(starts.max()), int(stops.min())
    begin = first + math.ceil((inner_first - first) / size) * size
    end = last if inner_last == last else first + (inner_last - first) // size * size
    if begin >= end:
        begin = end = last
    return QueryBlock(
        batch,
        queries,
        tuple(cut(range(first, begin, size))),
        range(begin, end, size),
        tuple(cut(range(end, last, size))),
    )


def plan(
    mask: Mask, kv_heads: int, group: int, q_size: int, size: int, place: Place, device: str = "cpu"
) -> Plan:
    """How to compute attention under `mask`, in blocks of `q_size` queries and tiles of `size` keys.

    `group` query heads share each of the `kv_heads`. `place` moves an array to `device`. Built once and kept
    with the mask, in memory that grows linearly with its queries, but for KEPT_BYTES.
    """

    def build() -> Plan:
        starts, stops = mask.key_ranges()
        patterns = _Patterns(place, min(size, mask.kv_len))
        blocks = [
            _query_block(
                slice(0, mask.batch) if len(starts) == 1 else slice(element, element + 1),
                low,
                starts[element, low : low + q_size],
                stops[element, low : low + q_size],
                size,
                patterns,
            )
            for element in range(len(starts))
            for low in range(0, mask.q_len, q_size)
        ]
        per_head = group * min(q_size, mask.q_len) * min(size, mask.kv_len)
        at_once = max(1, SCORES_AT_ONCE // per_head)
        work = [
            (slice(first, min(first + at_once, block.batch.stop * kv_heads)), block)
            for block in blocks
            for first in range(block.batch.start * kv_heads, block.batch.stop * kv_heads, at_once)
        ]
        # All queries of some heads, then those of the next, so that the heads' keys stay in the cache.
        work.sort(key=lambda item: item[0].start)
        return Plan(work, per_head * max(part.stop - part.start for part, _ in work))

    blocks = f"{kv_heads} × {group} heads in blocks {q_size} × {size}, {SCORES_AT_ONCE} scores at once"
    return mask.kept(f"{blocks}, on {device}", build)


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """Any workload, with blocks of at least one query or key."""
    del workload, device
    for name, size in options.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            return f"{name} must be a whole number, at least 1; got {size!r}"
    return None
