"""What the numbers say, in words: only what they bear out.

A best one must be measured, verified and not flagged. Two are told apart where their 95% intervals do not
overlap: those of the speed-ups over the same anchor, which were formed side by side, or, without them,
those of the latencies. That is stricter than a test of their difference, and errs on the side of "cannot be
told apart".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.plots.plot import listed
from attnbench.plots.rows import (
    Row,
    anchor_of,
    blocks,
    can_win,
    clean,
    describe,
    failed_accuracy,
    flag_text,
    labels,
    lengths,
    measured,
    rows_of,
    series,
    shorten,
    sweeps,
    varying,
    workload_label,
)
from attnbench.report import cells
from attnbench.units import format_bytes, format_ratio, significant

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Finding", "distinct", "findings", "growth"]

#: With no more workloads than this, each is told on its own.
_FEW = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence or two; `kind` says about what, `serious` whether it calls for care."""

    kind: str
    text: str
    serious: bool = False


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The fastest of a block, and those that cannot be told apart from it."""

    best: Row
    tied: tuple[Row, ...]
    anchor: Row | None
    alone: bool


def distinct(a: Row, b: Row) -> bool:
    """Whether the 95% intervals of two rows of one block tell them apart."""
    for low, high in (("speedup_ci_low", "speedup_ci_high"), ("latency_ci_low_s", "latency_ci_high_s")):
        ends = [row.get(end) for row in (a, b) for end in (low, high)]
        known = [float(end) for end in ends if end is not None]
        if len(known) == len(ends):
            low_a, high_a, low_b, high_b = known
            return high_a < low_b or high_b < low_a
    return False


def _judge(block: Sequence[Row]) -> _Verdict | None:
    entrants = sorted(filter(can_win, block), key=lambda row: float(row["latency_median_s"]))
    if not entrants:
        return None
    best = entrants[0]
    tied = tuple(row for row in entrants[1:] if not distinct(best, row))
    return _Verdict(best, tied, anchor_of(block), alone=len(entrants) == 1)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _ahead(verdict: _Verdict) -> str:
    """`1.23 ms [1.20, 1.26], 1.85× [1.80, 1.90] over naive`."""
    text = cells.latency(verdict.best)
    anchor = verdict.anchor
    if anchor is not None and anchor is not verdict.best and verdict.best.get("speedup") is not None:
        text += f", {cells.speedup(verdict.best)} over {anchor['label']}"
    return text


def _fastest(verdicts: Sequence[_Verdict], names: Sequence[str]) -> Iterable[Finding]:
    clear = [verdict for verdict in verdicts if not verdict.tied and not verdict.alone]
    if not clear:
        return
    if len(verdicts) <= _FEW:
        parts = [
            f"{verdict.best['label']} is the fastest at {workload_label(verdict.best, names)}: "
            f"{_ahead(verdict)}."
            for verdict in clear
        ]
        yield Finding("fastest", " ".join(parts))
        return
    wins = Counter(verdict.best["label"] for verdict in clear)
    (label, number), *others = wins.most_common(5)
    first = f"{label} is clearly the fastest in {number}"
    text = (
        f"Of {len(verdicts)} workloads, {listed([first, *(f'{name} in {count}' for name, count in others)])}."
    )
    over = [
        verdict for verdict in clear if verdict.anchor is not None and (verdict.best.get("speedup") or 0) > 1
    ]
    if over:
        top = max(over, key=lambda verdict: float(verdict.best["speedup"]))
        text += f" The widest lead: {top.best['label']} at {workload_label(top.best, names)}, {_ahead(top)}."
    yield Finding("fastest", text)


def _ties(verdicts: Sequence[_Verdict], names: Sequence[str]) -> Iterable[Finding]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for verdict in verdicts:
        if verdict.tied:
            together = tuple(sorted([verdict.best["label"], *(row["label"] for row in verdict.tied)]))
            groups.setdefault(together, []).append(verdict.best)
    parts = []
    for together, where in sorted(groups.items(), key=lambda item: -len(item[1]))[:4]:
        places = "; ".join(workload_label(row, names) for row in where[:3])
        places += f"; and {len(where) - 3} more" if len(where) > 3 else ""
        parts.append(f"{listed(together)} cannot be told apart as the fastest at {places}.")
    rest = len(groups) - len(parts)
    if rest > 0:
        parts.append(f"So it is with {rest} further sets of implementations.")
    if parts:
        yield Finding("tied", " ".join(parts))


def _crossovers(rows: Sequence[Row]) -> Iterable[Finding]:
    """Along a length, where one clear winner gives way to another."""
    told: dict[str, list[str]] = {}
    groups = [group for group in sweeps(rows) if len(lengths(filter(measured, group))) > 1]
    names = varying([row for group in groups for row in group])
    for group in groups:
        stages: list[tuple[str, int, int]] = []
        for length in lengths(group):
            verdict = _judge([row for row in group if row["length"] == length])
            if verdict is None or verdict.tied or verdict.alone:
                continue
            winner = verdict.best["label"]
            if stages and stages[-1][0] == winner:
                stages[-1] = (winner, stages[-1][1], length)
            else:
                stages.append((winner, length, length))
        if len(stages) > 1:
            first, last = stages[0], stages[-1]
            middle = [f"{name} {f'at {a}' if a == b else f'from {a} to {b}'}" for name, a, b in stages[1:-1]]
            text = ", ".join([f"{first[0]} up to {first[2]}", *middle, f"{last[0]} from {last[1]} on"])
            told.setdefault(text, []).append(describe(group[0], names))
    if told:
        parts = []
        for text, where in list(told.items())[:3]:
            places = "; ".join(place for place in where[:3] if place)
            parts.append(f"{text}{f' ({places})' if places else ''}")
        more = f"; and {len(told) - 3} more such" if len(told) > 3 else ""
        yield Finding("crossover", f"The fastest changes with the length: {'; '.join(parts)}{more}.")


def _accuracy(rows: Sequence[Row], names: Sequence[str]) -> Iterable[Finding]:
    checked = [row for row in rows if row.get("accuracy") in ("pass", "fail")]
    wrong = [row for row in checked if failed_accuracy(row)]
    if wrong:
        parts = []
        for label in labels(wrong)[:4]:
            own = series(wrong, label)
            worst = max(own, key=lambda row: row.get("error_ratio") or math.inf)
            ratio = worst.get("error_ratio")
            measure = "not finite or not comparable" if ratio is None else f"{significant(ratio)}, allowed 2"
            share = f"in {len(own)} of {_count(len(series(checked, label)), 'checked case')}"
            reason = f": {shorten(clean(worst['reason']), 140)}" if worst.get("reason") else ""
            parts.append(
                f"{label} {share} (worst at {workload_label(worst, names)}, error ratio {measure}{reason})"
            )
        more = f"; and {len(labels(wrong)) - 4} more" if len(labels(wrong)) > 4 else ""
        text = f"Wrong results, which can win nothing: {'; '.join(parts)}{more}."
        yield Finding("accuracy", text, serious=True)
    elif checked:
        known = [row for row in checked if row.get("error_ratio") is not None]
        who = "The one case" if len(checked) == 1 else f"All {len(checked)} cases"
        text = f"{who} checked for accuracy passed"
        if known:
            worst = max(known, key=lambda row: float(row["error_ratio"]))
            text += (
                f"; the largest error ratio is {significant(worst['error_ratio'], 2)} of the 2 allowed "
                f"({worst['label']} at {workload_label(worst, names)})"
            )
        yield Finding("accuracy", f"{text}.")
    unchecked = [row for row in rows if measured(row) and row.get("accuracy") not in ("pass", "fail")]
    if unchecked and not wrong:
        text = f"{_count(len(unchecked), 'measured case')} went unchecked and can win nothing"
        yield Finding("accuracy", f"{text}: {listed(labels(unchecked))}.", serious=True)


def _failures(rows: Sequence[Row]) -> Iterable[Finding]:
    failed = [row for row in rows if row.get("status") != "ok"]
    if not failed:
        return
    parts = []
    for status, number in Counter(clean(row.get("status") or "unknown") for row in failed).most_common():
        names = labels(row for row in failed if clean(row.get("status") or "unknown") == status)
        parts.append(f"{number} {status} ({listed(names, 4)})")
    grave = any(row.get("status") not in ("unsupported", "unavailable") for row in failed)
    text = f"{len(failed)} of {_count(len(rows), 'case')} gave no figures: {', '.join(parts)}."
    yield Finding("failures", text, serious=grave)


def _leanest(rows: Sequence[Row], names: Sequence[str]) -> Iterable[Finding]:
    """Who needs the least memory; equal to within 1% counts as equal."""
    wins: Counter[str] = Counter()
    judged = 0
    widest: tuple[float, Row, Row] | None = None
    for block in blocks(rows):
        sized = [row for row in block if can_win(row) and (row.get("peak_alloc_bytes") or 0) > 0]
        if len(sized) < 2:
            continue
        judged += 1
        sized.sort(key=lambda row: int(row["peak_alloc_bytes"]))
        least, most = sized[0], sized[-1]
        wins.update(
            row["label"] for row in sized if row["peak_alloc_bytes"] <= 1.01 * least["peak_alloc_bytes"]
        )
        factor = most["peak_alloc_bytes"] / least["peak_alloc_bytes"]
        if widest is None or factor > widest[0]:
            widest = (factor, least, most)
    if widest is None or widest[0] <= 1.01:
        return
    factor, least, most = widest
    counted = listed(f"{label} in {number}" for label, number in wins.most_common(4))
    text = f"Least peak memory, of {_count(judged, 'workload')}: {counted}. " if judged > 1 else ""
    yield Finding(
        "memory",
        f"{text}At {workload_label(least, names)} {least['label']} needs "
        f"{format_bytes(least['peak_alloc_bytes'])}, "
        f"{most['label']} {format_bytes(most['peak_alloc_bytes'])} ({format_ratio(factor)}).",
    )


def growth(points: Sequence[tuple[float, float]]) -> float | None:
    """The exponent p of size ~ length^p, by least squares on logarithms; None where no power fits.

    Needs three lengths; a fit that leaves more than 2% of the variance unexplained is none.
    """
    if len({length for length, _ in points}) < 3:
        return None
    x = [math.log(length) for length, _ in points]
    y = [math.log(size) for _, size in points]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - mean_x) ** 2 for each in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    total = sum((each - mean_y) ** 2 for each in y)
    left = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    return slope if total == 0 or left / total <= 0.02 else None


def _growth(rows: Sequence[Row]) -> Iterable[Finding]:
    exponents: dict[str, list[float]] = {}
    seen: list[int] = []
    for group in sweeps(filter(measured, rows)):
        for label in labels(group):
            points = [
                (float(row["length"]), float(row["peak_alloc_bytes"]))
                for row in series(group, label)
                if row["length"] and (row.get("peak_alloc_bytes") or 0) > 0 and not failed_accuracy(row)
            ]
            exponent = growth(points)
            if exponent is not None:
                exponents.setdefault(label, []).append(exponent)
                seen += [int(length) for length, _ in points]
    alike: dict[str, list[str]] = {}
    for label, found in exponents.items():
        low, high = f"{min(found):.1f}", f"{max(found):.1f}"
        alike.setdefault(f"L^{low}" if low == high else f"L^{low} to L^{high}", []).append(label)
    if alike:
        parts = [f"{listed(names)} like {power}" for power, names in sorted(alike.items(), reverse=True)]
        text = f"Over lengths from {min(seen)} to {max(seen)}, peak memory grows: {'; '.join(parts)}."
        yield Finding("growth", text)


def _cautions(rows: Sequence[Row], names: Sequence[str]) -> Iterable[Finding]:
    sampled = [row for row in rows if measured(row)]
    parts = []
    flagged = [row for row in sampled if flag_text(row)]
    if flagged:
        first = flagged[0]
        parts.append(
            f"{_count(len(flagged), 'measurement')} flagged as not to be trusted and can win nothing "
            f"({first['label']} at {workload_label(first, names)}: {shorten(flag_text(first) or '', 100)}"
            f"{'; …' if len(flagged) > 1 else ''})."
        )
    wide = [row for row in sampled if row.get("converged") is False]
    if wide:
        parts.append(
            f"The 95% interval of {len(wide)} of {_count(len(sampled), 'case')} is wider than the precision "
            "asked: a larger measure.max_seconds narrows it."
        )
    bare = [row for row in sampled if row.get("latency_ci_low_s") is None]
    if bare:
        parts.append(f"{_count(len(bare), 'case')} of {len(sampled)} had too few samples for an interval.")
    if parts:
        yield Finding("caution", " ".join(parts), serious=bool(flagged))


def findings(frame: pd.DataFrame) -> list[Finding]:
    """What a table says, most important first; one finding of a kind, eight kinds at most.

    The kinds: fastest, tied, crossover, accuracy, failures, memory, growth, caution. Without rows, or with
    nothing measured, it says so.
    """
    rows = [{**row, "label": shorten(row["label"], 64)} for row in rows_of(frame)]
    if not rows:
        return [Finding("nothing", "There is nothing to report: no case was recorded.", serious=True)]
    names = varying(rows)
    verdicts = [verdict for block in blocks(rows) if (verdict := _judge(block)) is not None]
    found: list[Finding] = []
    if not any(map(measured, rows)):
        found.append(
            Finding("nothing", "No case was measured: every one failed, see the reasons.", serious=True)
        )
    elif not verdicts:
        found.append(
            Finding("nothing", "No case is both verified and trustworthy: nothing can win.", serious=True)
        )
    found += _fastest(verdicts, names)
    found += _ties(verdicts, names)
    found += _crossovers(rows)
    found += _accuracy(rows, names)
    found += _failures(rows)
    found += _leanest(rows, names)
    found += _growth(rows)
    found += _cautions(rows, names)
    return found
