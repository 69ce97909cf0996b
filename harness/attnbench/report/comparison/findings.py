"""What a comparison comes to, in words: first what makes the runs unlike, then what became of the cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from statistics import median

from attnbench import environment
from attnbench.compare.case import LATENCY, SPEEDUP, CaseComparison, Ratio, Verdict
from attnbench.compare.comparison import Against
from attnbench.compare.machine import arrow
from attnbench.compare.naming import naming
from attnbench.plots.plot import listed
from attnbench.plots.rows import Row, clean, shorten
from attnbench.report.findings import Finding
from attnbench.units import format_ratio, significant

__all__ = ["DRIFT", "cautions", "findings"]

#: What is always to be said of runs that were not measured side by side.
DRIFT = (
    "The runs were not measured side by side. Intervals hold what differs between the processes of either "
    "run; how the machine has drifted from one run to the other is in none of them. To decide whether "
    "something became slower, measure both at once: attnbench check."
)

#: What it means that a setting differs.
_MEANING: Mapping[str, str] = {
    "threads": "kernels had different numbers of threads, which is in every latency",
    "malloc": "freed memory is kept or given back, so that kernels that allocate differ by page faults",
    "cache": "warm and cold calls are different quantities",
    "cuda_graph": "replays of a graph leave out launching, which calls have",
    "seed": "errors are of other inputs, and masks that are drawn (padding, document) have other lengths",
}

#: With fewer cases in one direction nothing is said of the machine.
_MANY = 6

#: A share of the cases in one direction, and a median shift, that look like the machine's.
_MOST, _SHIFT = 0.8, 0.02


def cautions(against: Against) -> list[Finding]:
    """What makes the two runs unlike and changes what is measured: to be said first, and loudly."""
    return [
        *_machines(against),
        *_conditions(against),
        *_variables(against),
        *_continued(against),
    ]


def findings(against: Against) -> list[Finding]:
    """What became of the cases: verdicts, memory, error, what changed, appeared or disappeared."""
    return [
        *_verdicts(against),
        *_common_shift(against),
        *_exact(against, "memory", "peak memory", lambda case: case.peak_alloc, 1.01),
        *_exact(against, "error", "error", lambda case: case.error_rel_l2, 1.5),
        *_changes(against),
        *_presence(against),
        Finding("drift", DRIFT),
    ]


def _machines(against: Against) -> list[Finding]:
    found = []
    kinds: dict[str, list[CaseComparison]] = {}
    for case in against.both:
        if case.elsewhere is not None:
            kinds.setdefault(case.elsewhere, []).append(case)
    for what, cases in kinds.items():
        lost = sum(case.speedup.value is None for case in cases)
        text = (
            f"Measured on different machines ({clean(what)}). {_of(len(cases), against)} compared by the "
            "speed-up over the anchor of the same workload on the same machine, and not by latency."
        )
        if lost:
            text += f" {_number(lost)} without it in one run or both, so nothing is said of the time."
        found.append(Finding("machines", text, serious=True))
    if not found and any(side.environment.get("cpu") is None for side in (against.before, against.after)):
        found.append(
            Finding(
                "machines", "A run does not say on what machine it was measured; taken for the same.", True
            )
        )
    return found


def _of(number: int, against: Against) -> str:
    """`All cases are`, `12 of 40 cases are`."""
    total = len(against.both)
    if number == total:
        return "All cases are" if total > 1 else "The case is"
    return f"{number} of {total} cases {'is' if number == 1 else 'are'}"


def _number(number: int) -> str:
    return f"{number} case is" if number == 1 else f"{number} cases are"


def _conditions(against: Against) -> list[Finding]:
    counts = Counter(each for case in against.both for each in case.conditions)
    total = len(against.both)
    found = []
    for (name, a, b), number in counts.items():
        of = "" if number == total else f" ({number} of {total} cases)"
        text = f"Different {name}: {clean(arrow(a, b))}{of}: {_MEANING[name]}."
        found.append(Finding("conditions", text, serious=True))
    return found


def _variables(against: Against) -> list[Finding]:
    silent = [
        clean(run.name)
        for run in (against.before, against.after)
        if run.environment and "inherited_variables" not in run.environment
    ]
    if silent:
        text = (
            f"Of {listed(silent)} it is not known which variables reached the kernels: earlier versions did "
            "not note them. Some, such as OPENBLAS_CORETYPE, change how fast kernels are."
        )
        return [Finding("variables", text, serious=True)]
    prefix = "inherited_variables."
    told = [
        f"{key.removeprefix(prefix)}: {arrow(a, b)}"
        for key, a, b in against.environment
        if key.startswith(prefix)
    ]
    if not told:
        return []
    text = f"Variables that change how fast kernels are differ: {clean(listed(told, 6))}."
    return [Finding("variables", text, serious=True)]


def _continued(against: Against) -> list[Finding]:
    """Runs that were gone on with under another environment than they were begun in."""
    found = []
    for run in (against.before, against.after):
        resumed = run.header.get("resumed") or ()
        others = [each["environment"] for each in resumed if _has_environment(each)]
        keys = dict.fromkeys(
            key for other in others for key, _, _ in environment.differences(run.environment, other)
        )
        if keys:
            text = (
                f"{clean(run.name)} was gone on with in another environment: {listed(map(clean, keys), 6)}."
            )
            found.append(Finding("continued", text, serious=True))
    return found


def _has_environment(continuation: object) -> bool:
    return isinstance(continuation, Mapping) and isinstance(continuation.get("environment"), Mapping)


def _verdicts(against: Against) -> list[Finding]:
    counts = [
        f"{number} {'with ' if verdict is Verdict.SAME else ''}{verdict}"
        for verdict in (Verdict.SLOWER, Verdict.FASTER, Verdict.SAME, Verdict.NOT_COMPARABLE)
        if (number := against.count(verdict))
    ]
    total = len(against.both)
    text = f"Of {total} case{'' if total == 1 else 's'} in both runs: {listed(counts)}."
    judged = total - against.count(Verdict.NOT_COMPARABLE)
    if judged > 1:
        text += (
            f" Each interval is a 95% one, so if nothing had changed about {significant(judged / 20, 1)} of "
            f"{judged} would be told apart by chance."
        )
    found = [Finding("verdicts", text)]
    where = naming([against])
    for verdict in (Verdict.SLOWER, Verdict.FASTER):
        cases = [case for case in against.both if case.verdict is verdict and case.deciding.value]
        cases.sort(key=lambda case: _badness(case), reverse=verdict is Verdict.SLOWER)
        told = [f"{_named(case, where)} {_with_interval(case.deciding)}" for case in cases]
        by = " by speed-up over the anchor" if all(case.by == SPEEDUP for case in cases) else ""
        if told:
            found.append(Finding(str(verdict), f"{verdict.capitalize()}{by}: {listed(told, 5)}."))
    return found


def _badness(case: CaseComparison) -> float:
    """The ratio that the verdict goes by, as one of times."""
    value = case.deciding.value or 1.0
    return 1 / value if case.by == SPEEDUP else value


def _named(case: CaseComparison, where: Callable[[Row], str]) -> str:
    """`sdpa at L512, causal`."""
    row = case.either.row
    return f"{shorten(row['label'], 40)} at {shorten(where(row), 60)}"


def _with_interval(ratio: Ratio) -> str:
    if ratio.interval is None:
        return format_ratio(ratio.value)
    ends = f"[{significant(ratio.interval.low)}, {significant(ratio.interval.high)}]"
    return f"{format_ratio(ratio.value)} {ends}"


def _common_shift(against: Against) -> list[Finding]:
    """Where nearly all cases moved together, it was hardly the kernels, each for itself."""
    cases = [
        case
        for case in against.both
        if case.by == LATENCY and case.latency.value and case.verdict is not Verdict.NOT_COMPARABLE
    ]
    values = [case.latency.value for case in cases if case.latency.value]
    if len(values) < _MANY:
        return []
    centre = median(values)
    together = sum((value > 1) == (centre > 1) for value in values)
    if together < _MOST * len(values) or abs(centre - 1) < _SHIFT:
        return []
    way = "slower" if centre > 1 else "faster"
    text = (
        f"{together} of {len(values)} cases are {way}, by {format_ratio(centre)} in the median. What moves "
        "nearly all cases alike is the machine, a library or a setting rather than one kernel"
    )
    speedups = [
        case.speedup.value for case in cases if case.speedup.value and case.speedup.interval is not None
    ]
    if speedups:
        text += (
            "; their speed-ups over the anchor, in which that has no part, changed by "
            f"{format_ratio(median(speedups))} in the median"
        )
    return [Finding("shift", f"{text}.", serious=True)]


def _exact(
    against: Against, kind: str, what: str, of: Callable[[CaseComparison], Ratio], least: float
) -> list[Finding]:
    """Which cases have more or less of a figure, by more than the factor `least`."""
    where = naming([against])
    more: list[tuple[float, str]] = []
    less: list[tuple[float, str]] = []
    for case in against.both:
        ratio = of(case)
        if ratio.note == "from 0":
            more.append((float("inf"), f"{_named(case, where)} from 0"))
        elif ratio.value is not None and ratio.value > least:
            more.append((ratio.value, f"{_named(case, where)} {format_ratio(ratio.value)}"))
        elif ratio.value is not None and ratio.value * least < 1:
            less.append((-ratio.value, f"{_named(case, where)} {format_ratio(ratio.value)}"))
    found = []
    for way, cases in (("More", more), ("Less", less)):
        if cases:
            told = [text for _, text in sorted(cases, key=lambda each: -each[0])]
            number = f"{len(cases)} case{'' if len(cases) == 1 else 's'}"
            found.append(Finding(kind, f"{way} {what} in {number}: {listed(told, 4)}."))
    return found


def _changes(against: Against) -> list[Finding]:
    where = naming([against])
    groups: dict[str, list[str]] = {}
    for case in against.both:
        for change in case.changes:
            groups.setdefault(change, []).append(_named(case, where))
    return [
        Finding("changes", f"{change[0].upper()}{change[1:]}: {listed(names, 5)}.", _is_worse(change))
        for change, names in groups.items()
    ]


def _is_worse(change: str) -> bool:
    return change.startswith(("status: ok →", "accuracy: pass → fail", "flagged: no →"))


def _presence(against: Against) -> list[Finding]:
    where = naming([against], alone=True)
    found = []
    for verdict, run in ((Verdict.GONE, against.before), (Verdict.NEW, against.after)):
        names = [_named(case, where) for case in against.cases if case.verdict is verdict]
        if names:
            number = f"{len(names)} case{'' if len(names) == 1 else 's'}"
            text = f"{number} {verdict}, in {clean(run.name)} alone: {listed(names, 5)}."
            found.append(Finding("presence", text))
    if against.renamed:
        text = f"{_number(against.renamed)} matched by case id, since the scenarios have other names."
        found.append(Finding("renamed", text))
    return found
