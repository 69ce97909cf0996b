"""A process that does nothing but read the clock: whatever it misses, somebody else took.

`python -m attnbench.doctor.spin --parent PID --cpu N` pins itself to a CPU (`-1`: to none), says `ready`, and
for each line `SECONDS` on its standard input spins that long and answers with one line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

__all__ = ["GAP_S", "Spin", "spin"]

#: Two readings of the clock in a row that lie further apart than this had an interruption between them:
#: a turn of the loop takes about 0.1 µs, the timer's interrupt 1 to 5 µs.
GAP_S = 5e-6


@dataclass(frozen=True, slots=True)
class Spin:
    """Of `elapsed_s` seconds on one CPU, `lost_s` were lost in `gaps` interruptions, the longest `longest_s`.

    `turns` is how often the loop went round: how fast the CPU was.
    """

    cpu: int | None = None
    elapsed_s: float | None = None
    lost_s: float | None = None
    longest_s: float | None = None
    gaps: int | None = None
    turns: int | None = None


def spin(seconds: float, clock: Callable[[], int] = time.perf_counter_ns, cpu: int | None = None) -> Spin:
    """Read `clock` (nanoseconds) for so long, and tell what was missed."""
    threshold = int(GAP_S * 1e9)
    lost, longest, gaps, turns = 0, 0, 0, 0
    began = last = clock()
    end = began + int(seconds * 1e9)
    while last < end:
        now = clock()
        gap = now - last
        if gap > threshold:
            lost += gap
            gaps += 1
            longest = max(longest, gap)
        turns += 1
        last = now
    return Spin(cpu, (last - began) * 1e-9, lost * 1e-9, longest * 1e-9, gaps, turns)


def main() -> None:
    """Answer the parent until it closes the pipe."""
    from attnbench.bench.lifeline import die_with

    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--cpu", type=int, required=True)
    arguments = parser.parse_args()
    die_with(arguments.parent)
    cpu: int | None = arguments.cpu
    if arguments.cpu >= 0 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [arguments.cpu])
    else:
        cpu = None
    gc.disable()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(asdict(spin(float(line), cpu=cpu))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
