"""Judging cases in benches: how wrong is each, and does it use memory that nobody wrote?

Both a sweep's blocks and the conformance check judge by what is here. The verdict itself is found in the
bench (`attnbench.bench.accuracy`); here is who is asked what, in which bench, and what a failure means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Self, cast
from uuid import uuid4

from attnbench.case import Case
from attnbench.protocol import (
    AccuracyReply,
    Bench,
    BenchFailed,
    BenchLost,
    BenchSource,
    PrepareReply,
    VerifyReply,
)

__all__ = ["Judge", "Seat", "Trial"]

#: Deadline of the reference, which is the harness's own work and counts against no case.
REFERENCE_DEADLINE_S = 1800.0

#: Failures that tell of memory never written: others (no time, no memory) have other causes.
TELLING = ("error", "crashed")


@dataclass(slots=True, eq=False)
class Trial:
    """What is known of one case so far: `status` is `ok` until it fails."""

    case: Case
    status: str = "ok"
    reason: str | None = None
    accuracy: AccuracyReply | None = None
    duration_s: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether it has not failed."""
        return self.status == "ok"

    def fail(self, failure: BenchFailed) -> None:
        """It broke, or cannot run."""
        self.status, self.reason = failure.status, failure.reason

    def refute(self, reason: str | None) -> None:
        """Its answers are wrong, depend on memory that nobody wrote, or are those of earlier calls."""
        assert self.accuracy is not None  # only a case that was judged can be refuted
        self.accuracy = {
            **self.accuracy,
            "accuracy": "fail",
            "reason": self.accuracy["reason"] or reason,
        }


class Seat:
    """A place for one bench at a time: filled when it is asked for, vacated when the bench is beyond use.

    A context manager, which ends the bench in it.
    """

    def __init__(self, source: BenchSource) -> None:
        self._source = source
        self._bench: Bench | None = None
        #: Whether nobody has used the bench that is here, or that will be.
        self.fresh = True

    def bench(self) -> Bench:
        """The bench that is here, or a fresh one.

        Raises:
            MeasuringError: none can be had.
        """
        if self._bench is None:
            self._bench = self._source.bench()
            self.fresh = True
        return self._bench

    def vacate(self) -> None:
        """End the bench that is here, if one is."""
        bench, self._bench, self.fresh = self._bench, None, True
        if bench is not None:
            bench.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.vacate()


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges the cases of one workload and device, in benches of `source`.

    `deadline_s` is that of each verb but `reference`. A case that fails is not tried again, but for one that
    ran out of memory in a bench that others had used. What is compiled for a case is shared by the benches of
    one judge (its `scope`) and by no others. With `own_precision` an implementation that declares a lower
    precision than its workload's dtype is judged by that.
    """

    source: BenchSource
    seed: int
    threads: int | None
    deadline_s: float
    clock: Callable[[], float] = monotonic
    scope: str = field(default_factory=lambda: uuid4().hex)
    own_precision: bool = False

    def request(self, bench: Bench, verb: str, trial: Trial, **parameters: Any) -> dict[str, Any]:
        """The answer to `verb`; the time that it took is added to the trial's.

        Raises:
            BenchFailed: as `Bench.request`.
        """
        began = self.clock()
        try:
            return bench.request(verb, {"case": trial.case.case_id, **parameters}, self.deadline_s)
        finally:
            trial.duration_s += self.clock() - began

    def prepare(self, bench: Bench, trial: Trial, **mode: bool) -> PrepareReply:
        """Prepare the case in `bench`; `mode` are the flags of `PrepareParameters`.

        Raises:
            BenchFailed: as `Bench.request`.
        """
        reply = self.request(
            bench,
            "prepare",
            trial,
            implementation=trial.case.variant.implementation,
            options=dict(trial.case.variant.options),
            workload=trial.case.workload.to_json(),
            device=trial.case.device,
            seed=self.seed,
            threads=self.threads,
            scope=self.scope,
            **mode,
        )
        return cast(PrepareReply, reply)

    def ask(self, trials: Sequence[Trial], seat: Seat) -> None:
        """Which of `trials` can run at all? Nothing is drawn or called."""

        def capable(bench: Bench, trial: Trial) -> None:
            self.prepare(bench, trial, capability_only=True)

        self._in_turn([trial for trial in trials if trial.alive], seat, capable, Trial.fail)

    def judge(self, trials: Sequence[Trial], seat: Seat) -> None:
        """How wrong is each? The reference is computed once for all of them."""

        def judged(bench: Bench, trial: Trial) -> None:
            trial.accuracy = self._accuracy(bench, trial)

        def reference(bench: Bench) -> bool:
            return self._reference(bench, trials)

        self._in_turn([trial for trial in trials if trial.alive], seat, judged, Trial.fail, reference)

    def poison(self, trials: Sequence[Trial], seat: Seat) -> None:
        """Does any leave part of its output unwritten, or compute with memory that it never wrote?

        `seat` is one that no case but poisoned ones may use. What fails here for want of time or memory, or
        for the deterministic mode that filling memory entails, is not held against it.
        """

        def poisoned(bench: Bench, trial: Trial) -> None:
            reply = self._accuracy(bench, trial, poisoned=True)
            if reply["accuracy"] == "fail":
                trial.refute(reply["reason"])

        judged = [trial for trial in trials if trial.alive and trial.accuracy is not None]
        self._in_turn(judged, seat, poisoned, self._cannot_stand_poison)

    def verify(self, bench: Bench, trial: Trial) -> None:
        """Does what `bench` has timed still follow its inputs, or does it return what it remembers?

        Raises:
            BenchFailed: as `Bench.request`.
        """
        reply = cast(VerifyReply, self.request(bench, "verify", trial))
        if reply["reason"] is not None:
            trial.refute(reply["reason"])

    def _accuracy(self, bench: Bench, trial: Trial, **mode: bool) -> AccuracyReply:
        self.prepare(bench, trial, **mode)
        try:
            own = {"own_precision": True} if self.own_precision else {}
            reply = self.request(bench, "accuracy", trial, **own)
        except BenchFailed as failure:
            if not isinstance(failure, BenchLost):  # the bench goes on, and must not go on holding it
                self.request(bench, "release", trial)
            raise
        self.request(bench, "release", trial)
        return cast(AccuracyReply, reply)

    def _in_turn(
        self,
        trials: Sequence[Trial],
        seat: Seat,
        examine: Callable[[Bench, Trial], None],
        failed: Callable[[Trial, BenchFailed], None],
        begin: Callable[[Bench], bool] = lambda bench: True,
    ) -> None:
        """`examine` each of `trials` in the bench of `seat`, or in as many as it takes, while `begin` allows.

        One that runs out of memory where others were before it is tried again in a fresh bench.
        """
        waiting = list(trials)
        while waiting:
            bench = seat.bench()
            if not begin(bench):
                seat.vacate()
                return
            while waiting:
                trial = waiting[0]
                try:
                    examine(bench, trial)
                except BenchFailed as failure:
                    lost = isinstance(failure, BenchLost)
                    crowded = failure.status == "oom" and not seat.fresh
                    if not crowded:
                        failed(trial, failure)
                        waiting.pop(0)
                    if lost or crowded:
                        seat.vacate()
                        break
                else:
                    waiting.pop(0)
                seat.fresh = False

    def _reference(self, bench: Bench, trials: Sequence[Trial]) -> bool:
        """Have the answer computed that all are judged by; without it none is, and each says why."""
        parameters = {"workload": trials[0].case.workload.to_json(), "seed": self.seed}
        try:
            bench.request("reference", parameters, REFERENCE_DEADLINE_S)
        except BenchFailed as failure:
            for trial in trials:
                if trial.alive and trial.accuracy is None:
                    trial.reason = f"accuracy is unchecked: the reference failed: {failure}"
            return False
        return True

    def _cannot_stand_poison(self, trial: Trial, failure: BenchFailed) -> None:
        """It ran before. Was it what memory holds, or the deterministic mode that filling memory entails?"""
        if failure.status not in TELLING:
            return
        with Seat(self.source) as seat:
            try:
                bench = seat.bench()
                self.prepare(bench, trial, deterministic=True)
                self.request(bench, "accuracy", trial)
            except BenchFailed:
                return
        trial.refute(f"with uninitialised memory filled with NaN: {failure.status}: {failure.reason}")
