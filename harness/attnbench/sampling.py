"""How long to warm up, how many calls make a sample, and when to stop.

Small interchangeable pieces; none of them talks to a bench or knows what a case is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from attnbench import stats

__all__ = ["Calibration", "Pace", "PrecisionOrBudget", "StoppingRule", "warm_up"]

#: A sample lasts at least this long, so that reading the clock is a negligible part of it.
SHORTEST_SAMPLE_S = 1e-3

#: Calibration aims above the shortest sample, since times go on falling a little afterwards.
AIM_S = 1.25 * SHORTEST_SAMPLE_S

#: A time this far below the best one before it is still falling.
FALLING = 0.97

#: Warm-up ends after this many samples in a row that fell no further.
LEVEL_SAMPLES = 2

#: Warm-up and calibration may take this share of a process's budget.
WARM_UP_SHARE = 0.25

#: No sample has more calls than this, however short the calls are.
MOST_CALLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Pace:
    """How an entrant is sampled in one process.

    `budget_s` seconds are its share; `deadline_s` is the deadline of each verb; `cache` is `warm` or `cold`
    (cold samples are single calls, each with a flushed cache). With `cuda_graph` GPUs replay a graph.
    """

    budget_s: float
    deadline_s: float
    cache: str = "warm"
    cuda_graph: bool = False


@dataclass(frozen=True, slots=True)
class Calibration:
    """`calls` per sample, and the per-call times seen while warming up."""

    calls: int
    seen_s: tuple[float, ...]


def warm_up(
    sample: Callable[[int], float], pace: Pace, *, spent: Callable[[], float], calls: int = 1
) -> Calibration:
    """Sample until the times stop falling, and find how many calls last `SHORTEST_SAMPLE_S`.

    `sample(calls)` returns the seconds that `calls` calls took together; `spent()` the seconds used so far.
    It begins with `calls` calls and ends with no fewer.
    """
    began_s = spent()
    seen: list[float] = []
    level = 0
    while True:
        per_call_s = sample(calls) / calls
        level = level + 1 if per_call_s >= FALLING * min(seen, default=math.inf) else 0
        seen.append(per_call_s)
        # By the fastest seen: a sample that was disturbed must not make those after it too short.
        best_s = min(seen)
        long_enough = pace.cache == "cold" or calls * best_s >= SHORTEST_SAMPLE_S
        if not long_enough:
            wanted = AIM_S / best_s if best_s > 0 else calls * 10
            # At most tenfold at a time: a first reading near the clock's resolution says little.
            calls = min(MOST_CALLS, max(calls + 1, math.ceil(min(wanted, calls * 10))))
        settled = level >= LEVEL_SAMPLES and (long_enough or calls == MOST_CALLS)
        exhausted = spent() - began_s >= WARM_UP_SHARE * pace.budget_s and long_enough
        if settled or exhausted:
            return Calibration(calls, tuple(seen))


class StoppingRule(Protocol):
    """Says whether an entrant has been sampled enough in this process."""

    def __call__(self, per_call_s: Sequence[float], spent_s: float) -> bool:
        """True when it may leave; `per_call_s` are its samples so far, `spent_s` what they cost."""
        ...


@dataclass(frozen=True, slots=True)
class PrecisionOrBudget:
    """Stop when the 95% interval of the median is narrower than `precision` of it, or the budget is spent.

    It must be that narrow without the last sample, too. An interval that is looked at after every sample is
    narrow for the first time where a few lucky samples lie close together, which need not be where the median
    is: an interval that ends there misses the median in 7 to 9% of cases. Twice in a row takes a seventh
    more samples, and 4 to 6% miss (benchmarks/fidelity.py, coverage).

    Never before `least_rounds` rounds, whatever they cost: without them there is no interval at all.
    """

    precision: float
    budget_s: float
    least_rounds: int

    def __call__(self, per_call_s: Sequence[float], spent_s: float) -> bool:
        """As `StoppingRule`."""
        if len(per_call_s) < self.least_rounds:
            return False
        return spent_s >= self.budget_s or (self._narrow(per_call_s) and self._narrow(per_call_s[:-1]))

    def _narrow(self, per_call_s: Sequence[float]) -> bool:
        interval = stats.median_interval(per_call_s)
        if interval is None:
            return False
        return interval.high - interval.low <= self.precision * stats.median(per_call_s)
