"""What else this machine does while we do nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from attnbench.doctor.readings.files import text, tried
from attnbench.doctor.readings.stat import busy_s

__all__ = ["Others", "Process", "read_others"]

#: How long we watch. The system counts in hundredths of a second.
QUIET_S = 1.0

#: How many of the busiest processes are named.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Process:
    """A process of somebody else's, and the CPUs' worth of time that it took.

    Not `stoppable` are the kernel's threads, which heed no signal, and those that we descend from: a shell, a
    terminal, which would freeze us along.
    """

    pid: int
    name: str
    cpus: float
    stoppable: bool = True


@dataclass(frozen=True, slots=True)
class Others:
    """While we slept: how many of our CPUs were at work, for whom, and pages swapped in and out.

    `busy_cpus` counts what other containers do on these CPUs, too, where the kernel shows it; `busiest` are
    the processes that can be seen from here, on whichever CPU.
    """

    busy_cpus: float | None = None
    busiest: tuple[Process, ...] = ()
    load_average: float | None = None
    swapped_pages: int | None = None


def read_others(
    cpus: Collection[int | None], root: Path = Path("/"), sleep: Callable[[float], None] = time.sleep
) -> Others:
    """Sleep for a second and see what others did meanwhile on `cpus` (None among them: on any)."""
    load = tried(lambda: os.getloadavg()[0])  # before we add to it
    names, before, pages = _processes(), tried(lambda: busy_s(root, cpus)), tried(lambda: _swapped(root))
    began = time.perf_counter()
    sleep(QUIET_S)
    after, pages_after = tried(lambda: busy_s(root, cpus)), tried(lambda: _swapped(root))
    elapsed = max(time.perf_counter() - began, 1e-3)
    busiest = [
        Process(pid, name, (seconds - names[pid, name]) / elapsed)
        for (pid, name), seconds in _processes().items()
        if (pid, name) in names and seconds > names[pid, name]
    ]
    return Others(
        busy_cpus=None if before is None or after is None else max(0.0, (after - before) / elapsed),
        busiest=tuple(
            replace(each, name=_script(each) or each.name, stoppable=_is_stoppable(each.pid))
            for each in sorted(busiest, key=lambda each: -each.cpus)[:NAMED]
        ),
        load_average=load,
        swapped_pages=None if pages is None or pages_after is None else pages_after - pages,
    )


def _processes() -> Mapping[tuple[int, str], float]:
    """CPU seconds so far of every process that can be seen, but for our own and our descendants'."""
    import psutil

    def ours() -> set[int]:
        own = psutil.Process()
        return {own.pid, *(child.pid for child in own.children(recursive=True))}

    def seconds(process: psutil.Process) -> float:
        times = process.cpu_times()
        return times.user + times.system

    left_out = tried(ours) or {os.getpid()}
    found: dict[tuple[int, str], float] = {}
    for process in tried(lambda: list(psutil.process_iter())) or []:
        name, spent = tried(process.name), tried(lambda process=process: seconds(process))  # type: ignore[misc]  # binds it
        if process.pid not in left_out and name is not None and spent is not None:
            found[process.pid, name] = spent
    return found


def _script(process: Process) -> str | None:
    """`python train.py` of a process named `python`, further arguments left out; None of others."""
    import psutil

    words = tried(lambda: psutil.Process(process.pid).cmdline()) or []
    if not process.name.startswith("python") or len(words) < 2:
        return None
    if words[1] == "-m":
        return " ".join([process.name, *words[1:3]])
    return None if words[1].startswith("-") else f"{process.name} {Path(words[1]).name}"


def _is_stoppable(pid: int) -> bool:
    """Whether it can be frozen while we go on; a kernel's thread is told by its empty command line."""
    import psutil

    ancestors = tried(lambda: [parent.pid for parent in psutil.Process().parents()]) or []
    return pid not in ancestors and tried(lambda: psutil.Process(pid).cmdline()) != []


def _swapped(root: Path) -> int:
    """Pages swapped in and out so far."""
    counts = dict(line.split() for line in (text(root / "proc/vmstat") or "").splitlines())
    return int(counts["pswpin"]) + int(counts["pswpout"])
