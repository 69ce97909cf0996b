"""Covering arrays: few rows in which every legal combination of a few axes' values occurs.

Most faults need one particular value, or two or three together (Kuhn, Wallace & Gallo, *Software Fault
Interactions and Implications for Software Testing*, IEEE TSE 2004). The product of all axes has hundreds of
thousands of rows; an array of strength 2 has about as many as the two largest axes multiply to. It is built
row by row: each begins with the first combination that is still open, and takes on every further axis the
value that closes most (the greedy algorithm of Cohen, Dalal, Fredman & Patton, *The AETG System*, IEEE TSE
1997, without its chance).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product

__all__ = ["covering"]

#: What each axis has, by the axis' number: the number of one of its values.
Partial = Mapping[int, int]
Row = tuple[int, ...]


def covering(
    sizes: Sequence[int], strength: int, legal: Callable[[Partial], bool], first: Sequence[Row] = ()
) -> list[Row]:
    """Rows with a value for each axis, in which every legal combination of `strength` axes' values occurs.

    Axis a has the values 0 … sizes[a] − 1. `legal` is asked of parts of rows: whether a legal row has this
    part. The rows of `first` come first and count. The same arguments give the same rows.
    """
    openings = _Openings(sizes, strength, legal)
    for row in first:
        openings.close(row)
    rows = list(first)
    while (part := openings.first()) is not None:
        row = max(
            (_completed(part, order, openings, legal) for order in _orders(part, len(sizes))),
            key=openings.gain,
        )
        openings.close(row)
        rows.append(row)
    return rows


def _orders(part: Partial, axes: int) -> list[list[int]]:
    """Several orders in which a row's other axes may be given values: which is best differs by row."""
    left = [axis for axis in range(axes) if axis not in part]
    return [left[turn:] + left[:turn] for turn in range(len(left))] or [[]]


def _completed(
    part: Partial, order: Sequence[int], openings: _Openings, legal: Callable[[Partial], bool]
) -> Row:
    """A legal row with `part`, each axis of `order` given the legal value that closes most so far."""
    row = dict(part)
    for axis in order:
        values = sorted(range(openings.sizes[axis]), key=lambda v: openings.preference(row, axis, v))
        row[axis] = next(value for value in values if legal({**row, axis: value}))
    return tuple(row[axis] for axis in range(len(row)))


class _Openings:
    """The legal combinations that no row has yet.

    Values of all axes are numbered through; a set of them is an int with one bit a value. For each
    combination of `strength` − 1 values, `_open` has the set of those that are open together with it.
    """

    def __init__(self, sizes: Sequence[int], strength: int, legal: Callable[[Partial], bool]) -> None:
        self.sizes = sizes
        self._strength = strength
        self._offsets = [sum(sizes[:axis]) for axis in range(len(sizes))]
        self._used = [0] * sum(sizes)
        self._open: dict[Row, int] = {}
        self._parts = [
            dict(zip(axes, values, strict=True))
            for axes in combinations(range(len(sizes)), strength)
            for values in product(*(range(sizes[axis]) for axis in axes))
        ]
        self._parts = [part for part in self._parts if legal(part)]
        self._next = 0
        for part in self._parts:
            values = self._numbered(part)
            for value in values:
                rest = tuple(other for other in values if other != value)
                self._open[rest] = self._open.get(rest, 0) | 1 << value

    def _numbered(self, part: Partial) -> list[int]:
        return sorted(self._offsets[axis] + value for axis, value in part.items())

    def first(self) -> Partial | None:
        """The first combination that is open; None when all are closed."""
        while self._next < len(self._parts):
            part = self._parts[self._next]
            *rest, last = self._numbered(part)
            if self._open[tuple(rest)] >> last & 1:
                return part
            self._next += 1
        return None

    def preference(self, row: Partial, axis: int, value: int) -> tuple[int, int]:
        """Smaller for what closes more, then for what has been used less."""
        new, values = self._offsets[axis] + value, self._numbered(row)
        present = sum(1 << other for other in values)
        closed = sum(
            (self._open.get(tuple(sorted((*others, new))), 0) & present).bit_count()
            for others in combinations(values, self._strength - 2)
        )
        return -closed, self._used[new]

    def gain(self, row: Row) -> int:
        """How many open combinations `row` has."""
        values = self._numbered(dict(enumerate(row)))
        return sum(
            self._open.get(tuple(rest), 0) >> last & 1 for *rest, last in combinations(values, self._strength)
        )

    def close(self, row: Row) -> None:
        """Count every combination in `row` as covered."""
        values = self._numbered(dict(enumerate(row)))
        for value in values:
            self._used[value] += 1
        for combination in combinations(values, self._strength):
            for value in combination:
                rest = tuple(other for other in combination if other != value)
                self._open[rest] = self._open.get(rest, 0) & ~(1 << value)
