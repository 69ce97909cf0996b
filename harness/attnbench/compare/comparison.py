"""Several runs against the first: what differs around them, and every case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.compare.case import CaseComparison, Verdict, compare_case
from attnbench.compare.machine import differences
from attnbench.compare.matching import Match, match
from attnbench.compare.sides import Measured, measured_runs
from attnbench.errors import UsageError
from attnbench.plots.plot import listed
from attnbench.plots.rows import clean, labels
from attnbench.store import Run

__all__ = ["Against", "Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Against:
    """One run against the first.

    `environment` holds where they differ: (key, before's, after's). `cases` are those in both in the first
    run's order, then what either has alone. `renamed` counts the cases that were matched though their
    scenarios have other names.
    """

    before: Measured
    after: Measured
    environment: tuple[tuple[str, Any, Any], ...]
    cases: tuple[CaseComparison, ...]
    renamed: int

    @property
    def both(self) -> tuple[CaseComparison, ...]:
        """The cases that are in both runs."""
        return tuple(case for case in self.cases if case.before is not None and case.after is not None)

    def count(self, verdict: Verdict) -> int:
        """How many cases came to this verdict."""
        return sum(case.verdict is verdict for case in self.cases)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first run, which the others are compared with, and each of those against it."""

    base: Measured
    against: tuple[Against, ...]


def compare(runs: Sequence[Run], implementations: Sequence[str] = ()) -> Comparison:
    """Compare every run with the first, case by case; of some implementations alone where any are named.

    An implementation is named as in scenarios (`chunked`) or with its options (`chunked(block=256)`).

    Raises:
        UsageError: fewer than two runs, an implementation that none of them has, or a run that has no case
            in common with the first; the text says what each holds.
        RunError: a run is given twice, or holds no records.
    """
    if len(runs) < 2:
        given = f"got {runs[0].path} alone" if runs else "got none"
        raise UsageError(f"compare takes two runs or more, {given}; name the one to compare it with as well")
    measured = measured_runs(runs)
    _require_known(measured, implementations)
    base = measured[0]
    return Comparison(base, tuple(_against(base, other, set(implementations)) for other in measured[1:]))


def _against(base: Measured, other: Measured, implementations: set[str]) -> Against:
    matches = [each for each in match(base, other) if not implementations or _is_of(each, implementations)]
    renamed = sum(a is not None and b is not None and a.key != b.key for a, b in matches)
    if not any(a is not None and b is not None for a, b in matches):
        raise UsageError(
            f"{other.path} has no case in common with {base.path}:\n  {_held(base)}\n  {_held(other)}\n"
            "compare runs of one scenario, or of scenarios that share workloads, devices and implementations"
        )
    cases = tuple(compare_case(a, b, base.environment, other.environment) for a, b in matches)
    return Against(base, other, tuple(differences(base, other)), cases, renamed)


def _is_of(pair: Match, implementations: set[str]) -> bool:
    side = pair[0] or pair[1]
    return side is not None and not implementations.isdisjoint(
        (side.record.implementation, str(side.row["label"]))
    )


def _require_known(runs: Sequence[Measured], implementations: Sequence[str]) -> None:
    sides = [side for run in runs for side in run.cases.values()]
    known = {name for side in sides for name in (side.record.implementation, str(side.row["label"]))}
    for each in implementations:
        if each not in known:
            from difflib import get_close_matches

            near = get_close_matches(each, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise UsageError(f"none of the runs has an implementation {each!r}; {hint}")


def _held(run: Measured) -> str:
    """What a run holds, in a line: scenarios, devices, implementations, one case id."""
    rows = [side.row for side in run.cases.values()]
    scenarios = dict.fromkeys(clean(row["scenario"]) for row in rows)
    devices = dict.fromkeys(clean(row["device"]) for row in rows)
    number = f"{len(rows)} case{'' if len(rows) == 1 else 's'}"
    return (
        f"{run.path} holds {number} of {listed(scenarios, 4)} on {listed(devices, 4)}: "
        f"{listed(labels(rows), 8)}; such as {clean(rows[0]['case_id'])}"
    )
