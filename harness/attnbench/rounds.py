"""Rounds: every live case sampled once, in random order, so that drift hits all alike.

One `play` is one process's worth of sampling. It takes entrants (a case, in a bench, of an arm) and
returns raw rounds; it draws no conclusion. A sweep has one arm and one bench; a gate has two of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import cast

from attnbench.protocol import Bench, BenchFailed, BenchLost, SampleReply
from attnbench.record import ProcessSamples
from attnbench.sampling import Pace, StoppingRule, warm_up

__all__ = ["Entrant", "Outcome", "play"]

#: The arm of every case of a sweep; a gate names its own two.
SWEEP_ARM = "sweep"


@dataclass(slots=True, eq=False)
class Entrant:
    """A case prepared in a bench, under its id: what takes part in rounds."""

    case_id: str
    bench: Bench
    arm: str = SWEEP_ARM

    #: Seconds that sampling this entrant has taken so far, priming and warm-up included.
    spent_s: float = 0.0
    calls: int = 1
    rounds: list[int] = field(default_factory=list)
    elapsed_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    launch_s: list[float] = field(default_factory=list)

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
        )

    def ask(self, calls: int, pace: Pace, clock: Callable[[], float]) -> SampleReply:
        """One sample of `calls` calls; what it took counts towards `spent_s`."""
        began = clock()
        try:
            return cast(
                SampleReply,
                self.bench.request(
                    "sample", {"case": self.case_id, "calls": calls, "cache": pace.cache}, pace.deadline_s
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
) -> Outcome:
    """Warm up and calibrate each entrant, then play rounds until `stop` has let every one of them go.

    Samples are added to the entrants. `clock` returns monotonic seconds.
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
            for entrant in rng.sample(live, len(live)):
                try:
                    entrant.keep(number, entrant.ask(entrant.calls, pace, clock))
                except BenchFailed as failure:
                    failed.append((entrant, failure))
                    live.remove(entrant)
            live = [entrant for entrant in live if not stop(entrant.per_call_s, entrant.spent_s)]
            number += 1
    except _Cut as cut:
        unfinished = tuple(entrant for entrant in (*cold, *live) if entrant is not cut.entrant)
        return Outcome(tuple(failed), (cut.entrant, cut.loss), unfinished)
    return Outcome(tuple(failed), None, ())


def _warm_up(entrant: Entrant, pace: Pace, clock: Callable[[], float]) -> int:
    """Calls per sample, found while warming `entrant` up."""
    return warm_up(
        lambda calls: entrant.ask(calls, pace, clock)["elapsed_s"],
        pace,
        spent=lambda: entrant.spent_s,
    ).calls
