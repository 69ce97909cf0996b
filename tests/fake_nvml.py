"""A driver's library NVML that is scripted: what `attnbench.nvml` asks, answered by figures of a test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

UUID = "f1f8a5b6-0000-1111-2222-333344445555"


class NVMLError(Exception):
    """What pynvml raises, by the dozen."""


@dataclass
class FakeGpu:
    """One GPU; a figure that is None is one that it does not tell."""

    uuid: str = f"GPU-{UUID}"
    name: str = "NVIDIA H100 80GB HBM3"
    sm_clock_mhz: int | None = 1755
    temperature_c: int | None = 61
    power_mw: int | None = 412_000
    energy_mj: Callable[[], int] | None = None
    reasons: int | None = 0
    board: FakeGpu | None = None  # of a part of a GPU (MIG)
    processes: list[Any] = field(default_factory=list)


class FakeNvml:
    """Stands in for the module `pynvml`; counts its users, and refuses to answer when there are none."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *gpus: FakeGpu, driver: bool = True) -> None:
        self.gpus = list(gpus)
        self.driver = driver
        self.users = 0
        self.missing: set[str] = set()
        self.asked: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
        """Be the `pynvml` that is imported from now on."""
        monkeypatch.setitem(sys.modules, "pynvml", self)
        return self

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's name, as all that follow
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.users += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        assert self.users > 0, "NVML was let go of more often than it was taken"
        self.users -= 1

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers: dict[str, Callable[..., Any]] = {
            "nvmlSystemGetDriverVersion": lambda: b"570.86.15",  # older versions of pynvml answer in bytes
            "nvmlDeviceGetCount": lambda: len(self.gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: self.gpus[index],
            "nvmlDeviceGetHandleByUUID": lambda uuid: next(gpu for gpu in self.gpus if gpu.uuid == uuid),
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda gpu: self._told(gpu.board),
            "nvmlDeviceGetUUID": lambda gpu: gpu.uuid,
            "nvmlDeviceGetName": lambda gpu: gpu.name,
            "nvmlDeviceGetVbiosVersion": lambda gpu: "96.00.89.00.01",
            "nvmlDeviceGetClockInfo": lambda gpu, kind: self._told(gpu.sm_clock_mhz),
            "nvmlDeviceGetMaxClockInfo": lambda gpu, kind: {1: 1980, 2: 2619}[kind],
            "nvmlDeviceGetDefaultApplicationsClock": lambda gpu, kind: 1980,
            "nvmlDeviceGetApplicationsClock": lambda gpu, kind: 1500,
            "nvmlDeviceGetTemperature": lambda gpu, sensor: self._told(gpu.temperature_c),
            "nvmlDeviceGetTemperatureV": lambda gpu, sensor: self._told(gpu.temperature_c),
            "nvmlDeviceGetPowerUsage": lambda gpu: self._told(gpu.power_mw),
            "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: self._told(gpu.energy_mj)(),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: self._told(gpu.reasons),
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda gpu: self._told(gpu.reasons),
            "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: 700_000,
            "nvmlDeviceGetPowerManagementLimit": lambda gpu: 650_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": lambda gpu: 700_000,
            "nvmlDeviceGetPersistenceMode": lambda gpu: 1,
            "nvmlDeviceGetEccMode": lambda gpu: [1, 0],
            "nvmlDeviceGetMigMode": lambda gpu: [0, 0],
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: gpu.processes,
        }
        if name not in answers or name in self.missing:
            raise AttributeError(name)

        def answer(*arguments: Any) -> Any:
            assert self.users > 0, "NVML was asked before nvmlInit or after nvmlShutdown"
            self.asked.append(name)
            return answers[name](*arguments)

        return answer

    @staticmethod
    def _told(figure: Any) -> Any:
        if figure is None:
            raise NVMLError("Not Supported")
        return figure


def process(pid: int, memory_bytes: int | None) -> SimpleNamespace:
    """One that computes on a GPU."""
    return SimpleNamespace(pid=pid, usedGpuMemory=memory_bytes)
