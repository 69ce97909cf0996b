"""A stored run as the base: what does not depend on a clock is judged by it; its times only inform.

A time is comparable with one that was measured beside it, in the same job, on the same machine. A peak of
memory, a verdict and an error of the same inputs are comparable with those of last month.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from attnbench import stats
from attnbench.blocks import SYSTEM_CLOCKS, Clocks, inspect_block, measure_block
from attnbench.case import Block, Variant
from attnbench.errors import UsageError
from attnbench.gate.check import Observer, Opener
from attnbench.gate.deterministic import changes, confirmed
from attnbench.gate.verdict import CaseVerdict, Change, Outcome, Report
from attnbench.gate.wording import case_names, sentence
from attnbench.record import Record
from attnbench.scenario import Scenario
from attnbench.scenario.names import join
from attnbench.store import Run
from attnbench.units import format_seconds

__all__ = ["INFORMATION_ONLY", "Baseline", "check_against", "time_of"]

#: So many cases are named in a message; the others are counted.
MOST_NAMED = 5

#: Said of every comparison of times with stored ones.
INFORMATION_ONLY = (
    "Times are told for information and block nothing: those of the baseline were measured at another time, "
    "on a machine in another state. `--base` compares times."
)


@dataclass(frozen=True, slots=True)
class Baseline:
    """The records of a stored run that a scenario's cases are judged by, and how they were measured.

    `records` are by case id; `threads` is with how many the head must be measured for its memory to be
    comparable, None where nobody knows; `notes` say where that had to be guessed.
    """

    title: str
    records: Mapping[str, Record]
    threads: int | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, run: Run, scenario: Scenario) -> Baseline:
        """What `run` holds of `scenario`: of the scenario of that name, or of all that it holds.

        Raises:
            UsageError: it holds no records, two of one case, or records of other inputs (another seed).
        """
        named = [record for record in run.records if record.scenario == scenario.name]
        records = named or list(run.records)
        if not records:
            raise UsageError(
                f"--baseline: {run.path} holds no records; measure one with: attnbench sweep {scenario.name}"
            )
        by_id = {record.case_id: record for record in records}
        if len(by_id) < len(records):
            names = join(sorted({record.scenario for record in records}))
            raise UsageError(
                f"--baseline: {run.path} holds no scenario {scenario.name!r}, and of those that it holds "
                f"({names}) several have the same cases; say which is meant: --set name=…"
            )
        _require_seed(run, scenario, records)
        threads, notes = _threads(run, scenario, records)
        started_at = str(run.header.get("started_at") or records[0].started_at)
        return cls(f"{run.path} of {started_at}", by_id, threads, notes)

    def require_same_cases(
        self, scenario: Scenario, blocks: Sequence[Block], *, chosen: bool = False, reshaped: bool = False
    ) -> None:
        """Check that the cases of `blocks` are those of the baseline.

        Where the command line asks for a part, only that part must be the same: with `chosen`, the listed
        implementations on the listed devices; with `reshaped` (another matrix) the cases of `blocks` need
        only be among those of the baseline.

        Raises:
            UsageError: cases are on one side only, or none was measured in the baseline.
        """
        asked = {case.case_id: case for block in blocks for case in block.cases}
        missing = [case_id for case_id in asked if case_id not in self.records]
        if missing:
            raise UsageError(
                f"--baseline: {self.title} lacks {_of(len(missing), len(asked))} of {scenario.name!r}: "
                f"{join(missing, MOST_NAMED)}. A case without a base "
                "is no pass: narrow what is checked with --impl, --device or --set, or measure a new "
                f"baseline with: attnbench sweep {scenario.path}"
            )
        listed = {(variant, device) for variant in scenario.implementations for device in scenario.devices}
        gone = [
            case_id
            for case_id, record in self.records.items()
            if case_id not in asked
            and not reshaped
            and not (
                chosen and (Variant.of(record.implementation, record.options), record.device) not in listed
            )
        ]
        if gone:
            raise UsageError(
                f"--baseline: {scenario.name!r} lacks {_of(len(gone), len(self.records))} of {self.title}: "
                f"{join(gone, MOST_NAMED)}. A case that disappeared is no pass: put "
                "it back, say with --impl, --device or --set that a part is checked, or measure a new "
                f"baseline with: attnbench sweep {scenario.path}"
            )
        if not any(self.records[case_id].status == "ok" for case_id in asked):
            statuses = Counter(self.records[case_id].status for case_id in asked)
            told = ", ".join(f"{number} {status}" for status, number in statuses.items())
            raise UsageError(
                f"--baseline: nothing to check: of the cases asked for, none was measured in {self.title} "
                f"({told or 'there are none'}); take a run in which they were"
            )


def time_of(record: Record | None) -> stats.Estimate | None:
    """The median seconds of a call, with its interval, that a record's samples tell; None without any."""
    if record is None or record.status != "ok":
        return None
    return stats.hierarchical_interval([each.per_call_s for each in record.processes if each.rounds])


def check_against(
    scenario: Scenario,
    blocks: Sequence[Block],
    baseline: Baseline,
    head: Opener,
    *,
    observer: Observer,
    head_title: str,
    environment: Sequence[tuple[str, Any, Any]] = (),
    notes: Sequence[str] = (),
    clocks: Clocks = SYSTEM_CLOCKS,
) -> Report:
    """Judge statuses, verdicts, errors and peaks of memory of `head` by `baseline`; times are only told.

    `baseline` holds all cases of `blocks` (`Baseline.require_same_cases`). What fails is looked at once more
    with fresh processes, and is inconclusive when it does not fail again. Times are measured as in a sweep,
    and not at all where `scenario.check.latency` is off.

    Raises:
        UsageError: this machine lacks what all cases need.
        MeasuringError: no benches can be had.
    """
    began = clocks.monotonic()
    cases = [case for block in blocks for case in block.cases]
    names = case_names(cases)
    heads: dict[str, Record] = {}

    def compared(case_id: str) -> list[Change]:
        return changes(baseline.records[case_id], heads[case_id], scenario.check)

    def measured(what: str, wanted: Iterable[Block], look: Callable[..., list[Record]]) -> None:
        with closing(head()) as source:
            observer.phase(what)
            for block in wanted:
                heads.update((each.case_id, each) for each in look(scenario, block, source, clocks=clocks))

    timed = scenario.check.latency
    measured(
        "measuring the head as a sweep does" if timed else "looking at memory and errors of the head",
        blocks,
        measure_block if timed else inspect_block,
    )
    _require_something(heads, baseline)
    found = {case.case_id: compared(case.case_id) for case in cases}
    failed = {case_id for case_id, of_case in found.items() if _outcome(of_case) is Outcome.FAIL}
    if failed:
        first = dict(heads)
        several = "cases" if len(failed) > 1 else "case"
        measured(
            f"repeating {len(failed)} failed {several} with fresh processes",
            _narrowed(blocks, failed),
            inspect_block,
        )
        for case_id in failed:
            found[case_id] = confirmed(found[case_id], compared(case_id))
        heads.update({case_id: first[case_id] for case_id in failed})
    verdicts = []
    for case in cases:
        outcome = _outcome(found[case.case_id])
        base, now = baseline.records[case.case_id], heads[case.case_id]
        told = sentence(names[case.case_id], outcome, found[case.case_id], None, scenario.check)
        text = f"{told}{_times(base, now)}"
        verdicts.append(
            CaseVerdict(case, outcome, text, tuple(found[case.case_id]), latency=None, base=base, head=now)
        )
        observer.decided(case, outcome, text)
    return Report(
        scenario=scenario.name,
        outcome=Outcome.worst(each.outcome for each in verdicts),
        base=baseline.title,
        head=head_title,
        cases=tuple(verdicts),
        settings={
            "memory": scenario.check.memory,
            "error": scenario.check.error,
            "threads": scenario.measure.threads_count(),
            "seed": scenario.measure.seed,
        },
        environment=tuple(environment),
        notes=(*notes, *baseline.notes, *([INFORMATION_ONLY] if timed else [])),
        timed_s=0.0,  # no time was judged
        duration_s=clocks.monotonic() - began,
    )


def _require_something(heads: Mapping[str, Record], baseline: Baseline) -> None:
    """Check that not all of the head's cases lack what this machine does not have: that tells of no change.

    Raises:
        UsageError: they do.
    """
    if any(record.status != "unavailable" for record in heads.values()):
        return
    reasons = join(dict.fromkeys(record.reason or "no reason given" for record in heads.values()), MOST_NAMED)
    raise UsageError(
        f"--baseline: nothing was judged, since none of the cases can be measured here ({reasons}); check "
        f"them on a machine like that of {baseline.title}, or others with --device"
    )


def _outcome(found: Sequence[Change]) -> Outcome:
    return Outcome.worst(change.outcome for change in found)


def _narrowed(blocks: Sequence[Block], wanted: set[str]) -> list[Block]:
    """The blocks with the wanted cases alone."""
    kept = [
        replace(block, cases=tuple(case for case in block.cases if case.case_id in wanted))
        for block in blocks
    ]
    return [block for block in kept if block.cases]


def _times(base: Record, head: Record) -> str:
    """`; 1.20 ms, 1.11 ms in the baseline`, as far as both are known."""
    now, before = time_of(head), time_of(base)
    if now is None or before is None:
        return ""
    return f"; {format_seconds(now.value)}, {format_seconds(before.value)} in the baseline"


def _of(number: int, total: int) -> str:
    return f"{number} of the {total} cases"


def _require_seed(run: Run, scenario: Scenario, records: Iterable[Record]) -> None:
    seeds = sorted({record.seed for record in records})
    if seeds != [scenario.measure.seed]:
        raise UsageError(
            f"--baseline: {run.path} was measured on other inputs: with seed {join(seeds)}, while "
            f"{scenario.name!r} has measure.seed {scenario.measure.seed}; errors of other inputs are not "
            f"comparable: give --set measure.seed={seeds[0]}, or measure a new baseline with: "
            f"attnbench sweep {scenario.path} --set measure.seed={scenario.measure.seed}"
        )


def _threads(run: Run, scenario: Scenario, records: Sequence[Record]) -> tuple[int | None, tuple[str, ...]]:
    """With how many threads to measure what `records` are compared with, and what must be said of that."""
    counts = Counter(record.threads for record in records if record.threads is not None)
    unknown = len(records) - counts.total()
    alone = "peaks of memory may differ by that alone"
    if not counts:
        said = (run.header.get("environment") or {}).get("threads")
        if isinstance(said, int):
            return said, (
                f"The records of {run.path} do not say with how many threads they were measured: {said} is "
                "what its run.json says, and what was taken here.",
            )
        return None, (
            f"Nothing says with how many threads {run.path} was measured: check.threads "
            f"({scenario.check.threads}) was taken here; {alone}.",
        )
    threads = counts.most_common(1)[0][0]
    others = [f"{number} with {count}" for count, number in counts.items() if count != threads]
    others += [f"{unknown} with a number that is not known"] if unknown else []
    if not others:
        return threads, ()
    return threads, (
        f"The records of {run.path} were measured with different numbers of threads ({counts[threads]} with "
        f"{threads}, {', '.join(others)}): {threads} were taken here for all; {alone}.",
    )
