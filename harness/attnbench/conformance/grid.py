"""The grid of workloads that an implementation must pass: its axes, and the few rows that cover them.

The product of all values has over a million workloads. `pairwise_grid` has every pair of values of two axes
in about a hundred, `full_grid` every three values of three axes, of more values. Both can be completed for an
implementation that supports but a part: what it does not support would else take from it what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, product
from typing import Any

from attnbench.conformance.covering import Partial, covering
from attnbench.masks import parse
from attnbench.workload import DISTRIBUTIONS, DTYPES, PASSES, AttentionShape, Workload

__all__ = ["AXES", "Axis", "full_grid", "pairwise_grid"]

#: Bounds a grid's time: the most that a legal workload's scores may come to, each counted with the
#: multiplications that it takes part in and `PER_SCORE` more for its softmax.
MOST_WORK = 320_000_000
PER_SCORE = 32


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis' values: `core` are in both grids, `more` in the full one only."""

    name: str
    core: tuple[Any, ...]
    more: tuple[Any, ...] = ()


# Windows and documents are no multiple of a block; some windows are smaller than any block, some span more.
_MASKS = Axis(
    "mask",
    core=(
        "none",
        "causal",
        "sliding_window(5)",
        "sliding_window(100)",
        "padding(0.5)",
        "document(3)",
        "causal+sliding_window(20)",
        "causal+padding(0.3)",
        "causal+document(2)",
        "causal+sliding_window(37)+padding(0.5)+document(2)",
    ),
    more=(
        "sliding_window(1)",
        "sliding_window(300)",
        "padding(0.05)",
        "document(23)",
        "sliding_window(19)+padding(0.3)",
        "padding(0.5)+document(4)",
    ),
)

# Grouped heads such that a head's number modulo the key heads is another than its group.
_HEADS = Axis(
    "heads",
    core=((1, 1, 1), (1, 3, 3), (1, 6, 2), (1, 4, 1), (2, 2, 2), (3, 4, 2), (1, 8, 8)),
    more=((2, 5, 1), (1, 12, 4)),
)

# Just beyond blocks of 32, 128 and 512, within one, a whole number of them, and beyond the 256 rows that are
# compared; one query (decoding), fewer queries than keys (cross attention), and more (a causal mask leaves
# some of them blind).
_LENGTHS = Axis(
    "lengths",
    core=((33, 33), (1, 1), (2, 2), (7, 7), (130, 130), (1, 67), (29, 90), (90, 29), (611, 611)),
    more=((64, 64), (256, 256), (257, 257), (1, 1030), (40, 513), (700, 19), (1037, 1037)),
)

_DIMS = Axis(
    "dims",
    core=((16, 16), (1, 1), (5, 5), (64, 64), (80, 80), (128, 128), (24, 40), (48, 16)),
    more=((192, 128),),
)

_PASSES = Axis("pass", PASSES)
_INPUTS = Axis("inputs", DISTRIBUTIONS)

#: The axes, in the order of a row's values.
AXES = (
    _MASKS,
    _HEADS,
    _LENGTHS,
    _DIMS,
    Axis("dtype", ("float32", "float64", "bfloat16", "float16")),
    _PASSES,
    _INPUTS,
)

#: The plainest of all workloads: the first to ask of an implementation.
_PLAIN = ("none", (1, 1, 1), (33, 33), (16, 16), "float32", "forward", "normal")

#: Rows that must be there whatever else is: each dtype at the size from which even bfloat16 shows an output
#: that is wrong by 1%, and each way to go wrong in the precision that shows it best.
_CORNERSTONES = (
    _PLAIN,
    *(
        ("none", (1, 8, 8), (130, 130), (64, 64), dtype, pass_, "normal")
        for dtype in DTYPES
        for pass_ in ("forward", "forward_backward")
    ),
    ("causal", (1, 6, 2), (29, 90), (16, 16), "float32", "forward_backward", "normal"),
    ("causal", (1, 3, 3), (90, 29), (16, 16), "float32", "forward_backward", "normal"),
    ("sliding_window(5)", (2, 2, 2), (33, 33), (16, 16), "float32", "forward_backward", "normal"),
    ("padding(0.5)", (3, 4, 2), (33, 33), (16, 16), "float32", "forward_backward", "normal"),
    ("document(3)", (1, 3, 3), (130, 130), (16, 16), "float32", "forward_backward", "normal"),
    ("none", (1, 3, 3), (29, 90), (16, 16), "float32", "forward_backward", "extreme_logits"),
)

#: Axes whose plain value hardly any implementation refuses: held fast when one is sought that it supports.
_SELDOM_REFUSED = (_HEADS, _PASSES, _INPUTS)

_Supported = Callable[[Workload], bool]
_Values = Sequence[Sequence[Any]]


def pairwise_grid(supported: _Supported | None = None) -> list[Workload]:
    """Workloads in which every legal pair of core values of two axes occurs: for a test suite.

    With `supported`, which says of a workload whether an implementation supports it, workloads are added
    until every pair of values that it supports each by itself is in one that it supports, where there is one.
    """
    return list(_default_grid(2, more=False)) if supported is None else _grid(2, supported, more=False)


def full_grid(supported: _Supported | None = None) -> list[Workload]:
    """Workloads in which every legal triple of values of three axes occurs; `pairwise_grid` first of all.

    `supported` as for `pairwise_grid`, with triples.
    """
    return list(_default_grid(3, more=True)) if supported is None else _grid(3, supported, more=True)


@cache
def _default_grid(strength: int, *, more: bool) -> tuple[Workload, ...]:
    return tuple(map(_workload, _default_rows(strength, more=more)))


@cache
def _default_rows(strength: int, *, more: bool) -> tuple[Sequence[Any], ...]:
    first = _CORNERSTONES if strength == 2 else _default_rows(2, more=False)
    return tuple(_covered(_values(more=more), strength, first))


def _values(*, more: bool) -> _Values:
    return [axis.core + (axis.more if more else ()) for axis in AXES]


def _grid(strength: int, supported: _Supported, *, more: bool) -> list[Workload]:
    rows = _default_rows(strength, more=more)
    grid = list(_default_grid(strength, more=more))
    kept = [row for row, workload in zip(rows, grid, strict=True) if supported(workload)]
    if len(kept) == len(rows):
        return grid
    base = next(chain(kept, (row for row in _plain_rows() if supported(_workload(row)))), None)
    if base is None:
        return grid
    values = [
        [value for value in axis if supported(_workload((*base[:at], value, *base[at + 1 :])))] or [base[at]]
        for at, axis in enumerate(_values(more=more))
    ]
    first = [row for row in kept if all(value in values[at] for at, value in enumerate(row))]
    added = map(_workload, _covered(values, strength, first)[len(first) :])
    return grid + [workload for workload in added if supported(workload)]


def _plain_rows() -> Iterator[Sequence[Any]]:
    """Legal rows of one head, a forward pass and normal inputs: is there anything that a kernel supports?"""
    values = _values(more=True)
    legal = _Legality(values)
    plain = {at: [axis.index(_PLAIN[at])] for at, axis in enumerate(values) if AXES[at] in _SELDOM_REFUSED}
    for numbers in product(*(plain.get(at, range(len(axis))) for at, axis in enumerate(values))):
        if legal(dict(enumerate(numbers))):
            yield [axis[number] for axis, number in zip(values, numbers, strict=True)]


def _covered(values: _Values, strength: int, first: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """`first`, and rows that complete it to a covering array of the legal ones."""
    numbered = [tuple(values[at].index(value) for at, value in enumerate(row)) for row in first]
    rows = covering([len(axis) for axis in values], strength, _Legality(values), numbered)
    return [tuple(values[at][value] for at, value in enumerate(row)) for row in rows]


class _Legality:
    """Whether a legal workload has given values: each document has a key, and no workload is too large."""

    def __init__(self, values: _Values) -> None:
        masks, heads, lengths, dims, *_ = values
        self._documents = [_documents(mask) for mask in masks]
        self._keys = [kv_len for _, kv_len in lengths]
        self._factors = [
            [batch * heads for batch, heads, _ in heads],
            [q_len * kv_len for q_len, kv_len in lengths],
            [PER_SCORE + head_dim + v_head_dim for head_dim, v_head_dim in dims],
        ]

    def __call__(self, part: Partial) -> bool:
        keys = self._keys[part[2]] if 2 in part else max(self._keys)
        if 0 in part and self._documents[part[0]] > keys:
            return False
        work = 1
        for axis, factors in enumerate(self._factors, start=1):
            work *= factors[part[axis]] if axis in part else min(factors)
        return work <= MOST_WORK


def _documents(mask: str) -> int:
    """How many documents `mask` has, each of which needs a key."""
    return max((int(values[0]) for name, values in parse(mask) if name == "document"), default=0)


def _workload(row: Sequence[Any]) -> Workload:
    mask, (batch, heads, kv_heads), (q_len, kv_len), (head_dim, v_head_dim), dtype, pass_, inputs = row
    shape = AttentionShape(batch, heads, kv_heads, q_len, kv_len, head_dim, v_head_dim)
    return Workload("attention", shape, mask=mask, dtype=dtype, pass_=pass_, inputs=inputs)
