"""The gate's Markdown and JSON: the outcome first, nothing lost, nothing that could pass for markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.case import Case, Variant
from attnbench.gate.verdict import CaseVerdict, Change, Latency, Outcome, Report, Series
from attnbench.report.gate import document, failure_document, failure_markdown, markdown, tallied
from attnbench.stats import Interval
from builders import make_record

NASTY = "a|b`c* <b>x</b> @someone https://x\x1b[31m"


def case_of(name: str = "sdpa") -> Case:
    return Case(Variant.of(name), make_record(name).workload)


def verdict_of(outcome: Outcome = Outcome.PASS, name: str = "sdpa", **changed: Any) -> CaseVerdict:
    record = replace(make_record(name), processes=())
    series = Series(outcome, (0.076,) * 40, 40, 1)
    latency = Latency(outcome, None, 1.079, Interval(1.068, 1.091), 1e-3, 1.079e-3, series)
    verdict = CaseVerdict(
        case_of(name), outcome, f"{name} B1 H8 L512: 7.9% slower [6.8, 9.1]", (), latency, record, record
    )
    return replace(verdict, **changed)


def report_of(*verdicts: CaseVerdict, **changed: Any) -> Report:
    report = Report(
        scenario="quick",
        outcome=Outcome.worst(each.outcome for each in verdicts),
        base="main~1 (3f2a91c)",
        head="this environment",
        cases=verdicts,
        settings={"gate": 0.1, "margin": 0.6 * 0.1 - 0.01, "pairs": (20, 40), "latency": True, "build": None},
        environment=(("libraries.torch", "2.12.0", "2.13.0"),),
        notes=("naive comes from elsewhere.",),
        timed_s=31.0,
        duration_s=42.0,
    )
    return replace(report, **changed)


def table_lines(text: str) -> list[str]:
    """The lines of the table of cases."""
    lines = text.splitlines()
    begin = next(at for at, line in enumerate(lines) if "| case |" in line)
    return [line for line in lines[begin:] if line.startswith("|")][: 2 + text.count(" at attention/")]


@pytest.mark.parametrize("outcome", Outcome)
def test_the_outcome_comes_first_and_large(outcome: Outcome) -> None:
    assert markdown(report_of(verdict_of(outcome))).startswith(f"# attnbench check: {outcome}\n")


def test_what_is_not_good_is_told_in_words_the_worst_first() -> None:
    report = report_of(
        verdict_of(Outcome.PASS, "naive"),
        verdict_of(Outcome.INCONCLUSIVE, "numpy"),
        verdict_of(Outcome.FAIL, "sdpa"),
    )
    text = markdown(report)
    assert "1 of 3 cases failed, 1 inconclusive, 1 passed" in text
    assert text.index("- **FAIL** sdpa B1 H8 L512: 7.9% slower [6.8, 9.1]") < text.index("- **INCONCLUSIVE**")
    assert "- **PASS**" not in text
    assert "main~1 (3f2a91c)" in text.replace("\\~", "~")
    assert "It took 42.0 s, 31.0 s of them timing." in text


def test_every_case_is_a_line_of_the_table() -> None:
    again = Series(Outcome.FAIL, (0.07,) * 20, 20, 0)
    failed = verdict_of(Outcome.FAIL, "sdpa")
    assert failed.latency is not None
    failed = replace(
        failed,
        latency=replace(failed.latency, again=again, control=again),
        changes=(Change("memory", Outcome.FAIL, "peak_alloc_bytes 1 MiB → 2 MiB", 1, 2),),
    )
    lines = table_lines(markdown(report_of(failed, verdict_of(name="naive"))))
    assert len(lines) == 4
    assert lines[2].startswith("| **FAIL** | sdpa at attention/B1-H8-L512-D64/float32/none/forward/cpu | ")
    assert "| 1.08× [1.07, 1.09] | 40 + 20 again | **peak_alloc_bytes 1 MiB → 2 MiB** |" in lines[2]
    assert lines[3].startswith("| PASS | naive at ")
    assert lines[3].endswith("| 40 | – |")


def test_many_cases_are_folded() -> None:
    cases = [verdict_of(name=f"kernel{number}") for number in range(31)]
    assert "<details><summary>31 cases</summary>" in markdown(report_of(*cases))
    assert "<summary>30 cases" not in markdown(report_of(*cases[:30]))


def test_nothing_of_others_passes_for_markup() -> None:
    change = Change("status", Outcome.FAIL, f"status ok → error: {NASTY}", "ok", "error")
    failed = verdict_of(Outcome.FAIL, text=f"sdpa: {NASTY}", changes=(change,))
    report = report_of(
        failed,
        scenario=NASTY,
        base=NASTY,
        head=NASTY,
        notes=(NASTY,),
        environment=((NASTY, NASTY, None),),
        settings={"build": NASTY},
    )
    text = markdown(report)
    for harmful in ("<b>", "@someone", "https://x", "\x1b", "`c"):
        assert harmful not in text.replace("\\`c", "")
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table_lines(text)} == {6}


def test_settings_are_told_as_people_write_them() -> None:
    text = markdown(report_of(verdict_of()))
    lines = [
        "| gate | 0.1 |",
        "| margin | 0.05 |",
        "| pairs | 20, 40 |",
        "| latency | yes |",
        "| build | – |",
    ]
    assert "\n".join(lines) in text


@given(st.text(), st.text())
def test_whatever_a_kernel_says_the_page_holds_together(said: str, name: str) -> None:
    change = Change("status", Outcome.FAIL, said, "ok", "error")
    report = report_of(
        verdict_of(Outcome.FAIL, text=said, changes=(change,)),
        base=name,
        notes=(said,),
        environment=((name, said, None),),
    )
    lines = markdown(report).splitlines()
    assert lines[0] == "# attnbench check: FAIL"
    assert [line for line in lines if line.startswith("#")] == lines[:1]
    for width, begin in ((6, "|  | case |"), (4, "| what |")):
        at = next(at for at, line in enumerate(lines) if line.startswith(begin))
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[at : at + 3]} == {width}
    assert json.loads(json.dumps(document(report)))["cases"][0]["text"] == said
    error = failure_markdown(said).splitlines()[4:]
    assert all(line.startswith("    ") for line in error)


def test_environments_that_are_the_same_are_said_to_be() -> None:
    assert "environments of base and head are the same" in markdown(report_of(verdict_of(), environment=()))
    text = markdown(report_of(verdict_of()))
    assert "differ in 1 thing</summary>" in text
    assert "| libraries.torch | 2.12.0 | 2.13.0 |" in text


def test_times_that_were_not_judged_are_told_as_such() -> None:
    timed = verdict_of(latency=None, base=make_record(latency_s=1e-3), head=make_record(latency_s=2e-3))
    lines = table_lines(markdown(report_of(timed)))
    assert "time (not judged)" in lines[0]
    assert re.search(r"\| base (1\.0\d ms|9\d\d µs), head (1\.9\d|2\.0\d) ms \| – \|", lines[2]), lines[2]
    (case,) = document(report_of(timed))["cases"]
    assert case["head"]["latency_median_s"] == pytest.approx(2e-3, rel=0.1)
    assert case["head"]["latency_ci_low_s"] < case["head"]["latency_median_s"]


def test_the_document_holds_everything() -> None:
    change = Change("memory", Outcome.PASS, "peak_alloc_bytes 2 MiB → 1 MiB", 2, 1)
    report = report_of(verdict_of(Outcome.FAIL), verdict_of(name="naive", changes=(change,)))
    written = json.loads(json.dumps(document(report), allow_nan=False))
    assert written["schema"] == 1
    assert (written["outcome"], written["message"]) == ("FAIL", "1 of 2 cases failed, 1 passed")
    assert written["counts"] == {"FAIL": 1, "PASS": 1}
    failed, passed = written["cases"]
    assert failed["case_id"] == report.cases[0].case.case_id
    assert failed["latency"]["ratio_ci_high"] == 1.091
    assert failed["latency"]["first"]["pairs"] == len(failed["latency"]["first"]["d"]) == 40
    assert failed["latency"]["again"] is None
    assert failed["base"]["memory"]["peak_alloc_bytes"] == 4 << 20
    assert passed["changes"] == [
        {"metric": "memory", "outcome": "PASS", "text": change.text, "base": 2, "head": 1}
    ]
    assert written["environment"] == [{"what": "libraries.torch", "base": "2.12.0", "head": "2.13.0"}]
    assert written["settings"]["pairs"] == [20, 40]


def test_the_tally_names_only_what_there_is() -> None:
    assert tallied(report_of(verdict_of())) == "1 of 1 case passed"
    several = [verdict_of(name=name) for name in ("a", "b")]
    assert tallied(report_of(*several, verdict_of(Outcome.INCONCLUSIVE, "c"))) == (
        "1 of 3 cases inconclusive, 2 passed"
    )


def test_an_error_has_a_page_that_shows_the_message_as_it_is() -> None:
    text = failure_markdown(f"scenario.yaml:3:1: no such key\n\n{NASTY}\n# PASS")
    assert text.startswith("# attnbench check: ERROR\n")
    shown = text.splitlines()[4:]
    assert len(shown) == 3
    assert all(line.startswith("    ") for line in shown)
    assert "\x1b" not in text
    assert failure_document("no base") == {"schema": 1, "outcome": "ERROR", "message": "no base"}
