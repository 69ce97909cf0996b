"""Do implementations with different thread pools disturb one another when they take turns in one process?

For every pair of pools (torch's OpenMP, NumPy's OpenBLAS; also each with itself) two implementations are
prepared in one bench and play three kinds of rounds, again and again in varying order: A alone, B alone, A
and B interleaved. Each figure is an implementation's interleaved median over its solo median, paired within
a bench, so that memory layout, which differs between processes by more than what is looked for, cancels.
The claim is 1 within 5%.

    python benchmarks/pools.py [--benches 5] [--repetitions 6] [--rounds 10] [--length 512]
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
from attnbench.protocol import Bench, BenchSource
from attnbench.rounds import Entrant, play
from attnbench.sampling import Pace
from attnbench.workload import AttentionShape, Workload

#: Two implementations of torch's pool, and the one of NumPy's.
PAIRS = (("sdpa_flash", "naive"), ("sdpa_flash", "numpy"), ("naive", "numpy"), ("numpy", "numpy"))

WITHIN = 0.05


def prepare(bench: Bench, workload: Workload, name: str, number: int, threads: int) -> str:
    """Prepare an implementation in `bench`; its case id there."""
    case_id = f"{number}/{name}"
    parameters = {
        "case": case_id,
        "implementation": name,
        "options": {},
        "workload": workload.to_json(),
        "device": "cpu",
        "seed": 0,
        "threads": threads,
    }
    bench.request("prepare", parameters, 60.0)
    return case_id


def medians(bench: Bench, case_ids: Sequence[str], rounds: int, rng: Random) -> dict[str, float]:
    """Each case's median, taking turns."""
    entrants = [Entrant(case_id, bench) for case_id in case_ids]
    outcome = play(
        entrants,
        pace=Pace(budget_s=10.0, deadline_s=60.0),
        stop=lambda per_call_s, spent_s: len(per_call_s) >= rounds,
        rng=rng,
        clock=monotonic,
    )
    if outcome.failures:
        raise SystemExit(f"{outcome.failures[0][0].case_id}: {outcome.failures[0][1]}")
    return {entrant.case_id: median(entrant.per_call_s) for entrant in entrants}


def ratios(
    source: BenchSource,
    workload: Workload,
    pair: Sequence[str],
    repetitions: int,
    rounds: int,
    threads: int,
    rng: Random,
) -> tuple[list[float], ...]:
    """Interleaved over solo medians of both implementations, from one bench."""
    bench = source.bench()
    try:
        case_ids = [prepare(bench, workload, name, number, threads) for number, name in enumerate(pair)]
        found: tuple[list[float], ...] = ([], [])
        for _ in range(repetitions):
            plays = [case_ids[:1], case_ids[1:], case_ids]
            rng.shuffle(plays)
            measured = {tuple(ids): medians(bench, ids, rounds, rng) for ids in plays}
            for kept, case_id in zip(found, case_ids, strict=True):
                kept.append(measured[tuple(case_ids)][case_id] / measured[(case_id,)][case_id])
        return found
    finally:
        bench.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--benches", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--length", type=int, default=512)
    options = parser.parse_args()
    workload = Workload("attention", AttentionShape(1, 8, 8, options.length, options.length, 64))
    threads = len(os.sched_getaffinity(0))
    print(
        f"{workload.label}, {threads} threads; "
        f"{options.benches} benches × {options.repetitions} repetitions × {options.rounds} rounds"
    )
    print(f"{'implementation':<16}{'beside':<16}{'interleaved ÷ solo':>20}   95% interval")
    rng = Random(0)
    worst = 0.0
    with ZygoteSource(threads=threads) as source:
        for pair in PAIRS:
            benches = [
                ratios(source, workload, pair, options.repetitions, options.rounds, threads, rng)
                for _ in range(options.benches)
            ]
            for number, name in enumerate(pair):
                estimate = stats.hierarchical_interval([each[number] for each in benches])
                assert estimate is not None  # there is at least one bench
                interval = estimate.interval
                shown = f"{interval.low:.3f} – {interval.high:.3f}" if interval else "–"
                print(f"{name:<16}{pair[1 - number]:<16}{estimate.value:>20.3f}   {shown}", flush=True)
                worst = max(worst, abs(estimate.value - 1))
    print(f"furthest from 1: {worst:.1%} ({'within' if worst <= WITHIN else 'beyond'} {WITHIN:.0%})")
    return 0 if worst <= WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
