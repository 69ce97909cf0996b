"""A machine whose true times are known: process offsets, drift, bursts, heavy tails, a coarse clock.

A simulated bench answers `sample`, on a clock that only it moves; what drives it (`rounds.play` with
`sampling.PrecisionOrBudget`) and what is made of the samples (`stats`) is the harness's own. The logarithm of
a sample's time per call is

    ln(base) + offset(process, case) + drift(time) + burst(time) + noise(sample)

Offsets and noise are drawn anew for each process or sample; drift and bursts of the machine go on from
process to process and hit whatever is sampled at that time, all cases alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from statistics import fmean, median
from typing import Any

import numpy as np

from attnbench.blocks import LEAST_ROUNDS, LEAST_ROUNDS_ALONE
from attnbench.record import ProcessSamples
from attnbench.rounds import Entrant, play
from attnbench.sampling import Pace, PrecisionOrBudget, StoppingRule

__all__ = ["CASES", "SITUATIONS", "Situation", "Trial", "simulate"]

Draw = Callable[[Random], float]

#: Both cases' base time of a call, and what starting a process and preparing them takes, in seconds.
BASE_S = {"anchor": 5e-3, "case": 4e-3}
CASES = tuple(BASE_S)
FORK_S = 0.1

#: How many draws the true median of a distribution is taken from where no formula gives it.
TRUTH_DRAWS = 100_001


def normal(spread: float) -> Draw:
    """Normal around 0."""
    return lambda rng: rng.gauss(0.0, spread)


def students(scale: float, degrees: int) -> Draw:
    """Student's t: with 2 degrees of freedom its variance is infinite."""
    return lambda rng: scale * rng.gauss(0, 1) / math.sqrt(rng.gammavariate(degrees / 2, 2) / degrees)


def one_sided(scale: float) -> Draw:
    """Exponential: never faster than the best layout, sometimes much slower."""
    return lambda rng: rng.expovariate(1 / scale)


def two_layouts(share: float, slower: float, spread: float) -> Draw:
    """A share of the draws is slower by `slower`, as where one of two layouts aliases in the cache."""
    return lambda rng: (slower if rng.random() < share else 0.0) + rng.gauss(0.0, spread)


def spiky(spread: float, share: float) -> Draw:
    """A share of the samples takes 1.5 to 3 times as long."""
    return lambda rng: (
        rng.gauss(0.0, spread) + (math.log(rng.uniform(1.5, 3)) if rng.random() < share else 0.0)
    )


@dataclass(frozen=True)
class Situation:
    """How a machine behaves; shares and spreads are of logarithms, times in seconds.

    `drift` is the spread of a stationary drift (an Ornstein-Uhlenbeck process, AR(1) when sampled) that
    forgets within `drift_s`; `walk` is how far a random walk goes in a second; for a share `loaded` of the
    time, in stretches of `stretch_s`, everything takes `slowdown` times as long. `resolution_s` is the
    clock's; with it each call is timed singly, as cold ones are.
    """

    name: str
    told: str
    offsets: Mapping[str, Draw]
    noise: Mapping[str, Draw]
    drift: float = 0.0
    drift_s: float = 1.0
    walk: float = 0.0
    loaded: float = 0.0
    stretch_s: float = 0.2
    slowdown: float = 1.5
    resolution_s: float = 0.0
    base_scale: float = 1.0

    def base_s(self, case: str) -> float:
        """The time of a call on a quiet machine, in the process whose offset is 0."""
        return BASE_S[case] * self.base_scale

    @cached_property
    def typical_offset(self) -> Mapping[str, float]:
        """Each case's median offset over the population of processes, and that of the ratio."""
        rng = Random(f"{self.name}/offsets")
        return {name: median(values) for name, values in _drawn(self.offsets, rng).items()}

    @cached_property
    def typical_noise(self) -> Mapping[str, float]:
        """The median that one process's samples, or their ratios, have in the long run, above its offset."""
        rng = Random(f"{self.name}/noise")
        noise = _drawn(self.noise, rng)
        for case in CASES if self.loaded else ():
            noise[case] = [
                value + (math.log(self.slowdown) if rng.random() < self.loaded else 0.0)
                for value in noise[case]
            ]
        return {name: median(values) for name, values in noise.items()}

    @cached_property
    def noise_quantiles(self) -> Mapping[str, Sequence[float]]:
        """Each case's noise as 51 values that stand for equal shares of it."""
        every = TRUTH_DRAWS // 51
        drawn = _drawn(self.noise, Random(f"{self.name}/noise"))
        return {case: sorted(drawn[case])[every // 2 :: every] for case in CASES}


def _drawn(draws: Mapping[str, Draw], rng: Random) -> dict[str, list[float]]:
    """Draws of each case's distribution, and of that of the logarithm of their ratio."""
    pairs = [(draws["anchor"](rng), draws["case"](rng)) for _ in range(TRUTH_DRAWS)]
    anchor, case = zip(*pairs, strict=True)
    return {"anchor": list(anchor), "case": list(case), "ratio": [a - b for a, b in pairs]}


def _both(draw: Draw) -> dict[str, Draw]:
    return dict.fromkeys(CASES, draw)


#: What the intervals are tried on.
SITUATIONS = (
    Situation("quiet", "process offsets 3%, noise 1%", _both(normal(0.03)), _both(normal(0.01))),
    Situation("noisy", "process offsets 3%, noise 3%", _both(normal(0.03)), _both(normal(0.03))),
    Situation("very noisy", "process offsets 5%, noise 10%", _both(normal(0.05)), _both(normal(0.10))),
    Situation(
        "unequal",
        "offsets 1% and 5%, noise 1% and 5%: one case leaves long before the other",
        {"anchor": normal(0.01), "case": normal(0.05)},
        {"anchor": normal(0.01), "case": normal(0.05)},
    ),
    Situation(
        "heavy-tailed offsets",
        "offsets 3% × Student's t with 2 degrees of freedom, noise 2%",
        _both(students(0.03, 2)),
        _both(normal(0.02)),
    ),
    Situation(
        "two layouts",
        "one process in three is 8% slower (one case only), noise 2%",
        {"anchor": normal(0.01), "case": two_layouts(1 / 3, 0.08, 0.01)},
        _both(normal(0.02)),
    ),
    Situation(
        "one-sided offsets",
        "exponential offsets, 4% on average (one case only), noise 2%",
        {"anchor": normal(0.01), "case": one_sided(0.04)},
        _both(normal(0.02)),
    ),
    Situation(
        "heavy-tailed noise",
        "offsets 3%, noise 2% × Student's t with 2 degrees of freedom",
        _both(normal(0.03)),
        _both(students(0.02, 2)),
    ),
    Situation(
        "bursts",
        "offsets 3%, noise 2%, one sample in eight takes 1.5 to 3 times as long",
        _both(normal(0.03)),
        _both(spiky(0.02, 1 / 8)),
    ),
    Situation(
        "load comes and goes",
        "offsets 3%, noise 2%, a quarter of the time (stretches of 0.2 s) all is 1.5 times as slow",
        _both(normal(0.03)),
        _both(normal(0.02)),
        loaded=0.25,
    ),
    Situation(
        "fast drift",
        "offsets 3%, noise 2%, shared drift of 5% that changes within 50 ms",
        _both(normal(0.03)),
        _both(normal(0.02)),
        drift=0.05,
        drift_s=0.05,
    ),
    Situation(
        "slow drift",
        "offsets 3%, noise 2%, shared random walk of 5% in a second",
        _both(normal(0.03)),
        _both(normal(0.02)),
        walk=0.05,
    ),
    Situation(
        "coarse clock",
        "single calls of 4 and 5 µs, a clock of 42 ns, offsets 3%, noise 2%",
        _both(normal(0.03)),
        _both(normal(0.02)),
        resolution_s=42e-9,
        base_scale=1e-3,
    ),
    Situation(
        "all at once",
        "heavy-tailed offsets 3%, heavy-tailed noise 2%, drift 5% within 0.5 s, load an eighth of the time",
        _both(students(0.03, 2)),
        _both(students(0.02, 2)),
        drift=0.05,
        drift_s=0.5,
        loaded=0.125,
    ),
)


class _Machine:
    """Time, drift and load; all of it moves on with `spend`."""

    def __init__(self, situation: Situation, rng: Random) -> None:
        self.situation = situation
        self.rng = rng
        self.now_s = 0.0
        self.drift = rng.gauss(0, situation.drift)
        self.loaded = rng.random() < situation.loaded
        self._changes_s = self._lasts()

    def _lasts(self) -> float:
        """How long the present state of load lasts."""
        share, stretch_s = self.situation.loaded, self.situation.stretch_s
        if not share:
            return math.inf
        return self.rng.expovariate(1 / (stretch_s if self.loaded else stretch_s * (1 - share) / share))

    def spend(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        kind = self.situation
        if kind.drift:
            kept = math.exp(-seconds / kind.drift_s)
            self.drift = self.drift * kept + self.rng.gauss(0, kind.drift * math.sqrt(1 - kept * kept))
        elif kind.walk:
            self.drift += self.rng.gauss(0, kind.walk * math.sqrt(seconds))
        while self.now_s > self._changes_s:
            self.loaded = not self.loaded
            self._changes_s += self._lasts()

    @property
    def level(self) -> float:
        """By how much everything is slower than usual, as a logarithm."""
        return self.drift + (math.log(self.situation.slowdown) if self.loaded else 0.0)


class _Bench:
    """One process: its offsets, and the drift and level that its samples saw."""

    start = "simulated"

    def __init__(self, machine: _Machine) -> None:
        self._machine = machine
        machine.spend(FORK_S)
        self.offsets = {case: draw(machine.rng) for case, draw in machine.situation.offsets.items()}
        self.drifts: dict[str, list[float]] = {case: [] for case in CASES}
        self.levels: dict[str, list[float]] = {case: [] for case in CASES}

    def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        machine, kind = self._machine, self._machine.situation
        case, calls = parameters["case"], parameters["calls"]
        typical_s = kind.base_s(case) * math.exp(self.offsets[case])
        machine.spend(typical_s * math.exp(machine.level))  # the priming call, or a flush
        self.drifts[case].append(machine.drift)
        self.levels[case].append(machine.level)
        elapsed_s = calls * typical_s * math.exp(machine.level + kind.noise[case](machine.rng))
        machine.spend(elapsed_s)
        if kind.resolution_s:
            began_ticks = machine.rng.random()  # within a tick
            elapsed_s = math.floor(elapsed_s / kind.resolution_s + began_ticks) * kind.resolution_s
        return {"elapsed_s": elapsed_s, "cpu_s": elapsed_s, "launch_s": None}

    def close(self) -> None: ...

    def level_then(self, case: str) -> float:
        """The median above its offset that `case` had in this process while it was sampled."""
        noise = self._machine.situation.noise_quantiles[case]
        return float(np.median(np.add.outer(self.levels[case], noise)))


@dataclass(frozen=True, slots=True)
class Trial:
    """One simulated block: what was sampled, and the truth (of a case its time of a call; of `ratio` that).

    In the long run it is the median over the population of processes of the median that a process has in the
    long run, at the machine's usual level. `then` it is, of several processes, the same at the drift that
    the machine had meanwhile; of one process, the median of that process, at the drift and load meanwhile.
    """

    samples: Mapping[str, tuple[ProcessSamples, ...]]
    then: Mapping[str, float]
    long_run: Mapping[str, float]


def simulate(
    situation: Situation,
    *,
    processes: int,
    precision: float,
    max_seconds: float,
    seed: int,
    rule: Callable[[float, float, int], StoppingRule] = PrecisionOrBudget,
) -> Trial:
    """Measure one block on the simulated machine as `blocks.measure_block` would on a real one.

    `rule` makes the stopping rule of a precision, a budget in seconds and the fewest rounds.
    """
    rng = Random(f"{situation.name}/{processes}/{seed}")
    machine = _Machine(situation, rng)
    share_s = max_seconds * situation.base_scale / processes
    pace = Pace(share_s, deadline_s=60.0, cache="cold" if situation.resolution_s else "warm")
    stop = rule(precision, share_s, LEAST_ROUNDS_ALONE if processes == 1 else LEAST_ROUNDS)
    samples: dict[str, list[ProcessSamples]] = {case: [] for case in CASES}
    benches = []
    for _ in range(processes):
        bench = _Bench(machine)
        entrants = [Entrant(case, bench) for case in CASES]
        outcome = play(entrants, pace=pace, stop=stop, rng=rng, clock=lambda: machine.now_s)
        assert not outcome.failures
        for entrant in entrants:
            samples[entrant.case_id].append(entrant.samples())
        benches.append(bench)
    base = {case: math.log(situation.base_s(case)) for case in CASES}
    base["ratio"] = base["anchor"] - base["case"]
    long_run = {
        name: base[name] + situation.typical_offset[name] + situation.typical_noise[name] for name in base
    }
    if processes > 1:
        then = {case: long_run[case] + fmean(fmean(each.drifts[case]) for each in benches) for case in CASES}
        then["ratio"] = long_run["ratio"]
    else:
        then = {case: base[case] + bench.offsets[case] + bench.level_then(case) for case in CASES}
        own_offset = bench.offsets["anchor"] - bench.offsets["case"]
        then["ratio"] = base["ratio"] + own_offset + situation.typical_noise["ratio"]
    return Trial(
        samples={case: tuple(each) for case, each in samples.items()},
        then={name: math.exp(value) for name, value in then.items()},
        long_run={name: math.exp(value) for name, value in long_run.items()},
    )
