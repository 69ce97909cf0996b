"""Findings about one NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Iterator

from attnbench.doctor.finding import Finding, ok, unknown, warning
from attnbench.doctor.findings.words import joined
from attnbench.doctor.readings import GpuReading
from attnbench.units import format_bytes, format_count

__all__ = ["gpu_findings"]

#: A limit this near to its default is its default: boards round them.
NEAR = 0.99

#: Most boards slow down from 83 to 90 °C.
HOT_C = 83.0


def gpu_findings(gpu: GpuReading) -> Iterator[Finding]:
    """What there is to say of a GPU; one line where NVML says nothing of it."""
    if not gpu.seen:
        yield unknown(
            "GPU",
            f"{gpu.name or gpu.device}: NVML tells nothing of it (nvidia-smi would not, either)",
            device=gpu.device,
        )
        return
    driver = f", driver {gpu.driver}" if gpu.driver else ""
    yield ok("GPU", f"{gpu.name or 'unnamed'}{driver}", device=gpu.device)
    for check in (_clocks, _power, _heat, _others, _persistence, _ecc, _mig):
        yield check(gpu)


def _clocks(gpu: GpuReading) -> Finding:
    if gpu.max_clock_hz is None:
        return unknown("GPU clock", "the driver does not tell its clocks", device=gpu.device)
    most = f"{format_count(gpu.max_clock_hz, 'Hz')} at most"
    now = "" if gpu.clock_hz is None else f"{format_count(gpu.clock_hz, 'Hz')} at rest, "
    chosen = gpu.set_clock_hz
    limited = (
        chosen is not None
        and chosen < NEAR * gpu.max_clock_hz
        and (gpu.default_clock_hz is None or abs(chosen - gpu.default_clock_hz) > (1 - NEAR) * chosen)
    )
    if not limited and "clocks_setting" not in (gpu.reasons or ()):
        return ok(
            "GPU clock",
            f"{now}{most}",
            effect="it follows heat and power; each round's clock is recorded. For times that compare across "
            f"runs, hold it: sudo nvidia-smi -i {_name(gpu)} -lgc MHz (afterwards -rgc)",
            device=gpu.device,
        )
    return warning(
        "GPU clock",
        f"{now}{most}, but somebody has set it"
        + ("" if chosen is None or not limited else f" to {format_count(chosen, 'Hz')}"),
        effect="times are those of this clock, which others do not have: they are steadier, and longer",
        remedy=f"sudo nvidia-smi -i {_name(gpu)} -rac && sudo nvidia-smi -i {_name(gpu)} -rgc",
        device=gpu.device,
    )


def _power(gpu: GpuReading) -> Finding:
    limit, default = gpu.power_limit_w, gpu.default_power_limit_w
    if limit is None:
        return unknown("GPU power", "the driver does not tell its power limit", device=gpu.device)
    if default is None or not limit < NEAR * default:
        return ok("GPU power", f"limited to {limit:.0f} W", device=gpu.device)
    return warning(
        "GPU power",
        f"limited to {limit:.0f} W, by default {default:.0f} W",
        effect="under load the clock falls to stay below it: large kernels are slower than on others' boards",
        remedy=f"sudo nvidia-smi -i {_name(gpu)} -pl {default:.0f}",
        device=gpu.device,
    )


def _heat(gpu: GpuReading) -> Finding:
    if gpu.temperature_c is None and gpu.reasons is None:
        return unknown("GPU heat", "the driver does not tell its temperature", device=gpu.device)
    said = [] if gpu.temperature_c is None else [f"{gpu.temperature_c:.0f} °C"]
    if gpu.slowed_by:
        said.append(f"slowed down by {joined(gpu.slowed_by)}")
    elif gpu.reasons is not None:
        said.append("not slowed down")
    text = ", ".join(said)
    if not gpu.slowed_by and not (gpu.temperature_c or 0.0) >= HOT_C:
        return ok("GPU heat", text, device=gpu.device)
    return warning(
        "GPU heat",
        text,
        effect="rounds under a thermal or hardware slow-down are discarded: fewer samples are left, or none",
        remedy=f"nvidia-smi -i {_name(gpu)} -q -d TEMPERATURE,PERFORMANCE\n(let it cool; see to its air "
        "and its power cables)",
        device=gpu.device,
    )


def _others(gpu: GpuReading) -> Finding:
    if gpu.processes is None:
        return unknown("GPU load", "the driver does not tell who else computes on it", device=gpu.device)
    if not gpu.processes:
        return ok("GPU load", "nobody else computes on it", device=gpu.device)
    named = ", ".join(
        f"pid {each.pid}" + ("" if each.memory_bytes is None else f" ({format_bytes(each.memory_bytes)})")
        for each in gpu.processes
    )
    return warning(
        "GPU load",
        f"others compute on it: {named}",
        effect="their kernels run between ours, and their memory is missing: times jump, large cases are oom",
        remedy=f"nvidia-smi -i {_name(gpu)}\n(names them; wait for them, or measure elsewhere: --device)",
        device=gpu.device,
    )


def _persistence(gpu: GpuReading) -> Finding:
    if gpu.persistence is None:
        return unknown("GPU persistence", "the driver does not tell", device=gpu.device)
    if gpu.persistence:
        return ok("GPU persistence", "on", device=gpu.device)
    return warning(
        "GPU persistence",
        "off",
        effect="the driver lets go of the GPU between our processes: each starts seconds later, on a clock "
        "that has yet to rise, and clocks and limits that were set are forgotten",
        remedy=f"sudo nvidia-smi -i {_name(gpu)} -pm 1",
        device=gpu.device,
    )


def _ecc(gpu: GpuReading) -> Finding:
    if gpu.ecc is None:
        return unknown("GPU ECC", "this GPU has none, or the driver does not tell", device=gpu.device)
    if not gpu.ecc:
        return ok("GPU ECC", "off", device=gpu.device)
    return ok(
        "GPU ECC",
        "on",
        effect="costs boards with GDDR memory some 6% of bandwidth, those with HBM nothing",
        device=gpu.device,
    )


def _mig(gpu: GpuReading) -> Finding:
    if gpu.mig is None:
        return unknown(
            "GPU MIG", "this GPU cannot be divided, or the driver does not tell", device=gpu.device
        )
    if not gpu.mig:
        return ok("GPU MIG", "off: the GPU is whole", device=gpu.device)
    return warning(
        "GPU MIG",
        "on: this is a part of a GPU",
        effect="its clock and memory are shared with the other parts; power and energy are not known",
        remedy=f"sudo nvidia-smi -i {_name(gpu)} -mig 0\n(when nobody uses it; gives the whole GPU back)",
        device=gpu.device,
    )


def _name(gpu: GpuReading) -> str:
    """What nvidia-smi knows it by: CUDA and NVML may count GPUs in another order."""
    return gpu.uuid or gpu.device.partition(":")[2] or "0"
