from __future__ import annotations

from typing import Any

import pytest

from attnbench.gate.deterministic import changes
from attnbench.gate.verdict import Outcome
from attnbench.record import Record
from attnbench.scenario import Check
from builders import make_accuracy, make_memory, make_record

FAIL, PASS = Outcome.FAIL, Outcome.PASS
MIB = 1 << 20


def record(status: str = "ok", peak: int = 4 * MIB, **accuracy: Any) -> Record:
    return make_record(
        status=status,
        reason=None if status == "ok" else "because",
        accuracy=make_accuracy(**accuracy),
        memory=make_memory(peak),
    )


def found(base: Record, head: Record, **settings: bool) -> list[tuple[str, Outcome]]:
    return [(each.metric, each.outcome) for each in changes(base, head, Check(**settings))]


def test_nothing_changes() -> None:
    assert found(record(), record()) == []


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        ("ok", "unsupported", FAIL),
        ("ok", "unavailable", FAIL),
        ("ok", "oom", FAIL),
        ("unsupported", "crashed", FAIL),
        ("crashed", "ok", PASS),
        ("timeout", "unsupported", PASS),
        ("unsupported", "unavailable", PASS),
        ("error", "error", PASS),
    ],
)
def test_a_status_that_got_worse_fails(before: str, after: str, outcome: Outcome) -> None:
    assert found(record(before), record(after)) == [("status", outcome)]


@pytest.mark.parametrize(("before", "after", "outcome"), [("pass", "fail", FAIL), ("fail", "pass", PASS)])
def test_a_verdict_that_turned(before: str, after: str, outcome: Outcome) -> None:
    assert found(record(accuracy=before), record(accuracy=after)) == [("accuracy", outcome)]
    assert found(record(accuracy=before), record(accuracy=after), error=False) == [("accuracy", PASS)]


@pytest.mark.parametrize(
    ("rel_l2", "ratio", "fails"),
    [(2.1e-7, 0.6, True), (1.9e-7, 0.6, False), (2.1e-7, 0.4, False), (5e-7, 1.9, True)],
)
def test_an_error_fails_when_it_doubles_and_is_no_longer_small(
    rel_l2: float, ratio: float, fails: bool
) -> None:
    base = record(error_rel_l2=1e-7)
    head = record(error_rel_l2=rel_l2, error_ratio=ratio)
    assert found(base, head) == ([("error", FAIL)] if fails else [])
    assert found(base, head, error=False) == ([("error", PASS)] if fails else [])


def test_an_error_where_there_was_none_fails_once_it_is_not_small() -> None:
    base = record(error_rel_l2=0.0)
    assert found(base, record(error_rel_l2=1e-7, error_ratio=0.6)) == [("error", FAIL)]
    assert found(base, base) == []


@pytest.mark.parametrize(
    ("peak", "outcomes"),
    [
        (100 * MIB, []),
        (int(101 * MIB + 65536), []),
        (int(101 * MIB + 65537), [("memory", FAIL)]),
        (90 * MIB, [("memory", PASS)]),
    ],
)
def test_a_peak_fails_beyond_a_hundredth_and_64_kib(peak: int, outcomes: list[Any]) -> None:
    assert found(record(peak=100 * MIB), record(peak=peak)) == outcomes
    told = [("memory", PASS)] if outcomes else []
    assert found(record(peak=100 * MIB), record(peak=peak), memory=False) == told


def test_memory_that_the_allocator_does_not_see_is_found_in_the_resident_peak() -> None:
    hidden = {**make_memory(0), "peak_alloc_partial": "blind", "peak_rss_bytes": 200 * MIB}
    head = make_record(memory=hidden, accuracy=make_accuracy())
    assert found(record(peak=100 * MIB), head) == [("memory", FAIL)]
    hidden = {**hidden, "peak_rss_bytes": 110 * MIB}
    head = make_record(memory=hidden, accuracy=make_accuracy())
    assert found(record(peak=100 * MIB), head) == []


def test_what_the_base_hides_from_its_allocator_is_not_held_against_the_head() -> None:
    hidden = {**make_memory(0), "peak_alloc_partial": "blind", "peak_rss_bytes": 100 * MIB}
    base = make_record(memory=hidden, accuracy=make_accuracy())
    assert found(base, record(peak=100 * MIB)) == []
    assert found(base, record(peak=200 * MIB)) == [("memory", FAIL)]


def test_where_no_resident_peak_is_known_the_allocators_is_better_than_none() -> None:
    def on_gpu(peak: int | None) -> Record:
        memory = {**make_memory(0), "peak_alloc_partial": "kept", "peak_rss_bytes": None}
        return make_record(memory={**memory, "peak_alloc_bytes": peak}, accuracy=make_accuracy())

    assert found(on_gpu(100 * MIB), on_gpu(200 * MIB)) == [("memory", FAIL)]
    (change,) = changes(on_gpu(None), on_gpu(None), Check())
    assert (change.outcome, change.text) == (PASS, "memory not compared: no peak is known of both arms")


def test_answers_that_nobody_could_judge_are_told() -> None:
    unjudged = make_record(accuracy=None, memory=make_memory(), reason="the reference failed")
    (change,) = changes(unjudged, unjudged, Check())
    assert change.text == "answers of the base and the head could not be judged: the reference failed"
    assert change.outcome is PASS
    assert found(record(), unjudged) == [("accuracy", Outcome.INCONCLUSIVE)]
    assert found(unjudged, record(accuracy="fail")) == [("accuracy", Outcome.INCONCLUSIVE)]
    assert found(unjudged, record()) == [("accuracy", PASS)]


def test_all_that_changed_is_told_the_worst_first() -> None:
    base = record(peak=200 * MIB, accuracy="pass")
    head = record(peak=100 * MIB, accuracy="fail")
    assert found(base, head) == [("accuracy", FAIL), ("memory", PASS)]


def test_texts_say_what_it_was_and_what_it_is() -> None:
    base, head = record(peak=2 * MIB), record(peak=4 * MIB)
    assert [each.text for each in changes(base, head, Check())] == [
        "peak_alloc_bytes 2.00 MiB → 4.00 MiB, 2.00 MiB more"
    ]
    head = record(error_rel_l2=8e-7, error_ratio=0.8)
    base = record(error_rel_l2=2e-7)
    assert [each.text for each in changes(base, head, Check())] == [
        "error_rel_l2 2.0e-07 → 8.0e-07, 4.0 times the base's (more than 2 may not be)"
    ]


def test_what_is_not_judged_is_told() -> None:
    [told] = changes(record(peak=2 * MIB), record(peak=4 * MIB), Check(memory=False))
    assert told.text.endswith("2.00 MiB more (not judged: check.memory is off)")
