"""Are forked benches as good a sample of processes as fresh interpreters, and what does each cost?

Benches of both kinds alternate; each measures the median of the same implementation. Printed are the spread
of the medians between processes (standard deviation of their logarithms) of both kinds, the ratio of the
two, the ratio of the typical medians, and what starting one bench and preparing one case costs.

    python benchmarks/processes.py [--processes 30] [--rounds 12] [--implementation naive]
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from random import Random
from statistics import median, stdev
from time import monotonic

from attnbench.driver import ZygoteSource
from attnbench.rounds import Entrant, play
from attnbench.sampling import Pace
from attnbench.workload import AttentionShape, Workload

WORKLOAD = Workload("attention", AttentionShape(1, 4, 4, 256, 256, 64))


def measure(source: ZygoteSource, implementation: str, rounds: int, threads: int) -> tuple[float, float]:
    """The median of one fresh bench, and the seconds until it could be sampled."""
    began = monotonic()
    bench = source.bench()
    try:
        parameters = {
            "case": implementation,
            "implementation": implementation,
            "options": {},
            "workload": WORKLOAD.to_json(),
            "device": "cpu",
            "seed": 0,
            "threads": threads,
        }
        bench.request("prepare", parameters, 60.0)
        ready_s = monotonic() - began
        entrant = Entrant(implementation, bench)
        outcome = play(
            [entrant],
            pace=Pace(budget_s=10.0, deadline_s=60.0),
            stop=lambda per_call_s, spent_s: len(per_call_s) >= rounds,
            rng=Random(0),
            clock=monotonic,
        )
        if outcome.failures:
            raise SystemExit(str(outcome.failures[0][1]))
        return median(entrant.per_call_s), ready_s
    finally:
        bench.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--implementation", default="naive")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    print(
        f"{options.implementation}, {WORKLOAD.label}, {threads} threads; "
        f"{options.processes} processes of each kind, {options.rounds} rounds each"
    )
    medians: dict[str, list[float]] = {"forked": [], "spawned": []}
    ready: dict[str, list[float]] = {"forked": [], "spawned": []}
    with (
        ZygoteSource(threads=threads) as forking,
        ZygoteSource(threads=threads, spawn=True) as spawning,
    ):
        for _ in range(options.processes):
            for kind, source in (("forked", forking), ("spawned", spawning)):
                seconds, ready_s = measure(source, options.implementation, options.rounds, threads)
                medians[kind].append(seconds)
                ready[kind].append(ready_s)
    spread = {kind: stdev(map(math.log, values)) for kind, values in medians.items()}
    for kind in medians:
        print(f"{kind:<8} spread of medians {spread[kind]:6.1%}   ready after {median(ready[kind]):.3f} s")
    print(f"spread, forked ÷ spawned: {spread['forked'] / spread['spawned']:.2f}")
    print(f"median, forked ÷ spawned: {median(medians['forked']) / median(medians['spawned']):.3f}")
    print(f"ready,  forked ÷ spawned: {median(ready['forked']) / median(ready['spawned']):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
