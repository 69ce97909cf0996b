"""A grid of workloads in general: axes with their values, which of them go together, and what covers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product
from typing import Any

from attnbench.conformance.covering import Partial, covering
from attnbench.workload import Workload

__all__ = ["Axis", "Grid", "Row", "Supported"]

#: Says of a workload whether an implementation supports it.
Supported = Callable[[Workload], bool]

#: A value of each axis, in the axes' order.
Row = tuple[Any, ...]

Values = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis' values: `core` are in both grids, `more` in the full one only."""

    name: str
    core: tuple[Any, ...]
    more: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Grid:
    """The workloads that implementations of one operation are checked on.

    `workload` makes one of a row. `legal` says of some axes' values, by name, whether a legal row has them.
    `first` are rows that must be there whatever else is, the plainest of them first; `seldom_refused` names
    axes whose plain value hardly any implementation refuses.
    """

    axes: tuple[Axis, ...]
    workload: Callable[[Row], Workload]
    legal: Callable[[Mapping[str, Any]], bool]
    first: tuple[Row, ...]
    seldom_refused: frozenset[str]

    def pairwise(self, supported: Supported | None = None) -> list[Workload]:
        """Workloads in which every legal pair of core values of two axes occurs.

        With `supported` workloads are added until every pair of values that it supports each by itself is in
        one that it supports, where there is one.
        """
        return self._grid(self._pairwise_rows, 2, supported, more=False)

    def full(self, supported: Supported | None = None) -> list[Workload]:
        """Workloads in which every legal triple of values occurs, those of `pairwise` first of all."""
        return self._grid(self._full_rows, 3, supported, more=True)

    @cached_property
    def _pairwise_rows(self) -> list[Row]:
        return self._covered(self._values(more=False), 2, self.first)

    @cached_property
    def _full_rows(self) -> list[Row]:
        return self._covered(self._values(more=True), 3, self._pairwise_rows)

    def _values(self, *, more: bool) -> Values:
        return [axis.core + (axis.more if more else ()) for axis in self.axes]

    def _grid(
        self, rows: list[Row], strength: int, supported: Supported | None, *, more: bool
    ) -> list[Workload]:
        grid = [self.workload(row) for row in rows]
        if supported is None:
            return grid
        kept = [row for row, workload in zip(rows, grid, strict=True) if supported(workload)]
        if len(kept) == len(rows):
            return grid
        plain = (row for row in self._plain_rows() if supported(self.workload(row)))
        base = next(chain(kept, plain), None)
        if base is None:
            return grid
        values = [
            [value for value in axis if self._is_supported(base, at, value, supported)] or [base[at]]
            for at, axis in enumerate(self._values(more=more))
        ]
        first = [row for row in kept if all(value in values[at] for at, value in enumerate(row))]
        added = map(self.workload, self._covered(values, strength, first)[len(first) :])
        return grid + [workload for workload in added if supported(workload)]

    def _is_supported(self, base: Row, at: int, value: Any, supported: Supported) -> bool:
        """Whether `base` with another value on one axis is legal, and supported."""
        row = (*base[:at], value, *base[at + 1 :])
        named = {axis.name: each for axis, each in zip(self.axes, row, strict=True)}
        return self.legal(named) and supported(self.workload(row))

    def _plain_rows(self) -> Iterator[Row]:
        """Legal rows with the plain values of what is seldom refused: is there anything that is supported?"""
        values = self._values(more=True)
        legal = self._legality(values)
        plain = {
            at: [axis.index(self.first[0][at])]
            for at, axis in enumerate(values)
            if self.axes[at].name in self.seldom_refused
        }
        for numbers in product(*(plain.get(at, range(len(axis))) for at, axis in enumerate(values))):
            if legal(dict(enumerate(numbers))):
                yield tuple(axis[number] for axis, number in zip(values, numbers, strict=True))

    def _covered(self, values: Values, strength: int, first: Sequence[Row]) -> list[Row]:
        """`first`, and rows that complete it to a covering array of the legal ones."""
        numbered = [tuple(values[at].index(value) for at, value in enumerate(row)) for row in first]
        rows = covering([len(axis) for axis in values], strength, self._legality(values), numbered)
        return [tuple(values[at][value] for at, value in enumerate(row)) for row in rows]

    def _legality(self, values: Values) -> Callable[[Partial], bool]:
        def legal(part: Partial) -> bool:
            return self.legal({self.axes[at].name: values[at][number] for at, number in part.items()})

        return legal
