"""The check, driven by scripted benches: who is asked what, and what each failure comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from attnbench.case import Variant
from attnbench.conformance.check import MOST_TIMEOUTS, Result, check, grids
from attnbench.conformance.grid import full_grid, pairwise_grid
from attnbench.protocol import BenchFailed, BenchLost
from attnbench.workload import AttentionShape, Workload
from scripted import ACCURATE, Script, ScriptedBench, ScriptedSource, failing

LENGTHS = (1, 2, 33, 130, 611)
WORKLOADS = [Workload("attention", AttentionShape(1, 2, 2, length, length, 8)) for length in LENGTHS]


def checked(source: ScriptedSource, count: int = 3) -> dict[str, list[Result]]:
    chosen = {Variant.of(name): WORKLOADS[:count] for name in source.scripts}
    results: dict[str, list[Result]] = {name: [] for name in source.scripts}
    for result in check(chosen, source):
        results[result.implementation].append(result)
    assert all(bench.closed for bench in source.benches)
    assert all([each.case.workload for each in found] == WORKLOADS[:count] for found in results.values())
    return results


def statuses(found: list[Result]) -> list[str]:
    return [result.status for result in found]


def test_two_benches_judge_everything_and_each_reference_is_computed_once() -> None:
    source = ScriptedSource({"a": Script(), "b": Script()})
    results = checked(source)
    assert statuses(results["a"]) == statuses(results["b"]) == ["pass"] * 3
    assert results["a"][0].error_ratio == ACCURATE["error_ratio"]
    assert not any(result.failed for result in results["a"])
    assert [bench.poisoned for bench in source.benches] == [False, True]
    asked = Counter((number, verb) for number, verb, _ in source.log)
    assert asked[0, "reference"] == 3
    assert asked[1, "reference"] == 0
    for bench in (0, 1):
        assert asked[bench, "accuracy"] == asked[bench, "release"] == 6, "what is judged is not kept"
    first = [(verb, name) for number, verb, name in source.log if number == 0][:9]
    assert first == [
        ("prepare", "a"),
        ("prepare", "b"),
        ("reference", ""),
        *[("prepare", "a"), ("accuracy", "a"), ("release", "a")],
        *[("prepare", "b"), ("accuracy", "b"), ("release", "b")],
    ]


@pytest.mark.parametrize("verb", ["prepare", "accuracy"])
@pytest.mark.parametrize(
    "failure",
    [
        BenchFailed("error", "ValueError: no"),
        BenchFailed("oom", "MemoryError"),
        BenchFailed("unsupported", "not this shape"),
        BenchFailed("unavailable", "needs the module triton"),
        BenchLost("crashed", "killed by SIGSEGV"),
    ],
)
def test_a_failure_is_a_result_and_the_others_are_judged(verb: str, failure: BenchFailed) -> None:
    source = ScriptedSource({"a": Script(), "bad": Script(fails=failing(verb, failure)), "c": Script()})
    results = checked(source)
    assert {(each.status, each.reason) for each in results["bad"]} == {(failure.status, failure.reason)}
    assert results["bad"][0].failed == (failure.status in ("error", "oom", "crashed"))
    assert statuses(results["a"]) == statuses(results["c"]) == ["pass"] * 3


def test_a_wrong_answer_and_unwritten_memory_fail() -> None:
    class Wrong(ScriptedBench):
        def _accuracy(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
            reply = super()._accuracy(script, parameters, sample)
            if script is not source.scripts["wrong"]:
                return reply
            return {**reply, "accuracy": "fail", "reason": "o: 9 times its bound", "error_ratio": 18.0}

    class Source(ScriptedSource):
        def bench(self) -> ScriptedBench:
            self.benches.append(Wrong(self, len(self.benches)))
            return self.benches[-1]

    source = Source({"wrong": Script(), "lazy": Script(poisoned="8 of o not finite"), "right": Script()})
    results = checked(source)
    assert {(r.status, r.reason, r.error_ratio) for r in results["wrong"]} == {
        ("fail", "o: 9 times its bound", 18.0)
    }
    assert {(r.status, r.reason) for r in results["lazy"]} == {("fail", "8 of o not finite")}
    assert all(result.failed for result in results["wrong"] + results["lazy"])
    assert statuses(results["right"]) == ["pass"] * 3


def test_who_takes_too_long_too_often_is_not_asked_again() -> None:
    loss = BenchLost("timeout", "took longer than 60 s")
    source = ScriptedSource({"slow": Script(fails=failing("prepare", loss)), "quick": Script()})
    results = checked(source, count=5)
    assert statuses(results["slow"]) == ["timeout"] * 5
    assert sum(name == "slow" for _, _, name in source.log) == MOST_TIMEOUTS
    assert results["slow"][-1].reason == "not tried: 3 workloads before this one took too long"
    assert statuses(results["quick"]) == ["pass"] * 5


def test_without_a_reference_nothing_passes() -> None:
    source = ScriptedSource({"a": Script()})
    source.reference_failure = BenchLost("oom", "the reference took all memory")
    (result, *_) = checked(source)["a"]
    assert (result.status, result.failed) == ("error", True)
    assert "the reference took all memory" in (result.reason or "")


def test_a_row_tells_everything() -> None:
    source = ScriptedSource({"chunked": Script()})
    variant = Variant.of("chunked", {"block": 32})
    (result,) = check({variant: WORKLOADS[:1]}, source, seed=3)
    row = result.to_json()
    assert row["implementation"] == "chunked(block=32)"
    assert row["label"] == "attention/B1-H2-L1-D8/float32/none/forward"
    assert row["case_id"] == "attention/B1-H2-L1-D8/float32/none/forward/cpu/chunked(block=32)"
    assert Workload.from_json(row["workload"]) == WORKLOADS[0]
    assert (row["status"], row["reason"], row["error_ratio"]) == ("pass", None, 0.1)


def test_every_variant_gets_the_grid_of_what_it_supports() -> None:
    class Capable(ScriptedBench):
        def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
            assert parameters["capability_only"], "nothing is computed to find out what is supported"
            if parameters["implementation"] == "narrow" and parameters["workload"]["pass"] != "forward":
                raise BenchFailed("unsupported", "no gradients")
            return super().request(verb, parameters, deadline_s)

    class Source(ScriptedSource):
        def bench(self) -> ScriptedBench:
            self.benches.append(Capable(self, len(self.benches)))
            return self.benches[-1]

    source = Source({"wide": Script(), "narrow": Script()})
    wide, narrow = Variant.of("wide"), Variant.of("narrow")
    found = grids([wide, narrow], source)
    assert found[wide] == pairwise_grid()
    assert found[narrow] == pairwise_grid(lambda workload: workload.pass_ == "forward")
    assert len(found[narrow]) > len(found[wide])
    assert grids([wide], source, full=True)[wide] == full_grid()
    assert all(bench.closed for bench in source.benches)


@pytest.mark.parametrize(
    "failure",
    [BenchFailed("unavailable", "no"), BenchLost("timeout", "60 s"), BenchLost("crashed", "SIGSEGV")],
)
def test_what_is_missing_hangs_or_crashes_is_asked_about_once(failure: BenchFailed) -> None:
    source = ScriptedSource({"a": Script(fails=failing("prepare", failure))})
    assert grids([Variant.of("a")], source)[Variant.of("a")] == pairwise_grid()
    assert len(source.log) == 1
