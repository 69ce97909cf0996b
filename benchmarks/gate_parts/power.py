"""What the sequential sign test comes to when pairs are independent: computed, not drawn.

With respect to the two lines, margin and gate, a pair lies below both, between them, or above both; so how
many lie above both and how many below both is all that the rule looks at. Their joint distribution is carried
on from pair to pair, and at each look what is decided is taken out of it (as for group sequential tests,
Armitage, McPherson & Rowe, J. R. Stat. Soc. A 132, 1969).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr

from attnbench.gate.sequential import Rule

__all__ = ["Characteristics", "characteristics", "normal_characteristics"]


@dataclass(frozen=True, slots=True)
class Characteristics:
    """Of one case: the probabilities of its outcomes, and how many pairs it takes on average."""

    fails: float
    passes: float
    undecided: float
    pairs: float


@lru_cache(maxsize=4096)
def characteristics(rule: Rule, below: float, above: float) -> Characteristics:
    """Of independent pairs: `below` is the probability to lie below the margin, `above` above the gate."""
    most = rule.looks[-1]
    between = 1.0 - below - above
    alive = np.zeros((most + 1, most + 1))  # [pairs below the margin, pairs above the gate]
    alive[0, 0] = 1.0
    fails = passes = mean_pairs = 0.0
    seen = 0
    for look in rule.looks:
        for _ in range(seen, look):
            grown = between * alive
            grown[1:] += below * alive[:-1]
            grown[:, 1:] += above * alive[:, :-1]
            alive = grown
        seen = look
        low, high = np.indices(alive.shape)
        slower, within = look - low, look - high
        decided = np.zeros_like(alive)
        failing = (slower >= rule.to_fail(look)) & (alive > 0)
        passing = (within >= rule.to_pass(look)) & ~failing & (alive > 0)
        fails += float(alive[failing].sum())
        passes += float(alive[passing].sum())
        decided[failing | passing] = alive[failing | passing]
        mean_pairs += look * float(decided.sum())
        alive = alive - decided
    undecided = float(alive.sum())
    return Characteristics(fails, passes, undecided, mean_pairs + most * undecided)


def normal_characteristics(rule: Rule, effect: float, spread: float) -> Characteristics:
    """Of pairs whose d is normal around ln(1 + `effect`) with the standard deviation `spread`."""
    centre = math.log1p(effect)
    below = float(ndtr((math.log1p(rule.margin) - centre) / spread))
    above = float(ndtr((centre - math.log1p(rule.gate)) / spread))
    return characteristics(rule, below, above)
