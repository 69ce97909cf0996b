from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest

from attnbench.protocol import BenchFailed, BenchLost
from attnbench.rounds import Entrant, Outcome, play
from attnbench.sampling import Pace, PrecisionOrBudget
from scripted import Script, ScriptedSource, failing, steady

PACE = Pace(budget_s=1.0, deadline_s=60.0)


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
