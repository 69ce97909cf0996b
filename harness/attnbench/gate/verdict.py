"""What a gate concludes: of each case, of all, and in words. Data alone; nothing here measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from attnbench.case import Case
from attnbench.record import Record
from attnbench.stats import Interval

__all__ = ["CaseVerdict", "Change", "Latency", "Outcome", "Report", "Series"]


class Outcome(StrEnum):
    """Of a case, and of a gate: the worst of its cases'. An error of the gate itself is raised instead."""

    PASS = "PASS"
    INCONCLUSIVE = "INCONCLUSIVE"
    FAIL = "FAIL"

    @property
    def rank(self) -> int:
        """How bad it is: 0 is good."""
        return list(Outcome).index(self)

    @classmethod
    def worst(cls, outcomes: Iterable[Outcome]) -> Outcome:
        """The worst of them; PASS of none."""
        return max(outcomes, key=lambda outcome: outcome.rank, default=cls.PASS)


@dataclass(frozen=True, slots=True)
class Change:
    """A deterministic figure that differs between base and head.

    `metric` is `status`, `accuracy`, `error` or `memory` (`latency` where it could not be timed at all);
    `outcome` FAIL if that is worse beyond what is allowed, PASS if it is only told (it became better, or this
    metric is switched off), INCONCLUSIVE if nobody can say, as when a failure did not repeat itself.
    """

    metric: str
    outcome: Outcome
    text: str
    base: Any = None
    head: Any = None


@dataclass(frozen=True, slots=True)
class Series:
    """The pairs of one test of one case.

    `d[i]` is ln(t_head / t_base) of pair i; `slower` of them lie above the margin, `within` below the gate.
    `verdict` is PASS, FAIL, or INCONCLUSIVE for undecided.
    """

    verdict: Outcome
    d: tuple[float, ...]
    slower: int
    within: int


@dataclass(frozen=True, slots=True)
class Latency:
    """How the times of a case compare.

    `ratio` is the median of t_head / t_base over the first test's pairs, `interval` its 95% interval between
    pairs (None below 6); `base_s` and `head_s` are the medians of seconds a call. `first` is the test that
    decides, unless it fails: then `again` is its repetition with fresh zygotes, and `control` the base
    against itself at the same time.
    """

    outcome: Outcome
    reason: str | None
    ratio: float
    interval: Interval | None
    base_s: float
    head_s: float
    first: Series
    again: Series | None = None
    control: Series | None = None


@dataclass(frozen=True, slots=True)
class CaseVerdict:
    """What became of one case.

    `text` is a sentence for people, without the outcome: `sdpa B1 H8 L2048: 7.9% slower [6.8, 9.1], 40 of 40
    pairs`. `base` and `head` are the records of the deterministic part (no samples, but with `--baseline`);
    `latency` is None when latency was not tested.
    """

    case: Case
    outcome: Outcome
    text: str
    changes: tuple[Change, ...]
    latency: Latency | None
    base: Record | None
    head: Record | None


@dataclass(frozen=True, slots=True)
class Report:
    """What a gate came to.

    `base` and `head` describe the arms in words; `settings` are those of the scenario's `check`, with
    `margin` resolved; `environment` holds where the arms differ: (key, base's, head's). `notes` are for
    people: what was not tested, and why. `timed_s` are the seconds that timing took, of `duration_s` in all.
    """

    scenario: str
    outcome: Outcome
    base: str
    head: str
    cases: tuple[CaseVerdict, ...]
    settings: Mapping[str, Any]
    environment: tuple[tuple[str, Any, Any], ...]
    notes: tuple[str, ...]
    timed_s: float
    duration_s: float
