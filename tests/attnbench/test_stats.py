from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, ttest_ind

from attnbench.stats import (
    FEWEST_FOR_INTERVAL,
    Estimate,
    Interval,
    hierarchical_interval,
    mad,
    median_interval,
    percentile,
    speedup,
    unpaired_ratio,
    unpaired_speedup,
)

times = st.floats(1e-9, 1e3)
groups = st.lists(st.lists(times, min_size=1, max_size=9), min_size=1, max_size=6)


@dataclass(frozen=True)
class Samples:
    rounds: tuple[int, ...]
    per_call_s: tuple[float, ...]


def drawn(
    rng: random.Random, processes: int, rounds: int, between: float, within: float
) -> list[list[float]]:
    """Times whose true median is 1: an offset per process, and noise per sample."""
    offsets = [rng.gauss(0, between) for _ in range(processes)]
    return [[math.exp(offset + rng.gauss(0, within)) for _ in range(rounds)] for offset in offsets]


def covers(interval: Interval | None, truth: float) -> bool:
    assert interval is not None
    return interval.low <= truth <= interval.high


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(
        float(np.percentile(values, percent)), rel=1e-9, abs=1e-9
    )


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 101), ([1.0], -1)])
def test_percentiles_of_nothing_or_beyond_are_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="expected values and a percentage"):
        percentile(values, percent)


def test_the_median_absolute_deviation_is_not_scaled() -> None:
    assert mad([1, 2, 3, 4, 100]) == 1


def test_five_samples_give_no_interval_and_six_their_range() -> None:
    assert median_interval([1, 2, 3, 4, 5]) is None
    assert median_interval([6, 1, 5, 2, 4, 3]) == Interval(1, 6)
    assert median_interval([6, 1, 5, 2, 4, 3], level=0.99) is None


@pytest.mark.parametrize("count", [6, 8, 9, 15, 20, 50, 101, 1000])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_order_statistics_enclose_as_the_binomial_says_and_no_wider(count: int, level: float) -> None:
    interval = median_interval(range(1, count + 1), level)
    if interval is None:
        assert 1 - 2 * binom.cdf(0, count, 0.5) < level
        return
    cut = int(interval.low)
    assert interval.high == count + 1 - cut
    assert 1 - 2 * binom.cdf(cut - 1, count, 0.5) >= level
    assert 1 - 2 * binom.cdf(cut, count, 0.5) < level


def test_the_interval_of_one_process_covers_whatever_the_distribution() -> None:
    rng = random.Random(5)
    hits = sum(
        covers(median_interval([rng.expovariate(1) for _ in range(20)]), math.log(2)) for _ in range(1000)
    )
    assert 0.94 <= hits / 1000 <= 0.98  # 20 samples: 95.9%, and never below 95% but by chance


def test_a_coarse_clock_widens_by_what_it_rounds_by() -> None:
    assert median_interval([10, 10, 10, 11, 10, 10, 12, 10, 13]) == Interval(9.5, 12.5)
    assert median_interval([1, 2, 3, 4, 5, 60]) == Interval(1, 60), "no value repeats: nothing was rounded"
    assert median_interval([10.0] * 9) == Interval(10, 10), "nothing is known of the clock's steps"


def read_by_a_coarse_clock(
    rng: random.Random, processes: int, rounds: int, between: float
) -> list[list[float]]:
    """Times of 10.3 ticks, noise of a twentieth of one, as a clock reads them that only counts ticks."""
    return [
        [
            float(math.floor(10.3 * math.exp(offset + rng.gauss(0, 0.005)) + rng.random()))
            for _ in range(rounds)
        ]
        for offset in (rng.gauss(0, between) for _ in range(processes))
    ]


@pytest.mark.parametrize(("processes", "between"), [(1, 0.0), (5, 0.001)])
def test_a_coarse_clock_does_not_make_certain(processes: int, between: float) -> None:
    rng = random.Random(2)
    for _ in range(200):
        estimate = hierarchical_interval(read_by_a_coarse_clock(rng, processes, 40, between))
        assert estimate is not None
        assert covers(estimate.interval, 10.3)


@pytest.mark.parametrize(("processes", "within"), [(3, 0.03), (5, 0.03), (5, 0.15), (12, 0.02)])
def test_the_interval_between_processes_covers_at_its_level(processes: int, within: float) -> None:
    rng = random.Random(20)
    hits = 0
    for _ in range(500):
        estimate = hierarchical_interval(drawn(rng, processes, 10, 0.04, within))
        assert estimate is not None
        hits += covers(estimate.interval, 1.0)
    assert 0.92 <= hits / 500 <= 0.98


def test_pooling_the_processes_would_not_cover() -> None:
    """What the hierarchy is for: the same samples, taken as if they were independent."""
    rng = random.Random(20)
    hits = sum(
        covers(median_interval([x for group in drawn(rng, 5, 10, 0.04, 0.03) for x in group]), 1.0)
        for _ in range(300)
    )
    assert hits / 300 < 0.8


def test_the_estimate_is_the_median_of_medians() -> None:
    estimate = hierarchical_interval([[1.0, 1.0, 9.0], [2.0, 2.0, 2.0, 2.0], [5.0]])
    assert estimate is not None
    assert estimate.value == 2.0


def test_the_interval_is_students_on_logarithms() -> None:
    estimate = hierarchical_interval([[math.exp(x)] * 2 for x in (1.0, 2.0, 3.0)])
    assert estimate is not None
    assert estimate.interval is not None
    half = 4.302652729911275 * 1 / math.sqrt(3)  # t(0.975, 2 degrees of freedom), spread 1
    assert math.log(estimate.interval.low) == pytest.approx(2 - half)
    assert math.log(estimate.interval.high) == pytest.approx(2 + half)


def test_one_process_gets_the_interval_of_its_median() -> None:
    values = [float(x) for x in range(1, 21)]
    estimate = hierarchical_interval([[], values])
    assert estimate is not None
    assert estimate.value == 10.5
    assert estimate.interval is not None
    expected = median_interval(values)
    assert expected is not None
    assert (estimate.interval.low, estimate.interval.high) == pytest.approx((expected.low, expected.high))


def test_too_few_samples_in_all_give_a_value_without_interval() -> None:
    assert hierarchical_interval([[1.0] * 5]) == Estimate(1.0, None)
    assert hierarchical_interval([[1.0, 2.0], [3.0, 4.0], [5.0]]) == Estimate(3.5, None)
    enough = hierarchical_interval([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert enough is not None
    assert enough.interval is not None


@pytest.mark.parametrize("nothing", [[], [[]], [[], []]])
def test_nothing_gives_nothing(nothing: list[list[float]]) -> None:
    assert hierarchical_interval(nothing) is None
    assert Estimate(1.0, None).relative_width is None


def test_a_time_of_nought_gives_no_interval() -> None:
    assert hierarchical_interval([[0.0] * 6, [1.0] * 6]) == Estimate(0.5, None)


@given(groups)
def test_the_interval_contains_the_estimate(values: list[list[float]]) -> None:
    estimate = hierarchical_interval(values)
    assert estimate is not None
    assert (estimate.interval is None) == (sum(map(len, values)) < FEWEST_FOR_INTERVAL)
    if estimate.interval:
        assert estimate.interval.low <= estimate.value <= estimate.interval.high
        assert estimate.relative_width is not None
        assert estimate.relative_width >= 0


@given(groups, st.floats(1e-3, 1e3))
def test_the_unit_of_time_does_not_matter(values: list[list[float]], scale: float) -> None:
    one = hierarchical_interval(values)
    other = hierarchical_interval([[x * scale for x in group] for group in values])
    assert one is not None
    assert other is not None
    assert other.value == pytest.approx(one.value * scale)
    if one.interval:
        assert other.interval is not None
        assert other.interval.low == pytest.approx(one.interval.low * scale, rel=1e-6)


def test_processes_a_world_apart_still_give_numbers() -> None:
    estimate = hierarchical_interval([[1e-300] * 6, [1e300] * 6])
    assert estimate is not None
    assert estimate.interval is not None
    assert math.isfinite(estimate.interval.high)


def test_the_relative_width_is_from_end_to_end() -> None:
    assert Estimate(2.0, Interval(1.5, 2.5)).relative_width == 0.5


def paired(
    rng: random.Random, ratio: float, processes: int, rounds: int
) -> tuple[list[Samples], list[Samples]]:
    """An anchor and a case that is `ratio` times faster, under a drift tenfold that both share by round."""
    anchor, case = [], []
    for _ in range(processes):
        drift = [rng.gauss(0, 1.0) for _ in range(rounds)]
        offset = rng.gauss(0, 0.03)
        numbers = tuple(range(rounds))
        anchor.append(Samples(numbers, tuple(math.exp(d + rng.gauss(0, 0.02)) for d in drift)))
        case.append(Samples(numbers, tuple(math.exp(d + offset + rng.gauss(0, 0.02)) / ratio for d in drift)))
    return anchor, case


def test_a_shared_drift_leaves_the_speedup_alone() -> None:
    anchor, case = paired(random.Random(3), 1.5, 5, 12)
    estimate = speedup(anchor, case)
    assert estimate is not None
    assert estimate.value == pytest.approx(1.5, rel=0.05)
    assert estimate.relative_width is not None
    assert estimate.relative_width < 0.2  # the drift alone would make it several


def test_every_round_counts_alike_in_the_value_of_a_speedup() -> None:
    anchor = [Samples((0, 1, 2), (2.0, 2.0, 2.0)), Samples((0,), (8.0,))]
    case = [Samples((0, 1, 2), (1.0, 1.0, 1.0)), Samples((0,), (1.0,))]
    assert speedup(anchor, case) == Estimate(2.0, None)  # not √(2·8), the median of the processes' medians


def test_the_interval_of_a_speedup_covers_at_its_level() -> None:
    rng = random.Random(8)
    hits = 0
    for _ in range(400):
        estimate = speedup(*paired(rng, 2.0, 5, 8))
        assert estimate is not None
        hits += covers(estimate.interval, 2.0)
    assert 0.92 <= hits / 400 <= 0.98


def test_only_rounds_of_the_same_process_are_paired() -> None:
    anchor = [Samples((0, 1, 2), (1.0, 2.0, 4.0)), Samples((0,), (8.0,))]
    case = [Samples((1, 2, 3), (1.0, 2.0, 99.0)), Samples((5,), (1.0,))]
    assert speedup(anchor, case) == Estimate(2.0, None)


@pytest.mark.parametrize(
    ("anchor", "case"),
    [
        ([], []),
        ([Samples((0,), (1.0,))], []),
        ([Samples((0,), (1.0,))], [Samples((1,), (1.0,))]),
        ([Samples((0,), (0.0,))], [Samples((0,), (1.0,))]),
    ],
)
def test_without_a_common_round_there_is_no_speedup(anchor: list[Samples], case: list[Samples]) -> None:
    assert speedup(anchor, case) is None


@given(st.lists(st.lists(st.tuples(times, times), min_size=1, max_size=6), min_size=1, max_size=4))
def test_exchanging_anchor_and_case_gives_the_reciprocal(pairs: list[list[tuple[float, float]]]) -> None:
    left = [Samples(tuple(range(len(group))), tuple(a for a, _ in group)) for group in pairs]
    right = [Samples(tuple(range(len(group))), tuple(b for _, b in group)) for group in pairs]
    there, back = speedup(left, right), speedup(right, left)
    assert there is not None
    assert back is not None
    assert there.value * back.value == pytest.approx(1)
    if there.interval and there.interval.high < 1e100:
        assert back.interval is not None
        assert there.interval.high * back.interval.low == pytest.approx(1)


def test_the_ratio_of_two_runs_is_that_of_their_medians() -> None:
    estimate = unpaired_ratio([[2.0] * 6, [4.0] * 6, [3.0] * 6], [[6.0] * 6, [9.0] * 6, [5.0] * 6])
    assert estimate is not None
    assert estimate.value == 2.0
    assert estimate.interval is not None
    assert estimate.interval.low < 2.0 < estimate.interval.high


def test_the_interval_of_two_runs_is_welchs() -> None:
    rng = random.Random(4)
    before, after = drawn(rng, 5, 7, 0.05, 0.02), drawn(rng, 3, 7, 0.01, 0.02)
    estimate = unpaired_ratio(before, after)
    logarithms = [np.log([np.median(group) for group in groups]) for groups in (after, before)]
    expected = ttest_ind(*logarithms, equal_var=False).confidence_interval(0.95)
    assert estimate is not None
    assert estimate.interval is not None
    assert estimate.interval.low == pytest.approx(math.exp(expected.low))
    assert estimate.interval.high == pytest.approx(math.exp(expected.high))


@pytest.mark.parametrize("processes", [(5, 5), (5, 3)])
def test_the_interval_of_two_runs_covers_at_its_level(processes: tuple[int, int]) -> None:
    rng = random.Random(5)
    hits = 0
    for _ in range(1000):
        before = drawn(rng, processes[0], 6, 0.04, 0.02)
        after = [[1.2 * x for x in group] for group in drawn(rng, processes[1], 6, 0.02, 0.05)]
        estimate = unpaired_ratio(before, after)
        assert estimate is not None
        hits += covers(estimate.interval, 1.2)
    assert 0.93 <= hits / 1000 <= 0.975


@pytest.mark.parametrize(
    ("drift", "missed"), [(0.01, (0.03, 0.09)), (0.03, (0.12, 0.20)), (0.05, (0.25, 0.35))]
)
def test_drift_between_two_runs_is_in_no_interval(drift: float, missed: tuple[float, float]) -> None:
    """What docs/compare.md says of it: processes differ by 4%, and the runs by `drift` besides."""
    rng = random.Random(2)
    misses = 0
    for _ in range(1000):
        shift = math.exp(rng.gauss(0, drift))
        after = [[shift * x for x in group] for group in drawn(rng, 5, 6, 0.04, 0.02)]
        estimate = unpaired_ratio(drawn(rng, 5, 6, 0.04, 0.02), after)
        assert estimate is not None
        misses += not covers(estimate.interval, 1.0)
    assert missed[0] <= misses / 1000 <= missed[1]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([[1.0] * 9], [[1.0] * 9, [1.1] * 9]),  # a single process says nothing of the others
        ([[1.0] * 9, [1.1] * 9], [[1.0] * 9, []]),
        ([[1.0] * 2, [1.1] * 2], [[1.0] * 9, [1.1] * 9]),
        ([[1.0] * 9, [0.0, 1.0, 1.0]], [[1.0] * 9, [1.1] * 9]),
    ],
)
def test_too_little_gives_a_ratio_of_two_runs_without_an_interval(
    before: list[list[float]], after: list[list[float]]
) -> None:
    estimate = unpaired_ratio(before, after)
    assert estimate is not None
    assert estimate.interval is None


def test_without_times_two_runs_have_no_ratio() -> None:
    assert unpaired_ratio([], [[1.0]]) is None
    assert unpaired_ratio([[1.0]], [[]]) is None
    assert unpaired_ratio([[0.0]], [[1.0]]) is None


def test_times_that_a_coarse_clock_has_made_equal_are_not_known_exactly() -> None:
    ticks = [[1.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 2.0, 1.0]]
    estimate = unpaired_ratio(ticks, ticks)
    assert estimate is not None
    assert estimate.value == 1
    assert estimate.interval is not None
    assert estimate.interval.high == pytest.approx(2)  # half a step of each


def test_the_ratio_of_two_speedups_knows_nothing_of_the_machines_speed() -> None:
    rng = random.Random(6)
    hits = 0
    for _ in range(300):
        anchor, case = paired(rng, 3.0, 5, 8)
        slow = [
            [Samples(s.rounds, tuple(7 * x for x in s.per_call_s)) for s in each] for each in (anchor, case)
        ]
        same = unpaired_speedup((anchor, case), (slow[0], slow[1]))
        assert same is not None
        assert same.value == pytest.approx(1)
        estimate = unpaired_speedup(paired(rng, 2.0, 5, 8), (anchor, case))
        assert estimate is not None
        assert estimate.value == pytest.approx(1.5, rel=0.25)
        hits += covers(estimate.interval, 1.5)
    assert 0.92 <= hits / 300 <= 0.98


def test_two_speedups_of_a_single_process_have_no_interval() -> None:
    rng = random.Random(7)
    estimate = unpaired_speedup(paired(rng, 2.0, 1, 8), paired(rng, 2.0, 5, 8))
    assert estimate is not None
    assert estimate.interval is None
    assert unpaired_speedup(([], []), paired(rng, 2.0, 5, 8)) is None


@given(groups, groups)
def test_exchanging_two_runs_gives_the_reciprocal(
    before: list[list[float]], after: list[list[float]]
) -> None:
    there, back = unpaired_ratio(before, after), unpaired_ratio(after, before)
    assert there is not None
    assert back is not None
    assert there.value * back.value == pytest.approx(1)
    if there.interval is not None and there.interval.high < 1e100:
        assert back.interval is not None
        assert there.interval.high * back.interval.low == pytest.approx(1)
