"""The documents of a gate's report: Markdown for a job's page or a pull request, and JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from attnbench.case import format_options
from attnbench.gate.baseline import time_of
from attnbench.gate.verdict import CaseVerdict, Change, Latency, Outcome, Report, Series
from attnbench.plots.rows import clean, shorten
from attnbench.record import Record
from attnbench.report.cells import DASH
from attnbench.report.markdown import escape, folded, table
from attnbench.stats import Interval
from attnbench.units import format_ratio, format_seconds, significant

__all__ = ["counts", "document", "failure_document", "failure_markdown", "markdown", "tallied"]

#: Version of the JSON document; a change that breaks readers raises it.
SCHEMA_VERSION = 1

#: A longer table is folded, so that what failed stays in sight.
_ROWS_IN_SIGHT = 30

#: How many characters of a value of the environment, or of a setting, are shown.
_VALUE_LENGTH = 200

_WORDS = {Outcome.FAIL: "failed", Outcome.INCONCLUSIVE: "inconclusive", Outcome.PASS: "passed"}


# What both say


def counts(report: Report) -> dict[Outcome, int]:
    """How many cases came to each outcome, the worst first, without those that none came to."""
    found = Counter(verdict.outcome for verdict in report.cases)
    return {outcome: found[outcome] for outcome in _WORDS if found[outcome]}


def tallied(report: Report) -> str:
    """`1 of 3 cases failed, 2 passed`."""
    parts = [f"{number} {_WORDS[outcome]}" for outcome, number in counts(report).items()]
    cases = f"{len(report.cases)} case{'' if len(report.cases) == 1 else 's'}"
    first, *others = parts
    number, word = first.split(" ", 1)
    return ", ".join([f"{number} of {cases} {word}", *others])


# Markdown


def markdown(report: Report) -> str:
    """The report as GitHub shows it on a job's page: the outcome, what is not good, conditions, all cases."""
    lines = [f"# attnbench check: {report.outcome}", "", *_introduction(report)]
    doubtful = [verdict for verdict in report.cases if verdict.outcome is not Outcome.PASS]
    if doubtful:
        worst_first = sorted(doubtful, key=lambda verdict: verdict.outcome.rank, reverse=True)
        lines += ["", *(f"- **{each.outcome}** {_shown(each.text, 600)}" for each in worst_first)]
    if report.notes:
        lines += ["", *(f"- {_shown(note, 600)}" for note in report.notes)]
    lines += ["", *_environment(report), "", *_cases(report.cases), "", *_settings(report.settings)]
    return "\n".join(lines) + "\n"


def failure_markdown(message: str) -> str:
    """What stands in the place of a report when the gate could not judge: nothing passed."""
    # Indented lines are shown as they are: no markup in a message can break out of them.
    told = [f"    {clean(line)}" for line in message.splitlines() if line.strip()]
    return "\n".join(["# attnbench check: ERROR", "", "Nothing was judged.", "", *told]) + "\n"


def _shown(value: object, length: int = _VALUE_LENGTH) -> str:
    return escape(shorten(clean(value), length))


def _introduction(report: Report) -> list[str]:
    timed = f", {format_seconds(report.timed_s)} of them timing" if report.timed_s else ""
    return [
        f"**{_shown(report.scenario)}**: {tallied(report)}. Head: {_shown(report.head)}. Base: "
        f"{_shown(report.base)}. It took {format_seconds(report.duration_s)}{timed}."
    ]


def _cases(verdicts: Sequence[CaseVerdict]) -> list[str]:
    judged = any(verdict.latency for verdict in verdicts)
    headings = ["", "case", "time, head / base [95%]" if judged else "time (not judged)", "pairs", "changes"]
    rows = [
        [
            str(verdict.outcome) if verdict.outcome is Outcome.PASS else f"**{verdict.outcome}**",
            f"{_shown(verdict.case.variant.label)} at {_shown(verdict.case.block_id)}",
            escape(_time(verdict)),
            escape(_pairs(verdict.latency)),
            "; ".join(_changes(verdict)) or DASH,
        ]
        for verdict in verdicts
    ]
    lines = table(headings, rows)
    return lines if len(rows) <= _ROWS_IN_SIGHT else folded(f"{len(rows)} cases", lines)


def _time(verdict: CaseVerdict) -> str:
    """`1.08× [1.07, 1.09]`; where times were not judged what is known of them: `base 1.2 ms, head 1.3 ms`."""
    latency = verdict.latency
    if latency is not None:
        return f"{format_ratio(latency.ratio)}{_interval(latency.interval)}"
    known = {"base": time_of(verdict.base), "head": time_of(verdict.head)}
    told = [f"{arm} {format_seconds(found.value)}" for arm, found in known.items() if found]
    return ", ".join(told) or DASH


def _interval(interval: Interval | None) -> str:
    return f" [{significant(interval.low)}, {significant(interval.high)}]" if interval else ""


def _pairs(latency: Latency | None) -> str:
    """`40`, `40 + 40 again` where a failure was repeated."""
    if latency is None:
        return DASH
    return f"{len(latency.first.d)}" + (f" + {len(latency.again.d)} again" if latency.again else "")


def _changes(verdict: CaseVerdict) -> list[str]:
    told = [
        _shown(change.text) if change.outcome is Outcome.PASS else f"**{_shown(change.text)}**"
        for change in verdict.changes
    ]
    if verdict.latency is not None and verdict.latency.reason:
        told.append(_shown(verdict.latency.reason))
    return told


def _environment(report: Report) -> list[str]:
    if not report.environment:
        return ["The environments of base and head are the same."]
    body = [
        [_shown(key), *(DASH if value is None else _shown(value) for value in (base, head))]
        for key, base, head in report.environment
    ]
    things = f"{len(body)} thing{'' if len(body) == 1 else 's'}"
    title = f"The environments of base and head differ in {things}"
    return folded(title, table(["what", "base", "head"], body))


def _settings(settings: Mapping[str, Any]) -> list[str]:
    body = [[_shown(name), _shown(_setting(value))] for name, value in settings.items()]
    return folded("Settings", table(["check", "value"], body))


def _setting(value: object) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# JSON


def document(report: Report) -> dict[str, Any]:
    """The report as a JSON object; docs/check.md says what its keys mean."""
    return {
        "schema": SCHEMA_VERSION,
        "scenario": report.scenario,
        "outcome": str(report.outcome),
        "message": tallied(report),
        "counts": {str(outcome): number for outcome, number in counts(report).items()},
        "base": report.base,
        "head": report.head,
        "cases": [_case(verdict) for verdict in report.cases],
        "environment": [{"what": key, "base": base, "head": head} for key, base, head in report.environment],
        "notes": list(report.notes),
        "settings": dict(report.settings),
        "timed_s": report.timed_s,
        "duration_s": report.duration_s,
    }


def failure_document(message: str) -> dict[str, Any]:
    """What stands in the place of `document` when the gate could not judge."""
    return {"schema": SCHEMA_VERSION, "outcome": "ERROR", "message": message}


def _case(verdict: CaseVerdict) -> dict[str, Any]:
    case = verdict.case
    return {
        "case_id": case.case_id,
        "block_id": case.block_id,
        "implementation": case.variant.implementation,
        "options": format_options(dict(case.variant.options)),
        "device": case.device,
        "outcome": str(verdict.outcome),
        "text": verdict.text,
        "changes": [_change(change) for change in verdict.changes],
        "latency": None if verdict.latency is None else _latency(verdict.latency),
        "base": None if verdict.base is None else _record(verdict.base),
        "head": None if verdict.head is None else _record(verdict.head),
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "metric": change.metric,
        "outcome": str(change.outcome),
        "text": change.text,
        "base": change.base,
        "head": change.head,
    }


def _latency(latency: Latency) -> dict[str, Any]:
    return {
        "outcome": str(latency.outcome),
        "reason": latency.reason,
        "ratio": latency.ratio,
        "ratio_ci_low": latency.interval and latency.interval.low,
        "ratio_ci_high": latency.interval and latency.interval.high,
        "base_s": latency.base_s,
        "head_s": latency.head_s,
        "first": _series(latency.first),
        "again": _series(latency.again),
        "control": _series(latency.control),
    }


def _series(series: Series | None) -> dict[str, Any] | None:
    if series is None:
        return None
    return {
        "verdict": str(series.verdict),
        "pairs": len(series.d),
        "slower": series.slower,
        "within": series.within,
        "d": list(series.d),
    }


def _record(record: Record) -> dict[str, Any]:
    """What does not depend on a clock, and where there are samples the median that they tell."""
    timed = time_of(record)
    interval = timed.interval if timed else None
    return {
        "status": record.status,
        "reason": record.reason,
        "resolved_backend": record.resolved_backend,
        "device_name": record.device_name,
        "threads": record.threads,
        "seed": record.seed,
        "memory": None if record.memory is None else dict(record.memory),
        "accuracy": None if record.accuracy is None else dict(record.accuracy),
        "latency_median_s": timed and timed.value,
        "latency_ci_low_s": interval and interval.low,
        "latency_ci_high_s": interval and interval.high,
    }
