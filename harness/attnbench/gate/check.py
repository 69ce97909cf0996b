"""The gate: deterministic figures first, then times, pair by pair, until each case is decided.

A slow-down counts when two tests in a row find it, the second with fresh zygotes and beside a control: the
base against itself, in the same rounds. What only one of them sees, or the control sees too, is the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from attnbench.blocks import SYSTEM_CLOCKS, Clocks, inspect_block
from attnbench.case import Block, Case
from attnbench.errors import UsageError
from attnbench.gate.arms import open_all
from attnbench.gate.contest import Contest
from attnbench.gate.deterministic import changes, confirmed, doubtful
from attnbench.gate.pairing import Arm, Times
from attnbench.gate.sequential import FAIL, GOES_ON, Rule, beyond
from attnbench.gate.timing import BASE, CONTROL, HEAD, Entry, Test
from attnbench.gate.verdict import CaseVerdict, Change, Latency, Outcome, Report
from attnbench.gate.wording import case_names, sentence
from attnbench.judging import Judge
from attnbench.protocol import BenchSource
from attnbench.record import Record
from attnbench.scenario import Check, Scenario
from attnbench.stats import median
from attnbench.units import counted

__all__ = ["Observer", "Opener", "check", "settings_of"]

#: Opens a fresh source of benches; whoever opens it closes it.
Opener = Callable[[], BenchSource]

#: The share of the budget that the first test may take: repeating a failure takes three processes, not two.
FIRST_SHARE = 0.4


class Observer(Protocol):
    """Hears how a gate gets on."""

    def phase(self, text: str) -> None:
        """What begins now."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Of at most `total` pairs of processes `done` have been played."""
        ...

    def pair(self, case: Case, times: Times) -> None:
        """What one pair gave of one case."""
        ...

    def decided(self, case: Case, outcome: Outcome, text: str) -> None:
        """What became of a case, in words."""
        ...


def check(
    scenario: Scenario,
    blocks: Sequence[Block],
    base: Opener,
    head: Opener,
    *,
    observer: Observer,
    base_title: str = BASE,
    head_title: str = HEAD,
    environment: Sequence[tuple[str, Any, Any]] = (),
    notes: Sequence[str] = (),
    clocks: Clocks = SYSTEM_CLOCKS,
) -> Report:
    """Compare `head` with `base` over the cases of `blocks`, as `scenario.check` has it.

    Both must know all the cases. Threads, cache and seed are those of `scenario.measure`. The titles,
    `environment` (what differs between the arms) and `notes` are passed on.

    Raises:
        UsageError: there is no case that could be compared.
        MeasuringError: no benches can be had.
    """
    cases = [case for block in blocks for case in block.cases]
    if not cases:
        raise UsageError(
            f"{scenario.path}: there is nothing to check, as no case is left of {scenario.name!r}; "
            "`attnbench plan` shows what is left out"
        )
    began = clocks.monotonic()
    gate = _Gate(scenario, [block for block in blocks if block.cases], base, head, observer, clocks)
    verdicts = gate.run()
    return Report(
        scenario=scenario.name,
        outcome=Outcome.worst(each.outcome for each in verdicts),
        base=base_title,
        head=head_title,
        cases=verdicts,
        settings=settings_of(scenario),
        environment=tuple(environment),
        notes=(*notes, *_too_few_pairs(scenario.check, len(cases)), *_not_compared(verdicts)),
        timed_s=gate.timed_s,
        duration_s=clocks.monotonic() - began,
    )


def _too_few_pairs(settings: Check, cases: int) -> list[str]:
    """A note where not even pairs that all agree could decide, for all that alpha and beta allow."""
    fewest = settings.fewest_pairs(cases)
    if not settings.latency or settings.pairs[-1] >= fewest:
        return []
    return [
        f"check.pairs ends at {settings.pairs[-1]}: whether {counted(cases, 'case')} may fail or pass takes "
        f"{fewest} pairs at least, by check.alpha and check.beta; what fewer cannot decide is INCONCLUSIVE."
    ]


def _not_compared(verdicts: Sequence[CaseVerdict]) -> list[str]:
    """A note of the cases that passed since there was nothing to compare."""
    idle = [
        each for each in verdicts if each.base and each.head and each.base.status == each.head.status != "ok"
    ]
    if not idle:
        return []
    return [
        f"{len(idle)} of {counted(len(verdicts), 'case')} passed as they ran in neither arm: not compared."
    ]


def settings_of(scenario: Scenario) -> dict[str, Any]:
    """The settings of `scenario.check` as they were applied: the margin derived, the threads counted."""
    return {
        **scenario.check.model_dump(by_alias=True),
        "margin": scenario.check.tolerated(),
        "threads": scenario.measure.threads_count(),
    }


@dataclass(slots=True, eq=False)
class _CaseRun:
    """What is known of one case so far; `reason` says why a failed test does not count."""

    case: Case
    base: Record
    head: Record
    changes: list[Change]
    first: Entry | None = None
    again: Entry | None = None
    reason: str | None = None
    told: bool = False

    @property
    def outcome(self) -> Outcome:
        latency = self.latency()
        found = [change.outcome for change in self.changes]
        return Outcome.worst([*found, *([latency.outcome] if latency else [])])

    @property
    def suspect(self) -> bool:
        """Whether its first test failed, and nothing deterministic did."""
        found = Outcome.worst(change.outcome for change in self.changes)
        return self.first is not None and self.first.contest.verdict == FAIL and found is not Outcome.FAIL

    def latency(self) -> Latency | None:
        if self.first is None or not self.first.contest.pairs or self.first.refuted:
            return None
        contest, again = self.first.contest, self.again
        ratio, interval = contest.ratio()
        series = contest.series()
        doubtful = series.verdict is Outcome.FAIL and self.reason is not None
        return Latency(
            outcome=Outcome.INCONCLUSIVE if doubtful else series.verdict,
            reason=self.reason,
            ratio=ratio,
            interval=interval,
            base_s=median(contest.first_s),
            head_s=median(contest.second_s),
            first=series,
            again=again.contest.series() if again else None,
            control=again.control.series() if again and again.control else None,
        )


class _Gate:
    """One gate."""

    def __init__(
        self,
        scenario: Scenario,
        blocks: Sequence[Block],
        base: Opener,
        head: Opener,
        observer: Observer,
        clocks: Clocks,
    ) -> None:
        self.scenario = scenario
        self.settings = scenario.check
        self.blocks = blocks
        self.openers = {BASE: base, HEAD: head, CONTROL: base}
        self.observer = observer
        self.clocks = clocks
        self.names = case_names([case for block in blocks for case in block.cases])
        self.runs: dict[str, _CaseRun] = {}
        self.timed_s = 0.0

    def run(self) -> tuple[CaseVerdict, ...]:
        with self._opened(BASE, HEAD) as sources:
            self._inspect(sources)
            if self.settings.latency:
                self._time(sources)
        self._look_again()
        self._time_again()
        return tuple(self._concluded(run) for run in self.runs.values())

    # Where benches come from

    @contextmanager
    def _opened(self, *arms: str) -> Iterator[dict[str, BenchSource]]:
        """A fresh source for each of `arms`, all of them closed in the end."""
        # All are waited for here: that they import their libraries is no part of timing.
        sources = open_all([self.openers[arm] for arm in arms])
        with ExitStack() as stack:
            for source in sources:
                stack.enter_context(closing(source))
            yield dict(zip(arms, sources, strict=True))

    def _judge(self, source: BenchSource) -> Judge:
        measure = self.scenario.measure
        deadline_s = self.scenario.limits.seconds_per_case
        return Judge(source, measure.seed, measure.threads_count(), deadline_s, self.clocks.monotonic)

    # What needs no statistics

    def _inspect(self, sources: Mapping[str, BenchSource]) -> None:
        for block in self.blocks:
            self.observer.phase(f"memory and errors of {block.block_id}")
            records = self._records(block, sources)
            for case in block.cases:
                base, head = records[BASE][case.case_id], records[HEAD][case.case_id]
                self.runs[case.case_id] = _CaseRun(case, base, head, changes(base, head, self.settings))
        if not any("ok" in (run.base.status, run.head.status) for run in self.runs.values()):
            reasons = dict.fromkeys(f"{run.head.status}: {run.head.reason}" for run in self.runs.values())
            raise UsageError(
                f"{self.scenario.path}: nothing was checked, as no case can be measured in either arm "
                f"({'; '.join(reasons)}); choose implementations, devices or workloads that run here"
            )

    def _records(self, block: Block, sources: Mapping[str, BenchSource]) -> dict[str, dict[str, Record]]:
        return {
            arm: {
                record.case_id: record
                for record in inspect_block(self.scenario, block, source, clocks=self.clocks)
            }
            for arm, source in sources.items()
        }

    def _look_again(self) -> None:
        """What changed so that it is not timed must do so in fresh processes: memory may be short once."""
        doubted = {
            run.case.case_id
            for run in self.runs.values()
            if run.first is None and any(map(doubtful, run.changes))
        }
        if not doubted:
            return
        self.observer.phase(f"looking again at {counted(len(doubted), 'changed case')}")
        with self._opened(BASE, HEAD) as sources:
            for block in self.blocks:
                cases = tuple(case for case in block.cases if case.case_id in doubted)
                if not cases:
                    continue
                records = self._records(replace(block, cases=cases, anchor=None), sources)
                for case in cases:
                    again = changes(records[BASE][case.case_id], records[HEAD][case.case_id], self.settings)
                    run = self.runs[case.case_id]
                    run.changes = confirmed(run.changes, again)

    # Times

    def _rule(self, cases: int) -> Rule:
        settings = self.settings
        return Rule(settings.gate, settings.tolerated(), settings.alpha, settings.beta, settings.pairs, cases)

    def _groups(self, chosen: Sequence[_CaseRun]) -> list[list[_CaseRun]]:
        """`chosen`, block by block."""
        wanted = {run.case.case_id for run in chosen}
        groups = [[case.case_id for case in block.cases if case.case_id in wanted] for block in self.blocks]
        return [[self.runs[case_id] for case_id in group] for group in groups if group]

    def _time(self, sources: Mapping[str, BenchSource]) -> None:
        """The first test, of all that run in both arms and have not failed yet."""
        timed = [
            run
            for run in self.runs.values()
            if run.base.status == run.head.status == "ok" and run.outcome is not Outcome.FAIL
        ]
        rule = self._rule(len(timed))
        for run in timed:
            run.first = Entry(run.case, Contest(rule, self.settings.floor))
        if not timed:
            return
        self.observer.phase(f"timing {counted(len(timed), 'case')} in pairs of processes")

        def left(entry: Entry) -> None:
            self._settle(self.runs[entry.case.case_id], entry)

        records = {
            (arm, run.case.case_id): record
            for run in timed
            for arm, record in ((BASE, run.base), (HEAD, run.head))
        }
        groups = [[run.first for run in group if run.first] for group in self._groups(timed)]
        self._play("first", sources, groups, FIRST_SHARE * self.settings.budget, records, left)
        for run in timed:
            if run.first is not None and run.first.waiting:  # the others have left before
                self._settle(run, run.first)

    def _time_again(self) -> None:
        """Does a failure repeat itself, with fresh zygotes, while the base stays as fast as itself?"""
        suspects = [run for run in self.runs.values() if run.suspect]
        if not suspects:
            return
        repeated = counted(len(suspects), "failed test")
        self.observer.phase(f"repeating {repeated} with fresh zygotes, beside a control")
        for run in suspects:
            assert run.first is not None
            rule = run.first.contest.rule
            contests = (Contest(rule, self.settings.floor), Contest(rule, self.settings.floor))
            run.again = Entry(run.case, *contests, calls=run.first.calls)
        groups = [[run.again for run in group if run.again] for group in self._groups(suspects)]
        with self._opened(BASE, HEAD, CONTROL) as sources:
            budget_s = self.settings.budget - self.timed_s
            self._play("again", sources, groups, budget_s, {}, lambda entry: None)
        for run in suspects:
            assert run.again is not None
            self._learn(run, run.again)
            run.reason = self._why_doubtful(run.again)

    def _play(
        self,
        name: str,
        sources: Mapping[str, BenchSource],
        groups: Sequence[Sequence[Entry]],
        budget_s: float,
        records: Mapping[tuple[str, str], Record],
        left: Callable[[Entry], None],
    ) -> None:
        test = Test(
            name=name,
            arms=[Arm(arm, self._judge(source)) for arm, source in sources.items()],
            groups=groups,
            measure=self.scenario.measure,
            budget_s=budget_s,
            clocks=self.clocks,
            records=records,
            paired=self.observer.pair,
            left=left,
            progressed=self.observer.progress,
        )
        try:
            test.run()
        finally:
            self.timed_s += test.spent_s

    def _settle(self, run: _CaseRun, entry: Entry) -> None:
        """What a first test has come to."""
        self._learn(run, entry)
        run.reason = self._why_undecided(entry)
        if run.reason is not None and run.latency() is None:
            run.changes.append(Change("latency", Outcome.INCONCLUSIVE, f"not timed: {run.reason}"))
        if not run.suspect:
            self._tell(run)

    def _learn(self, run: _CaseRun, entry: Entry) -> None:
        """What timing has shown besides times: a case that breaks, or returns what it remembers."""
        for arm, why in entry.refuted.items():
            outcome, text = Outcome.PASS, f"what was timed of the {arm} is wrong: {why}"
            if arm == HEAD and BASE not in entry.refuted:
                outcome = Outcome.FAIL if self.settings.error else Outcome.INCONCLUSIVE
            if outcome is not Outcome.FAIL:
                text += "; times are not compared"
            run.changes.append(Change("accuracy", outcome, text))
        if entry.broken:
            last = entry.breakdowns[-1].failure
            arms = dict.fromkeys(each.arm for each in entry.breakdowns)
            # Both arms are in memory while they are timed; alone the case had room.
            held_against = set(arms) == {HEAD} and last.status != "oom"
            outcome = Outcome.FAIL if held_against else Outcome.INCONCLUSIVE
            text = f"the {' and the '.join(arms)} broke while it was timed: {last}"
            run.changes.append(Change("status", outcome, text, "ok", last.status))

    def _why_undecided(self, entry: Entry) -> str | None:
        """Why a first test came to no end; None where it did, or where what broke it is told already."""
        contest = entry.contest
        if contest.verdict != GOES_ON or entry.broken or entry.refuted:
            return None
        if not contest.open:
            return "undecided after all pairs: too much noise for this gate, or a change close to it"
        if not entry.waiting:
            return f"{entry.idle} pairs in a row gave no round that could be kept"
        return (
            f"undecided when {FIRST_SHARE:.0%} of check.budget ({self.settings.budget:g} s) were spent, the "
            "rest being kept for repeating failures: raise it"
        )

    def _why_doubtful(self, again: Entry) -> str | None:
        """Why a failure does not count; None where it was found again and the control is clean."""
        contest, control = again.contest, again.control
        assert control is not None
        if contest.verdict != FAIL:
            found = f"({contest.slower} of {contest.pairs} pairs)"
            if again.broken:
                return f"it broke before it could fail again with fresh zygotes {found}"
            if again.waiting:
                spent = f"check.budget ({self.settings.budget:g} s) was spent"
                return f"{spent} before it could fail again with fresh zygotes {found}: raise it"
            return f"it did not fail again with fresh zygotes {found}"
        far = [beyond(d, own) for d, own in zip(contest.d, control.d, strict=True)]
        if control.differs and contest.rule.decide(far)[0] != FAIL:
            return "the base differed from itself as much at the same time: the machine, not the change"
        return None

    # Conclusions

    def _tell(self, run: _CaseRun) -> None:
        if not run.told:
            run.told = True
            self.observer.decided(run.case, run.outcome, self._sentence(run))

    def _sentence(self, run: _CaseRun) -> str:
        name = self.names[run.case.case_id]
        return sentence(name, run.outcome, run.changes, run.latency(), self.settings)

    def _concluded(self, run: _CaseRun) -> CaseVerdict:
        self._tell(run)
        return CaseVerdict(
            case=run.case,
            outcome=run.outcome,
            text=self._sentence(run),
            changes=tuple(run.changes),
            latency=run.latency(),
            base=run.base,
            head=run.head,
        )
