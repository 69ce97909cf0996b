"""Medians, their intervals and ratios, from samples taken in several processes.

Times of one process share its memory layout, so a process is one draw however many samples it gives: an
interval that pools the samples of all processes is too narrow. Intervals here are hierarchical, between
processes first (Kalibera & Jones, "Rigorous Benchmarking in Reasonable Time", ISMM 2013). Ratios and times
are positive and their errors multiply, so that is done on logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from statistics import fmean, median, stdev, variance
from typing import Protocol

__all__ = [
    "FEWEST_FOR_INTERVAL",
    "Estimate",
    "Interval",
    "Sampled",
    "hierarchical_interval",
    "mad",
    "median",
    "median_interval",
    "percentile",
    "speedup",
    "unpaired_ratio",
    "unpaired_speedup",
]

#: Fewer give no interval: of 5 samples even the whole range covers the median in only 93.75% of cases.
FEWEST_FOR_INTERVAL = 6

#: Two processes that differ wildly give an interval whose end is no float; it ends here instead.
LARGEST_LOGARITHM = 700.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its confidence interval; `interval` is None where there are too few samples for one."""

    value: float
    interval: Interval | None

    @property
    def relative_width(self) -> float | None:
        """The interval's width, from end to end, as a share of the value; None without an interval."""
        if self.interval is None or self.value == 0:
            return None
        return (self.interval.high - self.interval.low) / self.value


class Sampled(Protocol):
    """Samples of one case in one process: the round and the seconds per call of each."""

    @property
    def rounds(self) -> tuple[int, ...]:
        """In which round each sample was taken."""
        ...

    @property
    def per_call_s(self) -> tuple[float, ...]:
        """Seconds per call of each sample."""
        ...


def percentile(values: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile, linear between order statistics (Hyndman & Fan's type 7, NumPy's default).

    Raises:
        ValueError: no values, or a percentage outside 0…100.
    """
    if not values or not 0 <= percent <= 100:
        raise ValueError(f"expected values and a percentage from 0 to 100, got {len(values)} and {percent:g}")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def mad(values: Sequence[float]) -> float:
    """The median absolute deviation from the median, not scaled to a normal's standard deviation."""
    centre = median(values)
    return median(abs(value - centre) for value in values)


def median_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """The interval of one process' median between two order statistics; None below `FEWEST_FOR_INTERVAL`.

    Each independent sample is below the median with probability ½ whatever its distribution, so the number
    below it is binomial (the sign test, inverted). The coverage is at least `level`. Where values repeat, a
    coarse clock has rounded them, and the interval is widened by what it may have rounded by.
    """
    if len(values) < FEWEST_FOR_INTERVAL:
        return None
    ordered = sorted(values)
    cut = _order_statistic(len(ordered), level)
    if not cut:
        return None
    rounded = _rounding(ordered)
    return Interval(ordered[cut - 1] - rounded, ordered[-cut] + rounded)


def hierarchical_interval(groups: Sequence[Sequence[float]], level: float = 0.95) -> Estimate | None:
    """The median of the processes' medians, with its interval; `groups` holds each process' values.

    One process: the interval of its median. Several: Student's t on the logarithms of their medians, with
    one degree of freedom fewer than processes, widened where need be to contain the estimate and what a
    coarse clock has rounded by. The variance between medians already includes what the samples within a
    process contribute to it. Without any values None; fewer than `FEWEST_FOR_INTERVAL` in total, or values
    that are not positive, give no interval.
    """
    groups = [group for group in groups if group]
    if not groups:
        return None
    value = median([median(group) for group in groups])
    if min(map(min, groups)) <= 0:
        return Estimate(value, None)
    interval = _interval_of_logarithms([[math.log(x) for x in group] for group in groups], level)
    return _estimate(value, interval)


def speedup(anchor: Sequence[Sampled], case: Sequence[Sampled], level: float = 0.95) -> Estimate | None:
    """How many times faster than `anchor` `case` is (above 1: faster), from samples taken side by side.

    Ratios are formed per round, of those rounds that both have in the same process. The value is the median
    of their logarithms over all processes: its error is 3 to 15% less than that of the median of the
    processes' medians, which looks at one process of five, but up to 38% more where rounds and processes are
    disturbed at once (simulated, benchmarks/speedup_value.py). In the interval a process counts with the
    median of its own, between processes as in `hierarchical_interval`. Exchanging the arguments gives the
    reciprocal. None without a common round.
    """
    groups = _paired_logarithms(anchor, case)
    if not groups:
        return None
    value = math.exp(median(list(chain(*groups))))
    return _estimate(value, _interval_of_logarithms(groups, level))


def unpaired_ratio(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], level: float = 0.95
) -> Estimate | None:
    """The ratio after / before of two cases that were not measured side by side, such as those of two runs.

    Each argument holds each process' values. The value is the ratio of the medians of the processes'
    medians. The interval is Welch's t on the logarithms of the processes' medians (B. L. Welch, "The
    generalization of 'Student's' problem when several different population variances are involved",
    Biometrika 34, 1947), with Satterthwaite's degrees of freedom ("An approximate distribution of estimates
    of variance components", Biometrics Bulletin 2, 1946): the runs may spread differently. It holds what
    differs between processes, and nothing of how the machine has drifted from the one run to the other.

    None where either has no values; no interval where either has a single process, which says nothing of
    the others, fewer than `FEWEST_FOR_INTERVAL` values, or values that are not positive.
    """
    before = [group for group in before if group]
    after = [group for group in after if group]
    if not before or not after:
        return None
    centres = [median([median(group) for group in groups]) for groups in (before, after)]
    if min(min(map(min, groups)) for groups in (before, after)) <= 0:
        return Estimate(centres[1] / centres[0], None) if centres[0] else None
    logs_before, logs_after = (
        [[math.log(x) for x in group] for group in groups] for groups in (before, after)
    )
    return _estimate(centres[1] / centres[0], _welch(logs_before, logs_after, level))


def unpaired_speedup(
    before: tuple[Sequence[Sampled], Sequence[Sampled]],
    after: tuple[Sequence[Sampled], Sequence[Sampled]],
    level: float = 0.95,
) -> Estimate | None:
    """The ratio after / before of two speed-ups, each of a pair (anchor, case) measured side by side.

    What slows anchor and case alike, a machine's speed or its drift between two runs, has no part in it. The
    value is the ratio of both `speedup` values; the interval is formed as in `unpaired_ratio`, of the median
    logarithm of the ratios of each process. None where either pair has no common round; no interval where it
    has them in a single process, or fewer than `FEWEST_FOR_INTERVAL`.
    """
    first, second = (_paired_logarithms(*pair) for pair in (before, after))
    if not first or not second:
        return None
    shift = median(list(chain(*second))) - median(list(chain(*first)))
    return _estimate(math.exp(shift), _welch(first, second, level))


def _paired_logarithms(anchor: Sequence[Sampled], case: Sequence[Sampled]) -> list[list[float]]:
    """ln(anchor's time / case's) of each common round, process by process; those without any are left out."""
    groups = []
    for theirs, ours in zip(anchor, case, strict=False):
        anchor_s = dict(zip(theirs.rounds, theirs.per_call_s, strict=True))
        case_s = dict(zip(ours.rounds, ours.per_call_s, strict=True))
        common = [at for at in case_s if at in anchor_s and case_s[at] > 0 and anchor_s[at] > 0]
        groups.append([math.log(anchor_s[at] / case_s[at]) for at in common])
    return [group for group in groups if group]


def _welch(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], level: float
) -> Interval | None:
    """The interval of the mean of `after`'s medians less that of `before`'s; the groups are not empty."""
    if any(len(groups) < 2 or sum(map(len, groups)) < FEWEST_FOR_INTERVAL for groups in (before, after)):
        return None
    medians = [[median(group) for group in groups] for groups in (before, after)]
    shift = fmean(medians[1]) - fmean(medians[0])
    errors = [variance(each) / len(each) for each in medians]
    # Relative to their sum, so that no square vanishes: the tiniest spreads have degrees of freedom too.
    total = sum(errors)
    half = 0.0
    if total > 0:
        shares = [error / total for error in errors]
        degrees = 1 / sum(share**2 / (len(each) - 1) for share, each in zip(shares, medians, strict=True))
        half = _t_quantile(degrees, level) * math.sqrt(total)
    # Medians that a coarse clock has made equal are not known exactly.
    half = max(half, sum(_rounding(list(chain(*groups))) for groups in (before, after)))
    return Interval(shift - half, shift + half)


def _estimate(value: float, interval: Interval | None) -> Estimate:
    """`value` with the interval of its logarithm, widened to contain it."""
    if interval is None:
        return Estimate(value, None)
    low, high = (math.exp(min(end, LARGEST_LOGARITHM)) for end in (interval.low, interval.high))
    return Estimate(value, Interval(min(value, low), max(value, high)))


def _interval_of_logarithms(groups: Sequence[Sequence[float]], level: float) -> Interval | None:
    """The interval between processes; `groups` are not empty and hold logarithms."""
    if sum(map(len, groups)) < FEWEST_FOR_INTERVAL:
        return None
    if len(groups) == 1:
        return median_interval(groups[0], level)
    medians = [median(group) for group in groups]
    centre = fmean(medians)
    half = _t_quantile(len(medians) - 1, level) * stdev(medians) / math.sqrt(len(medians))
    # Medians that a coarse clock has made equal are not known exactly.
    half = max(half, _rounding(list(chain(*groups))))
    return Interval(centre - half, centre + half)


def _rounding(values: Sequence[float]) -> float:
    """By how much a clock has rounded these values: half its step, which is the least between two of them.

    0 where no value repeats, and where all are the same: then nothing is known of its steps.
    """
    different = set(values)
    if len(different) == len(values):
        return 0.0
    return min((b - a for a, b in pairwise(sorted(different))), default=0.0) / 2


@lru_cache(maxsize=1024)
def _order_statistic(count: int, level: float) -> int:
    """The largest k such that the k-th smallest and k-th largest of `count` values enclose the median with
    probability `level`: P(Bin(count, ½) ≤ k − 1) ≤ (1 − level) / 2; 0 when there is none.
    """
    from scipy.special import bdtr

    tail = (1 - level) / 2
    cut = 0
    while float(bdtr(cut, count, 0.5)) <= tail:
        cut += 1
    return cut


@lru_cache(maxsize=256)
def _t_quantile(degrees: float, level: float) -> float:
    """The two-sided quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))
