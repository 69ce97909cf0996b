"""Streams of pairs on a simulated machine, many at a time, and what the gate makes of them.

A pair is a fresh process of each arm. The logarithm of an arm's time in pair i is

    effect(arm) + layout(zygote) + offset(process i) + drift(arm, i) + burst(arm, i)

What hits both arms alike cancels in d and is left out. `layout` is what all processes forked from one zygote
have in common; it is drawn anew when the gate starts fresh zygotes. Drift and bursts go on from pair to pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnbench.gate.sequential import FAR, Rule

__all__ = [
    "FAIL",
    "PASS",
    "SITUATIONS",
    "UNDECIDED",
    "Gates",
    "Situation",
    "decide",
    "logarithms",
    "play",
    "stands",
]

#: Verdicts of `decide`, ordered by how bad they are.
PASS, UNDECIDED, FAIL = 0, 1, 2

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Situation:
    """How a machine behaves; spreads are standard deviations of one arm's logarithms.

    `offsets` is the spread of processes (of d it is √2 times that), `tails` the degrees of freedom of
    Student's t by which they are drawn instead of normally, scaled to the same spread between quartiles;
    `layout` the spread of zygotes; `drift` that of a stationary drift (AR(1)) that an arm has for itself and
    forgets within `drift_pairs`; a share `disturbed` of the pairs, in stretches of `stretch_pairs`, is
    slowed by an exponential of mean `burst`, each arm for itself; `tick` is the step of the clock as a share
    of the time.
    """

    name: str
    told: str
    offsets: float
    tails: float | None = None
    layout: float = 0.0
    drift: float = 0.0
    drift_pairs: float = 10.0
    disturbed: float = 0.0
    stretch_pairs: float = 4.0
    burst: float = 0.0
    tick: float = 0.0

    @property
    def independent(self) -> bool:
        """Whether its pairs are independent of one another: what the test's guarantee asks for."""
        return not (self.layout or self.drift or self.disturbed)


#: What the gate is tried on. On real machines d spread by 6 to 9% (DESIGN, section 9).
SITUATIONS = (
    Situation("typical", "processes 4.3% (d 6%)", 0.043),
    Situation("noisy", "processes 6.4% (d 9%)", 0.064),
    Situation("heavy tails", "processes 4.3% × Student's t, 2 degrees of freedom", 0.043, tails=2.0),
    Situation("coarse clock", "processes 4.3%, times in steps of 1%: many ties", 0.043, tick=0.01),
    Situation("layout bias", "processes 4.3%, zygotes 1%", 0.043, layout=0.01),
    Situation("drift", "processes 4.3%, each arm's own drift 2%, over 10 pairs", 0.043, drift=0.02),
    Situation(
        "bursts",
        "processes 4.3%, a fifth of the pairs, 4 in a row, slower by 15% (mean), each arm for itself",
        0.043,
        disturbed=0.2,
        burst=0.15,
    ),
    Situation(
        "all at once",
        "processes 4.3% × t(2), zygotes 1%, drift 1.5%, bursts in a tenth of the pairs, steps of 1%",
        0.043,
        tails=2.0,
        layout=0.01,
        drift=0.015,
        disturbed=0.1,
        burst=0.15,
        tick=0.01,
    ),
)

#: Upper quartile of the normal distribution, and of Student's t with 2 degrees of freedom.
_NORMAL_QUARTILE, _T2_QUARTILE = 0.6745, 0.8165


def logarithms(
    situation: Situation, effects: Sequence[float], trials: int, pairs: int, rng: np.random.Generator
) -> list[Array]:
    """`[trials, pairs]` of each arm's logarithm of time; `effects` are by how much each arm is slower."""
    return [_arm(situation, effect, trials, pairs, rng) for effect in effects]


def _arm(situation: Situation, effect: float, trials: int, pairs: int, rng: np.random.Generator) -> Array:
    shape = (trials, pairs)
    if situation.tails is None:
        noise: Array = rng.standard_normal(shape)
    else:
        assert situation.tails == 2.0, "the quartile is known of two degrees of freedom"
        noise = rng.standard_t(situation.tails, shape) * (_NORMAL_QUARTILE / _T2_QUARTILE)
    log = math.log1p(effect) + situation.offsets * noise
    if situation.layout:
        log += situation.layout * rng.standard_normal((trials, 1))
    if situation.drift:
        log += situation.drift * _drifting(shape, situation.drift_pairs, rng)
    if situation.disturbed:
        disturbed = _stretches(shape, situation.disturbed, situation.stretch_pairs, rng)
        log += disturbed * rng.exponential(situation.burst, shape)
    if situation.tick:
        ticks = np.maximum(1.0, np.floor(np.exp(log) / situation.tick + rng.random(shape)))  # at any phase
        log = np.log(ticks * situation.tick)
    return log


def _drifting(shape: tuple[int, int], memory_pairs: float, rng: np.random.Generator) -> Array:
    """A stationary AR(1) of unit variance along the pairs."""
    kept = math.exp(-1 / memory_pairs)
    drift = rng.standard_normal(shape)
    for pair in range(1, shape[1]):
        drift[:, pair] = kept * drift[:, pair - 1] + math.sqrt(1 - kept * kept) * drift[:, pair]
    return drift


def _stretches(shape: tuple[int, int], taken: float, mean_pairs: float, rng: np.random.Generator) -> Array:
    """True for a share `taken` of the pairs, in stretches of `mean_pairs` (a two-state Markov chain)."""
    ends, begins = 1 / mean_pairs, taken / (1 - taken) / mean_pairs
    chance = rng.random(shape)
    state = np.empty(shape, dtype=bool)
    state[:, 0] = chance[:, 0] < taken
    for pair in range(1, shape[1]):
        before = state[:, pair - 1]
        state[:, pair] = np.where(before, chance[:, pair] >= ends, chance[:, pair] < begins)
    return state


def decide(rule: Rule, d: Array) -> tuple[Array, Array]:
    """`Rule.decide` of each row of `d` `[trials, pairs]`: verdicts, and how many pairs they took."""
    slower = np.cumsum(d > math.log1p(rule.margin), axis=1)
    within = np.cumsum(d < math.log1p(rule.gate), axis=1)
    verdict = np.full(len(d), UNDECIDED)
    pairs = np.full(len(d), rule.looks[-1])
    open_ = np.ones(len(d), dtype=bool)
    for look in rule.looks:
        fails = open_ & (slower[:, look - 1] >= rule.to_fail(look))
        passes = open_ & ~fails & (within[:, look - 1] >= rule.to_pass(look))
        verdict[fails], verdict[passes] = FAIL, PASS
        pairs[fails | passes] = look
        open_ &= ~(fails | passes)
    return verdict, pairs


def stands(rule: Rule, again: Array, control: Array) -> Array:
    """Whether failures stand: they fail again, and by then the control has failed in neither direction.

    Or it has, but what they are slower by fails `beyond` three times what the base differs from itself, too.
    """
    verdict, took = decide(rule, again)

    def failed(d: Array) -> Array:
        alarm, after = decide(rule, d)
        return (alarm == FAIL) & (after <= took)

    clean = ~(failed(control) | failed(-control))
    found: Array = (verdict == FAIL) & (clean | failed(again - FAR * np.abs(control)))
    return found


@dataclass(frozen=True, slots=True)
class Gates:
    """What whole gates came to: `[gates, cases]` each.

    `first` are the verdicts of the first test alone, `final` those after repetition and control; `pairs` are
    how many the first test took.
    """

    first: Array
    final: Array
    pairs: Array


def play(
    rule: Rule, situation: Situation, effects: Sequence[float], gates: int, rng: np.random.Generator
) -> Gates:
    """Whole gates of as many cases as there are `effects`, `rule.cases` at once.

    A failure is repeated with fresh zygotes, and beside it the base is measured against itself in the same
    pairs: it stands when the repetition fails and `stands` holds; else the case is undecided.
    """
    most = rule.looks[-1]
    first, final, pairs = list[Array](), list[Array](), list[Array]()
    for effect in effects:
        base, head = logarithms(situation, (0.0, effect), gates, most, rng)
        verdict, seen = decide(rule, head - base)
        failed = np.flatnonzero(verdict == FAIL)
        confirmed = verdict.copy()
        if len(failed):
            base, head, control = logarithms(situation, (0.0, effect, 0.0), len(failed), most, rng)
            confirmed[failed[~stands(rule, head - base, control - base)]] = UNDECIDED
        first.append(verdict)
        final.append(confirmed)
        pairs.append(seen)
    return Gates(np.stack(first, 1), np.stack(final, 1), np.stack(pairs, 1))
