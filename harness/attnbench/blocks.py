"""One block, measured: verb by verb, until each of its cases has a record.

All that needs judgement is here and in `rounds` and `sampling`; the benches only do what they are told.
A kernel may crash, hang, run out of memory or lie: its case becomes a row that says so, and the others of
its block are measured all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from time import monotonic, sleep
from typing import cast

from attnbench import stats
from attnbench.case import Block
from attnbench.judging import Judge, Seat, Trial
from attnbench.protocol import Bench, BenchFailed, BenchLost, BenchSource, EnergyReply, MemoryReply
from attnbench.record import ProcessSamples, Record
from attnbench.rounds import Entrant, play
from attnbench.sampling import Pace, PrecisionOrBudget
from attnbench.scenario import Measure, Scenario

__all__ = ["SYSTEM_CLOCKS", "Clocks", "inspect_block", "measure_block", "measures_energy"]

#: Rounds that every process plays, whatever they cost: a median of three stands one disturbed sample.
LEAST_ROUNDS = 3

#: A single process plays at least as many rounds as an interval needs.
LEAST_ROUNDS_ALONE = stats.FEWEST_FOR_INTERVAL

#: What measuring energy may take longer than a sample: the harness makes so many calls, not the kernel.
METERING_S = 10.0


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Clocks:
    """The times that a runner reads, and how it waits; tests script them."""

    monotonic: Callable[[], float] = monotonic
    utc_now: Callable[[], str] = _utc_now
    sleep: Callable[[float], None] = sleep


#: The machine's own.
SYSTEM_CLOCKS = Clocks()


def measures_energy(measure: Measure, device: str) -> bool:
    """Whether energy is asked of cases on `device`: of GPUs, and warm.

    That of cold calls cannot be told apart from that of the flushes between them.
    """
    return device.split(":")[0] == "cuda" and measure.cache == "warm"


def measure_block(
    scenario: Scenario,
    block: Block,
    source: BenchSource,
    *,
    attempt: int = 1,
    progressed: Callable[[float], None] = lambda share: None,
    clocks: Clocks = SYSTEM_CLOCKS,
) -> list[Record]:
    """One record a case, in the block's order.

    First each case is inspected in a bench of its own (`prepare`, `memory`), after one bench was asked which
    of them can run; then all are judged in one (`reference`, `accuracy`), and judged once more with
    uninitialised memory poisoned; what is still alive is sampled in several fresh benches, and after its
    last round in the first of them, on a GPU, asked what a call takes (`energy`), and whether what was timed
    is still computed (`verify`).

    Raises:
        MeasuringError: no benches can be had.
    """
    return _BlockRun(scenario, block, source, attempt, progressed, clocks).run()


def inspect_block(
    scenario: Scenario, block: Block, source: BenchSource, *, clocks: Clocks = SYSTEM_CLOCKS
) -> list[Record]:
    """One record a case, in the block's order, without samples: does it run, its memory, is it right?

    Raises:
        MeasuringError: no benches can be had.
    """
    return _BlockRun(scenario, block, source, 1, lambda share: None, clocks).inspect()


@dataclass(slots=True, eq=False)
class _CaseRun(Trial):
    """What is known of one case so far, its samples included."""

    framework: str | None = None
    device_name: str | None = None
    resolved_backend: str | None = None
    first_call_s: float | None = None
    output_bytes: int | None = None
    memory: MemoryReply | None = None
    processes: list[ProcessSamples] = field(default_factory=list)
    discarded_rounds: int = 0
    slowed_by: set[str] = field(default_factory=set)
    energy_j: float | None = None
    verified: bool = False

    @property
    def wants_verifying(self) -> bool:
        """Whether it was judged, and nobody has asked yet if what was timed of it is still computed."""
        return self.alive and self.accuracy is not None and not self.verified


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
        self.on_gpu = block.device.split(":")[0] == "cuda"
        self.judge = Judge(
            source, self.measure.seed, self.measure.threads_count(), self.deadline_s, clocks.monotonic
        )

    def inspect(self) -> list[Record]:
        started_at = self.clocks.utc_now()
        for phase in (self._inspect_all, self._judge_all, self._poison_all):
            phase()
        return [self._record(run, started_at) for run in self.runs.values()]

    def run(self) -> list[Record]:
        started_at = self.clocks.utc_now()
        steps = self.processes + 3
        for done, phase in enumerate((self._inspect_all, self._judge_all, self._poison_all), start=1):
            phase()
            self.progressed(done / steps)
        for process in range(self.processes):
            self._sample(process)
            self.progressed((process + 4) / steps)
        for run in self.runs.values():
            if run.alive and run.discarded_rounds and not any(each.rounds for each in run.processes):
                run.fail(_never_clean(run))
        return [self._record(run, started_at) for run in self.runs.values()]

    @contextmanager
    def _bench(self) -> Iterator[Bench]:
        bench = self.source.bench()
        try:
            yield bench
        finally:
            bench.close()

    # Inspection

    def _inspect_all(self) -> None:
        """Does it run, and how much memory does it take? Each case in a fresh bench.

        So no first call profits from another's, and no memory that others have freed stands in the way. Nor
        does it profit from asking whether the case can run, which may call the very kernel: others are asked.
        """
        with Seat(self.source) as seat:
            self.judge.ask(list(self.runs.values()), seat)
        for run in [run for run in self.runs.values() if run.alive]:
            with self._bench() as bench:
                try:
                    prepared = self.judge.prepare(bench, run, capable=True)
                    run.framework = prepared["framework"]
                    run.device_name = prepared["device_name"]
                    run.resolved_backend = prepared["resolved_backend"]
                    run.first_call_s = prepared["first_call_s"]
                    run.output_bytes = prepared["output_bytes"]
                    run.memory = cast(MemoryReply, self.judge.request(bench, "memory", run))
                except BenchFailed as failure:
                    run.fail(failure)

    def _judge_all(self) -> None:
        """How wrong is it?"""
        with Seat(self.source) as seat:
            self.judge.judge(list(self.runs.values()), seat)

    def _poison_all(self) -> None:
        """Does it leave part of its output unwritten, or compute with memory that it never wrote?"""
        with Seat(self.source) as seat:
            self.judge.poison(list(self.runs.values()), seat)

    # Sampling

    def _sample(self, process: int) -> None:
        """One process's rounds, in one bench, or in as many as it takes."""
        rng = Random(f"{self.measure.seed}/{self.scenario.name}/{self.block.block_id}/{process}")
        share_s = self.measure.max_seconds / self.processes
        pace = Pace(
            budget_s=share_s,
            deadline_s=self.deadline_s,
            cache=self.measure.cache,
            cuda_graph=self.measure.cuda_graph,
        )
        stop = PrecisionOrBudget(
            precision=self.measure.precision,
            budget_s=share_s,
            least_rounds=LEAST_ROUNDS_ALONE if self.processes == 1 else LEAST_ROUNDS,
        )
        groups = deque([[case_id for case_id, run in self.runs.items() if run.alive]])

        def failed(case_id: str, failure: BenchFailed, group: Sequence[str]) -> None:
            if failure.status == "oom" and len(group) > 1:
                groups.append([case_id])  # the others' tensors were in the way: once more, alone
            else:
                self.runs[case_id].fail(failure)

        while groups:
            group = groups.popleft()
            if not group:
                continue
            with self._bench() as bench:
                # The order in which cases take their memory is drawn anew for every process.
                entrants, failures, lost = self._enter(bench, rng.sample(group, len(group)))
                for case_id, failure in failures.items():
                    failed(case_id, failure, group)
                if lost:
                    groups.appendleft([case_id for case_id in group if case_id not in failures])
                    continue
                outcome = play(
                    entrants,
                    pace=pace,
                    stop=stop,
                    rng=rng,
                    clock=self.clocks.monotonic,
                    rest=self.clocks.sleep,
                )
                self._keep(bench, entrants)
                for entrant, failure in outcome.failures:
                    failed(entrant.case_id, failure, group)
                again = [entrant.case_id for entrant in outcome.unfinished]
                out = {*again, *(entrant.case_id for entrant, _ in outcome.failures)}
                finished = [entrant.case_id for entrant in entrants if entrant.case_id not in out]
                if outcome.lost is None:
                    for case_id, failure in self._question(bench, finished, metered=process == 0):
                        failed(case_id, failure, group)
                        finished.remove(case_id)
                if process == self.processes - 1:  # no other process will come in which they can be asked
                    again += [case_id for case_id in finished if self.runs[case_id].wants_verifying]
                groups.appendleft(again)

    def _enter(
        self, bench: Bench, case_ids: Sequence[str]
    ) -> tuple[list[Entrant], dict[str, BenchFailed], bool]:
        """The cases that could be prepared in `bench`, those that could not, and whether it was lost."""
        entrants: list[Entrant] = []
        failures: dict[str, BenchFailed] = {}
        for case_id in case_ids:
            try:
                self.judge.prepare(bench, self.runs[case_id])
            except BenchFailed as failure:
                failures[case_id] = failure
                if isinstance(failure, BenchLost):
                    return [], failures, True
            else:
                entrants.append(Entrant(case_id, bench))
        return entrants, failures, False

    def _question(
        self, bench: Bench, case_ids: Sequence[str], *, metered: bool
    ) -> list[tuple[str, BenchFailed]]:
        """What does a call take, and is what `bench` has timed still computed? And what failed at that.

        Once a case, after all rounds. Those that are left when the bench is lost are verified in the next.
        """
        metered = metered and measures_energy(self.measure, self.block.device)
        failures: list[tuple[str, BenchFailed]] = []
        for case_id in case_ids:
            run = self.runs[case_id]
            try:
                if metered:
                    self._meter(bench, run)
                if run.wants_verifying:
                    self.judge.verify(bench, run)
                    run.verified = True
            except BenchFailed as failure:
                failures.append((case_id, failure))
                if isinstance(failure, BenchLost):
                    break
        return failures

    def _meter(self, bench: Bench, run: _CaseRun) -> None:
        """What does a call of it take?

        Raises:
            BenchFailed: as `Bench.request`.
        """
        began = self.clocks.monotonic()
        asked = {"case": run.case.case_id, "cuda_graph": self.measure.cuda_graph}
        try:
            reply = bench.request("energy", asked, self.deadline_s + METERING_S)
        finally:
            run.duration_s += self.clocks.monotonic() - began
        run.energy_j = cast(EnergyReply, reply)["energy_j"]

    def _keep(self, bench: Bench, entrants: Sequence[Entrant]) -> None:
        """Add this bench's samples to every case, empty ones where a case took no part.

        So entry i of each case's `processes` is the same bench, and rounds pair by (i, round).
        """
        taken = {entrant.case_id: entrant for entrant in entrants}
        for case_id, run in self.runs.items():
            entrant = taken.get(case_id) or Entrant(case_id, bench)
            run.processes.append(entrant.samples())
            run.discarded_rounds += entrant.discarded
            run.slowed_by |= entrant.slowed_by
            run.duration_s += entrant.spent_s

    def _device_name(self, device: str) -> str | None:
        """What the devices' list calls `device`; a bench names only what it ran on beside the CPU."""
        known = self.source.hello["devices"].get(device.split(":")[0], [])
        return next((str(each["name"]) for each in known if each["device"] == device), None)

    def _framework(self, implementation: str) -> str | None:
        """What the catalogue says of an implementation that never came so far as to answer."""
        known = (
            info["framework"] for info in self.source.hello["catalogue"] if info["name"] == implementation
        )
        return next(known, None)

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
            framework=run.framework or self._framework(run.case.variant.implementation),
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
            threads=self.measure.threads_count(),
            discarded_rounds=run.discarded_rounds,
            energy_j=run.energy_j,
            cuda_graph=self.measure.cuda_graph and self.on_gpu,
        )


def _never_clean(run: _CaseRun) -> BenchFailed:
    """Why a case has no time though nothing broke: the GPU was slowed down in every round."""
    why = ", ".join(sorted(run.slowed_by))
    return BenchFailed(
        "error",
        f"no time: in all {run.discarded_rounds} rounds the GPU was slowed down ({why}); let it cool, and "
        "see to its air and power: `nvidia-smi -q -d PERFORMANCE`",
    )
