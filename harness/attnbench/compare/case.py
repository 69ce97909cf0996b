"""One case in two runs: the ratios of its figures, what changed, and whether it is faster or slower."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from attnbench import stats
from attnbench.compare.machine import arrow, conditions, other_machine
from attnbench.compare.sides import Side
from attnbench.plots.rows import clean, failed_accuracy, flag_text, measured, memory_is_partial
from attnbench.stats import Estimate, Interval

__all__ = ["LATENCY", "SPEEDUP", "CaseComparison", "Ratio", "Verdict", "compare_case"]

#: What a verdict goes by: the latency, or on different machines the speed-up over the anchor.
LATENCY, SPEEDUP = "latency", "speedup"


class Verdict(StrEnum):
    """What became of a case, in words."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "no difference seen"
    NOT_COMPARABLE = "not comparable"
    GONE = "disappeared"
    NEW = "appeared"


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure in two runs: `value` is after / before, None where there is none.

    `interval` is that of the ratio, between the processes of either run. `note` says why there is no
    ratio, or no interval, or what else limits it: `from 0`.
    """

    before: float | None
    after: float | None
    value: float | None = None
    interval: Interval | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class CaseComparison:
    """A case in the first run (`before`) and in another (`after`); None where it is not in that run.

    Latency, memory and error below 1 are better, a speed-up above 1. `by` names what the verdict goes by,
    `why` says why the two are not comparable. `elsewhere` is what makes it another machine to this case,
    None on the same. `changes` are, in words, what else is different; `conditions` the settings in which it
    was measured otherwise: (name, before's, after's).
    """

    before: Side | None
    after: Side | None
    by: str
    verdict: Verdict
    why: str | None
    latency: Ratio
    speedup: Ratio
    peak_alloc: Ratio
    peak_rss: Ratio
    error_rel_l2: Ratio
    error_max_abs: Ratio
    elsewhere: str | None = None
    changes: tuple[str, ...] = ()
    conditions: tuple[tuple[str, Any, Any], ...] = ()

    @property
    def either(self) -> Side:
        """The case as the newer run that has it tells of it."""
        side = self.after or self.before
        assert side is not None, "a comparison holds a case of one run at least"
        return side

    @property
    def deciding(self) -> Ratio:
        """The ratio that the verdict goes by."""
        return self.speedup if self.by == SPEEDUP else self.latency


def compare_case(
    before: Side | None, after: Side | None, host_before: Mapping[str, Any], host_after: Mapping[str, Any]
) -> CaseComparison:
    """What the two records come to; the hosts are the runs' fingerprints."""
    if before is None or after is None:
        return _alone(before, after)
    elsewhere = other_machine(before, after, host_before, host_after)
    latency, speedup = _latency(before, after, elsewhere), _speedup(before, after)
    verdict, why = _judged(before, after, speedup if elsewhere else latency, elsewhere)
    otherwise = tuple(conditions(before, after, host_before, host_after))
    seeds_differ = any(name == "seed" for name, _, _ in otherwise)
    return CaseComparison(
        before=before,
        after=after,
        by=SPEEDUP if elsewhere else LATENCY,
        verdict=verdict,
        why=why,
        latency=latency,
        speedup=speedup,
        peak_alloc=_of_table(before, after, "peak_alloc_bytes"),
        peak_rss=_of_table(before, after, "peak_rss_bytes"),
        error_rel_l2=_error(before, after, "error_rel_l2", seeds_differ),
        error_max_abs=_error(before, after, "error_max_abs", seeds_differ),
        elsewhere=elsewhere,
        changes=tuple(_changes(before, after)),
        conditions=otherwise,
    )


def _alone(before: Side | None, after: Side | None) -> CaseComparison:
    """A case that one of the runs lacks."""
    return CaseComparison(
        before=before,
        after=after,
        by=LATENCY,
        verdict=Verdict.NEW if before is None else Verdict.GONE,
        why=None,
        latency=_of_table(before, after, "latency_median_s"),
        speedup=_of_table(before, after, "speedup"),
        peak_alloc=_of_table(before, after, "peak_alloc_bytes"),
        peak_rss=_of_table(before, after, "peak_rss_bytes"),
        error_rel_l2=_of_table(before, after, "error_rel_l2"),
        error_max_abs=_of_table(before, after, "error_max_abs"),
    )


def _judged(before: Side, after: Side, ratio: Ratio, elsewhere: str | None) -> tuple[Verdict, str | None]:
    doubt = _doubts(before, after)
    if doubt is None and ratio.interval is None:
        doubt = ratio.note
    if doubt is not None or ratio.interval is None:
        return Verdict.NOT_COMPARABLE, doubt
    low, high = ratio.interval.low, ratio.interval.high
    if elsewhere:  # a speed-up is the better the larger it is
        low, high = 1 / high, 1 / low
    if high < 1:
        return Verdict.FASTER, None
    return (Verdict.SLOWER if low > 1 else Verdict.SAME), None


def _doubts(before: Side, after: Side) -> str | None:
    """Why a time in either run is not to be compared; None where nothing speaks against them."""
    first, second = _doubt(before), _doubt(after)
    if first == second:
        return first and f"in both runs: {first}"
    told = [f"{when}: {doubt}" for when, doubt in (("before", first), ("after", second)) if doubt]
    return "; ".join(told)


def _doubt(side: Side) -> str | None:
    """Why the case's time is not to be compared; None where nothing speaks against it."""
    row = side.row
    if row["status"] != "ok":
        return f"{row['status']}: {clean(row.get('reason') or 'no reason was recorded')}"
    if failed_accuracy(row):
        return f"fails the accuracy check: {clean(row.get('reason') or 'no reason was recorded')}"
    if (flag := flag_text(row)) is not None:
        return f"flagged: {flag}"
    return None if measured(row) else "was not timed"


def _of_table(before: Side | None, after: Side | None, column: str) -> Ratio:
    """The ratio of two figures that are not samples, and therefore without an interval."""
    a, b = (None if side is None else side.row.get(column) for side in (before, after))
    if a is None or b is None:
        return Ratio(a, b)
    note = next((why for side in (before, after) if (why := _lower_bound(side, column))), None)
    if a == 0:
        return Ratio(a, b, 1.0, note=note) if b == 0 else Ratio(a, b, note="from 0")
    value = b / a
    return Ratio(a, b, value, note=note) if math.isfinite(value) else Ratio(a, b, note="beyond every float")


def _lower_bound(side: Side | None, column: str) -> str | None:
    """Why the figure is less than it should be; None where it is not."""
    if side is None or side.record.memory is None:
        return None
    if column == "peak_alloc_bytes" and memory_is_partial(side.row):
        return "of lower bounds: the framework's allocator does not see all"
    if column == "peak_rss_bytes" and side.record.memory["peak_rss_is_lower_bound"]:
        return "of lower bounds: this system tells of memory from time to time only"
    return None


def _error(before: Side, after: Side, column: str, seeds_differ: bool) -> Ratio:
    ratio = _of_table(before, after, column)
    if ratio.note is None and seeds_differ:
        return replace(ratio, note="of other inputs: the seeds differ")
    return ratio


def _latency(before: Side, after: Side, elsewhere: str | None) -> Ratio:
    a, b = before.row.get("latency_median_s"), after.row.get("latency_median_s")
    if elsewhere:
        return Ratio(a, b, note=f"not compared between machines ({elsewhere})")
    if a is None or b is None:
        return Ratio(a, b)
    estimate = stats.unpaired_ratio(_per_call_s(before), _per_call_s(after))
    return _of_samples(a, b, estimate, before, after)


def _per_call_s(side: Side) -> list[tuple[float, ...]]:
    return [process.per_call_s for process in side.record.processes]


def _speedup(before: Side, after: Side) -> Ratio:
    a, b = before.row.get("speedup"), after.row.get("speedup")
    ours = before.anchor, after.anchor
    if before.record.anchor is None or after.record.anchor is None:
        return Ratio(a, b, note="the workload has no anchor")
    if before.record.anchor != after.record.anchor:
        return Ratio(a, b, note="the anchors differ: " + arrow(before.record.anchor, after.record.anchor))
    if ours[0] is None or ours[1] is None:
        return Ratio(a, b, note="the anchor was not recorded")
    doubt = _doubts(ours[0], ours[1])
    if doubt is not None:
        return Ratio(a, b, note=f"its anchor cannot be relied on {doubt}")
    if a is None or b is None:
        return Ratio(a, b, note="not measured side by side with the anchor")
    if after.record.anchor == after.record.case_id:
        return Ratio(a, b, 1.0, note="it is the anchor, whose speed-up is 1 everywhere")
    pairs = [
        (anchor.record.processes, side.record.processes)
        for anchor, side in zip(ours, (before, after), strict=True)
        if anchor is not None
    ]
    return _of_samples(a, b, stats.unpaired_speedup(pairs[0], pairs[1]), before, after)


def _of_samples(a: float, b: float, estimate: Estimate | None, before: Side, after: Side) -> Ratio:
    if estimate is None:
        return Ratio(a, b)
    return Ratio(
        a,
        b,
        estimate.value,
        estimate.interval,
        None if estimate.interval else _why_no_interval(before, after),
    )


def _why_no_interval(before: Side, after: Side) -> str:
    single = [
        when
        for side, when in ((before, "before"), (after, "after"))
        if sum(bool(process.rounds) for process in side.record.processes) < 2
    ]
    if single:
        return (
            f"a single process {' and '.join(single)}: it says nothing of how processes differ; "
            "measure with --set measure.processes=5"
        )
    return "too few samples for an interval"


def _changes(before: Side, after: Side) -> list[str]:
    """What is not a ratio and different, in words."""
    if before.row["status"] != after.row["status"]:  # all else follows from it
        return [f"status: {arrow(before.row['status'], after.row['status'])}"]
    told = []
    for name, column in (
        ("accuracy", "accuracy"),
        ("kernel", "resolved_backend"),
        ("flagged", "flagged"),
        ("bitwise repeatable", "bitwise_repeatable"),
    ):
        a, b = before.row.get(column), after.row.get(column)
        if column == "flagged":
            a, b = bool(a), bool(b)
        if a != b and None not in (a, b):
            told.append(f"{name}: {arrow(_word(a), _word(b))}")
    return told


def _word(value: object) -> object:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else clean(value)
