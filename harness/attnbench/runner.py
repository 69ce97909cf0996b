"""Sweeps: block after block, verb by verb, until every case has its record.

All that needs judgement is here and in `rounds` and `sampling`; the benches only do what they are told.
A kernel may crash, hang, run out of memory or lie: its case becomes a row that says so, and the others of
its block are measured all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from time import monotonic
from typing import Any, Protocol, cast

from attnbench import stats
from attnbench.case import Block, Case
from attnbench.protocol import (
    AccuracyReply,
    Bench,
    BenchFailed,
    BenchLost,
    BenchSource,
    MemoryReply,
    PrepareReply,
)
from attnbench.record import ProcessSamples, Record
from attnbench.rounds import Entrant, play
from attnbench.sampling import Pace, PrecisionOrBudget
from attnbench.scenario import Scenario
from attnbench.store import RunWriter

__all__ = ["Observer", "budget_s", "measure_block", "sweep"]

#: Rounds that every process plays, whatever they cost: with three or more processes that is an interval.
LEAST_ROUNDS = 2

#: A single process plays at least as many rounds as an interval needs.
LEAST_ROUNDS_ALONE = stats.FEWEST_FOR_INTERVAL

#: What starting a bench and preparing one case in it is reckoned at when the time left is estimated.
OVERHEAD_S = 0.1


class Observer(Protocol):
    """Hears how a sweep gets on."""

    def sweep_started(self, blocks: int, cases: int, budget_s: float) -> None:
        """So many blocks and cases are to be measured, in at most about `budget_s` seconds."""
        ...

    def block_started(self, block: Block, index: int) -> None:
        """The block number `index` (from 0) of those to be measured begins."""
        ...

    def progress(self, done_s: float, total_s: float) -> None:
        """Of the work reckoned at `total_s` seconds, `done_s` are done."""
        ...

    def block_finished(self, block: Block, records: Sequence[Record]) -> None:
        """The block's records are on disk."""
        ...


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Clocks:
    """The times that a runner reads; tests script them."""

    monotonic: Callable[[], float] = monotonic
    utc_now: Callable[[], str] = _utc_now


def budget_s(scenario: Scenario, block: Block) -> float:
    """Seconds that measuring `block` is reckoned at, at most (but for slow calls and slow preparation)."""
    benches = scenario.measure.processes_on(block.device) + 2
    return len(block.cases) * (scenario.measure.max_seconds + benches * OVERHEAD_S)


def sweep(
    scenarios: Sequence[tuple[Scenario, Sequence[Block]]],
    open_source: Callable[[Scenario], BenchSource],
    writer: RunWriter,
    observer: Observer,
    clocks: Clocks = Clocks(),
) -> None:
    """Measure every block that `writer` does not hold complete, appending its records when it ends.

    Raises:
        MeasuringError: no benches can be had.
        RunError: a record could not be written; those before it are safe.
    """
    todo = [
        (scenario, block)
        for scenario, blocks in scenarios
        for block in blocks
        if not {case.case_id for case in block.cases}
        <= writer.finished.get((scenario.name, block.block_id), frozenset())
    ]
    reckoned = [budget_s(scenario, block) for scenario, block in todo]
    observer.sweep_started(len(todo), sum(len(block.cases) for _, block in todo), sum(reckoned))
    for index, (scenario, block) in enumerate(todo):
        before = sum(reckoned[:index])
        observer.block_started(block, index)
        observer.progress(before, sum(reckoned))

        def progressed(share: float, before: float = before, own: float = reckoned[index]) -> None:
            observer.progress(before + share * own, sum(reckoned))

        source = open_source(scenario)
        attempt = max(writer.attempt_of(scenario.name, case.case_id) for case in block.cases)
        records = measure_block(
            scenario, block, source, attempt=attempt, progressed=progressed, clocks=clocks
        )
        for record in records:
            writer.append(record)
        observer.block_finished(block, records)
    observer.progress(sum(reckoned), sum(reckoned))


def measure_block(
    scenario: Scenario,
    block: Block,
    source: BenchSource,
    *,
    attempt: int = 1,
    progressed: Callable[[float], None] = lambda share: None,
    clocks: Clocks = Clocks(),
) -> list[Record]:
    """One record a case, in the block's order.

    First each case is inspected in a bench of the block (`prepare`, `memory`, `accuracy`), then once more
    with uninitialised memory poisoned; what is still alive is sampled in several fresh benches.

    Raises:
        MeasuringError: no benches can be had.
    """
    return _BlockRun(scenario, block, source, attempt, progressed, clocks).run()


@dataclass(slots=True, eq=False)
class _CaseRun:
    """What is known of one case so far."""

    case: Case
    status: str = "ok"
    reason: str | None = None
    framework: str | None = None
    device_name: str | None = None
    resolved_backend: str | None = None
    first_call_s: float | None = None
    output_bytes: int | None = None
    memory: MemoryReply | None = None
    accuracy: AccuracyReply | None = None
    processes: list[ProcessSamples] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def alive(self) -> bool:
        return self.status == "ok"

    def fail(self, failure: BenchFailed) -> None:
        self.status, self.reason = failure.status, failure.reason

    def refute(self, reason: str | None) -> None:
        """Its answers are wrong, or depend on memory that nobody wrote."""
        assert self.accuracy is not None  # only a case that was inspected can be refuted
        self.accuracy = {
            **self.accuracy,
            "accuracy": "fail",
            "reason": self.accuracy["reason"] or reason,
        }


class _BlockRun:
    """One measuring of one block."""

    def __init__(
        self,
        scenario: Scenario,
        block: Block,
        source: BenchSource,
        attempt: int,
        progressed: Callable[[float], None],
        clocks: Clocks,
    ) -> None:
        self.scenario = scenario
        self.measure = scenario.measure
        self.deadline_s = scenario.limits.seconds_per_case
        self.block = block
        self.source = source
        self.attempt = attempt
        self.progressed = progressed
        self.clocks = clocks
        self.runs = {case.case_id: _CaseRun(case) for case in block.cases}
        self.processes = self.measure.processes_on(block.device)

    def run(self) -> list[Record]:
        started_at = self.clocks.utc_now()
        steps = self.processes + 2
        self._in_turn(self._inspect, _CaseRun.fail)
        self.progressed(1 / steps)
        self._in_turn(self._poison, self._cannot_stand_poison)
        self.progressed(2 / steps)
        for process in range(self.processes):
            self._sample(process)
            self.progressed((process + 3) / steps)
        return [self._record(run, started_at) for run in self.runs.values()]

    # Verbs

    def _request(self, bench: Bench, verb: str, run: _CaseRun, **parameters: Any) -> dict[str, Any]:
        began = self.clocks.monotonic()
        try:
            return bench.request(verb, {"case": run.case.case_id, **parameters}, self.deadline_s)
        finally:
            run.duration_s += self.clocks.monotonic() - began

    def _prepare(self, bench: Bench, run: _CaseRun, *, poisoned: bool = False) -> PrepareReply:
        reply = self._request(
            bench,
            "prepare",
            run,
            implementation=run.case.variant.implementation,
            options=dict(run.case.variant.options),
            workload=run.case.workload.to_json(),
            device=run.case.device,
            seed=self.measure.seed,
            threads=self.measure.threads_count(),
            poisoned=poisoned,
        )
        return cast(PrepareReply, reply)

    @contextmanager
    def _bench(self) -> Iterator[Bench]:
        bench = self.source.bench()
        try:
            yield bench
        finally:
            bench.close()

    def _in_turn(
        self,
        examine: Callable[[Bench, _CaseRun], None],
        failed: Callable[[_CaseRun, BenchFailed], None],
    ) -> None:
        """`examine` each live case in one bench, or in as many as it takes."""
        waiting = [run for run in self.runs.values() if run.alive]
        while waiting:
            with self._bench() as bench:
                while waiting:
                    run = waiting.pop(0)
                    try:
                        examine(bench, run)
                    except BenchFailed as failure:
                        failed(run, failure)
                        if isinstance(failure, BenchLost):
                            break

    def _inspect(self, bench: Bench, run: _CaseRun) -> None:
        """All that needs no repetition: does it run, how much memory does it take, how wrong is it?"""
        prepared = self._prepare(bench, run)
        run.framework = prepared["framework"]
        run.device_name = prepared["device_name"]
        run.resolved_backend = prepared["resolved_backend"]
        run.first_call_s = prepared["first_call_s"]
        run.output_bytes = prepared["output_bytes"]
        run.memory = cast(MemoryReply, self._request(bench, "memory", run))
        run.accuracy = cast(AccuracyReply, self._request(bench, "accuracy", run))
        self._request(bench, "release", run)

    def _poison(self, bench: Bench, run: _CaseRun) -> None:
        """Does the kernel leave part of its output unwritten, or compute with memory it never wrote?"""
        self._prepare(bench, run, poisoned=True)
        reply = self._request(bench, "accuracy", run)
        if reply["accuracy"] == "fail":
            run.refute(reply["reason"])
        self._request(bench, "release", run)

    def _cannot_stand_poison(self, run: _CaseRun, failure: BenchFailed) -> None:
        # It ran before: what it cannot stand is the contents of memory that it never wrote.
        run.refute(f"with uninitialised memory filled with NaN: {failure.status}: {failure.reason}")

    # Sampling

    def _sample(self, process: int) -> None:
        """One process's rounds, in one bench, or in as many as it takes."""
        rng = Random(f"{self.measure.seed}/{self.scenario.name}/{self.block.block_id}/{process}")
        share_s = self.measure.max_seconds / self.processes
        pace = Pace(budget_s=share_s, deadline_s=self.deadline_s, cache=self.measure.cache)
        stop = PrecisionOrBudget(
            precision=self.measure.precision,
            budget_s=share_s,
            least_rounds=LEAST_ROUNDS_ALONE if self.processes == 1 else LEAST_ROUNDS,
        )
        waiting = [case_id for case_id, run in self.runs.items() if run.alive]
        while waiting:
            with self._bench() as bench:
                # The order in which cases take their memory is drawn anew for every process.
                entrants, lost = self._enter(bench, rng.sample(waiting, len(waiting)))
                if lost:
                    waiting = [case_id for case_id in waiting if self.runs[case_id].alive]
                    continue
                outcome = play(entrants, pace=pace, stop=stop, rng=rng, clock=self.clocks.monotonic)
                self._keep(bench, entrants)
                for entrant, failure in outcome.failures:
                    self.runs[entrant.case_id].fail(failure)
                waiting = [entrant.case_id for entrant in outcome.unfinished]

    def _enter(self, bench: Bench, case_ids: Sequence[str]) -> tuple[list[Entrant], bool]:
        """The cases that could be prepared in `bench`, and whether the bench was lost over one of them."""
        entrants = []
        for case_id in case_ids:
            try:
                self._prepare(bench, self.runs[case_id])
            except BenchFailed as failure:
                self.runs[case_id].fail(failure)
                if isinstance(failure, BenchLost):
                    return [], True
            else:
                entrants.append(Entrant(case_id, bench))
        return entrants, False

    def _keep(self, bench: Bench, entrants: Sequence[Entrant]) -> None:
        """Add this bench's samples to every case, empty ones where a case took no part.

        So entry i of each case's `processes` is the same bench, and rounds pair by (i, round).
        """
        taken = {entrant.case_id: entrant for entrant in entrants}
        for case_id, run in self.runs.items():
            entrant = taken.get(case_id) or Entrant(case_id, bench)
            run.processes.append(entrant.samples())
            run.duration_s += entrant.spent_s

    def _device_name(self, device: str) -> str | None:
        """What the devices' list calls `device`; a bench names only what it ran on beside the CPU."""
        known = self.source.hello["devices"].get(device.split(":")[0], [])
        return next((str(each["name"]) for each in known if each["device"] == device), None)

    def _record(self, run: _CaseRun, started_at: str) -> Record:
        estimate = stats.hierarchical_interval(
            [[elapsed / each.calls for elapsed in each.elapsed_s] for each in run.processes if each.rounds]
        )
        width = None if estimate is None else estimate.relative_width
        return Record(
            scenario=self.scenario.name,
            case_id=run.case.case_id,
            block_id=run.case.block_id,
            implementation=run.case.variant.implementation,
            options=dict(run.case.variant.options),
            workload=run.case.workload,
            device=run.case.device,
            device_name=run.device_name or self._device_name(run.case.device),
            framework=run.framework,
            resolved_backend=run.resolved_backend,
            anchor=self.block.anchor.case_id if self.block.anchor else None,
            seed=self.measure.seed,
            attempt=self.attempt,
            status=run.status,
            reason=run.reason,
            started_at=started_at,
            duration_s=run.duration_s,
            first_call_s=run.first_call_s,
            output_bytes=run.output_bytes,
            processes=tuple(run.processes) if run.alive else (),
            converged=width is not None and width <= self.measure.precision if run.alive else None,
            cache=self.measure.cache,
            memory=run.memory,
            accuracy=run.accuracy,
            discarded_rounds=0,
        )
