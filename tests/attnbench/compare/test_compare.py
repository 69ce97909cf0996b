"""Cases of two runs: matched, divided by one another, judged; from records made up, nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench import table
from attnbench.ceilings import Ceilings, MatrixRate
from attnbench.compare import COLUMNS, Against, CaseComparison, Verdict, compare, rows
from attnbench.errors import RunError, UsageError
from attnbench.record import Record
from attnbench.store import Run
from builders import make_accuracy, make_block, make_header, make_memory, make_record, make_records

MACHINE = {"cpu": "AMD EPYC", "cores_physical": 2, "cgroup_cpus": None, "threads": 2, "malloc": "pinned"}


def run_of(records: Sequence[Record], name: str, **environment: Any) -> Run:
    header = {"run_id": name, **make_header(environment={**MACHINE, **environment})}
    return Run(Path("results") / name, name, header, tuple(records))


def against(before: Sequence[Record], after: Sequence[Record], **environment: Any) -> Against:
    (found,) = compare([run_of(before, "before"), run_of(after, "after", **environment)]).against
    return found


def the(found: Against, implementation: str = "sdpa") -> CaseComparison:
    (case,) = [case for case in found.cases if case.either.record.implementation == implementation]
    return case


def times(record: Record, factor: float) -> Record:
    """The same case, each sample `factor` times as long."""
    return replace(
        record,
        processes=tuple(
            replace(process, elapsed_s=tuple(factor * each for each in process.elapsed_s))
            for process in record.processes
        ),
    )


def test_what_is_the_same_shows_no_difference() -> None:
    found = against(make_records(), make_records())
    assert found.environment == ()
    assert found.renamed == 0
    assert {case.verdict for case in found.cases} == {Verdict.SAME, Verdict.NOT_COMPARABLE}
    for case in found.cases:
        for ratio in (case.latency, case.peak_alloc, case.peak_rss, case.error_rel_l2, case.error_max_abs):
            assert ratio.value in (None, 1)
        assert case.changes == case.conditions == ()


def test_the_ratio_is_that_of_the_tables_medians_and_in_its_interval() -> None:
    before, after = make_block(), [times(record, 1.3) for record in make_block()]
    for case in against(before, after).cases:
        assert case.verdict is Verdict.SLOWER
        assert case.latency.value == pytest.approx(1.3)
        assert case.latency.before is not None
        assert case.latency.after == pytest.approx(1.3 * case.latency.before)
        assert case.latency.interval is not None
        assert 1 < case.latency.interval.low < 1.3 < case.latency.interval.high
        assert case.speedup.value == pytest.approx(1)  # anchor and case are slower alike
    for case in against(after, before).cases:
        assert case.verdict is Verdict.FASTER


def test_small_beside_the_spread_is_no_difference_seen() -> None:
    case = the(against(make_block(), [times(record, 1.01) for record in make_block()]))
    assert case.verdict is Verdict.SAME
    assert case.latency.interval is not None
    assert case.latency.interval.low < 1 < case.latency.interval.high


def test_a_single_process_says_nothing_of_the_others() -> None:
    single = [times(record, 3.0) for record in make_block(processes=1)]
    case = the(against(make_block(), single))
    assert case.verdict is Verdict.NOT_COMPARABLE
    assert case.latency.value == pytest.approx(3, rel=0.2)
    assert case.latency.interval is None
    assert "a single process after" in str(case.why)
    assert "measure.processes" in str(case.why)
    assert "a single process before and after" in str(the(against(single, single)).why)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (make_record("sdpa", status="oom"), "after: oom: made to be oom"),
        (
            make_record("sdpa", latency_s=1e-5, accuracy=make_accuracy("fail", 12.0)),
            "after: fails the accuracy check: o: the largest error is 12 times its bound",
        ),
    ],
)
def test_what_failed_is_never_faster(changed: Record, why: str) -> None:
    fine = [make_record("naive"), make_record("sdpa")]
    case = the(against(fine, [make_record("naive"), changed]))
    assert case.verdict is Verdict.NOT_COMPARABLE
    assert case.why == why
    assert the(against([make_record("naive"), changed], fine)).why == why.replace("after", "before")
    both = [make_record("naive"), changed]
    assert the(against(both, both)).why == why.replace("after", "in both runs")


def test_what_is_flagged_is_never_faster() -> None:
    rates = (MatrixRate("float32", None, 1e12, "matmul"),)
    known = Ceilings("cpu", "AMD EPYC", 1 << 25, "2026-01-02T03:04:05Z", rates, ())
    after = run_of([make_record("naive"), make_record("sdpa", latency_s=1e-7)], "after")
    after = replace(after, header={**after.header, "ceilings": {"cpu": known.to_json()}})
    assert table.from_runs([after])["flagged"].tolist() == [False, True]
    (found,) = compare([run_of([make_record("naive"), make_record("sdpa")], "before"), after]).against
    assert the(found, "naive").verdict is Verdict.SAME
    case = the(found)
    assert case.verdict is Verdict.NOT_COMPARABLE
    assert str(case.why).startswith("after: flagged: ")
    assert case.changes == ("flagged: no → yes",)


def test_changes_are_told_in_words() -> None:
    before = make_record("sdpa", resolved_backend="flash", accuracy=make_accuracy(bitwise_repeatable=True))
    after = make_record("sdpa", resolved_backend="math", accuracy=make_accuracy(bitwise_repeatable=False))
    assert the(against([before], [after])).changes == ("kernel: flash → math", "bitwise repeatable: yes → no")
    failed = make_record("sdpa", status="timeout")
    assert the(against([before], [failed])).changes == ("status: ok → timeout",)
    assert the(against([before], [make_record("sdpa", accuracy=None)])).changes == (
        "accuracy: pass → unchecked",
    )


@pytest.mark.parametrize(
    ("a", "b", "value", "note"),
    [(0.0, 0.0, 1.0, None), (0.0, 1e-7, None, "from 0"), (1e-7, 0.0, 0.0, None), (2e-7, 4e-7, 2.0, None)],
)
def test_errors_of_zero_have_ratios_where_there_are_any(
    a: float, b: float, value: float | None, note: str | None
) -> None:
    before, after = (make_record("sdpa", accuracy=make_accuracy(error_rel_l2=each)) for each in (a, b))
    ratio = the(against([before], [after])).error_rel_l2
    assert (ratio.before, ratio.after, ratio.value, ratio.note) == (a, b, value, note)
    assert ratio.interval is None


def test_a_ratio_beyond_every_float_is_none() -> None:
    before, after = (
        make_record("sdpa", accuracy=make_accuracy(error_rel_l2=each)) for each in (1e-300, 1e300)
    )
    ratio = the(against([before], [after])).error_rel_l2
    assert ratio.value is None
    assert ratio.note == "beyond every float"


def test_memory_has_ratios_and_no_intervals() -> None:
    before = make_record("sdpa", memory=make_memory(1 << 20))
    after = make_record("sdpa", memory=make_memory(3 << 20))
    case = the(against([before], [after]))
    assert case.peak_alloc.value == 3
    assert case.peak_alloc.interval is None
    assert case.peak_rss.value == pytest.approx(((3 << 20) + 65536) / ((1 << 20) + 65536))
    partial = make_memory(1 << 20)
    partial["peak_rss_bytes"] = 1 << 28
    noted = the(against([make_record("sdpa", memory=partial)], [after])).peak_alloc
    assert noted.value == 3
    assert "lower bounds" in str(noted.note)


def test_cases_appear_and_disappear() -> None:
    found = against(
        [make_record("naive"), make_record("old")],
        [make_record("new"), make_record("naive"), make_record("b")],
    )
    assert [(case.either.record.implementation, case.verdict) for case in found.cases] == [
        ("naive", Verdict.SAME),
        ("old", Verdict.GONE),
        ("new", Verdict.NEW),
        ("b", Verdict.NEW),
    ]
    assert [len(found.both), found.count(Verdict.NEW)] == [1, 2]
    assert the(found, "old").latency.before is not None
    assert the(found, "old").latency.after is None


def test_cases_of_renamed_scenarios_are_matched_by_their_ids() -> None:
    found = against(make_block(), make_block(scenario="renamed"))
    assert found.renamed == 3
    assert {case.verdict for case in found.cases} == {Verdict.SAME}


def test_cases_that_several_scenarios_have_are_not_guessed() -> None:
    one = [make_record("naive", scenario="a"), make_record("naive", scenario="b"), make_record("sdpa")]
    other = [make_record("naive", scenario="c"), make_record("sdpa")]
    found = against(one, other)
    assert found.renamed == 0
    assert [case.verdict for case in found.cases] == [Verdict.SAME, Verdict.GONE, Verdict.GONE, Verdict.NEW]
    # Where scenario and case id agree, what else there is does not matter.
    found = against(one, [make_record("naive", scenario="b"), make_record("sdpa")])
    assert [case.verdict for case in found.cases] == [Verdict.SAME, Verdict.SAME, Verdict.GONE]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1, unique=True),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, unique=True),
)
def test_every_case_is_in_the_comparison_once(
    before: list[tuple[str, str]], after: list[tuple[str, str]]
) -> None:
    def made(cases: list[tuple[str, str]]) -> list[Record]:
        return [make_record(name, scenario=scenario, status="oom") for scenario, name in cases]

    try:
        found = against(made(before), made(after))
    except UsageError:
        assert not {name for _, name in before} & {name for _, name in after} or set(before).isdisjoint(after)
        return
    for side, cases in (("before", before), ("after", after)):
        sides = [getattr(case, side) for case in found.cases]
        keys = [(each.record.scenario, each.record.implementation) for each in sides if each is not None]
        assert sorted(keys) == sorted(cases)
    for case in found.both:
        assert case.before is not None
        assert case.after is not None
        assert case.before.record.case_id == case.after.record.case_id


# Machines and conditions


def test_different_machines_are_compared_by_speedup() -> None:
    twice = [times(record, 0.5 if record.implementation != "sdpa" else 0.25) for record in make_block()]
    found = against(make_block(), twice, cpu="Xeon", cores_physical=8)
    case = the(found)
    assert case.elsewhere == "cpu: AMD EPYC → Xeon, cores_physical: 2 → 8"
    assert case.by == "speedup"
    assert case.verdict is Verdict.FASTER
    assert case.speedup.value == pytest.approx(2)
    assert case.deciding is case.speedup
    assert case.latency.value is None
    assert "not compared between machines" in str(case.latency.note)
    assert case.peak_alloc.value == case.error_rel_l2.value == 1
    assert the(found, "chunked").verdict is Verdict.SAME
    anchor = the(found, "naive")
    assert anchor.verdict is Verdict.NOT_COMPARABLE
    assert anchor.why == "it is the anchor, whose speed-up is 1 everywhere"
    assert the(against(twice, make_block(), cpu="Xeon")).verdict is Verdict.SLOWER


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ([make_record("naive", anchor=None), make_record("sdpa", anchor=None)], "the workload has no anchor"),
        ([make_record("naive", anchor="b"), make_record("sdpa", anchor="b")], "the anchors differ: "),
        ([make_record("sdpa")], "the anchor was not recorded"),
        (
            [make_record("naive", accuracy=make_accuracy("fail", 9.0)), make_record("sdpa")],
            "its anchor cannot be relied on after: fails the accuracy check",
        ),
        ([make_record("naive", attempt=2), make_record("sdpa")], "not measured side by side with the anchor"),
    ],
)
def test_without_a_sound_anchor_nothing_is_said_between_machines(after: list[Record], why: str) -> None:
    case = the(against([make_record("naive"), make_record("sdpa")], after, cpu="Xeon"))
    assert case.verdict is Verdict.NOT_COMPARABLE
    assert str(case.why).startswith(why)
    assert case.peak_alloc.value == 1


@pytest.mark.parametrize(
    ("environment", "same"),
    [
        ({}, True),
        ({"cpu": None}, True),  # what is not known makes no difference
        ({"memory_bytes": 1, "libraries": {"torch": "3"}}, True),
        ({"cgroup_cpus": 1.5}, False),  # a limit where there was none
        ({"cores_physical": 4}, False),
    ],
)
def test_what_makes_another_machine(environment: dict[str, Any], same: bool) -> None:
    assert (the(against(make_block(), make_block(), **environment)).by == "latency") is same


def test_a_case_on_a_gpu_goes_by_the_gpu() -> None:
    def block(name: str, factor: float = 1.0) -> list[Record]:
        return [times(each, factor) for each in make_block(device="cuda", device_name=name)]

    assert the(against(block("H100"), block("H100"), cpu="Xeon")).by == "latency"
    case = the(against(block("H100"), block("A100", 2.0)))
    assert case.by == "speedup"
    assert case.elsewhere == "device: H100 → A100"
    assert case.verdict is Verdict.SAME


def test_conditions_in_which_cases_differ_are_noted_case_by_case() -> None:
    before = [make_record("sdpa", threads=1, cache="warm", seed=0)]
    after = [make_record("sdpa", threads=4, cache="cold", cuda_graph=True, seed=1)]
    case = the(against(before, after, malloc="default"))
    assert case.conditions == (
        ("threads", 1, 4),
        ("malloc", "pinned", "default"),
        ("cache", "warm", "cold"),
        ("cuda_graph", False, True),
        ("seed", 0, 1),
    )
    assert "of other inputs" in str(case.error_rel_l2.note)
    # Records of earlier versions know no threads: the run's own do.
    assert the(against([make_record("sdpa")], [make_record("sdpa")], threads=8)).conditions == (
        ("threads", 2, 8),
    )


def test_environments_are_told_apart_entry_by_entry() -> None:
    found = against(make_block(), make_block(), libraries={"torch": "2.13"}, load_average=7.0)
    assert found.environment == (("libraries.torch", None, "2.13"),)


# Bad input


def test_fewer_than_two_runs() -> None:
    with pytest.raises(UsageError, match="two runs or more, got none"):
        compare([])
    with pytest.raises(UsageError, match=r"two runs or more, got results/one alone"):
        compare([run_of(make_block(), "one")])


def test_the_same_run_twice() -> None:
    run = run_of(make_block(), "one")
    with pytest.raises(RunError, match="given twice"):
        compare([run, run_of(make_block(), "two"), run])


def test_a_run_without_records() -> None:
    with pytest.raises(RunError, match="holds no records yet"):
        compare([run_of(make_block(), "one"), run_of([], "two")])


def test_runs_without_a_common_case_say_what_they_hold() -> None:
    with pytest.raises(UsageError) as raised:
        compare([run_of(make_block(), "one"), run_of(make_block(seq_len=64, scenario="b"), "two")])
    text = str(raised.value)
    assert "results/two has no case in common with results/one" in text
    assert "results/one holds 3 cases of example on cpu: naive, chunked and sdpa; such as" in text
    assert "B1-H8-L64-D64" in text


def test_implementations_are_chosen_by_name_or_label() -> None:
    runs = [run_of(make_records(), "one"), run_of(make_records(), "two")]
    for name in ("chunked", "chunked(block=256)"):
        (found,) = compare(runs, [name, "sdpa"]).against
        assert {case.either.record.implementation for case in found.cases} == {"chunked", "sdpa"}
    with pytest.raises(UsageError, match="did you mean 'sdpa'"):
        compare(runs, ["sdpaa"])


# Rows


def test_rows_are_flat_and_complete() -> None:
    runs = [run_of(make_records(), name) for name in ("one", "two", "three")]
    comparison = compare(runs)
    found = rows(comparison)
    assert len(found) == 2 * len(make_records())
    assert {row["after"] for row in found} == {"two", "three"}
    assert all(tuple(row) == COLUMNS for row in found)
    assert len(set(COLUMNS)) == len(COLUMNS)
    (row,) = rows(compare(runs[:2], ["unverified"]))
    assert row["verdict"] == "no difference seen"
    assert row["latency_before_s"] == row["latency_after_s"] == pytest.approx(9e-4, rel=0.1)
    assert row["latency_ratio"] == 1
    assert row["latency_ratio_ci_low"] < 1 < row["latency_ratio_ci_high"]
    assert row["error_rel_l2_ratio"] is None
    assert row["peak_alloc_before_bytes"] == 4 << 20
    assert row["status_after"] == "ok"
