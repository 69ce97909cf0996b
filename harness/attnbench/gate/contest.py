"""One case's times in two arms: the pairs so far, and what they come to at each look."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from attnbench import stats
from attnbench.gate.pairing import log_ratio
from attnbench.gate.sequential import FAIL, GOES_ON, PASS, Rule
from attnbench.gate.verdict import Outcome, Series

__all__ = ["Contest"]

_OUTCOMES = {PASS: Outcome.PASS, FAIL: Outcome.FAIL, GOES_ON: Outcome.INCONCLUSIVE}


@dataclass(slots=True)
class Contest:
    """The sequential test of one case: is the second of two arms slower than the first?

    `floor_s` are seconds a call by which it may always be slower.
    """

    rule: Rule
    floor_s: float = 0.0
    d: list[float] = field(default_factory=list)
    verdict: str = GOES_ON
    slower: int = 0
    within: int = 0
    first_s: list[float] = field(default_factory=list)
    second_s: list[float] = field(default_factory=list)

    def add(self, rounds: list[tuple[float, float]]) -> None:
        """Count one pair, given the seconds a call of both arms in each common round; at least one."""
        d = log_ratio(rounds)
        first_s = stats.median([first for first, _ in rounds])
        second_s = stats.median([second for _, second in rounds])
        counted = self._counted(d, second_s - first_s)
        self.d.append(d)
        self.first_s.append(first_s)
        self.second_s.append(second_s)
        self.slower += self.rule.slower(counted)
        self.within += self.rule.within(counted)
        if self.verdict == GOES_ON and len(self.d) in self.rule.looks:
            self.verdict = self.rule.at(len(self.d), self.slower, self.within)

    def _counted(self, d: float, longer_s: float) -> float:
        """`d`, but where it is a slow-down below the floor: that is none."""
        return d if longer_s >= self.floor_s else min(d, 0.0)

    @property
    def differs(self) -> bool:
        """Whether one of the two is slower than the other, whichever: by the same rule in both directions."""
        times = zip(self.d, self.first_s, self.second_s, strict=True)
        reversed_d = [self._counted(-d, first_s - second_s) for d, first_s, second_s in times]
        return FAIL in (self.verdict, self.rule.decide(reversed_d)[0])

    @property
    def pairs(self) -> int:
        """How many pairs have been counted."""
        return len(self.d)

    @property
    def open(self) -> bool:
        """Whether it is undecided and there are looks to come."""
        return self.verdict == GOES_ON and self.pairs < self.rule.looks[-1]

    def ratio(self) -> tuple[float, stats.Interval | None]:
        """The median over the pairs of second / first, and its 95% interval between pairs."""
        interval = stats.median_interval(self.d)
        ends = interval and stats.Interval(math.exp(interval.low), math.exp(interval.high))
        return math.exp(stats.median(self.d)), ends

    def series(self) -> Series:
        """As it is reported."""
        return Series(_OUTCOMES[self.verdict], tuple(self.d), self.slower, self.within)
