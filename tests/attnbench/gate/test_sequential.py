from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from attnbench.gate.sequential import FAIL, GOES_ON, PASS, Rule, critical_value
from attnbench.scenario import Check

TEN_PERCENT = Rule(gate=0.10, margin=0.05, alpha=0.01, beta=0.05, looks=(20, 40, 80, 120))


@given(st.integers(1, 300), st.floats(1e-9, 0.9))
def test_a_critical_value_is_the_least_that_chance_seldom_reaches(pairs: int, probability: float) -> None:
    count = critical_value(pairs, probability)
    assert binom.sf(count - 1, pairs, 0.5) <= probability * (1 + 1e-9)
    assert binom.sf(count - 2, pairs, 0.5) > probability * (1 - 1e-9)


def test_what_cannot_be_decided_needs_more_pairs_than_there_are() -> None:
    assert critical_value(3, 0.01) == 4


def test_more_pairs_than_a_float_can_count_are_no_trouble() -> None:
    assert critical_value(1100, 0.0025) == binom.isf(0.0025, 1100, 0.5) + 1


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=4, unique=True),
    st.floats(1e-9, 0.5, exclude_max=True),
    st.floats(1e-9, 0.5, exclude_max=True),
    st.integers(1, 300),
)
def test_the_fewest_pairs_that_can_decide(looks: list[int], alpha: float, beta: float, cases: int) -> None:
    settings = Check(pairs=tuple(sorted(looks)), alpha=alpha, beta=beta)
    rule = Rule(0.10, 0.05, alpha, beta, settings.pairs, cases)
    fewest = settings.fewest_pairs(cases)
    assert rule.to_fail(fewest) <= fewest >= rule.to_pass(fewest)
    fewer = max(0, fewest - 2)  # not 1: a logarithm is rounded
    assert rule.to_fail(fewer) > fewer or rule.to_pass(fewer) > fewer


def test_equal_times_pass_at_the_first_look() -> None:
    assert TEN_PERCENT.decide([0.0] * 20) == (PASS, 20)


def test_a_plain_slow_down_fails_at_the_first_look() -> None:
    assert TEN_PERCENT.decide([math.log(1.2)] * 40) == (FAIL, 20)


def test_nothing_is_decided_before_the_first_look() -> None:
    assert TEN_PERCENT.decide([math.log(2)] * 19) == (GOES_ON, 19)


def test_what_lies_between_margin_and_gate_fails_since_failing_wins() -> None:
    assert TEN_PERCENT.decide([math.log(1.08)] * 20) == (FAIL, 20)


def test_a_look_sees_only_the_pairs_before_it() -> None:
    d = [0.0] * 10 + [math.log(1.2)] * 110
    assert TEN_PERCENT.decide(d) == (FAIL, 40)
    assert TEN_PERCENT.decide([*d[:39], 0.0]) == (GOES_ON, 40)


def test_times_that_scatter_wildly_stay_undecided() -> None:
    d = [math.log(1.5) if number % 2 else math.log(0.6) for number in range(120)]
    assert TEN_PERCENT.decide(d) == (GOES_ON, 120)


@pytest.mark.parametrize("cases", [1, 3, 50])
def test_more_cases_demand_more_to_fail_and_no_more_to_pass(cases: int) -> None:
    rule = Rule(0.10, 0.05, 0.01, 0.05, (20, 40, 80, 120), cases)
    assert [rule.to_fail(n) for n in rule.looks] == [
        critical_value(n, 0.01 / (4 * cases)) for n in rule.looks
    ]
    assert rule.to_pass(40) == TEN_PERCENT.to_pass(40) == 28


def test_ties_on_the_lines_count_for_nobody() -> None:
    assert not TEN_PERCENT.slower(math.log1p(0.05))
    assert not TEN_PERCENT.within(math.log1p(0.10))
