from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench import sampling, stats
from attnbench.sampling import Calibration, Pace, PrecisionOrBudget, warm_up

PACE = Pace(budget_s=10.0, deadline_s=60.0)


def calibrate(per_call_s: Callable[[int], float], pace: Pace = PACE) -> tuple[Calibration, float]:
    """Warm up a kernel whose n-th sample takes `per_call_s(n)` a call; also what it cost."""
    spent = [0.0]
    taken = [0]

    def sample(calls: int) -> float:
        elapsed = per_call_s(taken[0]) * calls
        taken[0] += 1
        spent[0] += elapsed
        return elapsed

    return warm_up(sample, pace, spent=lambda: spent[0]), spent[0]


@given(st.floats(1e-9, 0.5))
def test_a_sample_lasts_at_least_a_millisecond_and_not_much_longer(seconds: float) -> None:
    calls = calibrate(lambda n: seconds)[0].calls
    assert calls * seconds >= sampling.SHORTEST_SAMPLE_S
    assert calls == 1 or calls * seconds <= 2 * sampling.AIM_S


def test_warm_up_goes_on_as_long_as_times_fall() -> None:
    falling = calibrate(lambda n: 0.002 * max(1.0, 2.0 - 0.1 * n))[0]
    level = calibrate(lambda n: 0.002)[0]
    assert len(falling.seen_s) >= 10
    assert len(level.seen_s) == 1 + sampling.LEVEL_SAMPLES


def test_warm_up_of_a_slow_kernel_takes_no_more_than_its_share() -> None:
    calibration, spent = calibrate(lambda n: 5.0 * 0.9**n, Pace(budget_s=10.0, deadline_s=60.0))
    assert calibration.calls == 1
    assert spent == 5.0  # one sample was more than a quarter of the budget


def test_disturbed_samples_do_not_make_the_later_ones_too_short() -> None:
    calls = calibrate(lambda n: 2e-4 if n in (1, 2) else 9e-5)[0].calls
    assert calls * 9e-5 >= sampling.SHORTEST_SAMPLE_S


def test_a_cold_sample_is_one_call() -> None:
    assert calibrate(lambda n: 1e-5, Pace(10.0, 60.0, cache="cold"))[0].calls == 1


def test_calls_are_bounded_even_if_no_time_passes() -> None:
    assert calibrate(lambda n: 0.0)[0].calls == sampling.MOST_CALLS


@pytest.mark.parametrize(
    ("samples", "spent_s", "stops"),
    [
        ([1.0] * 7, 0.0, True),  # precise, and so it was before
        ([1.0] * 6, 0.0, False),  # precise, but for the first time
        ([1.1, 1.1, 1.1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 0.0, False),  # likewise
        ([1.0] * 5, 0.0, False),  # precise, but too few for an interval
        ([1.0, 1.1] * 5, 0.0, False),  # wide
        ([1.0, 1.1] * 5, 2.0, True),  # wide, but the budget is spent
        ([1.0], 2.0, False),  # the budget is spent, but there is one round only
    ],
)
def test_stopping(samples: list[float], spent_s: float, stops: bool) -> None:
    rule = PrecisionOrBudget(precision=0.02, budget_s=2.0, least_rounds=2)
    assert rule(samples, spent_s) is stops


def test_stopping_early_leaves_the_interval_its_level() -> None:
    """The first time that an interval is narrow is often luck: stopping at it, 91% of these would cover."""
    rng = random.Random(11)
    rule = PrecisionOrBudget(precision=0.02, budget_s=math.inf, least_rounds=6)
    hits = 0
    for _ in range(1500):
        samples: list[float] = []
        while not rule(samples, 0.0):
            samples.append(math.exp(rng.gauss(0, 0.02)))
        interval = stats.median_interval(samples)
        assert interval is not None
        hits += interval.low <= 1 <= interval.high
    assert 0.94 <= hits / 1500 <= 0.97
