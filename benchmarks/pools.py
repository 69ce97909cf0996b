"""Do implementations with different thread pools disturb one another when they take turns in one process?

For every pair of pools (torch's OpenMP, NumPy's OpenBLAS; also each with itself) two implementations are
measured alone and interleaved, in fresh benches that alternate: solo A, solo B, both, … Each figure is an
implementation's interleaved median over its solo median, paired by repetition; the claim is 1 within 5%.

    python benchmarks/pools.py [--repetitions 15] [--rounds 12]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from random import Random
from statistics import median
from time import monotonic

from attnbench import stats
from attnbench.driver import ZygoteSource
from attnbench.protocol import BenchSource
from attnbench.rounds import Entrant, play
from attnbench.sampling import Pace
from attnbench.workload import AttentionShape, Workload

WORKLOAD = Workload("attention", AttentionShape(1, 8, 8, 512, 512, 64))

#: Two implementations of torch's pool, and the one of NumPy's.
PAIRS = (("sdpa_flash", "naive"), ("sdpa_flash", "numpy"), ("naive", "numpy"), ("numpy", "numpy"))

WITHIN = 0.05


def medians(source: BenchSource, names: Sequence[str], rounds: int, seed: int, threads: int) -> list[float]:
    """Each implementation's median, taking turns in one fresh bench."""
    bench = source.bench()
    try:
        entrants = []
        for number, name in enumerate(names):
            case_id = f"{number}/{name}"
            parameters = {
                "case": case_id,
                "implementation": name,
                "options": {},
                "workload": WORKLOAD.to_json(),
                "device": "cpu",
                "seed": 0,
                "threads": threads,
            }
            bench.request("prepare", parameters, 60.0)
            entrants.append(Entrant(case_id, bench))
        outcome = play(
            entrants,
            pace=Pace(budget_s=10.0, deadline_s=60.0),
            stop=lambda per_call_s, spent_s: len(per_call_s) >= rounds,
            rng=Random(seed),
            clock=monotonic,
        )
        if outcome.failures:
            raise SystemExit(f"{outcome.failures[0][0].case_id}: {outcome.failures[0][1]}")
        return [median(entrant.per_call_s) for entrant in entrants]
    finally:
        bench.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    print(f"{WORKLOAD.label}, {threads} threads; {options.repetitions} × {options.rounds} rounds")
    print(f"{'implementation':<16}{'beside':<16}{'interleaved ÷ solo':>20}   95% interval")
    worst = 0.0
    with ZygoteSource(threads=threads) as source:
        for one, other in PAIRS:
            ratios: tuple[list[float], list[float]] = ([], [])
            for repetition in range(options.repetitions):
                solo = [
                    *medians(source, [one], options.rounds, repetition, threads),
                    *medians(source, [other], options.rounds, repetition, threads),
                ]
                both = medians(source, [one, other], options.rounds, repetition, threads)
                for kept, together, alone in zip(ratios, both, solo, strict=True):
                    kept.append(together / alone)
            for name, beside, kept in ((one, other, ratios[0]), (other, one, ratios[1])):
                estimate = median(kept)
                interval = stats.median_interval(kept)
                shown = f"{interval.low:.3f} – {interval.high:.3f}" if interval else "–"
                print(f"{name:<16}{beside:<16}{estimate:>20.3f}   {shown}", flush=True)
                worst = max(worst, abs(estimate - 1))
    print(f"furthest from 1: {worst:.1%} ({'within' if worst <= WITHIN else 'beyond'} {WITHIN:.0%})")
    return 0 if worst <= WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
