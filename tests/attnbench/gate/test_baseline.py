"""A stored run as the base: which records, with how many threads, and what they make of a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnbench.blocks import Clocks, measure_block
from attnbench.case import Block, Case
from attnbench.errors import UsageError
from attnbench.gate.baseline import INFORMATION_ONLY, Baseline, check_against
from attnbench.gate.pairing import Times
from attnbench.gate.verdict import Outcome, Report
from attnbench.protocol import BenchFailed
from attnbench.record import Record
from attnbench.scenario import Scenario, parse
from attnbench.store import Run
from scripted import FakeClock, Script, ScriptedSource, failing, steady

SCENARIO = """
name: small
operation: attention
implementations: [a, b]
matrix: {heads: 2, head_dim: 8, seq_len: [16, 32]}
measure: {precision: 0.1, max_seconds: 0.2, processes: 2, threads: 1}
"""


class Observed:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.outcomes: list[Outcome] = []

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def progress(self, done: int, total: int) -> None:
        raise AssertionError("there are no pairs")

    def pair(self, case: Case, times: Times) -> None:
        raise AssertionError("there are no pairs")

    def decided(self, case: Case, outcome: Outcome, text: str) -> None:
        self.outcomes.append(outcome)


def scripts(**changed: Script) -> dict[str, Script]:
    return {"a": Script(steady(1e-3)), "b": Script(steady(2e-3)), **changed}


def asked(**options: Any) -> tuple[Scenario, list[Block]]:
    scenario = parse(SCENARIO, "small.yaml", **options)
    return scenario, scenario.expand(ScriptedSource(scripts()).hello["catalogue"])


def clocks_of(source: ScriptedSource) -> Clocks:
    return Clocks(source.clock.monotonic, source.clock.utc_now, source.clock.spend)


def stored(**changes: Any) -> tuple[Record, ...]:
    scenario, blocks = asked()
    source = ScriptedSource(scripts())
    records = [
        record
        for block in blocks
        for record in measure_block(scenario, block, source, clocks=clocks_of(source))
    ]
    return tuple(replace(record, **changes) for record in records)


def run_of(records: tuple[Record, ...], **header: Any) -> Run:
    return Run(
        Path("results/old"),
        "old",
        {"started_at": "2026-01-02T03:04:05Z", "environment": {}, **header},
        records,
    )


def checked(
    records: tuple[Record, ...], *heads: dict[str, Script], sets: tuple[str, ...] = ()
) -> tuple[Report, Observed, list[ScriptedSource]]:
    """The report of heads that are opened one after another, the last of them again and again."""
    scenario, blocks = asked(sets=sets)
    clock = FakeClock()
    opened: list[ScriptedSource] = []

    def head() -> ScriptedSource:
        opened.append(ScriptedSource(heads[min(len(opened), len(heads) - 1)], clock))
        return opened[-1]

    observed = Observed()
    report = check_against(
        scenario,
        blocks,
        Baseline.of(run_of(records), scenario),
        head,
        observer=observed,
        head_title="this environment",
        environment=[("python", "3.11", "3.12")],
        notes=["beforehand"],
        clocks=Clocks(clock.monotonic, clock.utc_now, clock.spend),
    )
    assert all(source.closed for source in opened)
    return report, observed, opened


# What is judged


def test_the_same_passes_and_times_only_inform() -> None:
    slower = scripts(a=Script(steady(9e-3)))
    report, observed, opened = checked(stored(), slower)
    assert report.outcome is Outcome.PASS
    assert observed.outcomes == [Outcome.PASS] * 4
    assert observed.phases == ["measuring the head as a sweep does"]
    assert len(opened) == 1
    assert {verdict.latency for verdict in report.cases} == {None}
    assert report.cases[0].text.endswith("; 9.00 ms, 1.00 ms in the baseline")
    assert report.notes == ("beforehand", INFORMATION_ONLY)
    assert (report.base, report.head) == ("results/old of 2026-01-02T03:04:05Z", "this environment")
    assert report.environment == (("python", "3.11", "3.12"),)
    assert report.timed_s == 0
    assert report.duration_s > 0


def test_without_latency_nothing_is_timed() -> None:
    report, observed, (source,) = checked(stored(), scripts(), sets=("check.latency=false",))
    assert observed.phases == ["looking at memory and errors of the head"]
    assert "sample" not in {verb for _, verb, _ in source.log}
    assert " ms" not in report.cases[0].text
    assert INFORMATION_ONLY not in report.notes
    assert report.timed_s == 0


@pytest.mark.parametrize(
    ("broken", "metric"),
    [
        (Script(fails=failing("memory", BenchFailed("crashed", "SIGSEGV"))), "status"),
        (Script(poisoned="o: unwritten"), "accuracy"),
    ],
)
def test_what_got_worse_fails_when_it_does_so_twice(broken: Script, metric: str) -> None:
    report, observed, opened = checked(stored(), scripts(b=broken))
    assert report.outcome is Outcome.FAIL
    assert [verdict.outcome for verdict in report.cases] == [Outcome.PASS, Outcome.FAIL] * 2
    assert [change.metric for change in report.cases[1].changes] == [metric]
    assert observed.phases[1:] == ["repeating 2 failed cases with fresh processes"]
    assert {name for _, verb, name in opened[1].log if verb == "memory"} <= {"b"}, "only what failed"


def test_what_fails_but_once_is_inconclusive() -> None:
    broken = scripts(b=Script(fails=failing("memory", BenchFailed("oom", "no memory"))))
    report, _, opened = checked(stored(), broken, scripts())
    assert len(opened) == 2
    assert report.outcome is Outcome.INCONCLUSIVE
    assert report.cases[1].text == ("b B1 H2 L16: status ok → oom: no memory; not so when repeated")


def test_more_memory_than_in_the_baseline_fails_and_can_be_switched_off() -> None:
    memory = {
        "peak_alloc_bytes": 1 << 18,
        "peak_alloc_partial": None,
        "peak_rss_bytes": 1 << 18,
        "peak_rss_is_lower_bound": False,
    }
    report, _, _ = checked(stored(memory=memory), scripts())
    assert report.outcome is Outcome.FAIL
    assert "256 KiB → 1.00 MiB" in report.cases[0].text
    report, _, _ = checked(stored(memory=memory), scripts(), sets=("check.memory=false",))
    assert report.outcome is Outcome.PASS


def test_a_machine_that_lacks_the_device_judges_nothing() -> None:
    lacking = Script(fails=failing("prepare", BenchFailed("unavailable", "no CUDA device")))
    with pytest.raises(UsageError, match=r"none of the cases can be measured here \(no CUDA device\)"):
        checked(stored(), scripts(a=lacking, b=lacking))
    report, _, _ = checked(stored(), scripts(a=lacking))
    assert report.outcome is Outcome.FAIL


# Which records


def test_cases_are_found_by_the_scenarios_name_or_without_it() -> None:
    scenario, blocks = asked()
    ours, others = stored(), stored(scenario="others", seed=3)
    chosen = Baseline.of(run_of((*others, *ours)), scenario)
    assert {record.scenario for record in chosen.records.values()} == {"small"}
    renamed = Baseline.of(run_of(stored(scenario="renamed")), scenario)
    renamed.require_same_cases(scenario, blocks)
    assert len(renamed.records) == 4
    with pytest.raises(UsageError, match=r"holds no scenario 'small'.*\(one, two\).*--set name="):
        Baseline.of(run_of((*stored(scenario="one"), *stored(scenario="two"))), scenario)


def test_a_run_without_records_is_no_baseline() -> None:
    with pytest.raises(UsageError, match=r"results/old holds no records; measure one with: attnbench sweep"):
        Baseline.of(run_of(()), asked()[0])


def test_another_seed_means_other_inputs() -> None:
    with pytest.raises(UsageError, match=r"with seed 3, while 'small' has measure.seed 0.*measure.seed=3"):
        Baseline.of(run_of(stored(seed=3)), asked()[0])


def test_a_case_that_the_baseline_lacks_is_an_error() -> None:
    scenario, blocks = asked()
    baseline = Baseline.of(run_of(stored()[:-1]), scenario)
    with pytest.raises(UsageError, match=r"lacks 1 of the 4 cases of 'small': .*L32.*/b.*measure a new"):
        baseline.require_same_cases(scenario, blocks, chosen=True, reshaped=True)


def test_a_case_that_disappeared_is_an_error() -> None:
    _, blocks = asked()
    scenario = asked()[0]
    baseline = Baseline.of(run_of(stored()), scenario)
    baseline.require_same_cases(scenario, blocks)
    with pytest.raises(UsageError, match=r"'small' lacks 2 of the 4 cases of results/old.*L32"):
        baseline.require_same_cases(scenario, blocks[:1])


def test_asking_for_a_part_asks_the_baseline_for_that_part() -> None:
    baseline = Baseline.of(run_of(stored()), asked()[0])
    scenario, blocks = asked(implementations=["b"])
    with pytest.raises(UsageError, match="disappeared"):
        baseline.require_same_cases(scenario, blocks)
    baseline.require_same_cases(scenario, blocks, chosen=True)
    with pytest.raises(UsageError, match=r"lacks 1 of the 4 cases.*L32.*/b"):
        baseline.require_same_cases(scenario, blocks[:1], chosen=True)
    scenario, blocks = asked(sets=["matrix.seq_len=16"])
    baseline.require_same_cases(scenario, blocks, reshaped=True)


def test_a_baseline_in_which_nothing_was_measured_judges_nothing() -> None:
    scenario, blocks = asked()
    baseline = Baseline.of(run_of(stored(status="unavailable")), scenario)
    with pytest.raises(UsageError, match=r"none was measured in .* \(4 unavailable\)"):
        baseline.require_same_cases(scenario, blocks)


# Threads


def threads_of(change: Callable[[tuple[Record, ...]], tuple[Record, ...]], **environment: Any) -> Baseline:
    return Baseline.of(run_of(change(stored()), environment=environment), asked()[0])


def test_the_records_say_with_how_many_threads() -> None:
    found = threads_of(lambda records: tuple(replace(record, threads=3) for record in records), threads=7)
    assert (found.threads, found.notes) == (3, ())


def test_older_records_leave_it_to_the_run() -> None:
    found = threads_of(lambda records: tuple(replace(record, threads=None) for record in records), threads=7)
    assert found.threads == 7
    assert (
        "do not say with how many threads they were measured: 7 is what its run.json says" in found.notes[0]
    )


def test_where_nobody_knows_the_gates_own_number_is_taken_and_told() -> None:
    found = threads_of(lambda records: tuple(replace(record, threads=None) for record in records))
    assert found.threads is None
    assert "check.threads (1) was taken here; peaks of memory may differ by that alone" in found.notes[0]


def test_records_that_disagree_are_told() -> None:
    found = threads_of(
        lambda records: (replace(records[0], threads=4), *records[1:-1], replace(records[-1], threads=None))
    )
    assert found.threads == 1
    assert (
        "(2 with 1, 1 with 4, 1 with a number that is not known): 1 were taken here for all" in found.notes[0]
    )
