"""The doctor looks at the machine: every reading, in an order in which none disturbs another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from attnbench.doctor.readings import Noise, Others, Readings
from attnbench.doctor.readings.bench import read_bench
from attnbench.doctor.readings.clock import read_clock
from attnbench.doctor.readings.files import tried
from attnbench.doctor.readings.gpu import read_gpu
from attnbench.doctor.readings.memory import read_memory
from attnbench.doctor.readings.noise import read_noise
from attnbench.doctor.readings.others import read_others
from attnbench.doctor.readings.processor import read_processor, usable_cpus
from attnbench.doctor.readings.variables import read_variables
from attnbench.driver.pinned import process_environment, thread_count
from attnbench.protocol import BenchSource

__all__ = ["LASTS_S", "examine"]

#: About how long it takes: a second of rest, half a second of one CPU, a second of all, and their start.
LASTS_S = 4

ROOT = Path("/")


def examine(source: BenchSource, devices: Sequence[str], root: Path = ROOT) -> Readings:
    """Read all there is about the machine and those of `devices` that are GPUs.

    `source` has benches with all threads and pinned malloc, and must be at rest.

    Raises:
        MeasuringError: no bench can be had.
    """
    cpus: Sequence[int | None] = usable_cpus() or [None] * thread_count("all")
    others = tried(lambda: read_others(cpus, root)) or Others()  # first: what comes after is load of our own
    gpus = [each for each in source.hello["devices"].get("cuda", []) if each.get("device") in devices]
    return Readings(
        clock=read_clock(root),
        noise=tried(lambda: read_noise(cpus, root)) or Noise(),
        others=others,
        processor=read_processor(root),
        memory=read_memory(root),
        variables=read_variables(os.environ, process_environment("all", "pinned")),
        bench=read_bench(source, thread_count("all")),
        gpus=tuple(read_gpu(each) for each in gpus),
    )
