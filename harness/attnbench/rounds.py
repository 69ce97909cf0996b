"""Rounds: every live case sampled once, in random order, so that drift hits all alike.

One `play` is one process's worth of sampling. It takes entrants (a case, in a bench, of an arm) and
returns raw rounds; it draws no conclusion. A sweep has one arm and one bench; a gate has two of each.

A round in which a GPU was slowed down by heat or for want of power is thrown away whole: its samples are
not those of the GPU, and what is left of it could not be compared. A low clock by itself is no reason: a
busy GPU at its power limit, or one whose clocks somebody has set, runs there for hours, and no round of it
would ever be kept. (nvbench throws away what ran below 75% of the default clock; such GPUs get empty tables
of it: NVIDIA/nvbench#231.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from time import sleep
from typing import TypeVar, cast

from attnbench.nvml import SLOWING
from attnbench.protocol import Bench, BenchFailed, BenchLost, GpuReply, SampleReply
from attnbench.record import ProcessSamples
from attnbench.sampling import Pace, StoppingRule, warm_up

__all__ = ["RECOVERY_S", "Entrant", "Outcome", "play"]

Told = TypeVar("Told", float, str)

#: The arm of every case of a sweep; a gate names its own two.
SWEEP_ARM = "sweep"

#: How long a GPU that was slowed down is left alone. All entrants pay for it.
RECOVERY_S = 0.25

#: Who has lost so many rounds and spent so many times its budget leaves with what it has.
MOST_DISCARDED, PATIENCE = 3, 2.0


@dataclass(slots=True, eq=False)
class Entrant:
    """A case prepared in a bench, under its id: what takes part in rounds."""

    case_id: str
    bench: Bench
    arm: str = SWEEP_ARM

    #: Seconds that sampling this entrant has taken so far, priming and warm-up included.
    spent_s: float = 0.0

    #: Calls per sample; where it is known before, it begins with so many and warming up finds no fewer.
    calls: int = 1
    rounds: list[int] = field(default_factory=list)
    elapsed_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    launch_s: list[float] = field(default_factory=list)
    launch_bound: list[bool | None] = field(default_factory=list)
    gpu: list[GpuReply | None] = field(default_factory=list)

    #: How many of its rounds were thrown away, and why.
    discarded: int = 0
    slowed_by: set[str] = field(default_factory=set)

    @property
    def per_call_s(self) -> list[float]:
        """Seconds per call, a value a sample."""
        return [elapsed / self.calls for elapsed in self.elapsed_s]

    def samples(self) -> ProcessSamples:
        """The raw rounds, as they are recorded."""
        return ProcessSamples(
            start=self.bench.start,
            calls=self.calls,
            rounds=tuple(self.rounds),
            elapsed_s=tuple(self.elapsed_s),
            cpu_s=tuple(self.cpu_s),
            launch_s=tuple(self.launch_s) if self.launch_s else None,
            launch_bound=None if None in self.launch_bound else tuple(map(bool, self.launch_bound)) or None,
            sm_clock_hz=self._told(lambda gpu: gpu["sm_clock_hz"]),
            temperature_c=self._told(lambda gpu: gpu["temperature_c"]),
            power_w=self._told(lambda gpu: gpu["power_w"]),
            clock_reasons=self._told(
                lambda gpu: None if gpu["reasons"] is None else "+".join(gpu["reasons"]),
            ),
        )

    def _told(self, figure: Callable[[GpuReply], Told | None]) -> tuple[Told | None, ...] | None:
        """A figure of the GPU, a value a sample; None where no sample has one."""
        told = tuple(None if gpu is None else figure(gpu) for gpu in self.gpu)
        return None if all(value is None for value in told) else told

    def ask(self, calls: int, pace: Pace, clock: Callable[[], float]) -> SampleReply:
        """One sample of `calls` calls; what it took counts towards `spent_s`."""
        began = clock()
        try:
            return cast(
                SampleReply,
                self.bench.request(
                    "sample",
                    {
                        "case": self.case_id,
                        "calls": calls,
                        "cache": pace.cache,
                        "cuda_graph": pace.cuda_graph,
                    },
                    pace.deadline_s,
                ),
            )
        except BenchLost as loss:
            raise _Cut(self, loss) from loss
        finally:
            self.spent_s += clock() - began

    def keep(self, number: int, reply: SampleReply) -> None:
        """Add the sample of round `number`."""
        self.rounds.append(number)
        self.elapsed_s.append(reply["elapsed_s"])
        self.cpu_s.append(reply["cpu_s"])
        if reply["launch_s"] is not None:
            self.launch_s.append(reply["launch_s"])
        self.launch_bound.append(reply.get("launch_bound"))
        self.gpu.append(reply.get("gpu"))

    def discard(self, slowed_by: set[str]) -> None:
        """Count a round that was thrown away, and the time that the GPU was given to recover."""
        self.discarded += 1
        self.slowed_by |= slowed_by
        self.spent_s += RECOVERY_S

    def impatient(self, pace: Pace) -> bool:
        """Whether so many rounds were thrown away that it leaves with what it has."""
        return self.discarded >= MOST_DISCARDED and self.spent_s >= PATIENCE * pace.budget_s


class _Cut(Exception):
    """A bench died under an entrant, which ends the play."""

    def __init__(self, entrant: Entrant, loss: BenchLost) -> None:
        super().__init__(str(loss))
        self.entrant = entrant
        self.loss = loss


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a `play` ended with.

    `failed` are the entrants that dropped out, each with its reason; `lost` is the one whose bench died
    under it. Entrants in neither were measured to their end, unless `lost` cut the play short: then
    `unfinished` names those to be measured again in another bench.
    """

    failed: tuple[tuple[Entrant, BenchFailed], ...]
    lost: tuple[Entrant, BenchLost] | None
    unfinished: tuple[Entrant, ...]

    @property
    def failures(self) -> tuple[tuple[Entrant, BenchFailed], ...]:
        """All that failed, the lost one included."""
        return (*self.failed, self.lost) if self.lost else self.failed


def play(
    entrants: Sequence[Entrant],
    *,
    pace: Pace,
    stop: StoppingRule,
    rng: Random,
    clock: Callable[[], float],
    rest: Callable[[float], None] = sleep,
) -> Outcome:
    """Warm up and calibrate each entrant, then play rounds until `stop` has let every one of them go.

    Samples are added to the entrants. `clock` returns monotonic seconds, `rest` waits for some.
    """
    failed: list[tuple[Entrant, BenchFailed]] = []
    cold = list(entrants)
    live: list[Entrant] = []
    try:
        while cold:
            entrant = cold[0]
            try:
                entrant.calls = _warm_up(entrant, pace, clock)
                live.append(entrant)
            except BenchFailed as failure:
                failed.append((entrant, failure))
            del cold[0]

        number = 0
        while live:
            replies: dict[Entrant, SampleReply] = {}
            try:
                _sample_all(live, rng.sample(live, len(live)), replies, failed, pace, clock)
            finally:  # of a round that is cut short the samples taken are kept, too
                slowed_by = _slowed_by(replies.values())
                for entrant, reply in replies.items():
                    if slowed_by:
                        entrant.discard(slowed_by)
                    else:
                        entrant.keep(number, reply)
            if slowed_by:
                rest(RECOVERY_S)
                # The clock has fallen meanwhile, too: these samples are nobody's.
                _sample_all(live, list(live), {}, failed, pace, clock)
            live = [
                entrant
                for entrant in live
                if not (stop(entrant.per_call_s, entrant.spent_s) or entrant.impatient(pace))
            ]
            number += 1
    except _Cut as cut:
        unfinished = tuple(entrant for entrant in (*cold, *live) if entrant is not cut.entrant)
        return Outcome(tuple(failed), (cut.entrant, cut.loss), unfinished)
    return Outcome(tuple(failed), None, ())


def _sample_all(
    live: list[Entrant],
    order: Sequence[Entrant],
    replies: dict[Entrant, SampleReply],
    failed: list[tuple[Entrant, BenchFailed]],
    pace: Pace,
    clock: Callable[[], float],
) -> None:
    """Sample each once; what comes is put into `replies`, who fails is moved from `live` to `failed`."""
    for entrant in order:
        try:
            replies[entrant] = entrant.ask(entrant.calls, pace, clock)
        except BenchFailed as failure:
            failed.append((entrant, failure))
            live.remove(entrant)


def _slowed_by(replies: Iterable[SampleReply]) -> set[str]:
    """What slowed the GPU down in a round, by the samples that were taken in it."""
    states = [gpu for reply in replies if (gpu := reply.get("gpu")) is not None]
    return {reason for gpu in states for reason in gpu["reasons"] or () if reason in SLOWING}


def _warm_up(entrant: Entrant, pace: Pace, clock: Callable[[], float]) -> int:
    """Calls per sample, found while warming `entrant` up."""
    return warm_up(
        lambda calls: entrant.ask(calls, pace, clock)["elapsed_s"],
        pace,
        spent=lambda: entrant.spent_s,
        calls=entrant.calls,
    ).calls
