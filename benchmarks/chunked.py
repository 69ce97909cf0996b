"""How far is our own `chunked` from torch's flash kernel on the CPU?

Prints chunked ÷ sdpa_flash (below 1: chunked is faster) at B1 H8 D64 float32 as a Markdown table: per
process the median of the ratios of interleaved rounds, then the median over processes and its 95% interval.
Samples of long sequences are single calls after the cache was flushed: their inputs do not fit in it anyway,
and the priming call of a warm sample would double the time that this takes, which is three minutes.

    python benchmarks/chunked.py [--processes 3] [--rounds 2] [--lengths 1024 4096 8192]
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import product
from random import Random

from attnbench import stats
from attnbench.driver import ZygoteSource
from attnbench.protocol import Bench
from attnbench.workload import AttentionShape, Workload

OURS, THEIRS = "chunked", "sdpa_flash"
MASKS = ("none", "causal")
#: The longest sequence of each pass: a backward pass takes two and a half times as long as a forward pass.
LONGEST = {"forward": 8192, "forward_backward": 4096}
#: From here on samples are single calls.
LONG = 4096
#: Rounds of shorter sequences, for each of a longer one: they cost next to nothing.
MORE_ROUNDS = 5


def ratios(bench: Bench, workload: Workload, rounds: int, threads: int, rng: Random) -> list[float]:
    """Ours over theirs, a value a round."""
    for name in (OURS, THEIRS):
        parameters = {
            "case": name,
            "implementation": name,
            "options": {},
            "workload": workload.to_json(),
            "device": "cpu",
            "seed": 0,
            "threads": threads,
        }
        bench.request("prepare", parameters, 120.0)
    cache = "cold" if workload.shape.q_len >= LONG else "warm"
    found = []
    for _ in range(rounds):
        seconds = {}
        for name in rng.sample((OURS, THEIRS), 2):
            sample = bench.request("sample", {"case": name, "calls": 1, "cache": cache}, 120.0)
            seconds[name] = sample["elapsed_s"]
        found.append(seconds[OURS] / seconds[THEIRS])
    for name in (OURS, THEIRS):
        bench.request("release", {"case": name}, 60.0)
    return found


def measured(source: ZygoteSource, workload: Workload, processes: int, rounds: int, threads: int) -> str:
    """A cell of the table: the ratio and its interval."""
    rng = Random(0)
    found = []
    for _ in range(processes):
        bench = source.bench()
        try:
            found.append(ratios(bench, workload, rounds, threads, rng))
        finally:
            bench.close()
    estimate = stats.hierarchical_interval(found)
    assert estimate is not None  # there is at least one process
    interval = estimate.interval
    return f"{estimate.value:.2f}" + (f" ({interval.low:.2f}–{interval.high:.2f})" if interval else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 8192])
    options = parser.parse_args()
    lengths = sorted(options.lengths)
    print(f"{OURS} ÷ {THEIRS}, B1 H8 D64 float32; {options.processes} processes; 95% intervals\n")
    print("| pass | mask | threads | " + " | ".join(str(length) for length in lengths) + " |")
    print("|---|---|--:|" + "--:|" * len(lengths))
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        with ZygoteSource(threads=threads) as source:
            for pass_, mask in product(LONGEST, MASKS):
                cells = []
                for length in lengths:
                    shape = AttentionShape(1, 8, 8, length, length, 64)
                    workload = Workload("attention", shape, mask=mask, pass_=pass_)
                    rounds = options.rounds * (1 if length >= LONG else MORE_ROUNDS)
                    cells.append(
                        measured(source, workload, options.processes, rounds, threads)
                        if length <= LONGEST[pass_]
                        else "–"
                    )
                print(f"| {pass_} | {mask} | {threads} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
