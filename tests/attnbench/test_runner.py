"""The runner, driven by scripted benches: every judgement, no torch, no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from attnbench import blocks as block_module
from attnbench import store
from attnbench.blocks import Clocks, measure_block
from attnbench.case import Block
from attnbench.ceilings import Ceilings, MatrixRate
from attnbench.protocol import BenchFailed, BenchLost, GpuReply
from attnbench.record import Record
from attnbench.runner import budget_s, sweep
from attnbench.scenario import Scenario, parse
from scripted import FakeClock, Script, ScriptedBench, ScriptedSource, failing, steady

SCENARIO = """
name: scripted
operation: attention
implementations: [{names}]
matrix: {{heads: 2, head_dim: 8, seq_len: [{lengths}]}}
measure: {{precision: 0.02, max_seconds: 0.5, processes: 3}}
limits: {{seconds_per_case: 7}}
"""


#: With two cases: bench 0 is asked what can run, 1 and 2 inspect, 3 judges, 4 is poisoned, 5 would be the
#: deterministic one.
JUDGES, POISONED, DETERMINISTIC = 3, 4, 5

NO = BenchFailed("unsupported", "not this shape")


def scenario_of(source: ScriptedSource, lengths: str = "16") -> tuple[Scenario, list[Block]]:
    text = SCENARIO.format(names=", ".join(source.scripts), lengths=lengths)
    scenario = parse(text, "scripted.yaml")
    return scenario, scenario.expand(source.hello["catalogue"])


def clocks_of(clock: FakeClock) -> Clocks:
    return Clocks(clock.monotonic, clock.utc_now, clock.spend)


def measured(**scripts: Script) -> tuple[dict[str, Record], ScriptedSource]:
    source = ScriptedSource(scripts)
    scenario, (block,) = scenario_of(source)
    records = measure_block(scenario, block, source, clocks=clocks_of(source.clock))
    assert [record.case_id for record in records] == [case.case_id for case in block.cases]
    assert all(bench.closed for bench in source.benches)
    return {record.implementation: record for record in records}, source


def test_a_block_is_asked_about_inspected_judged_poisoned_and_sampled_in_fresh_benches() -> None:
    records, source = measured(a=Script(steady(1e-3)), b=Script(steady(2e-3)))
    assert len(source.benches) == 1 + 2 + 1 + 1 + 3
    verbs = {number: {verb for n, verb, _ in source.log if n == number} for number in range(8)}
    assert verbs[0] == {"prepare"}
    assert verbs[1] == verbs[2] == {"prepare", "memory"}, "each case is inspected in a bench of its own"
    assert verbs[JUDGES] == {"reference", "prepare", "accuracy", "release"}
    assert verbs[POISONED] == {"prepare", "accuracy", "release"}
    assert verbs[5] == {"prepare", "sample", "verify"}
    assert [verb for n, verb, _ in source.log if n == 5][-3:] == ["sample", "verify", "verify"]
    assert verbs[6] == verbs[7] == {"prepare", "sample"}
    assert [bench.number for bench in source.benches if bench.poisoned] == [POISONED]
    a = records["a"]
    assert (a.status, a.reason, a.converged) == ("ok", None, True)
    assert a.device_name == "Scripted CPU"
    assert len(a.processes) == 3
    assert a.anchor == a.case_id == records["b"].anchor
    assert a.memory is not None
    assert a.accuracy is not None
    assert a.processes[0].elapsed_s[0] / a.processes[0].calls == pytest.approx(1e-3)


class Listening(ScriptedSource):
    """Keeps what each `prepare` was told, by bench."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        super().__init__(scripts)
        self.told: list[tuple[int, Mapping[str, Any]]] = []

    def bench(self) -> ScriptedBench:
        source = self

        class Telling(ScriptedBench):
            def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
                if verb == "prepare":
                    source.told.append((self.number, parameters))
                return super().request(verb, parameters, deadline_s)

        self.benches.append(Telling(self, len(self.benches)))
        return self.benches[-1]


def test_nobody_is_asked_what_it_supports_in_the_process_whose_first_call_is_timed() -> None:
    source = Listening({"a": Script(), "b": Script(fails=failing("prepare", NO)), "c": Script()})
    scenario, (block,) = scenario_of(source)
    records = measure_block(scenario, block, source, clocks=clocks_of(source.clock))
    assert [record.status for record in records] == ["ok", "unsupported", "ok"]
    flags = [
        (number, told["implementation"], told.get("capability_only", False), told.get("capable", False))
        for number, told in source.told[:5]
    ]
    assert flags == [
        (0, "a", True, False),
        (0, "b", True, False),
        (0, "c", True, False),
        (1, "a", False, True),
        (2, "c", False, True),
    ]
    assert records[0].first_call_s is not None


def test_the_benches_of_one_measuring_share_what_was_compiled_and_no_others_do() -> None:
    source = Listening({"a": Script(), "b": Script()})
    scenario, (block,) = scenario_of(source)
    scopes = []
    for _ in range(2):  # as two scenarios that hold the same cases, or two attempts
        source.told.clear()
        measure_block(scenario, block, source, clocks=clocks_of(source.clock))
        (scope,) = {told["scope"] for _, told in source.told}
        scopes.append(scope)
    assert scopes[0] != scopes[1]


def test_the_same_seed_gives_the_same_records() -> None:
    def once() -> list[dict[str, object]]:
        records, _ = measured(
            a=Script(lambda process, sample: 1e-3 * (1 + 0.01 * ((7 * sample + process) % 5))),
            b=Script(steady(2e-3)),
        )
        return [record.to_json() for record in records.values()]

    assert once() == once()


@pytest.mark.parametrize("verb", ["prepare", "memory", "accuracy", "sample", "verify"])
@pytest.mark.parametrize(
    "failure",
    [
        BenchFailed("error", "ValueError: no"),
        BenchFailed("unsupported", "not this shape"),
        BenchLost("crashed", "killed by SIGSEGV"),
        BenchLost("timeout", "took longer than 7 s"),
    ],
)
def test_a_failure_is_a_row_and_the_others_are_measured(verb: str, failure: BenchFailed) -> None:
    records, source = measured(
        a=Script(steady(1e-3)), bad=Script(fails=failing(verb, failure)), c=Script(steady(2e-3))
    )
    assert (records["bad"].status, records["bad"].reason) == (failure.status, failure.reason)
    assert records["bad"].processes == ()
    for name in "ac":
        assert records[name].status == "ok"
        assert sum(bool(process.rounds) for process in records[name].processes) >= 3
    tries = [entry for entry in source.log if entry[1:] == (verb, "bad")]
    assert len(tries) == 1, "a case that failed is not tried again"


def test_benches_keep_their_place_when_one_is_lost_between_rounds() -> None:
    loss = BenchLost("crashed", "killed by SIGSEGV")
    records, _ = measured(
        a=Script(lambda p, s: 1e-3 * (1 + 0.1 * (s % 2))),
        bad=Script(fails=failing("sample", loss, from_sample=8)),
        c=Script(lambda p, s: 2e-3 * (1 + 0.1 * (s % 2))),
    )
    a, c = records["a"], records["c"]
    assert len(a.processes) == len(c.processes) == 4, "the lost bench, the one in its place, and two more"
    for one, other in zip(a.processes, c.processes, strict=True):
        assert bool(one.rounds) == bool(other.rounds)


def test_a_bench_lost_in_preparation_is_replaced_without_losing_its_cases() -> None:
    loss = BenchLost("crashed", "exited with status 3")
    records, _ = measured(
        a=Script(steady(1e-3)),
        bad=Script(steady(1e-3), fails=failing("prepare", loss, from_bench=3)),
        c=Script(steady(1e-3)),
    )
    assert records["bad"].status == "crashed"
    for name in "ac":
        assert sum(bool(process.rounds) for process in records[name].processes) == 3


def test_what_only_poison_shows_fails_the_case_but_keeps_its_time() -> None:
    record = measured(a=Script(poisoned="o has 8 non-finite values"))[0]["a"]
    assert record.accuracy is not None
    assert record.accuracy["accuracy"] == "fail"
    assert record.accuracy["reason"] == "o has 8 non-finite values"
    assert record.accuracy["error_rel_l2"] is not None
    assert record.status == "ok"
    assert record.processes


def test_what_replays_once_it_is_timed_fails_the_case_but_keeps_its_time() -> None:
    records, source = measured(a=Script(replays="o did not follow the inputs"), b=Script())
    record = records["a"]
    assert record.accuracy is not None
    assert (record.accuracy["accuracy"], record.accuracy["reason"]) == ("fail", "o did not follow the inputs")
    assert record.status == "ok"
    assert len(record.processes) == 3
    assert records["b"].accuracy is not None
    assert records["b"].accuracy["accuracy"] == "pass"
    assert sorted(name for _, verb, name in source.log if verb == "verify") == ["a", "b"], "once a case"


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("verb", ["sample", "verify"])
def test_who_ends_a_bench_spares_nobody_the_question_whether_it_replays(processes: int, verb: str) -> None:
    loss = BenchLost("crashed", "killed by SIGSEGV")
    source = ScriptedSource(
        {
            "a": Script(steady(1e-3), replays="o did not follow the inputs"),
            "bad": Script(
                lambda bench, sample: 1e-3 * (1 + sample % 2),  # outlasts the others in the rounds
                fails=failing(verb, loss, from_sample=12 if verb == "sample" else 0),
            ),
            "c": Script(steady(1e-3), replays="o did not follow the inputs"),
        }
    )
    text = SCENARIO.format(names="a, bad, c", lengths="16").replace("processes: 3", f"processes: {processes}")
    scenario = parse(text, "scripted.yaml")
    (block,) = scenario.expand(source.hello["catalogue"])
    a, bad, c = measure_block(scenario, block, source, clocks=clocks_of(source.clock))
    assert bad.status == "crashed"
    for record in (a, c):
        assert record.status == "ok"
        assert record.accuracy is not None
        assert record.accuracy["accuracy"] == "fail"


def dying(failure: BenchFailed, *benches: int) -> Script:
    """A kernel whose accuracy verb fails in the given benches."""
    return Script(
        fails=lambda verb, bench, sample: failure if verb == "accuracy" and bench in benches else None
    )


@pytest.mark.parametrize(
    ("failure", "benches", "verdict"),
    [
        (BenchLost("crashed", "killed by SIGFPE"), (POISONED,), "fail"),
        (BenchFailed("error", "ValueError: NaN"), (POISONED,), "fail"),
        # It cannot do with the deterministic mode either, so memory is not to blame.
        (BenchFailed("error", "no deterministic implementation"), (POISONED, DETERMINISTIC), "pass"),
        (BenchLost("timeout", "took longer than 7 s"), (POISONED,), "pass"),
        (BenchFailed("oom", "MemoryError"), (POISONED,), "pass"),
    ],
)
def test_only_what_fails_for_the_poison_is_refuted(
    failure: BenchFailed, benches: tuple[int, ...], verdict: str
) -> None:
    records, _ = measured(a=dying(failure, *benches), b=Script())
    verdicts = {name: record.accuracy for name, record in records.items()}
    assert {record.status for record in records.values()} == {"ok"}
    assert verdicts["a"] is not None
    assert verdicts["b"] is not None
    assert verdicts["a"]["accuracy"] == verdict
    assert (failure.reason in (verdicts["a"]["reason"] or "")) == (verdict == "fail")
    assert verdicts["b"]["accuracy"] == "pass"


def test_a_case_short_of_memory_is_tried_again_where_it_is_alone() -> None:
    """In the judging bench and in every sampling bench the other case was there first, or with it."""
    oom = BenchFailed("oom", "MemoryError")

    class Crowded(ScriptedBench):
        def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
            prepared = [name for number, asked, name in source.log if number == self.number and name == "a"]
            if verb == "prepare" and parameters["implementation"] == "b" and prepared:
                raise oom
            return super().request(verb, parameters, deadline_s)

    class Source(ScriptedSource):
        def bench(self) -> ScriptedBench:
            bench = Crowded(self, len(self.benches))
            self.benches.append(bench)
            return bench

    source = Source({"a": Script(steady(1e-3)), "b": Script(steady(1e-3))})
    scenario, (block,) = scenario_of(source)
    a, b = measure_block(scenario, block, source, clocks=clocks_of(source.clock))
    assert (a.status, b.status, b.reason) == ("ok", "ok", None)
    assert b.accuracy is not None
    for record in (a, b):
        assert sum(bool(process.rounds) for process in record.processes) == 3


def test_a_case_that_has_no_memory_even_alone_is_oom() -> None:
    records, _ = measured(
        a=Script(steady(1e-3)), bad=Script(fails=failing("sample", BenchFailed("oom", "MemoryError")))
    )
    assert (records["bad"].status, records["bad"].reason) == ("oom", "MemoryError")
    assert records["a"].status == "ok"


@pytest.mark.parametrize("failure", [BenchFailed("oom", "MemoryError"), BenchLost("timeout", "too long")])
def test_without_a_reference_cases_are_measured_and_unchecked(failure: BenchFailed) -> None:
    source = ScriptedSource({"a": Script(steady(1e-3)), "b": Script(steady(1e-3))})
    source.reference_failure = failure
    scenario, (block,) = scenario_of(source)
    for record in measure_block(scenario, block, source, clocks=clocks_of(source.clock)):
        assert record.status == "ok"
        assert record.accuracy is None
        assert failure.reason in (record.reason or "")
        assert record.processes


def test_a_case_that_never_ran_still_tells_its_framework() -> None:
    failure = BenchFailed("unsupported", "not this shape")
    records, _ = measured(a=Script(), bad=Script(fails=failing("prepare", failure), framework="numpy"))
    assert records["bad"].framework == "numpy"


def test_a_wide_spread_between_processes_is_not_called_converged() -> None:
    records, _ = measured(a=Script(lambda process, sample: 1e-3 * (1 + 0.2 * (process % 2))))
    assert records["a"].converged is False


class Log:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []
        self.blocks: list[str] = []
        self.shares: list[float] = []

    def sweep_started(self, blocks: int, cases: int, budget_s: float) -> None:
        assert budget_s > 0 or blocks == 0
        self.started.append((blocks, cases))

    def block_started(self, block: Block, index: int) -> None:
        assert index == len(self.blocks)

    def progress(self, done_s: float, total_s: float) -> None:
        if total_s:
            self.shares.append(done_s / total_s)

    def block_finished(self, block: Block, records: Sequence[Record]) -> None:
        self.blocks.append(block.block_id)


def test_a_sweep_appends_each_block_and_resumes_where_it_was_cut(tmp_path: Path) -> None:
    source = ScriptedSource({"a": Script(steady(1e-3)), "b": Script(steady(2e-3))})
    scenario, blocks = scenario_of(source, lengths="16, 32, 64")
    observer = Log()

    class Cut(Log):
        def block_started(self, block: Block, index: int) -> None:
            if index == 2:
                raise KeyboardInterrupt

    def go(writer: store.RunWriter, observer: Log) -> None:
        sweep([(scenario, blocks)], lambda _: source, writer, observer, clocks_of(source.clock))

    with store.create(tmp_path, "run", {}) as writer, pytest.raises(KeyboardInterrupt):
        go(writer, Cut())
    path = tmp_path / "run"
    assert len(store.read(path).records) == 4

    with store.resume(path, {}) as writer:
        go(writer, observer)
    assert observer.started == [(1, 2)]
    assert observer.blocks == [blocks[2].block_id]
    assert observer.shares == sorted(observer.shares)
    assert (observer.shares[0], observer.shares[-1]) == (0, 1)
    assert [record.case_id for record in store.read(path).records] == [
        case.case_id for block in blocks for case in block.cases
    ]


def test_an_incomplete_block_is_measured_again_whole(tmp_path: Path) -> None:
    source = ScriptedSource({"a": Script(steady(1e-3)), "b": Script(steady(2e-3))})
    scenario, blocks = scenario_of(source)
    with store.create(tmp_path, "run", {}) as writer:
        first, _ = measure_block(scenario, blocks[0], source, clocks=clocks_of(source.clock))
        writer.append(first)
    with store.resume(tmp_path / "run", {}) as writer:
        sweep([(scenario, blocks)], lambda _: source, writer, Log(), clocks_of(source.clock))
    records = store.read(tmp_path / "run").records
    assert [(record.implementation, record.attempt) for record in records] == [("a", 2), ("b", 2)]


def test_a_single_process_plays_enough_rounds_for_an_interval() -> None:
    source = ScriptedSource({"slow": Script(steady(3.0))})
    text = SCENARIO.format(names="slow", lengths="16").replace("processes: 3", "processes: 1")
    scenario = parse(text, "scripted.yaml")
    (block,) = scenario.expand(source.hello["catalogue"])
    (record,) = measure_block(scenario, block, source, clocks=clocks_of(source.clock))
    assert len(record.processes[0].rounds) == block_module.LEAST_ROUNDS_ALONE == 6


def test_slow_cases_are_reckoned_by_their_work() -> None:
    scenario, (short, long) = scenario_of(ScriptedSource({"naive": Script()}), "16, 65536")
    overhead_s = 0.1 * (scenario.measure.processes_on("cpu") + 3)
    per_case_s = scenario.measure.max_seconds + overhead_s
    assert budget_s(scenario, short) == pytest.approx(len(short.cases) * per_case_s, rel=0.01)
    assert budget_s(scenario, long) > 10 * budget_s(scenario, short)


def test_what_is_compiled_for_each_workload_is_reckoned_with() -> None:
    scenario, (block,) = scenario_of(ScriptedSource({"naive": Script(), "slow": Script(compiles=True)}))
    plain = budget_s(scenario, block)
    assert budget_s(scenario, block, {"slow"}) == pytest.approx(plain + 20 + 6 * 4)


def on_gpu(*sets: str, **scripts: Script) -> tuple[dict[str, Record], ScriptedSource]:
    """Measured on a scripted GPU, in the one process that is the default there."""
    source = ScriptedSource(scripts)
    text = SCENARIO.format(names=", ".join(scripts), lengths="16").replace(", processes: 3", "")
    scenario = parse(text, "scripted.yaml", devices=["cuda"], sets=sets)
    (block,) = scenario.expand(source.hello["catalogue"])
    records = measure_block(scenario, block, source, clocks=clocks_of(source.clock))
    return {record.implementation: record for record in records}, source


def heat(hot: bool) -> Callable[[int, int], GpuReply]:
    reasons = ["hw_thermal_slowdown"] if hot else []
    state: GpuReply = {"sm_clock_hz": 1.5e9, "temperature_c": 91, "power_w": 300, "reasons": reasons}
    return lambda bench, sample: state


def test_on_a_gpu_energy_is_asked_once_a_case_after_its_rounds() -> None:
    records, source = on_gpu("measure.processes=2", a=Script(energy_j=0.25), b=Script())
    first, second = (
        [(verb, name) for n, verb, name in source.log if n == bench and verb != "sample"] for bench in (5, 6)
    )
    assert [verb for verb, _ in first[-4:]] == ["energy", "verify"] * 2
    assert {name for _, name in first[-4:]} == {"a", "b"}
    assert second == [("prepare", name) for _, name in second], "the first process alone"
    assert (records["a"].energy_j, records["b"].energy_j) == (0.25, None)


def test_the_time_that_energy_takes_is_not_held_against_a_kernel() -> None:
    allowed: list[float] = []

    class Watching(ScriptedBench):
        def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
            if verb == "energy":
                allowed.append(deadline_s)
            return super().request(verb, parameters, deadline_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripted.ScriptedBench", Watching)
        on_gpu("limits.seconds_per_case=0.5", a=Script(energy_j=1.0))
    (deadline_s,) = allowed
    assert deadline_s > 5


@pytest.mark.parametrize("sets", [["measure.cache=cold"], []])
def test_energy_is_asked_of_gpus_and_warm_calls_alone(sets: list[str]) -> None:
    _, source = on_gpu(*sets, a=Script(energy_j=0.25)) if sets else measured(a=Script(energy_j=0.25))
    assert "energy" not in {verb for _, verb, _ in source.log}


def test_a_case_that_fails_while_its_energy_is_measured_has_failed() -> None:
    crash = failing("energy", BenchLost("crashed", "killed by SIGSEGV"))
    records, _ = on_gpu(a=Script(fails=crash), b=Script(energy_j=1.0))
    assert (records["a"].status, records["a"].reason) == ("crashed", "killed by SIGSEGV")
    assert (records["b"].status, records["b"].accuracy is not None) == ("ok", True)


def test_graphs_are_asked_for_where_the_scenario_says_so_and_recorded_of_gpus() -> None:
    told: list[bool] = []

    class Watching(ScriptedBench):
        def _sample(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
            told.append(parameters["cuda_graph"])
            return super()._sample(script, parameters, sample)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripted.ScriptedBench", Watching)
        records, _ = on_gpu("measure.cuda_graph=true", a=Script())
        assert records["a"].cuda_graph is True
        assert set(told) == {True}
    assert on_gpu(a=Script())[0]["a"].cuda_graph is False


def test_a_block_without_a_clean_round_ends_with_rows_that_say_so() -> None:
    records, source = on_gpu(a=Script(gpu=heat(True)), b=Script())
    for record in records.values():
        assert (record.status, record.samples, record.converged) == ("error", 0, None)
        assert record.discarded_rounds >= 3
        assert record.reason is not None
        assert f"in all {record.discarded_rounds} rounds the GPU was slowed down" in record.reason
        assert "hw_thermal_slowdown" in record.reason
        assert record.accuracy is not None, "its answers were judged all the same"
    assert source.clock.now_s < 10


def test_clean_rounds_count_and_the_discarded_ones_are_counted() -> None:
    def warming_up(bench: int, sample: int) -> GpuReply:
        return heat(sample < 8)(bench, sample)

    records, _ = on_gpu("measure.max_seconds=2", a=Script(gpu=warming_up), b=Script())
    for record in records.values():
        assert record.status == "ok"
        assert record.discarded_rounds > 0
        assert record.samples >= 6
    assert records["a"].processes[0].sm_clock_hz is not None
    assert Record.from_json(records["a"].to_json()) == records["a"]


def test_where_the_matrix_rate_is_known_a_call_is_reckoned_at_a_quarter_of_it() -> None:
    scenario, (block,) = scenario_of(ScriptedSource({"naive": Script()}), "65536")

    def known(flops_per_s: float, dtype: str = "float32") -> dict[str, Ceilings]:
        rate = MatrixRate(dtype, 1024, flops_per_s, "torch matmul")
        return {"cpu": Ceilings("cpu", "CPU", None, "2026-01-02T03:04:05Z", (rate,), ())}

    plain = budget_s(scenario, block)
    assert budget_s(scenario, block, ceilings=known(4 * 5e10)) == pytest.approx(plain)
    assert budget_s(scenario, block, ceilings=known(4 * 5e9)) == pytest.approx(10 * plain, rel=0.01)
    assert budget_s(scenario, block, ceilings=known(1.0, "bfloat16")) == pytest.approx(plain)
    assert budget_s(scenario, block, ceilings={"cuda": known(1.0)["cpu"]}) == pytest.approx(plain)


@pytest.mark.parametrize(("device", "cache", "more_s"), [("cuda", "warm", 1), ("cuda", "cold", 0)])
def test_energy_is_reckoned_with_where_it_is_measured(device: str, cache: str, more_s: float) -> None:
    source = ScriptedSource({"a": Script()})

    def reckoned(*sets: str) -> float:
        text = SCENARIO.format(names="a", lengths="16")
        scenario = parse(text, "scripted.yaml", devices=[device], sets=sets)
        (block,) = scenario.expand(source.hello["catalogue"])
        return budget_s(scenario, block)

    assert reckoned(f"measure.cache={cache}") == pytest.approx(0.5 + 6 * 0.1 + more_s, rel=0.01)


@pytest.mark.parametrize(("asked", "expected"), [("1", 1), ("3", 3)])
def test_a_record_says_how_many_threads_each_kernel_could_use(asked: str, expected: int) -> None:
    source = ScriptedSource({"a": Script()})
    text = SCENARIO.format(names="a", lengths="16").replace("processes: 3", f"processes: 3, threads: {asked}")
    scenario = parse(text, "scripted.yaml")
    (block,) = scenario.expand(source.hello["catalogue"])
    (record,) = measure_block(scenario, block, source, clocks=clocks_of(source.clock))
    assert record.threads == expected
    assert Record.from_json(record.to_json()).threads == expected
