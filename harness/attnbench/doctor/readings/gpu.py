"""What an NVIDIA GPU says of itself, before we have used it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnbench.doctor.readings.files import tried
from attnbench.nvml import Gpu

__all__ = ["GpuProcess", "GpuReading", "read_gpu"]


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on the GPU; its id is the machine's, not a container's."""

    pid: int
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A device as torch counts it (`cuda:0`), with what NVML says of it; `seen`: whether it says anything.

    `set_clock_hz` is what somebody has set (the application clock), `default_clock_hz` what it is at the
    factory. `reasons` are why the clock is not higher now, `slowed_by` those of them that spoil figures;
    `processes` are others', as we have used the GPU for nothing yet.
    """

    device: str = "cuda:0"
    seen: bool = False
    name: str | None = None
    uuid: str | None = None
    driver: str | None = None
    clock_hz: float | None = None
    max_clock_hz: float | None = None
    default_clock_hz: float | None = None
    set_clock_hz: float | None = None
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    temperature_c: float | None = None
    persistence: bool | None = None
    ecc: bool | None = None
    mig: bool | None = None
    reasons: tuple[str, ...] | None = None
    slowed_by: tuple[str, ...] = ()
    processes: tuple[GpuProcess, ...] | None = None


def read_gpu(device: Mapping[str, Any]) -> GpuReading:
    """What NVML says of a device that a zygote's hello lists."""
    named = str(device.get("device", "cuda:0"))
    blind = GpuReading(device=named, name=device.get("name"), uuid=device.get("uuid"))
    gpu = tried(lambda: Gpu.open(device.get("uuid")))
    if gpu is None:
        return blind
    try:
        return tried(lambda: _reading(named, device, gpu)) or blind
    finally:
        gpu.close()


def _reading(named: str, device: Mapping[str, Any], gpu: Gpu) -> GpuReading:
    said, state = gpu.describe(), gpu.state()
    processes = said.get("processes")
    return GpuReading(
        device=named,
        seen=True,
        name=said.get("name") or device.get("name"),
        uuid=said.get("uuid") or device.get("uuid"),
        driver=said.get("driver"),
        clock_hz=state.sm_clock_hz,
        max_clock_hz=said.get("sm_clock_max_hz"),
        default_clock_hz=said.get("sm_clock_default_hz"),
        set_clock_hz=said.get("sm_clock_set_hz"),
        power_limit_w=said.get("power_limit_w"),
        default_power_limit_w=said.get("power_limit_default_w"),
        temperature_c=state.temperature_c,
        persistence=said.get("persistence"),
        ecc=said.get("ecc"),
        mig=said.get("mig"),
        reasons=state.reasons,
        slowed_by=state.slowed_by,
        processes=None
        if processes is None
        else tuple(GpuProcess(each["pid"], each.get("memory_bytes")) for each in processes),
    )
