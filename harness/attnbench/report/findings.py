"""What the numbers say, in words: only what they bear out.

A best one must be measured, verified and not flagged. Two are told apart by their own paired ratio (see
`attnbench.pairs`). A table alone does not hold it: there the 95% intervals of their speed-ups over the same
anchor must not overlap. Latencies are never compared, since those of one block may come of different rounds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from attnbench.costs import PARTS
from attnbench.plots.axis import AS_A_RULE, Axis
from attnbench.plots.plot import listed
from attnbench.plots.rows import (
    Row,
    anchor_of,
    blocks,
    can_win,
    clean,
    failed_accuracy,
    flag_text,
    labels,
    measured,
    memory_is_partial,
    rows_of,
    series,
    shorten,
    usual,
    workload_label,
)
from attnbench.plots.sweeps import Sweep, differing
from attnbench.plots.sweeps import sweeps as sweeps_of
from attnbench.plots.work import part_text, work
from attnbench.report import cells
from attnbench.units import counted, format_bytes, format_ratio, significant

if TYPE_CHECKING:
    import pandas as pd

    from attnbench.pairs import Pairs

__all__ = ["Finding", "faster", "findings", "growth", "same_kernel"]

#: With no more workloads than this, each is told on its own.
_FEW = 3

#: A finding that lists things stops about here, in characters, and counts the rest.
_LONG = 280


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence or two; `kind` says about what, `serious` whether it calls for care."""

    kind: str
    text: str
    serious: bool = False


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The fastest of a block, and those that cannot be told apart from it; one row for each kernel."""

    best: Row
    tied: tuple[Row, ...]
    anchor: Row | None
    alone: bool


def faster(a: Row, b: Row, pairs: Pairs | None = None) -> bool:
    """Whether `a` is faster than `b`, of the same block, beyond doubt."""
    if pairs is not None:
        return pairs.faster(a, b)
    low, high = a.get("speedup_ci_low"), b.get("speedup_ci_high")
    return low is not None and high is not None and float(low) > float(high)


def same_kernel(a: Row, b: Row) -> bool:
    """Whether two rows of one block ran the same kernel, as far as the library said which ran."""
    return a.get("resolved_backend") is not None and all(
        a.get(name) == b.get(name) for name in ("framework", "resolved_backend", "options")
    )


def _judge(block: Sequence[Row], pairs: Pairs | None) -> _Verdict | None:
    entrants = [row for row in block if can_win(row)]
    if not entrants:
        return None
    by_latency = sorted(entrants, key=lambda row: float(row["latency_median_s"]))
    # The least latency may come of other rounds than those in which somebody else was faster.
    unbeaten = (row for row in by_latency if not any(faster(other, row, pairs) for other in entrants))
    fastest = next(unbeaten, by_latency[0])
    # Of those that ran one kernel the first is named, whichever chance made the faster.
    first = [next(other for other in entrants if other is row or same_kernel(other, row)) for row in entrants]
    best = next(named for row, named in zip(entrants, first, strict=True) if row is fastest)
    tied = {
        named["label"]: named
        for row, named in zip(entrants, first, strict=True)
        if named is not best and not (faster(fastest, row, pairs) and faster(best, row, pairs))
    }
    alone = all(named is best for named in first)
    return _Verdict(best, tuple(tied.values()), anchor_of(block), alone)


def _leads(verdict: _Verdict) -> bool:
    """Whether the best is faster than the anchor beyond doubt: the whole interval of its speed-up says so."""
    return verdict.anchor is not None and (verdict.best.get("speedup_ci_low") or 0) > 1


def _ahead(verdict: _Verdict) -> str:
    """`1.23 ms [1.20, 1.26], 1.85× [1.80, 1.90] over naive`; without a lead the time alone."""
    text = cells.with_interval(cells.latency(verdict.best), cells.latency_interval(verdict.best, mark=False))
    anchor = verdict.anchor
    if anchor is not None and _leads(verdict):
        lead = cells.with_interval(cells.speedup(verdict.best), cells.speedup_interval(verdict.best))
        text += f", {lead} over {anchor['label']}"
    return text


def _fastest(verdicts: Sequence[_Verdict], known: Mapping[str, Any]) -> Iterable[Finding]:
    clear = [verdict for verdict in verdicts if not verdict.tied and not verdict.alone]
    if not clear:
        return
    if len(verdicts) <= _FEW:
        parts = [
            f"{verdict.best['label']} is the fastest at {workload_label(verdict.best, known)}: "
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
    over = [verdict for verdict in clear if _leads(verdict)]
    if over:
        top = max(over, key=lambda verdict: float(verdict.best["speedup"]))
        text += f" The widest lead: {top.best['label']} at {workload_label(top.best, known)}, {_ahead(top)}."
    yield Finding("fastest", text)


def _kernels(rows: Sequence[Row]) -> Iterable[Finding]:
    """Who ran the same kernel as another: they are one competitor, not two that tie."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for block in blocks(filter(measured, rows)):
        for index, row in enumerate(block):
            first = next((other for other in block[:index] if same_kernel(other, row)), None)
            if first is not None:
                counts[first["label"], row["label"], clean(row["resolved_backend"])] += 1
    if counts:
        parts = [
            f"{first} and {other} both ran {kernel} in {counted(number, 'workload')}"
            for (first, other, kernel), number in counts.most_common(3)
        ]
        more = f"; and {len(counts) - 3} more pairs" if len(counts) > 3 else ""
        yield Finding("kernels", f"One kernel under two names, counted as one: {'; '.join(parts)}{more}.")


def _ties(verdicts: Sequence[_Verdict], known: Mapping[str, Any]) -> Iterable[Finding]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for verdict in verdicts:
        if verdict.tied:
            together = tuple(sorted([verdict.best["label"], *(row["label"] for row in verdict.tied)]))
            groups.setdefault(together, []).append(workload_label(verdict.best, known))
    if not groups:
        return
    number = sum(map(len, groups.values()))
    start = (
        "The fastest cannot be told apart"
        if number == len(verdicts)
        else f"In {number} of {len(verdicts)} workloads the fastest cannot be told apart"
    )
    parts = [
        f"{listed(together, 4)} at {_places(places)}"
        for together, places in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    shown = 1
    while shown < len(parts) and len("; ".join(parts[: shown + 1])) < _LONG - len(start):
        shown += 1
    if shown < len(parts):
        parts = [*parts[:shown], f"and {counted(len(parts) - shown, 'other set')}"]
    text = f"{start}: {'; '.join(parts)}."
    unclear = [row for each in verdicts if each.tied for row in (each.best, *each.tied)]
    if any((row.get("processes") or 0) < 2 for row in unclear):
        text += " One process alone tells nothing apart: a larger measure.processes does."
    yield Finding("tied", text)


def _places(places: Sequence[str]) -> str:
    """`L128, causal and L256, causal`; many are counted, after the first."""
    return f"{places[0]} and {len(places) - 1} more" if len(places) > 2 else " and at ".join(places)


def _crossovers(sweeps: Sequence[Sweep], pairs: Pairs | None) -> Iterable[Finding]:
    """Along an axis, where one clear winner gives way to another."""
    told: dict[tuple[str, str], list[str]] = {}
    names = differing([sweep.facts for sweep in sweeps])
    for sweep in sweeps:
        stages: list[tuple[str, int, int]] = []
        for place in sweep.axis.places(sweep.rows):
            verdict = _judge([row for row in sweep.rows if sweep.axis.at(row) == place], pairs)
            if verdict is None or verdict.tied or verdict.alone:
                continue
            winner = verdict.best["label"]
            if stages and stages[-1][0] == winner:
                stages[-1] = (winner, stages[-1][1], place)
            else:
                stages.append((winner, place, place))
        if len(stages) > 1:
            first, last = stages[0], stages[-1]
            middle = [f"{name} {f'at {a}' if a == b else f'from {a} to {b}'}" for name, a, b in stages[1:-1]]
            text = ", ".join([f"{first[0]} up to {first[2]}", *middle, f"{last[0]} from {last[1]} on"])
            told.setdefault((sweep.axis.name, text), []).append(_where(sweep, names))
    if not told:
        return
    shown = list(told.items())[:3]
    sentences = []
    for axis in dict.fromkeys(axis for (axis, _), _ in shown):
        parts = []
        for (_, text), settings in (each for each in shown if each[0][0] == axis):
            places = "; ".join(setting for setting in settings[:3] if setting)
            parts.append(f"{text}{f' ({places})' if places else ''}")
        sentences.append(f"The fastest changes with the {axis}: {'; '.join(parts)}")
    more = f"; and {len(told) - 3} more such" if len(told) > 3 else ""
    yield Finding("crossover", f"{'. '.join(sentences)}{more}.")


def _where(sweep: Sweep, names: Sequence[str]) -> str:
    """The named facts of a sweep; and which lengths keep still, if not all move: no label tells them."""
    moving = sweep.axis.column in ("q_len", "kv_len") and sweep.facts.get("lengths") not in AS_A_RULE
    wanted = {*names, *(["lengths"] if moving else [])}
    return ", ".join(text for name, text in sweep.facts.items() if name in wanted)


def _accuracy(rows: Sequence[Row], known: Mapping[str, Any]) -> Iterable[Finding]:
    checked = [row for row in rows if row.get("accuracy") in ("pass", "fail")]
    wrong = [row for row in checked if failed_accuracy(row)]
    if wrong:
        parts = []
        for label in labels(wrong)[:4]:
            own = series(wrong, label)
            worst = max(own, key=lambda row: row.get("error_ratio") or math.inf)
            ratio = worst.get("error_ratio")
            measure = "not finite or not comparable" if ratio is None else f"{significant(ratio)}, allowed 2"
            share = f"in {len(own)} of {counted(len(series(checked, label)), 'checked case')}"
            reason = f": {shorten(clean(worst['reason']), 140)}" if worst.get("reason") else ""
            parts.append(
                f"{label} {share} (worst at {workload_label(worst, known)}, error ratio {measure}{reason})"
            )
        more = f"; and {len(labels(wrong)) - 4} more" if len(labels(wrong)) > 4 else ""
        text = f"Wrong results, which can win nothing: {'; '.join(parts)}{more}."
        yield Finding("accuracy", text, serious=True)
    elif checked:
        judged = [row for row in checked if row.get("error_ratio") is not None]
        who = "The one case" if len(checked) == 1 else f"All {len(checked)} cases"
        text = f"{who} checked for accuracy passed"
        if judged:
            worst = max(judged, key=lambda row: float(row["error_ratio"]))
            text += (
                f"; the largest error ratio is {significant(worst['error_ratio'], 2)} of the 2 allowed "
                f"({worst['label']} at {workload_label(worst, known)})"
            )
        yield Finding("accuracy", f"{text}.")
    unchecked = [row for row in rows if measured(row) and row.get("accuracy") not in ("pass", "fail")]
    if unchecked and not wrong:
        text = f"{counted(len(unchecked), 'measured case')} went unchecked and can win nothing"
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
    text = f"{len(failed)} of {counted(len(rows), 'case')} gave no figures: {', '.join(parts)}."
    yield Finding("failures", text, serious=grave)


def _sized(row: Row) -> bool:
    """Whether the row's memory is known in full; a lower bound bears out nothing."""
    return (row.get("peak_alloc_bytes") or 0) > 0 and not memory_is_partial(row)


def _leanest(rows: Sequence[Row], known: Mapping[str, Any]) -> Iterable[Finding]:
    """Who needs the least memory; equal to within 1% counts as equal."""
    wins: Counter[str] = Counter()
    judged = 0
    widest: tuple[float, Row, Row] | None = None
    for block in blocks(rows):
        sized = [row for row in block if can_win(row) and _sized(row)]
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
    tally = listed(f"{label} in {number}" for label, number in wins.most_common(4))
    text = f"Least peak memory, of {counted(judged, 'workload')}: {tally}. " if judged > 1 else ""
    yield Finding(
        "memory",
        f"{text}At {workload_label(least, known)} {least['label']} needs "
        f"{format_bytes(least['peak_alloc_bytes'])}, "
        f"{most['label']} {format_bytes(most['peak_alloc_bytes'])} ({format_ratio(factor)}).",
    )


def growth(points: Sequence[tuple[float, float]]) -> float | None:
    """The exponent p of size ~ x^p for points (x, size), by least squares on logarithms.

    None where no power fits: it needs three places, and leaves no more than 2% of the variance unexplained.
    """
    if len({place for place, _ in points}) < 3:
        return None
    x = [math.log(place) for place, _ in points]
    y = [math.log(size) for _, size in points]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - mean_x) ** 2 for each in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    total = sum((each - mean_y) ** 2 for each in y)
    left = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    return slope if total == 0 or left / total <= 0.02 else None


def _growth(sweeps: Sequence[Sweep]) -> Iterable[Finding]:
    by_axis: dict[Axis, list[Sweep]] = {}
    for sweep in sweeps:
        by_axis.setdefault(sweep.axis, []).append(sweep)
    texts = [text for axis, own in by_axis.items() if (text := _growth_along(axis, own))]
    if texts:
        yield Finding("growth", " ".join(texts))


def _growth_along(axis: Axis, sweeps: Sequence[Sweep]) -> str:
    """How memory grows along one axis, by implementation; empty where nothing can be said."""
    exponents: dict[str, list[float]] = {}
    seen: list[int] = []
    for sweep in sweeps:
        rows = list(filter(measured, sweep.rows))
        for label in labels(rows):
            points = [
                (float(axis.at(row)), float(row["peak_alloc_bytes"]))
                for row in series(rows, label)
                if _sized(row) and not failed_accuracy(row)
            ]
            exponent = growth(points)
            if exponent is not None:
                exponents.setdefault(label, []).append(exponent)
                seen += [int(place) for place, _ in points]
    alike: dict[tuple[float, float], list[str]] = {}
    for label, found in exponents.items():
        alike.setdefault((round(min(found), 1), round(max(found), 1)), []).append(label)
    if not alike:
        return ""
    parts = [
        f"{listed(names)} {_power(axis.symbol, *ends)}" for ends, names in sorted(alike.items(), reverse=True)
    ]
    terms = axis.terms(sweeps[0].rows[0])
    over = f"{axis.plural} from {min(seen)} to {max(seen)}{f' {terms}' if terms else ''}"
    return f"Over {over}, peak memory grows: {'; '.join(parts)}."


def _power(symbol: str, low: float, high: float) -> str:
    """`like L^2.0`, `like L^1.3 to L^1.4`; `not at all` where it is neither more nor less."""
    if low == high:
        return f"like {symbol}^{low:.1f}" if low else "not at all"
    return f"like {symbol}^{low + 0.0:.1f} to {symbol}^{high + 0.0:.1f}"


def _parts(rows: Sequence[Row], known: Mapping[str, Any]) -> Iterable[Finding]:
    """Of which part the operations are, from the least share to the largest; those of a past with a cache."""
    every = [each.bars[-1] for each in work(rows, known)]
    if not every:
        return
    told = []
    for part in PARTS:
        at: dict[str, list[str]] = {}
        for each in sorted(every, key=lambda each: each.shares.get(part, 0)):
            if part in each.shares:
                at.setdefault(f"{100 * each.shares[part]:.0f}%", []).append(each.name)
        if at:
            (least, _), (most, names) = (list(at.items())[end] for end in (0, -1))
            place = _in_all(names)
            span = least if least == most else f"{least} to {most}{f' (at {place})' if place else ''}"
            told.append(f"{part_text(part)} {span}")
    where = f" of {counted(len(every), 'workload')}" if len(every) > 1 else ""
    yield Finding("work", f"Shares in the floating-point operations{where}: {'; '.join(told)}.")


def _in_all(names: Sequence[str]) -> str:
    """What the names of workloads have in common: `L64` of `L64, pre-norm` and `L64, post-norm`."""
    first, *others = (name.split(", ") for name in names)
    return ", ".join(part for part in first if all(part in other for other in others))


def _cautions(rows: Sequence[Row], known: Mapping[str, Any], asked: Mapping[str, float]) -> Iterable[Finding]:
    sampled = [row for row in rows if measured(row)]
    parts = []
    flagged = [row for row in sampled if flag_text(row)]
    if flagged:
        right = [row for row in flagged if not failed_accuracy(row)]
        first = (right or flagged)[0]
        parts.append(
            f"{counted(len(flagged), 'measurement')} flagged as not to be trusted and can win nothing "
            f"({first['label']} at {workload_label(first, known)}: {shorten(flag_text(first) or '', 200)}"
            f"{'; …' if len(flagged) > 1 else ''})."
        )
        if right:
            parts.append(
                "If the kernel does all of its work, the limits are too low: attnbench doctor --refresh "
                "measures them again, best on an idle machine."
            )
    wide = [row for row in sampled if row.get("converged") is False]
    if wide:
        parts.append(_wide(wide, len(sampled), asked))
    bare = [row for row in sampled if row.get("latency_ci_low_s") is None]
    if bare:
        parts.append(f"{counted(len(bare), 'case')} of {len(sampled)} had too few samples for an interval.")
    if parts:
        yield Finding("caution", " ".join(parts), serious=bool(flagged))


def _wide(wide: Sequence[Row], sampled: int, asked: Mapping[str, float]) -> str:
    """How wide the intervals are, and what narrows them.

    Between processes an interval narrows with the number of processes; more rounds in each of them steady
    the processes' medians, but not what sets the processes apart.
    """
    text = f"The 95% interval of {len(wide)} of {counted(sampled, 'case')} is wider than the precision asked"
    widths = [
        100 * (row["latency_ci_high_s"] - row["latency_ci_low_s"]) / row["latency_median_s"]
        for row in wide
        if row.get("latency_ci_low_s") is not None and row.get("latency_ci_high_s") is not None
    ]
    if widths:
        goals = sorted({asked[row["scenario"]] for row in wide if row.get("scenario") in asked})
        against = f" against {' or '.join(f'{100 * goal:g}%' for goal in goals)} asked" if goals else ""
        text += f" (median width {significant(median(widths), 2)}%{against})"
    if all((row.get("processes") or 1) > 1 for row in wide):
        remedy = "a larger measure.processes narrows it; raise measure.max_seconds alike, which they share"
    else:
        remedy = "a larger measure.max_seconds narrows it"
    return f"{text}: {remedy}."


def findings(
    frame: pd.DataFrame, asked: Mapping[str, float] | None = None, pairs: Pairs | None = None
) -> list[Finding]:
    """What a table says, most important first; one finding of a kind, ten kinds at most.

    The kinds: fastest, kernels, tied, crossover, accuracy, failures, memory, growth, work, caution. Without
    rows, or with nothing measured, it says so. Workloads are told by what is not usual among them (see
    `attnbench.plots.rows.usual`). `asked` is the precision that each scenario asked for, where that is known;
    `pairs` are the samples behind the table, without which fewer cases are told apart.
    """
    rows = [{**row, "label": shorten(row["label"], 64)} for row in rows_of(frame)]
    if not rows:
        return [Finding("nothing", "There is nothing to report: no case was recorded.", serious=True)]
    # The length belongs to a workload's name, even where it is the same in most.
    known = {name: value for name, value in usual(rows).items() if name != "lengths"}
    along = [sweep for sweep in sweeps_of(rows)[0] if sweep.axis.numeric]
    verdicts = [verdict for block in blocks(rows) if (verdict := _judge(block, pairs)) is not None]
    found: list[Finding] = []
    if not any(map(measured, rows)):
        found.append(
            Finding("nothing", "No case was measured: every one failed, see the reasons.", serious=True)
        )
    elif not verdicts:
        found.append(
            Finding("nothing", "No case is both verified and trustworthy: nothing can win.", serious=True)
        )
    found += _fastest(verdicts, known)
    found += _kernels(rows)
    found += _ties(verdicts, known)
    found += _crossovers(along, pairs)
    found += _accuracy(rows, known)
    found += _failures(rows)
    found += _leanest(rows, known)
    found += _growth(along)
    found += _parts(rows, known)
    found += _cautions(rows, known, asked or {})
    return found
