"""Which rows are a sweep, and along what; which are single workloads.

For each scenario, in all its runs alike, the axis is taken that puts the most workloads on lines, then the
next for what is left. Among axes that put equally many there, one with lines of three places or more comes
first, then sizes before categories, then the fewest lines, then the order of `AXES`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from attnbench.plots.axis import Axis
from attnbench.plots.choices import CHOICES
from attnbench.plots.rows import CONDITIONS, SETTINGS, SHAPE, Row, measured

__all__ = ["AXES", "Sweep", "differing", "sweeps"]

#: Sizes that go with the model size unless they are given, and heads of one size.
_INPUTS = (("kdim", 1), ("vdim", 1), ("ff_dim", 1))
_HEADS = (("heads", 1), ("kv_heads", 1))

#: The axes that people sweep. Two lengths are a sweep; of anything else it takes three places (of what a
#: module can be told to do, which is often yes or no, two), and an axis that holds half of a scenario's
#: workloads, since a few shapes agree in most of their sizes by chance.
AXES = (
    Axis("kv_len", (("q_len", 1),), fewest=2),
    Axis("kv_len", fewest=2, context=True),
    Axis("kv_len", fewest=2),
    Axis("kv_len", (("q_len", 1), ("batch", -1))),
    Axis("q_len"),
    Axis("heads", (("kv_heads", 1),)),
    Axis("heads", (("kv_heads", 1), ("head_dim", -1), ("v_head_dim", -1))),
    Axis("heads"),
    Axis("heads", (("head_dim", -1), ("v_head_dim", -1))),
    Axis("kv_heads"),
    Axis("batch"),
    Axis("head_dim", (("v_head_dim", 1),)),
    Axis("head_dim"),
    Axis("v_head_dim"),
    Axis("embed_dim", _INPUTS),
    Axis("embed_dim", (*_HEADS, *_INPUTS)),
    Axis("embed_dim"),
    Axis("embed_dim", _HEADS),
    Axis("ff_dim"),
    Axis("layers"),
    Axis("kdim", (("vdim", 1),)),
    Axis("kdim"),
    Axis("vdim"),
    Axis("mask"),
    Axis("dtype"),
    Axis("pass"),
    Axis("inputs"),
    *(Axis(column, fewest=2) for column in CHOICES),
)

#: Where a few workloads on a line are no chance.
_LENGTHS = ("kv_len",)

#: Lines of so many places show how something grows.
_LINE = 3


@dataclass(frozen=True)
class Sweep:
    """Rows that differ in implementation and place along `axis` alone, those without figures among them."""

    axis: Axis
    rows: tuple[Row, ...]

    @property
    def facts(self) -> dict[str, str]:
        """What all rows share, setting by setting, in the order in which it is told."""
        told = self.axis.shared(self.rows[0])
        return {name: told[name] for name in SETTINGS if name in told}


@dataclass(frozen=True)
class _Candidate:
    """An axis and its lines among the workloads not yet on one; `score` says how well it does."""

    axis: Axis
    lines: tuple[Hashable, ...]
    covered: frozenset[Hashable]
    score: tuple[int, ...]


def _workload(row: Row) -> Hashable:
    return tuple(row.get(name) for name in (*CONDITIONS, *SHAPE))


def _candidate(order: int, axis: Axis, left: dict[Hashable, Row]) -> _Candidate | None:
    lines: dict[Hashable, list[Hashable]] = {}
    for workload, row in left.items():
        line = axis.line(row)
        if line is not None:
            lines.setdefault(line, []).append(workload)
    lines = {line: workloads for line, workloads in lines.items() if len(workloads) >= axis.fewest}
    covered = frozenset(workload for workloads in lines.values() for workload in workloads)
    if not covered or (axis.column not in _LENGTHS and 2 * len(covered) < len(left)):
        return None
    long = len(covered) >= _LINE * len(lines)
    return _Candidate(
        axis, tuple(lines), covered, (len(covered), int(long), int(axis.numeric), -len(lines), -order)
    )


def _of_scenario(rows: Sequence[Row]) -> tuple[list[Sweep], list[list[Row]]]:
    left = {_workload(row): row for row in rows if measured(row)}
    found: list[Sweep] = []
    while left:
        candidates = [each for order, axis in enumerate(AXES) if (each := _candidate(order, axis, left))]
        if not candidates:
            break
        best = max(candidates, key=lambda candidate: candidate.score)
        # A workload that another line has already belongs on this one too, where it fits.
        on_line: dict[Hashable, list[Row]] = {line: [] for line in best.lines}
        for row in rows:
            line = best.axis.line(row)
            if line in on_line:
                on_line[line].append(row)
        found += [Sweep(best.axis, tuple(each)) for each in on_line.values()]
        left = {workload: row for workload, row in left.items() if workload not in best.covered}
    alone: dict[Hashable, list[Row]] = {workload: [] for workload in left}
    for row in rows:
        if measured(row) and _workload(row) in alone:
            alone[_workload(row)].append(row)
    return found, list(alone.values())


def sweeps(rows: Iterable[Row]) -> tuple[list[Sweep], list[list[Row]]]:
    """The sweeps among `rows`, and the measured rows of each workload that is on none.

    A sweep holds failed rows too, where their workload lies on its line.
    """
    scenarios: dict[Hashable, list[Row]] = {}
    for row in rows:
        scenarios.setdefault(row.get("scenario"), []).append(row)
    found: list[Sweep] = []
    single: list[list[Row]] = []
    for own in scenarios.values():
        swept, alone = _of_scenario(own)
        found += swept
        single += alone
    return found, single


def differing(facts: Sequence[dict[str, str]]) -> list[str]:
    """The settings in which several sweeps (given by their `Sweep.facts`) differ."""
    return [name for name in SETTINGS if len({each.get(name) for each in facts}) > 1]
