"""Gates made of real pairs: those of A/A gates, drawn anew, and slowed down by what is asked.

So there are as many gates as one likes, of any slow-down, with the noise of a real machine. Each test draws
its pairs, with replacement, from those of one real gate: so what its zygotes had in common stays, and with it
the luck of its few pairs. Machines are drawn somewhat worse than they are by that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnbench.gate.sequential import Rule
from gate_parts.streams import FAIL, UNDECIDED, Array, decide, stands

__all__ = ["Rates", "resampled"]


@dataclass(frozen=True, slots=True)
class Rates:
    """Of so many gates, how many failed by their first test, in the end, and how many came to no end."""

    gates: int
    first_fails: int
    fails: int
    undecided: int
    pairs: float


def resampled(
    streams: Sequence[Sequence[float]], rule: Rule, effects: Sequence[float], *, gates: int, seed: int
) -> list[Rates]:
    """What gates of each of `effects` come to, of the pairs `streams` of A/A gates."""
    rng = np.random.default_rng(seed)
    first, again, control = (_drawn(streams, gates, rule.looks[-1], rng) for _ in range(3))
    found = []
    for effect in effects:
        slower = math.log1p(effect)
        verdict, pairs = decide(rule, first + slower)
        failed = verdict == FAIL
        final = verdict.copy()
        final[failed & ~stands(rule, again + slower, control)] = UNDECIDED
        found.append(
            Rates(
                gates,
                int(failed.sum()),
                int((final == FAIL).sum()),
                int((final == UNDECIDED).sum()),
                float(pairs.mean()),
            )
        )
    return found


def _drawn(streams: Sequence[Sequence[float]], gates: int, pairs: int, rng: np.random.Generator) -> Array:
    """`[gates, pairs]`, each row of one of `streams`."""
    return np.stack([rng.choice(streams[at], pairs) for at in rng.integers(len(streams), size=gates)])
