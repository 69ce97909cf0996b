"""The gate on simulated machines: false alarms, power and pairs, by situation and slow-down."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from attnbench.bench.lifeline import die_with
from attnbench.gate.sequential import Rule
from attnbench.scenario.model import Check
from gate_parts import Store
from gate_parts.power import normal_characteristics
from gate_parts.streams import FAIL, SITUATIONS, UNDECIDED, play

__all__ = ["EFFECTS", "PART", "Job", "measure", "rule_of", "tally"]

PART = "simulation"

EFFECTS = (0.0, 0.02, 0.05, 0.08, 0.10, 0.125, 0.20)

#: Of one and three cases every situation is played, of twenty only the first and the last.
SETTINGS: Mapping[str, Any] = {
    "gates": (0.10, 0.05),
    "effects": EFFECTS,
    "cases": {"1": 10_000, "3": 4000, "20": 1000},
    "situations": {situation.name: asdict(situation) for situation in SITUATIONS},
}


@dataclass(frozen=True, slots=True)
class Job:
    """So many gates of so many cases, one of them slower by `effect` (all of them if that is forgiven)."""

    gate: float
    situation: str
    cases: int
    effect: float
    gates: int

    @property
    def key(self) -> str:
        return f"{self.gate:g}/{self.situation}/{self.cases}/{self.effect:g}"

    @property
    def forgiven(self) -> bool:
        """Whether failing would be a false alarm."""
        return self.effect <= rule_of(self.gate, self.cases).margin + 1e-9  # 0.6 × 0.1 − 0.01 is no 0.05

    def effects(self) -> list[float]:
        """Of each case. One slow case among equal ones is the hardest to find; many are the most to bear."""
        return [self.effect if number == 0 or self.forgiven else 0.0 for number in range(self.cases)]


def rule_of(gate: float, cases: int) -> Rule:
    """The rule of a scenario that sets nothing but its gate."""
    check = Check(gate=gate)
    return Rule(gate, check.tolerated(), check.alpha, check.beta, tuple(check.pairs), cases)


def measure(folder: Path, settings: Mapping[str, Any] = SETTINGS) -> None:
    """Play what is missing in `folder`, on all cores."""
    store = Store.open(folder, PART, settings)
    jobs = [job for job in _jobs(settings) if job.key not in store]
    if not jobs:
        return
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, get_context("spawn"), die_with, (os.getpid(),)) as pool:
        futures = {pool.submit(tally, job): job for job in jobs}
        for future in as_completed(futures):
            store.append(futures[future].key, future.result())


def _jobs(settings: Mapping[str, Any]) -> Iterator[Job]:
    every: Sequence[str] = list(settings["situations"])
    for cases, gates in settings["cases"].items():
        for situation in every if int(cases) < 20 else [every[0], every[-1]]:
            for gate in settings["gates"]:
                for effect in settings["effects"]:
                    yield Job(gate, situation, int(cases), effect, gates)


def tally(job: Job) -> dict[str, Any]:
    """What became of the gates of a job, and what was computed of them where pairs are normal, independent.

    `fails` are gates of which a case failed that was slowed down; `first_fails` would have failed without
    repetition and control; `undecided` are gates that did not fail and have an undecided case; `pairs` is how
    many the slowest case's first test took on average.
    """
    situation = next(each for each in SITUATIONS if each.name == job.situation)
    rule = rule_of(job.gate, job.cases)
    found = play(rule, situation, job.effects(), job.gates, np.random.default_rng(crc32(job.key.encode())))
    asked = slice(None) if job.forgiven else slice(1)
    fails = (found.final[:, asked] == FAIL).any(axis=1)
    undecided = ~(found.final == FAIL).any(axis=1) & (found.final == UNDECIDED).any(axis=1)
    entry: dict[str, Any] = {
        **asdict(job),
        "forgiven": job.forgiven,
        "first_fails": int((found.first[:, asked] == FAIL).any(axis=1).sum()),
        "fails": int(fails.sum()),
        "undecided": int(undecided.sum()),
        "pairs": round(float(found.pairs[:, 0].mean()), 2),
    }
    if situation.independent and situation.tails is None and not situation.tick:
        spread = situation.offsets * math.sqrt(2)
        one = normal_characteristics(rule, job.effect, spread)
        alarmed = 2 * normal_characteristics(rule, 0.0, spread).fails  # a control, in either direction
        several = job.cases if job.forgiven else 1
        entry["computed_first"] = 1 - (1 - one.fails) ** several
        entry["computed"] = 1 - (1 - one.fails**2 * (1 - alarmed)) ** several
        entry["computed_pairs"] = round(one.pairs, 2)
    return entry
