"""One pair: a fresh process of each arm, in which the cases of a block are measured in turns.

What sets two processes apart (memory layout, placement) sets all their rounds apart alike; so a pair gives
one ratio a case, and the next pair is of new processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from attnbench.blocks import LEAST_ROUNDS, Clocks
from attnbench.case import Case
from attnbench.judging import Judge, Trial
from attnbench.protocol import AccuracyReply, Bench, BenchFailed, BenchLost
from attnbench.record import Record
from attnbench.rounds import Entrant, play
from attnbench.sampling import Pace
from attnbench.scenario import Measure
from attnbench.stats import median

__all__ = ["ROUNDS", "Arm", "Breakdown", "Pair", "Times", "log_ratio", "play_pair"]

#: Rounds of a pair. More would tell little: what is left is what sets the processes apart.
ROUNDS = 12

#: What an entrant's warm-up and rounds may take together before it plays fewer rounds.
PAIR_S = 0.5


@dataclass(frozen=True, slots=True)
class Enough:
    """The stopping rule of a pair: `ROUNDS` rounds, of slow cases fewer."""

    def __call__(self, per_call_s: Sequence[float], spent_s: float) -> bool:
        """As `StoppingRule`."""
        rounds = len(per_call_s)
        return rounds >= ROUNDS or (rounds >= LEAST_ROUNDS and spent_s >= PAIR_S)


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a pair: where its processes come from, and how they are asked."""

    name: str
    judge: Judge


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds a call of one case, by arm and round."""

    by_round: Mapping[str, Mapping[int, float]]

    def common(self, a: str, b: str) -> list[tuple[float, float]]:
        """Those of arms `a` and `b` in the rounds that both have."""
        first, second = self.by_round[a], self.by_round[b]
        return [(first[at], second[at]) for at in first if at in second and first[at] > 0 < second[at]]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A case that failed in one arm while it was prepared, timed or verified."""

    arm: str
    case_id: str
    failure: BenchFailed


@dataclass(slots=True)
class Pair:
    """What one pair gave.

    A case that is in neither `times` nor `breakdowns` shared a process with one that ended it. `refuted`
    says, by arm and case id, why a call that was timed does not compute what it returns; `unasked` are those
    that could not be asked about that, as another case ended their process over it.
    """

    times: dict[str, Times] = field(default_factory=dict)
    breakdowns: list[Breakdown] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    refuted: dict[tuple[str, str], str] = field(default_factory=dict)
    unasked: set[str] = field(default_factory=set)


def log_ratio(rounds: Sequence[tuple[float, float]]) -> float:
    """d of one pair: the median over its rounds of ln(second / first)."""
    return median([math.log(second / first) for first, second in rounds])


def play_pair(
    arms: Sequence[Arm],
    cases: Sequence[Case],
    measure: Measure,
    rng: Random,
    clocks: Clocks,
    *,
    calls: Mapping[str, int],
    verify: Mapping[tuple[str, str], Record] | None = None,
) -> Pair:
    """Measure `cases`, which share a workload and a device, in one fresh process of each of `arms`.

    The processes are begun, and the cases prepared in them, in the order of `arms`. `calls` are the calls of
    a sample, as far as they are known. With `verify` (what is known of each arm's cases, by arm and case id)
    each arm is asked in the end whether what was timed is still computed.

    Raises:
        MeasuringError: no processes can be had.
    """
    pair = Pair()
    benches: dict[str, Bench] = {}
    order = rng.sample(cases, len(cases))
    try:
        entrants: list[Entrant] = []
        for arm in arms:
            bench = benches[arm.name] = arm.judge.source.bench()
            if not _enter(arm, bench, order, pair, entrants, calls):
                return pair
        broken = {each.case_id for each in pair.breakdowns}
        entrants = [each for each in entrants if each.case_id not in broken]
        pace = Pace(PAIR_S, arms[0].judge.deadline_s, measure.cache, measure.cuda_graph)
        outcome = play(entrants, pace=pace, stop=Enough(), rng=rng, clock=clocks.monotonic, rest=clocks.sleep)
        for entrant, failure in outcome.failures:
            pair.breakdowns.append(Breakdown(entrant.arm, entrant.case_id, failure))
        if outcome.lost is not None:
            return pair  # the rounds of the others ended with it: the pair is played again
        if verify is not None:
            _verify(arms, benches, cases, pair, verify)
    finally:
        for bench in benches.values():
            bench.close()
    _gather(pair, entrants)
    return pair


def _enter(
    arm: Arm,
    bench: Bench,
    order: Sequence[Case],
    pair: Pair,
    entrants: list[Entrant],
    calls: Mapping[str, int],
) -> bool:
    """Prepare the cases in `bench`; whether it is still there."""
    for case in order:
        try:
            arm.judge.prepare(bench, Trial(case), capable=True)
        except BenchFailed as failure:
            pair.breakdowns.append(Breakdown(arm.name, case.case_id, failure))
            if isinstance(failure, BenchLost):
                return False
        else:
            entrants.append(Entrant(case.case_id, bench, arm.name, calls=calls.get(case.case_id, 1)))
    return True


def _verify(
    arms: Sequence[Arm],
    benches: Mapping[str, Bench],
    cases: Sequence[Case],
    pair: Pair,
    records: Mapping[tuple[str, str], Record],
) -> None:
    """Does each still compute what was timed of it? A bench that is lost over it leaves the rest unasked."""
    broken = {each.case_id for each in pair.breakdowns}
    for arm in arms:
        for number, case in enumerate(cases, start=1):
            record = records.get((arm.name, case.case_id))
            if case.case_id in broken or record is None or record.accuracy is None:
                continue
            trial = Trial(case, accuracy=record.accuracy)
            try:
                arm.judge.verify(benches[arm.name], trial)
            except BenchFailed as failure:
                pair.breakdowns.append(Breakdown(arm.name, case.case_id, failure))
                if isinstance(failure, BenchLost):
                    pair.unasked |= {each.case_id for each in cases[number:]}
                    break
            else:
                judged: AccuracyReply | None = trial.accuracy  # verifying replaces it where it refutes
                if judged is not None and judged["accuracy"] != record.accuracy["accuracy"]:
                    pair.refuted[arm.name, case.case_id] = str(judged["reason"])


def _gather(pair: Pair, entrants: Sequence[Entrant]) -> None:
    broken = {each.case_id for each in pair.breakdowns}
    by_case: dict[str, dict[str, Mapping[int, float]]] = {}
    for entrant in entrants:
        if entrant.case_id not in broken:
            rounds = dict(zip(entrant.rounds, entrant.per_call_s, strict=True))
            by_case.setdefault(entrant.case_id, {})[entrant.arm] = rounds
            pair.calls[entrant.case_id] = max(entrant.calls, pair.calls.get(entrant.case_id, 1))
    pair.times = {case_id: Times(by_arm) for case_id, by_arm in by_case.items()}
