"""The sequential sign test that decides about latency; pure, so that simulation can tell what it is worth.

A pair is one fresh process of each arm, measured in turns. It contributes one number, d = ln(t_head /
t_base), and of that only on which side of two lines it lies: rounds within a pair share their processes'
memory layout, so they are no independent evidence, and a sign needs no assumption about tails or variances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["FAIL", "FAR", "GOES_ON", "PASS", "Rule", "beyond", "critical_value"]

FAIL, PASS, GOES_ON = "FAIL", "PASS", "GOES_ON"

#: A slow-down so many times as large as what the base differs from itself by is not the machine's.
FAR = 3.0


@dataclass(frozen=True, slots=True)
class Rule:
    """When the pairs seen so far decide.

    `margin` δ is the slow-down that is forgiven, `gate` θ the one that must not pass (both as shares: 0.10);
    `looks` are the numbers of pairs after which the result is looked at, ascending, `cases` how many cases
    are tested at once. At a look of n pairs a case fails when at least c pairs have d > ln(1 + δ), where c is
    the least with P(Bin(n, ½) ≥ c) ≤ α / (cases · looks): then the median of d lies above ln(1 + δ), and all
    false alarms of all cases and looks together have a probability of at most α (Bonferroni). It passes when
    as many as β / looks demands have d < ln(1 + θ).
    """

    gate: float
    margin: float
    alpha: float
    beta: float
    looks: tuple[int, ...]
    cases: int = 1

    def slower(self, d: float) -> bool:
        """Whether a pair lies above the margin."""
        return d > math.log1p(self.margin)

    def within(self, d: float) -> bool:
        """Whether a pair lies below the gate."""
        return d < math.log1p(self.gate)

    def to_fail(self, pairs: int) -> int:
        """How many of `pairs` must lie above the margin; more than there are when they cannot suffice."""
        return critical_value(pairs, self.alpha / (self.cases * len(self.looks)))

    def to_pass(self, pairs: int) -> int:
        """How many of `pairs` must lie below the gate; more than there are when they cannot suffice."""
        return critical_value(pairs, self.beta / len(self.looks))

    def at(self, pairs: int, slower: int, within: int) -> str:
        """`FAIL`, `PASS` or `GOES_ON` at a look of `pairs`; when both would be said, it is `FAIL`."""
        if slower >= self.to_fail(pairs):
            return FAIL
        return PASS if within >= self.to_pass(pairs) else GOES_ON

    def decide(self, d: Sequence[float]) -> tuple[str, int]:
        """What the pairs `d` come to when looked at in their order, and how many of them that took.

        `GOES_ON` after all of them: undecided.
        """
        for look in self.looks:
            if look > len(d):
                break
            seen = d[:look]
            verdict = self.at(look, sum(map(self.slower, seen)), sum(map(self.within, seen)))
            if verdict != GOES_ON:
                return verdict, look
        return GOES_ON, len(d)


def beyond(d: float, own: float) -> float:
    """What is left of a pair's d beyond `FAR` times that of the control, `own`, in either direction."""
    return d - FAR * abs(own)


@lru_cache(maxsize=4096)
def critical_value(pairs: int, probability: float) -> int:
    """The least c with P(Bin(pairs, ½) ≥ c) ≤ `probability`; `pairs` + 1 when there is none."""
    # Whole numbers: 2**1024 is too large for a float.
    numerator, denominator = probability.as_integer_ratio()
    most = numerator * 2**pairs // denominator
    tail, ways = 0, 1
    for count in range(pairs, -1, -1):
        tail += ways  # ways: how many outcomes have exactly `count` heads
        if tail > most:
            return count + 1
        ways = ways * count // (pairs - count + 1)
    return 0
