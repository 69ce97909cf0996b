"""Scheduling noise: what takes time away from a process that wants all of it, alone and on all CPUs."""

from __future__ import annotations

import json
import math
import os
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self, TypeVar

from attnbench.doctor.readings.files import number, text, tried
from attnbench.doctor.readings.stat import stolen_s
from attnbench.doctor.spin import Spin
from attnbench.environment import cgroups

__all__ = ["Noise", "heat_events", "read_noise"]

Figure = TypeVar("Figure", int, float)

#: How long one CPU spins alone, and then all of them together.
ALONE_S = 0.5
TOGETHER_S = 1.0

#: How long starting the processes that spin, and their answers beyond the time they spin, may take.
PATIENCE_S = 10.0

#: So many processes are started at most; on machines with more CPUs, on every second or third of them.
MOST_SPINNERS = 256

CPUS = Path("sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Noise:
    """What a CPU missed when it spun alone, and what each did when all spun at once.

    Over the latter, `stolen_s` is the time (of these CPUs together) that a hypervisor gave to others,
    `throttled` how often the control group's quota stopped us, `slowed_by_heat` how often the processor
    slowed down for its temperature.
    """

    alone: Spin | None = None
    together: tuple[Spin, ...] = ()
    stolen_s: float | None = None
    throttled: int | None = None
    slowed_by_heat: int | None = None


def read_noise(cpus: Sequence[int | None], root: Path = Path("/")) -> Noise:
    """Spin on the last of `cpus` alone, then on all of them; some two seconds, and no process is left.

    Of more than `MOST_SPINNERS` CPUs some are left out.

    Raises:
        OSError: the processes could not be started, or died.
    """
    chosen = cpus[:: math.ceil(len(cpus) / MOST_SPINNERS)]
    with ExitStack() as stack:
        spinners = [stack.enter_context(_Spinner(cpu)) for cpu in chosen]
        for spinner in spinners:
            spinner.wait_until_ready()
        spinners[-1].start(ALONE_S)
        alone = spinners[-1].answer()
        stolen = tried(lambda: stolen_s(root, cpus))
        throttled, heat = _throttled(root), heat_events(root)
        for spinner in spinners:
            spinner.start(TOGETHER_S)
        together = tuple(spinner.answer() for spinner in spinners)
        stolen = _risen(stolen, tried(lambda: stolen_s(root, cpus)))
        throttled = _risen(throttled, _throttled(root))
        heat = _risen(heat, heat_events(root))
    return Noise(alone, together, stolen, throttled, heat)


def _risen(before: Figure | None, after: Figure | None) -> Figure | None:
    """By how much a counter rose; None where it could not be read."""
    return None if before is None or after is None else after - before


def _throttled(root: Path) -> int | None:
    """How often a quota stopped this process' control groups so far; None where none of them counts it."""
    folders = tried(lambda: cgroups(root, "cpu")) or []
    written = "\n".join(text(folder / "cpu.stat") or "" for folder in folders)
    counts = re.findall(r"^nr_throttled (\d+)$", written, re.MULTILINE)
    return sum(map(int, counts)) if counts else None


def heat_events(root: Path) -> int | None:
    """How often cores and packages slowed down for their temperature; None where it is not counted."""
    counts = [
        count
        for file in (root / CPUS).glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
        if (count := number(file)) is not None
    ]
    return sum(counts) if counts else None


class _Spinner:
    """One `attnbench.doctor.spin` process; a context manager, at whose end it is gone."""

    def __init__(self, cpu: int | None) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "attnbench.doctor.spin"),
                *("--parent", str(os.getpid()), "--cpu", str(-1 if cpu is None else cpu)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # a Ctrl-C in the terminal is the parent's affair
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was not yet written cannot be any more
                    stream.close()
        self._process.wait()

    def wait_until_ready(self) -> None:
        if self._line(PATIENCE_S) != "ready":
            raise ChildProcessError("a process that spins could not be started")

    def start(self, seconds: float) -> None:
        stream = self._process.stdin
        assert stream is not None
        stream.write(f"{seconds}\n")
        stream.flush()

    def answer(self) -> Spin:
        line = self._line(PATIENCE_S)
        if not line:
            raise ChildProcessError("a process that spins ended")
        return Spin(**json.loads(line))

    def _line(self, patience_s: float) -> str:
        """The next line; empty when the process ended or takes too long."""
        stream: IO[str] | None = self._process.stdout
        assert stream is not None
        ready, _, _ = select.select([stream], [], [], patience_s)
        return stream.readline().strip() if ready else ""
