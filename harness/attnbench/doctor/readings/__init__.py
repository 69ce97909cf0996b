"""What was read of a machine: data alone, each figure None where it cannot be known."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnbench.doctor.readings.bench import BenchReading
from attnbench.doctor.readings.clock import ClockReading
from attnbench.doctor.readings.gpu import GpuReading
from attnbench.doctor.readings.memory import Memory
from attnbench.doctor.readings.noise import Noise
from attnbench.doctor.readings.others import Others
from attnbench.doctor.readings.processor import Processor
from attnbench.doctor.readings.variables import Variables

__all__ = [
    "BenchReading",
    "ClockReading",
    "GpuReading",
    "Memory",
    "Noise",
    "Others",
    "Processor",
    "Readings",
    "Variables",
]


@dataclass(frozen=True, slots=True)
class Readings:
    """All that findings are made of."""

    clock: ClockReading = field(default_factory=ClockReading)
    noise: Noise = field(default_factory=Noise)
    others: Others = field(default_factory=Others)
    processor: Processor = field(default_factory=Processor)
    memory: Memory = field(default_factory=Memory)
    variables: Variables = field(default_factory=Variables)
    bench: BenchReading = field(default_factory=BenchReading)
    gpus: tuple[GpuReading, ...] = ()
