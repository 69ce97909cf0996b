"""Others' rules, written afresh: known answers, and their error rates where their assumptions hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, mannwhitneyu, ttest_ind

from gate_parts.rules import RULES, asv, criterion, mean_over, pyperf


def times(seed: int, count: int = 60, slower: float = 0.0, spread: float = 0.06) -> list[float]:
    rng = np.random.default_rng(seed)
    return (1e-3 * (1 + slower) * np.exp(spread * rng.standard_normal(count))).tolist()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_sees_a_half_more_and_nothing_in_the_same_times(rule: object) -> None:
    assert callable(rule)
    base = times(1)
    assert not rule(base, base)
    assert rule(base, [1.5 * value for value in base])
    assert not rule([1.5 * value for value in base], base), "faster is no regression"


def test_the_mean_may_rise_by_five_percent() -> None:
    assert not mean_over([1.0, 1.0], [1.04, 1.05])
    assert mean_over([1.0, 1.0], [1.05, 1.06])


@pytest.mark.parametrize("seed", range(20))
def test_pyperf_is_the_pooled_t_test(seed: int) -> None:
    base, head = times(seed), times(seed + 100, slower=0.02)
    expected = ttest_ind(head, base)
    assert pyperf(base, head) == (expected.pvalue <= 0.05 and expected.statistic > 0)


@pytest.mark.parametrize(("count", "method"), [(10, "exact"), (60, "asymptotic")])
def test_asv_asks_for_the_factor_and_for_significance(count: int, method: str) -> None:
    base = times(3, count)
    assert not asv(base, [1.09 * value for value in base])
    slower = [1.25 * value for value in base]
    assert mannwhitneyu(base, slower, method=method).pvalue < 0.002
    assert asv(base, slower)
    assert not asv([1.0, 1.0, 1.0], [1.2, 1.2, 1.2]), "of three values nothing is significant at 0.2%"


def test_criterion_ignores_what_lies_within_its_noise_threshold() -> None:
    base = times(4, spread=0.001)
    assert not criterion(base, [1.008 * value for value in base])
    assert criterion(base, [1.02 * value for value in base])


@pytest.mark.parametrize(
    ("name", "level"), [("pyperf (t-test)", 0.025), ("criterion (bootstrapped t, 1%)", 0.025)]
)
def test_of_independent_times_false_alarms_are_as_frequent_as_promised(name: str, level: float) -> None:
    """Two-sided at 5%: so half of it on the side that is an alarm. What breaks the rules is dependence."""
    trials = 600
    alarms = sum(RULES[name](times(seed), times(seed + 10_000)) for seed in range(trials))
    assert alarms <= binom.isf(1e-4, trials, 0.025)


def test_times_of_few_processes_deceive_the_pooled_test() -> None:
    """Three values of each process, whose layouts differ more than its values: more alarms than promised."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(300):
        arms = [
            np.exp(np.repeat(0.043 * rng.standard_normal(20), 3) + 0.01 * rng.standard_normal(60))
            for _ in range(2)
        ]
        alarms += pyperf(arms[0].tolist(), arms[1].tolist())
    assert alarms / 300 > 2 * 0.025


def test_no_rule_stumbles_over_equal_values() -> None:
    for rule in RULES.values():
        assert not rule([1.0] * 10, [1.0] * 10)
        assert math.isfinite(float(rule([1.0] * 10, [1.2] * 10)))
