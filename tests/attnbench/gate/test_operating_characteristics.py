"""How often the gate is wrong: computed for independent pairs, drawn on simulated machines.

The seeds are fixed, so that a test passes always or never; its bounds are binomial, so that it would pass
with (almost) any other seed, too: what has a rate of `rate` exceeds `at_most` once in 10 000 times.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np
import pytest
from scipy.stats import binom

from attnbench.blocks import Clocks
from attnbench.case import Case
from attnbench.gate.check import check
from attnbench.gate.pairing import Times
from attnbench.gate.sequential import GOES_ON, Rule
from attnbench.gate.verdict import Outcome, Report
from attnbench.scenario import parse
from gate_parts import power, streams
from gate_parts.streams import FAIL, PASS, SITUATIONS, UNDECIDED, Situation, decide, logarithms, play
from scripted import FakeClock, Script, ScriptedSource

LOOKS = (20, 40, 80, 120)
ALPHA, BETA = 0.01, 0.05
TYPICAL = SITUATIONS[0]

#: Gates and their margins, as `scenario.check` derives them.
GATES = ((0.10, 0.05), (0.05, 0.02))

#: Of d in the typical situation: of two processes, each with its own offset.
SPREAD = TYPICAL.offsets * math.sqrt(2)

INDEPENDENT = [situation for situation in SITUATIONS if situation.independent]
EVERY = pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.name)


def rule(gate: float, margin: float, cases: int = 1) -> Rule:
    return Rule(gate, margin, ALPHA, BETA, LOOKS, cases)


def at_most(rate: float, trials: int) -> int:
    """The most hits that a rate of `rate` leads to but once in 10 000 times."""
    return int(binom.isf(1e-4, trials, min(rate, 1.0)))


def at_least(rate: float, trials: int) -> int:
    """The fewest hits that a rate of `rate` leads to but once in 10 000 times."""
    return int(binom.ppf(1e-4, trials, min(rate, 1.0)))


def drawn(situation: Situation, effect: float, trials: int, seed: int) -> streams.Array:
    base, head = logarithms(situation, (0.0, effect), trials, LOOKS[-1], np.random.default_rng(seed))
    return head - base


# The rule itself, pairs being independent ------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "margin"), GATES)
@pytest.mark.parametrize("cases", [1, 3, 20])
def test_computed_false_alarms_of_all_cases_together_keep_alpha(
    gate: float, margin: float, cases: int
) -> None:
    """Exactly at the margin, where they are most frequent, whatever the pairs' distribution is."""
    for above in (0.0, 0.1, 0.3, 0.5):  # of those beyond the margin, so many lie beyond the gate
        one = power.characteristics(rule(gate, margin, cases), 0.5, above)
        assert 1 - (1 - one.fails) ** cases <= ALPHA


@pytest.mark.parametrize(("gate", "margin"), GATES)
def test_computed_passes_of_what_is_as_slow_as_the_gate_keep_beta(gate: float, margin: float) -> None:
    for below in (0.0, 0.1, 0.3, 0.5):
        assert power.characteristics(rule(gate, margin), below, 0.5).passes <= BETA


def test_a_single_look_has_the_power_of_the_binomial_test() -> None:
    single = Rule(0.10, 0.05, ALPHA, BETA, (40,), 1)
    found = power.characteristics(single, 0.2, 0.5)
    assert found.fails == pytest.approx(binom.sf(single.to_fail(40) - 1, 40, 0.8), abs=1e-12)
    assert found.pairs == pytest.approx(40)


@pytest.mark.parametrize(("gate", "margin"), GATES)
@pytest.mark.parametrize("effect", [0.0, 0.02, 0.05, 0.08, 0.10, 0.125, 0.20])
def test_drawn_outcomes_are_as_frequent_as_computed(gate: float, margin: float, effect: float) -> None:
    trials = 20_000
    verdicts, pairs = decide(rule(gate, margin), drawn(TYPICAL, effect, trials, seed=1))
    computed = power.normal_characteristics(rule(gate, margin), effect, SPREAD)
    rates = {FAIL: computed.fails, PASS: computed.passes, UNDECIDED: computed.undecided}
    for verdict, rate in rates.items():
        hits = int((verdicts == verdict).sum())
        assert at_least(rate, trials) <= hits <= at_most(rate, trials), verdict
    assert pairs.mean() == pytest.approx(computed.pairs, abs=5 * pairs.std() / math.sqrt(trials) + 1e-3)


def test_deciding_many_streams_is_deciding_each() -> None:
    d = drawn(SITUATIONS[-1], 0.07, 500, seed=2)
    verdicts, pairs = decide(rule(0.10, 0.05), d)
    names = {FAIL: "FAIL", PASS: "PASS", UNDECIDED: GOES_ON}
    for row, verdict, took in zip(d, verdicts, pairs, strict=True):
        assert rule(0.10, 0.05).decide(row.tolist()) == (names[int(verdict)], int(took))


@pytest.mark.parametrize("situation", INDEPENDENT, ids=lambda situation: situation.name)
@pytest.mark.parametrize(("gate", "margin"), GATES)
def test_tails_and_ties_alone_raise_no_false_alarms(situation: Situation, gate: float, margin: float) -> None:
    """Already the first test keeps α for every slow-down that is forgiven, up to the margin itself."""
    trials = 10_000
    for effect in (0.0, margin):
        verdicts, _ = decide(rule(gate, margin), drawn(situation, effect, trials, seed=3))
        assert (verdicts == FAIL).sum() <= at_most(ALPHA, trials)


# Whole gates, on machines that drift, burst and favour one side ---------------------------------------------


@EVERY
@pytest.mark.parametrize(("gate", "margin"), GATES)
def test_what_is_equal_never_fails_more_often_than_alpha(
    situation: Situation, gate: float, margin: float
) -> None:
    gates = 10_000
    found = play(rule(gate, margin), situation, [0.0], gates, np.random.default_rng(4))
    assert (found.final == FAIL).sum() <= at_most(ALPHA, gates)


@EVERY
def test_two_percent_never_fail_a_ten_percent_gate_more_often_than_alpha(situation: Situation) -> None:
    found = play(rule(0.10, 0.05), situation, [0.02], 8000, np.random.default_rng(5))
    assert (found.final == FAIL).sum() <= at_most(ALPHA, 8000)


@pytest.mark.parametrize("cases", [3, 20])
def test_many_equal_cases_together_never_fail_more_often_than_alpha(cases: int) -> None:
    for situation in (TYPICAL, SITUATIONS[-1]):
        gates = 6000 // cases
        found = play(rule(0.10, 0.05, cases), situation, [0.0] * cases, gates, np.random.default_rng(6))
        assert (found.final == FAIL).any(axis=1).sum() <= at_most(ALPHA, gates)


@EVERY
@pytest.mark.parametrize(("gate", "margin"), GATES)
def test_a_slow_down_beyond_the_gate_never_passes_more_often_than_beta(
    situation: Situation, gate: float, margin: float
) -> None:
    """At the gate itself where pairs are independent; where they are not, that takes half as much again.

    And what a clock cannot tell apart cannot be told apart.
    """
    effect = gate + situation.tick if situation.independent else 1.5 * gate
    found = play(rule(gate, margin), situation, [effect], 5000, np.random.default_rng(7))
    assert (found.final == PASS).sum() <= at_most(BETA, 5000)


@pytest.mark.parametrize("cases", [1, 3, 20])
@pytest.mark.parametrize("effect", [0.10, 0.125, 0.20])
def test_one_slow_case_among_many_is_found_as_often_as_computed(cases: int, effect: float) -> None:
    """It takes two tests that fail, and a control that does not: it fails once in thousands of gates."""
    gates = 5000
    computed = power.normal_characteristics(rule(0.10, 0.05, cases), effect, SPREAD).fails ** 2
    found = play(rule(0.10, 0.05, cases), TYPICAL, [effect], gates, np.random.default_rng(8))
    assert (found.final == FAIL).sum() >= at_least(computed, gates)


@EVERY
def test_a_fifth_slower_is_found_on_every_machine(situation: Situation) -> None:
    found = play(rule(0.10, 0.05), situation, [0.20], 4000, np.random.default_rng(9))
    assert (found.final == FAIL).sum() >= at_least(0.995, 4000)


def test_equal_times_are_seldom_undecided() -> None:
    for situation in SITUATIONS:
        found = play(rule(0.10, 0.05), situation, [0.0], 4000, np.random.default_rng(10))
        assert (found.final == UNDECIDED).sum() <= at_most(0.05, 4000)


# The gate itself, over scripted benches ---------------------------------------------------------------------

SCENARIO = """
name: gated
operation: attention
implementations: [naive]
matrix: {seq_len: 16, heads: 1, head_dim: 8}
"""


class Deaf:
    """Hears a gate and keeps nothing."""

    def phase(self, text: str) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def pair(self, case: Case, times: Times) -> None: ...

    def decided(self, case: Case, outcome: Outcome, text: str) -> None: ...


def gated(seed: int, *, effect: float, layout: float) -> Report:
    """A whole gate whose processes differ by 4.3%, its zygotes by `layout`, the rounds of a process by 1%."""
    rng, clock = Random(seed), FakeClock()

    def opener(slower: float) -> Callable[[], ScriptedSource]:
        def opened() -> ScriptedSource:
            zygote = math.log1p(slower) + rng.gauss(0, layout)
            offset = cache(lambda bench: zygote + rng.gauss(0, 0.043))
            noisy = Script(time_s=lambda bench, sample: 1.5e-3 * math.exp(offset(bench) + rng.gauss(0, 0.01)))
            return ScriptedSource({"naive": noisy}, clock)

        return opened

    scenario = parse(SCENARIO, "gated.yaml")
    blocks = scenario.expand(ScriptedSource({"naive": Script()}).hello["catalogue"])
    clocks = Clocks(clock.monotonic, clock.utc_now, clock.spend)
    return check(scenario, blocks, opener(0.0), opener(effect), observer=Deaf(), clocks=clocks)


def outcomes(gates: int, *, effect: float, layout: float) -> tuple[Counter[Outcome], Counter[Outcome]]:
    """Of the first test, and of the whole gate."""
    first, final = Counter[Outcome](), Counter[Outcome]()
    for seed in range(gates):
        report = gated(seed, effect=effect, layout=layout)
        (case,) = report.cases
        assert case.latency is not None
        first[case.latency.first.verdict] += 1
        final[report.outcome] += 1
    return first, final


def test_whole_gates_acquit_what_only_one_pair_of_zygotes_sees() -> None:
    """Zygotes that differ by 4%, far more than real ones: the first test alone is often wrong."""
    gates = 80
    first, final = outcomes(gates, effect=0.0, layout=0.04)
    assert first[Outcome.FAIL] > at_most(ALPHA, gates)
    assert final[Outcome.FAIL] <= at_most(0.25 * first[Outcome.FAIL] / gates, gates)
    assert final[Outcome.FAIL] < first[Outcome.FAIL] <= final[Outcome.FAIL] + final[Outcome.INCONCLUSIVE]


def test_whole_gates_pass_what_is_equal_and_fail_what_is_slower() -> None:
    gates = 60
    _, equal = outcomes(gates, effect=0.0, layout=0.0)
    assert equal[Outcome.FAIL] <= at_most(ALPHA, gates)
    assert equal[Outcome.PASS] >= at_least(0.99, gates)
    _, slower = outcomes(gates, effect=0.125, layout=0.0)
    computed = power.normal_characteristics(rule(0.10, 0.05), 0.125, SPREAD).fails ** 2
    assert slower[Outcome.FAIL] >= at_least(computed, gates)


# What the simulated machine claims of itself ----------------------------------------------------------------


@EVERY
def test_a_situation_has_the_spread_and_the_ties_that_it_tells(situation: Situation) -> None:
    d = drawn(situation, 0.0, 2000, seed=11)
    quartiles = np.quantile(d, [0.25, 0.75])
    assert 0.055 <= (quartiles[1] - quartiles[0]) / 1.349 <= 0.10  # as of real machines, robustly
    assert abs(np.median(d)) < 0.005
    assert (len(np.unique(d)) < d.size / 20) == bool(situation.tick)


def test_stretches_take_their_share_and_last_as_long_as_told() -> None:
    taken = streams._stretches((2000, 200), 0.2, 4.0, np.random.default_rng(12))
    assert taken.mean() == pytest.approx(0.2, abs=0.01)
    begins = (taken[:, 1:] & ~taken[:, :-1]).sum() + taken[:, 0].sum()
    assert taken.sum() / begins == pytest.approx(4.0, abs=0.15)


def test_drift_forgets_as_told() -> None:
    drift = streams._drifting((4000, 60), 10.0, np.random.default_rng(13))
    assert drift[:, 59].std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(drift[:, 40], drift[:, 50])[0, 1] == pytest.approx(math.exp(-1), abs=0.05)
