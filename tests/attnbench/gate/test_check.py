from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count, permutations

import pytest

from attnbench.blocks import Clocks
from attnbench.case import Case
from attnbench.errors import UsageError
from attnbench.gate.check import check
from attnbench.gate.pairing import Times
from attnbench.gate.verdict import Outcome, Report
from attnbench.protocol import BenchFailed, BenchLost, GpuReply
from attnbench.scenario import parse
from scripted import FakeClock, Script, ScriptedSource, failing, steady

TEXT = """\
name: gated
operation: attention
implementations: [naive, numpy]
matrix: {seq_len: 16, heads: 1, head_dim: 8}
check: {gate: 0.10}
"""


@dataclass
class Heard:
    """What an observer heard."""

    phases: list[str] = field(default_factory=list)
    decided_: list[tuple[str, Outcome]] = field(default_factory=list)
    pairs: int = 0
    played: list[tuple[int, int]] = field(default_factory=list)

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def progress(self, done: int, total: int) -> None:
        self.played.append((done, total))

    def pair(self, case: Case, times: Times) -> None:
        self.pairs += 1

    def decided(self, case: Case, outcome: Outcome, text: str) -> None:
        self.decided_.append((case.variant.label, outcome))


@dataclass
class Gate:
    """A gate over scripted benches. `opened` says which arms were opened, in order."""

    base: Callable[[], dict[str, Script]]
    head: Callable[[], dict[str, Script]]
    text: str = TEXT
    sets: tuple[str, ...] = ()
    clock: FakeClock = field(default_factory=FakeClock)
    heard: Heard = field(default_factory=Heard)
    opened: list[ScriptedSource] = field(default_factory=list)

    def source(self, scripts: dict[str, Script]) -> ScriptedSource:
        source = ScriptedSource(scripts, self.clock)
        self.opened.append(source)
        return source

    def run(self) -> Report:
        scenario = parse(self.text, "gated.yaml", sets=self.sets)
        blocks = scenario.expand(ScriptedSource(self.base()).hello["catalogue"])
        clocks = Clocks(self.clock.monotonic, self.clock.utc_now, self.clock.spend)
        report = check(
            scenario,
            blocks,
            lambda: self.source(self.base()),
            lambda: self.source(self.head()),
            observer=self.heard,
            clocks=clocks,
        )
        assert all(source.closed for source in self.opened)
        assert all(bench.closed for source in self.opened for bench in source.benches)
        return report


def scripts(naive: Script | None = None, numpy: Script | None = None) -> Callable[[], dict[str, Script]]:
    return lambda: {"naive": naive or Script(), "numpy": numpy or Script()}


def slower(times: float) -> Script:
    return Script(time_s=steady(times * 1e-3))


def outcomes(report: Report) -> dict[str, Outcome]:
    return {each.case.variant.label: each.outcome for each in report.cases}


def text_of(report: Report, label: str) -> str:
    return next(each.text for each in report.cases if each.case.variant.label == label)


def test_equal_arms_pass_at_the_first_look() -> None:
    gate = Gate(scripts(), scripts())
    report = gate.run()
    assert report.outcome is Outcome.PASS
    assert text_of(report, "naive") == "naive B1 H1 L16: 0.0% slower [0.0, 0.0], 20 of 20 pairs within 10%"
    assert len(gate.opened) == 2  # nothing had to be repeated
    assert gate.heard.decided_ == [("naive", Outcome.PASS), ("numpy", Outcome.PASS)]
    assert gate.heard.pairs == 40
    assert gate.heard.played[-1] == (20, 120)


def test_a_slow_down_fails_twice_beside_a_clean_control() -> None:
    gate = Gate(scripts(), scripts(naive=slower(1.2)))
    report = gate.run()
    assert outcomes(report) == {"naive": Outcome.FAIL, "numpy": Outcome.PASS}
    assert report.outcome is Outcome.FAIL
    assert text_of(report, "naive").startswith("naive B1 H1 L16: 20.0% slower [20.0, 20.0], 20 of 20 pairs")
    latency = report.cases[0].latency
    assert latency is not None
    assert latency.again is not None
    assert latency.control is not None
    assert latency.again.verdict is Outcome.FAIL
    assert latency.control.slower == 0
    assert len(gate.opened) == 5  # base and head, then fresh ones of both and a second base
    # Only what failed is timed again.
    assert {name for _, verb, name in gate.opened[2].log if verb == "sample"} == {"naive"}


def test_a_failure_that_does_not_repeat_itself_is_inconclusive() -> None:
    turns = count()

    def head() -> dict[str, Script]:
        return scripts(naive=slower(1.2 if next(turns) == 0 else 1.0))()

    report = Gate(scripts(), head).run()
    assert outcomes(report) == {"naive": Outcome.INCONCLUSIVE, "numpy": Outcome.PASS}
    assert report.outcome is Outcome.INCONCLUSIVE
    assert "did not fail again with fresh zygotes (0 of 20 pairs)" in text_of(report, "naive")


@pytest.mark.parametrize(("second_base", "head"), [(1.2, 1.2), (0.8, 1.2), (1.2, 1.5)])
def test_a_base_that_differs_from_itself_makes_it_inconclusive(second_base: float, head: float) -> None:
    turns = count()

    def base() -> dict[str, Script]:
        # The third that is opened after the catalogue is the control.
        return scripts(naive=slower(second_base if next(turns) == 3 else 1.0))()

    report = Gate(base, scripts(naive=slower(head))).run()
    assert outcomes(report)["naive"] is Outcome.INCONCLUSIVE
    assert "the base differed from itself" in text_of(report, "naive")


def test_a_slow_down_far_beyond_what_the_base_differs_from_itself_fails_all_the_same() -> None:
    turns = count()

    def base() -> dict[str, Script]:
        return scripts(naive=slower(1.07 if next(turns) == 3 else 1.0))()  # the control

    report = Gate(base, scripts(naive=slower(1.5))).run()
    assert outcomes(report)["naive"] is Outcome.FAIL
    latency = report.cases[0].latency
    assert latency is not None
    assert latency.control is not None
    assert latency.control.verdict is Outcome.FAIL


def test_a_base_that_differs_from_itself_by_less_than_the_floor_does_not() -> None:
    turns = count()

    def base() -> dict[str, Script]:
        return scripts(naive=slower(0.9 if next(turns) == 3 else 1.0))()

    # Less than 20% are left of the slow-down beyond what the base differs from itself.
    sets = ("check.floor=0.00011", "check.gate=0.3")
    assert outcomes(Gate(base, scripts(naive=slower(1.25)), sets=sets).run())["naive"] is Outcome.FAIL


def test_a_budget_that_is_spent_while_a_failure_is_repeated_is_told_as_that() -> None:
    turns = count()

    def head() -> dict[str, Script]:
        wild = Script(time_s=lambda bench, sample: 1e-3 * (1.6 if bench % 2 else 0.7))
        return scripts(naive=wild if next(turns) else slower(1.2))()

    report = Gate(scripts(), head, sets=("check.budget=10",)).run()
    assert outcomes(report)["naive"] is Outcome.INCONCLUSIVE
    told = (
        r"check\.budget \(10 s\) was spent before it could fail again with fresh zygotes \(\d+ of \d+ pairs\)"
    )
    assert re.search(f"{told}: raise it$", text_of(report, "naive"))


def test_what_is_heard_of_a_case_is_what_becomes_of_it() -> None:
    hot = GpuReply(sm_clock_hz=1e9, temperature_c=90.0, power_w=300.0, reasons=["hw_thermal_slowdown"])
    gate = Gate(scripts(naive=Script(gpu=lambda bench, sample: hot)), scripts())
    report = gate.run()
    assert "not timed: 5 pairs in a row gave no round that could be kept" in text_of(report, "naive")
    assert dict(gate.heard.decided_) == outcomes(report)
    assert outcomes(report)["naive"] is Outcome.INCONCLUSIVE


def test_what_scatters_between_processes_is_undecided_after_all_pairs() -> None:
    wild = Script(time_s=lambda bench, sample: 1e-3 * (1.6 if bench % 2 else 0.7))
    report = Gate(scripts(), scripts(naive=wild)).run()
    assert outcomes(report)["naive"] is Outcome.INCONCLUSIVE
    assert "undecided after all pairs" in text_of(report, "naive")
    assert "of 120 pairs beyond 5%" in text_of(report, "naive")


def test_a_spent_budget_is_inconclusive_and_says_what_to_do() -> None:
    report = Gate(scripts(), scripts(), sets=("check.budget=2",)).run()
    assert report.outcome is Outcome.INCONCLUSIVE
    assert "raise it" in text_of(report, "naive")


def test_a_budget_for_not_even_one_pair_is_inconclusive() -> None:
    text = TEXT.replace("seq_len: 16", "seq_len: [16, 32]")
    report = Gate(scripts(), scripts(), text, sets=("check.budget=1e-9",)).run()
    assert report.outcome is Outcome.INCONCLUSIVE
    assert report.cases[-1].text.startswith("numpy B1 H1 L32: not timed: undecided when 40% of check.budget")


def test_below_the_floor_nothing_counts_as_slower() -> None:
    below, above = (
        Gate(scripts(), scripts(naive=slower(1.2)), sets=(f"check.floor={floor}",)).run()
        for floor in (0.00021, 0.00019)
    )
    assert outcomes(below)["naive"] is Outcome.PASS
    assert "20.0% slower" in text_of(below, "naive")
    assert outcomes(above)["naive"] is Outcome.FAIL


def test_a_faster_head_passes_and_says_so() -> None:
    report = Gate(scripts(), scripts(naive=slower(0.8))).run()
    assert text_of(report, "naive").startswith("naive B1 H1 L16: 20.0% faster [20.0, 20.0]")
    assert report.outcome is Outcome.PASS


def test_latency_can_be_switched_off() -> None:
    gate = Gate(scripts(), scripts(naive=slower(2)), sets=("check.latency=false",))
    report = gate.run()
    assert report.outcome is Outcome.PASS
    assert report.cases[0].latency is None
    assert not any(verb == "sample" for source in gate.opened for _, verb, _ in source.log)


def begun(head: Script) -> list[str]:
    """The arms of all processes, in the order in which they began, in a gate where numpy is as before."""
    started: list[str] = []
    clock = FakeClock()

    class Source(ScriptedSource):
        def __init__(self, name: str, naive: Script) -> None:
            super().__init__(scripts(naive)(), clock)
            self.name = name

        def bench(self):  # type: ignore[no-untyped-def]
            started.append(self.name)
            return super().bench()

    scenario = parse(TEXT, "gated.yaml")
    blocks = scenario.expand(ScriptedSource(scripts()()).hello["catalogue"])
    clocks = Clocks(clock.monotonic, clock.utc_now, clock.spend)
    opened = iter(("base", "base", "control"))
    check(
        scenario,
        blocks,
        lambda: Source(next(opened), slower(1)),
        lambda: Source("head", head),
        observer=Heard(),
        clocks=clocks,
    )
    return started


def test_the_order_in_which_processes_begin_alternates() -> None:
    assert begun(slower(1))[-40:] == ["base", "head", "head", "base"] * 10


def test_of_three_arms_each_begins_before_each_other_as_often() -> None:
    started = begun(slower(1.2))[-60:-6]  # 18 of 20 pairs
    triples = list(zip(started[::3], started[1::3], started[2::3], strict=True))
    for first, second in permutations(("base", "head", "control"), 2):
        assert sum(each.index(first) < each.index(second) for each in triples) == 9


def test_calls_are_calibrated_once() -> None:
    gate = Gate(scripts(naive=slower(1e-3)), scripts(naive=slower(1e-3)))
    gate.run()
    counts = [
        len([1 for bench, verb, name in gate.opened[0].log if (bench, verb, name) == (at, "sample", "naive")])
        for at in {bench for bench, verb, _ in gate.opened[0].log if verb == "sample"}
    ]
    assert counts[0] > counts[-1] == counts[1] == 15  # twelve rounds, and three until it is warm


def test_a_worse_status_fails_when_it_repeats_itself() -> None:
    crash = Script(fails=failing("memory", BenchLost("crashed", "signal 11")))
    report = Gate(scripts(), scripts(naive=crash)).run()
    assert outcomes(report) == {"naive": Outcome.FAIL, "numpy": Outcome.PASS}
    assert text_of(report, "naive") == "naive B1 H1 L16: status ok → crashed: signal 11"
    assert report.cases[0].latency is None


def test_a_worse_status_that_does_not_repeat_itself_is_inconclusive() -> None:
    turns = count()

    def head() -> dict[str, Script]:
        fails = failing("memory", BenchFailed("oom", "full")) if next(turns) == 0 else None
        return scripts(naive=Script(fails=fails) if fails else None)()

    report = Gate(scripts(), head).run()
    assert outcomes(report)["naive"] is Outcome.INCONCLUSIVE
    assert text_of(report, "naive") == ("naive B1 H1 L16: status ok → oom: full; not so when repeated")


def test_memory_and_errors_that_fail_must_do_so_again() -> None:
    turns = count()

    def head(lasting: bool) -> dict[str, Script]:
        return scripts(naive=Script(poisoned="NaN" if lasting or next(turns) == 0 else None))()

    once, always = (Gate(scripts(), partial(head, lasting)).run() for lasting in (False, True))
    assert text_of(once, "naive") == "naive B1 H1 L16: accuracy pass → fail: NaN; not so when repeated"
    assert outcomes(once)["naive"] is Outcome.INCONCLUSIVE
    assert outcomes(always)["naive"] is Outcome.FAIL


def test_what_fails_in_another_way_when_repeated_fails() -> None:
    turns = count()

    def head() -> dict[str, Script]:
        crash = Script(fails=failing("memory", BenchLost("crashed", "signal 11")))
        return scripts(naive=Script(poisoned="NaN") if next(turns) else crash)()

    report = Gate(scripts(), head).run()
    assert outcomes(report)["naive"] is Outcome.FAIL
    assert text_of(report, "naive") == (
        "naive B1 H1 L16: accuracy pass → fail: NaN; status ok → crashed: signal 11; not so when repeated"
    )


def test_a_base_that_broke_once_is_no_reason_to_pass_a_head_that_nobody_timed() -> None:
    turns = count()

    def base() -> dict[str, Script]:
        fails = failing("memory", BenchFailed("oom", "full")) if next(turns) == 1 else None
        return scripts(naive=Script(fails=fails) if fails else None)()

    report = Gate(base, scripts(naive=slower(2))).run()
    assert text_of(report, "naive") == "naive B1 H1 L16: status oom → ok; not so when repeated"
    assert outcomes(report)["naive"] is Outcome.INCONCLUSIVE


def test_a_better_status_is_told_and_passes() -> None:
    crash = Script(fails=failing("memory", BenchLost("crashed", "signal 11")))
    report = Gate(scripts(naive=crash), scripts()).run()
    assert report.outcome is Outcome.PASS
    assert text_of(report, "naive") == "naive B1 H1 L16: status crashed → ok"


def test_what_runs_in_neither_arm_is_told() -> None:
    refused = Script(fails=failing("prepare", BenchFailed("unsupported", "no such mask")))
    report = Gate(scripts(naive=refused), scripts(naive=refused)).run()
    assert report.outcome is Outcome.PASS
    assert text_of(report, "naive") == "naive B1 H1 L16: unsupported in both arms, not compared: no such mask"
    assert report.notes == ("1 of 2 cases passed as they ran in neither arm: not compared.",)
    assert Gate(scripts(), scripts()).run().notes == ()


def test_nothing_that_runs_is_an_error() -> None:
    refused = Script(fails=failing("prepare", BenchFailed("unsupported", "no such mask")))
    gate = Gate(scripts(refused, refused), scripts(refused, refused))
    with pytest.raises(UsageError, match=re.escape("(unsupported: no such mask)")):
        gate.run()
    assert all(source.closed for source in gate.opened)


def test_no_case_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing to check"):
        check(parse(TEXT, "gated.yaml"), [], ScriptedSource, ScriptedSource, observer=Heard())  # type: ignore[arg-type]


def test_so_few_pairs_that_of_so_many_cases_none_could_fail_are_told() -> None:
    sizes = f"seq_len: [{', '.join(str(16 * size) for size in range(1, 21))}]"
    text = TEXT.replace("seq_len: 16", sizes)
    report = Gate(scripts(), scripts(naive=slower(1.5)), text, sets=("check.pairs=[10]",)).run()
    assert outcomes(report) == {"naive": Outcome.INCONCLUSIVE, "numpy": Outcome.PASS}
    assert "whether 40 cases may fail or pass takes 12 pairs at least" in report.notes[0]
    quiet = Gate(scripts(), scripts(), text, sets=("check.pairs=[10]", "check.latency=false")).run()
    assert not quiet.notes


def test_a_head_that_breaks_while_it_is_timed_fails() -> None:
    crash = Script(fails=failing("sample", BenchLost("crashed", "signal 11"), from_sample=8))
    gate = Gate(scripts(), scripts(naive=crash))
    report = gate.run()
    assert outcomes(report) == {"naive": Outcome.FAIL, "numpy": Outcome.PASS}
    assert "the head broke while it was timed: crashed: signal 11" in text_of(report, "naive")


def test_one_break_is_forgiven() -> None:
    crash = Script(
        fails=lambda verb, bench, sample: (
            BenchLost("crashed", "signal 11") if (verb, bench, sample) == ("sample", 7, 3) else None
        )
    )
    gate = Gate(scripts(), scripts(naive=crash))
    report = gate.run()
    assert report.outcome is Outcome.PASS
    assert gate.heard.played[-1][0] == 21  # one pair more


def test_a_base_that_breaks_while_it_is_timed_is_not_held_against_the_head() -> None:
    crash = Script(fails=failing("sample", BenchLost("crashed", "signal 11"), from_sample=8))
    report = Gate(scripts(naive=crash), scripts()).run()
    assert outcomes(report)["naive"] is Outcome.INCONCLUSIVE


def test_what_breaks_in_either_arm_is_not_held_against_the_head() -> None:
    def once(verb: str, bench: int, sample: int) -> BenchLost | None:
        return BenchLost("crashed", "signal 11") if (verb, bench) == ("sample", at[0]) else None

    def later(verb: str, bench: int, sample: int) -> BenchLost | None:
        return BenchLost("crashed", "signal 11") if (verb, bench) == ("sample", at[1]) else None

    at = (6, 8)
    gate = Gate(scripts(naive=Script(fails=once)), scripts(naive=Script(fails=later)))
    report = gate.run()
    assert "the base and the head broke while it was timed" in text_of(report, "naive")
    assert outcomes(report)["naive"] is Outcome.INCONCLUSIVE


def test_who_runs_out_of_memory_beside_others_is_timed_alone() -> None:
    source_of_head: list[ScriptedSource] = []

    def crowded(verb: str, bench: int, sample: int) -> BenchFailed | None:
        source = source_of_head[0]
        beside = {name for at, asked, name in source.log if at == bench and asked == "prepare"}
        timing = bench >= 6  # those before inspect and judge
        return BenchFailed("oom", "full") if verb == "prepare" and timing and len(beside) > 1 else None

    gate = Gate(scripts(), scripts())
    gate.head = lambda: {"naive": Script(fails=crowded), "numpy": Script(fails=crowded)}
    made = gate.source

    def source(made_of: dict[str, Script]) -> ScriptedSource:
        new = made(made_of)
        if made_of["naive"].fails is crowded:
            source_of_head.append(new)
        return new

    gate.source = source  # type: ignore[method-assign]
    assert gate.run().outcome is Outcome.PASS


def test_an_answer_that_is_remembered_fails() -> None:
    report = Gate(scripts(), scripts(naive=Script(replays="it returns what it remembers"))).run()
    assert outcomes(report) == {"naive": Outcome.FAIL, "numpy": Outcome.PASS}
    assert "what was timed of the head is wrong: it returns what it remembers" in text_of(report, "naive")


def test_a_remembered_answer_is_no_time_even_where_wrong_answers_are_allowed() -> None:
    head = scripts(naive=Script(replays="it returns what it remembers"))
    report = Gate(scripts(), head, sets=("check.error=false",)).run()
    assert outcomes(report)["naive"] is Outcome.INCONCLUSIVE
    assert text_of(report, "naive").endswith("times are not compared")


def test_who_could_not_be_asked_since_another_crashed_over_it_is_asked_with_the_next_pair() -> None:
    crash = Script(
        fails=lambda verb, bench, sample: BenchLost("crashed", "signal 11") if verb == "verify" else None
    )
    report = Gate(scripts(), scripts(crash, Script(replays="it returns what it remembers"))).run()
    assert outcomes(report) == {"naive": Outcome.FAIL, "numpy": Outcome.FAIL}


def test_a_remembered_answer_in_both_arms_is_no_change() -> None:
    both = scripts(naive=Script(replays="it returns what it remembers"))
    assert Gate(both, both).run().outcome is Outcome.PASS


def test_same_seed_same_report() -> None:
    first, second = (Gate(scripts(), scripts(naive=slower(1.2))).run() for _ in range(2))
    assert first == second
