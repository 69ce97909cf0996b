"""A process that competes for the machine: computing and moving memory by turns, with pauses in between.

    python competitor.py SEED PARENT_PID

Phases are drawn by the seed: computing, moving memory or a pause, a third each, lasting 10 ms to 1 s
(log-uniform: no time scale is favoured). The first is no pause. It ends with its parent at the latest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic, sleep

__all__ = ["PHASE_S", "competing", "phases"]

#: Shortest and longest phase.
PHASE_S = (0.01, 1.0)

KINDS = ("compute", "memory", "pause")

#: Bytes that are copied: more than the caches hold.
COPIED_BYTES = 64 * 1024 * 1024

#: Side of the square matrices that are multiplied, well within a core's own cache.
SIDE = 192


def phases(seed: int) -> Iterator[tuple[str, float]]:
    """What it does next, and for how many seconds; without end."""
    rng = Random(seed)
    for number in count():
        kind = rng.choice(KINDS[:2] if number == 0 else KINDS)
        yield kind, PHASE_S[0] * (PHASE_S[1] / PHASE_S[0]) ** rng.random()


@contextmanager
def competing(seed: int, environment: dict[str, str]) -> Iterator[int]:
    """Its process id; it has begun when the context is entered, and is gone when that is left."""
    command = [sys.executable, "-P", str(Path(__file__).resolve()), str(seed), str(os.getpid())]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )
    try:
        assert process.stdout is not None  # a pipe was asked for
        if not process.stdout.readline():
            raise RuntimeError(f"the competing process ended with {process.wait()} before it began")
        yield process.pid
        if process.poll() is not None:
            raise RuntimeError(f"the competing process ended early, with {process.returncode}")
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def main(seed: int, parent: int) -> None:
    import numpy as np

    from attnbench.bench.lifeline import die_with

    die_with(parent)
    matrix = np.ones((SIDE, SIDE)) / SIDE
    source, target = np.ones(COPIED_BYTES, np.uint8), np.ones(COPIED_BYTES, np.uint8)
    part = COPIED_BYTES // 16
    print("begun", flush=True)
    for kind, seconds in phases(seed):
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            if kind == "pause":
                sleep(left)
            elif kind == "compute":
                matrix = matrix @ matrix  # of ones by their number: it stays as it is
            else:
                for at in range(0, COPIED_BYTES, part):
                    target[at : at + part] = source[at : at + part]
                    if monotonic() >= until:
                        break
        if os.getppid() != parent:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
