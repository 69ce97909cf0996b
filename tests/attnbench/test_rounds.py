from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

import pytest

from attnbench.protocol import BenchFailed, BenchLost, GpuReply
from attnbench.rounds import RECOVERY_S, Entrant, Outcome, play
from attnbench.sampling import Pace, PrecisionOrBudget
from scripted import Script, ScriptedSource, failing, steady

PACE = Pace(budget_s=1.0, deadline_s=60.0)


def hot(*rounds: int, reason: str = "sw_thermal_slowdown") -> Callable[[int, int], GpuReply]:
    """A GPU that is slowed down in these samples, warm-up's included, and at its power cap in all."""

    def state(bench: int, sample: int) -> GpuReply:
        reasons = ["power_cap", reason] if sample in rounds else ["power_cap"]
        return {
            "sm_clock_hz": 1e9 + sample,
            "temperature_c": 60.0,
            "power_w": None,
            "reasons": reasons,
        }

    return state


def enter(source: ScriptedSource, names: list[str], arm: str = "sweep") -> list[Entrant]:
    bench = source.bench()
    for name in names:
        bench.request("prepare", {"case": name, "implementation": name}, 1.0)
    return [Entrant(name, bench, arm) for name in names]


def run(
    scripts: Mapping[str, Script], precision: float = 1e-9, budget_s: float = 0.1
) -> tuple[ScriptedSource, list[Entrant], Outcome]:
    source = ScriptedSource(scripts)
    entrants = enter(source, list(scripts))
    outcome = play(
        entrants,
        pace=PACE,
        stop=PrecisionOrBudget(precision, budget_s, least_rounds=2),
        rng=Random(0),
        clock=source.clock.monotonic,
        rest=source.clock.spend,
    )
    return source, entrants, outcome


def wobbling(seconds: float) -> Script:
    return Script(time_s=lambda process, sample: seconds * (1 + 0.1 * (sample % 2)))


def test_every_round_samples_every_live_case_once_in_varying_order() -> None:
    source, entrants, outcome = run({"a": wobbling(1e-3), "b": wobbling(1e-3), "c": wobbling(1e-3)})
    assert outcome == Outcome((), None, ())
    rounds = {tuple(entrant.rounds) for entrant in entrants}
    assert len(rounds) == 1, "with equal costs all leave together"
    (numbers,) = rounds
    assert numbers == tuple(range(len(numbers)))
    samples = [name for _, verb, name in source.log if verb == "sample"][-3 * len(numbers) :]
    orders = [tuple(samples[i : i + 3]) for i in range(0, len(samples), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 1


def test_a_precise_case_leaves_and_the_others_go_on() -> None:
    _, (steady_one, wobbly), _ = run({"a": Script(steady(1e-3)), "b": wobbling(1e-3)}, precision=0.01)
    assert len(steady_one.rounds) == 7, "the fewest that give an interval, and one to confirm it"
    assert len(wobbly.rounds) > 6


def test_a_budget_bounds_what_a_case_costs() -> None:
    _, (entrant,), _ = run({"a": wobbling(1e-3)}, budget_s=0.05)
    assert 0.05 <= entrant.spent_s < 0.06


def test_a_failing_case_leaves_and_the_others_go_on() -> None:
    failure = BenchFailed("error", "ValueError: no")
    _, (bad, good), outcome = run(
        {"a": Script(fails=failing("sample", failure, from_sample=6)), "b": wobbling(1e-3)}
    )
    assert outcome.failures == ((bad, failure),)
    assert outcome.lost is None
    assert len(good.rounds) > len(bad.rounds)


def test_a_case_that_fails_while_warming_up_never_plays() -> None:
    failure = BenchFailed("oom", "no memory")
    _, (bad, good), outcome = run({"a": Script(fails=failing("sample", failure)), "b": wobbling(1e-3)})
    assert outcome.failures == ((bad, failure),)
    assert bad.rounds == []
    assert good.rounds


@pytest.mark.parametrize("fail_at", [0, 8])
def test_a_lost_bench_ends_the_play_and_names_who_is_unfinished(fail_at: int) -> None:
    loss = BenchLost("crashed", "killed by SIGSEGV")
    _, (first, bad, last), outcome = run(
        {
            "a": wobbling(1e-3),
            "b": Script(fails=failing("sample", loss, from_sample=fail_at)),
            "c": wobbling(1e-3),
        }
    )
    assert outcome.lost == (bad, loss)
    assert outcome.failures == ((bad, loss),)
    assert set(outcome.unfinished) == {first, last}
    assert first.rounds or fail_at == 0, "the survivors' samples are kept"


def test_two_arms_play_side_by_side_in_benches_of_their_own() -> None:
    source = ScriptedSource({"a": wobbling(1e-3)})
    base, head = enter(source, ["a"], "base"), enter(source, ["a"], "head")
    play(
        [*base, *head],
        pace=PACE,
        stop=PrecisionOrBudget(1e-9, 0.1, 2),
        rng=Random(1),
        clock=source.clock.monotonic,
    )
    assert base[0].bench is not head[0].bench
    assert base[0].rounds == head[0].rounds
    assert {entrant.arm for entrant in (*base, *head)} == {"base", "head"}


#: Samples that warming up takes with a kernel of 1 ms: one to calibrate, two that fell no further.
WARMING = 3


def test_a_round_that_heat_slowed_down_is_thrown_away_whole() -> None:
    slowed = Script(wobbling(1e-3).time_s, gpu=hot(WARMING + 1, WARMING + 4))
    _, (first, second), _ = run({"a": slowed, "b": wobbling(1e-3)}, budget_s=1.0)
    for entrant in (first, second):
        # Of neither case: the two are compared round by round. After each a sample is nobody's.
        assert entrant.rounds[:4] == [0, 2, 4, 5]
        assert entrant.discarded == 2
        assert entrant.slowed_by == {"sw_thermal_slowdown"}
        assert entrant.spent_s >= 2 * RECOVERY_S, "the GPU was left alone"
    samples = first.samples()
    assert samples.rounds == tuple(first.rounds)
    assert samples.clock_reasons == ("power_cap",) * len(first.rounds)
    assert samples.sm_clock_hz is not None
    assert samples.sm_clock_hz[:2] == (1e9 + WARMING, 1e9 + WARMING + 3)
    assert samples.temperature_c == (60.0,) * len(first.rounds)
    assert samples.power_w is None, "no sample has one"
    assert second.samples().clock_reasons is None


@pytest.mark.parametrize("reason", ["hw_slowdown", "hw_thermal_slowdown", "hw_power_brake"])
def test_every_kind_of_slow_down_counts(reason: str) -> None:
    slowed = Script(wobbling(1e-3).time_s, gpu=hot(WARMING, reason=reason))
    _, (entrant,), _ = run({"a": slowed}, budget_s=1.0)
    assert (entrant.discarded, entrant.rounds[0]) == (1, 1)


def test_a_power_cap_is_normal() -> None:
    _, (entrant,), _ = run({"a": Script(wobbling(1e-3).time_s, gpu=hot())})
    assert entrant.discarded == 0
    assert entrant.rounds[0] == 0


@pytest.mark.parametrize("seconds", [1e-3, 5.0])
def test_where_no_round_is_clean_the_play_ends(seconds: float) -> None:
    always = Script(steady(seconds), gpu=hot(*range(100_000)))
    source, entrants, outcome = run({"a": always, "b": Script(steady(seconds))}, budget_s=1.0)
    assert outcome == Outcome((), None, ())
    for entrant in entrants:
        assert (entrant.rounds, entrant.samples().rounds) == ([], ())
        assert entrant.discarded >= 3
        assert entrant.spent_s >= 2.0, "twice the budget: it may cool down"
    assert source.clock.now_s < 4 * max(2.0, 10 * seconds)


def test_of_a_round_that_is_cut_short_in_heat_nothing_is_kept() -> None:
    loss = BenchLost("crashed", "killed by SIGSEGV")
    always = Script(wobbling(1e-3).time_s, gpu=hot(*range(WARMING, 100)))
    dying = Script(wobbling(1e-3).time_s, fails=failing("sample", loss, from_sample=WARMING + 2))
    _, (first, bad), outcome = run({"a": always, "b": dying}, budget_s=9.0)
    assert outcome.lost == (bad, loss)
    assert first.rounds == []
    assert first.discarded in (2, 3), "the third round may have been cut before its turn"


def test_what_could_not_be_run_ahead_of_is_told_sample_by_sample() -> None:
    script = Script(wobbling(1e-3).time_s, launch_bound=lambda bench, sample: sample == WARMING + 1)
    _, (entrant, plain), _ = run({"a": script, "b": wobbling(1e-3)})
    samples = entrant.samples()
    assert samples.launch_bound is not None
    assert samples.launch_bound[:3] == (False, True, False)
    assert plain.samples().launch_bound is None
