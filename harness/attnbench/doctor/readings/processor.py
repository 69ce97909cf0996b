"""What the system says of its processor: clocks, threads, quotas, topology, heat."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attnbench.doctor.readings.files import cpu_list, number, text, tried
from attnbench.doctor.readings.noise import heat_events
from attnbench.environment import boost, cgroup_cpus, hypervisor

__all__ = ["Processor", "read_processor", "usable_cpus"]

CPUS = Path("sys/devices/system/cpu")
NODES = Path("sys/devices/system/node")
THERMAL = Path("sys/class/thermal")
HWMON = Path("sys/class/hwmon")
POWER = Path("sys/class/power_supply")

#: Files that container engines leave in a container.
CONTAINER_MARKS = (".dockerenv", "run/.containerenv")

#: Sensors of processors, as Linux' drivers call them.
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "x86_pkg_temp", "acpitz")

#: Where the clocks' drivers say how to switch the raised clock off, and what to write there.
BOOST_SWITCHES = {
    "sys/devices/system/cpu/cpufreq/boost": "0",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1",
}


@dataclass(frozen=True, slots=True)
class Processor:
    """`usable` are the CPUs that this process may run on, `cores` the usable ones of each core together.

    `nodes` are the usable CPUs of each NUMA node that has any. `boost_switch` is the command that turns the
    raised clock off.
    """

    usable: tuple[int, ...] | None = None
    logical: int | None = None
    cores: tuple[tuple[int, ...], ...] = ()
    smt: bool | None = None
    nodes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    governors: tuple[str, ...] = ()
    driver: str | None = None
    boost: bool | None = None
    boost_switch: str | None = None
    quota_cpus: float | None = None
    quota_known: bool = False
    hypervisor: bool | None = None
    container: bool | None = None
    temperature_c: float | None = None
    heat_events: int | None = None
    on_battery: bool | None = None


def usable_cpus() -> tuple[int, ...] | None:
    """The CPUs that this process may run on; None where the system knows no affinity."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


def read_processor(root: Path = Path("/"), usable: tuple[int, ...] | None = None) -> Processor:
    """What can be known of the processor; `usable` stands in for this process' own affinity."""
    cpus = usable if usable is not None else usable_cpus()
    drivers = root / CPUS / "cpu0/cpufreq/scaling_driver"
    return Processor(
        usable=cpus,
        logical=os.cpu_count(),
        cores=_cores(root, cpus or ()),
        smt=tried(lambda: {"0": False, "1": True}[text(root / CPUS / "smt/active") or ""]),
        nodes=_nodes(root, cpus or ()),
        governors=_governors(root),
        driver=text(drivers),
        boost=tried(lambda: boost(root)),
        boost_switch=next(
            (
                f"echo {value} | sudo tee /{file}"
                for file, value in BOOST_SWITCHES.items()
                if (root / file).exists()
            ),
            None,
        ),
        quota_cpus=tried(lambda: cgroup_cpus(root)),
        quota_known=(root / "proc/self/cgroup").exists(),
        hypervisor=tried(lambda: hypervisor(root)),
        container=any((root / mark).exists() for mark in CONTAINER_MARKS) if root.exists() else None,
        temperature_c=_temperature_c(root),
        heat_events=heat_events(root),
        on_battery=_on_battery(root),
    )


def _cores(root: Path, usable: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The usable CPUs, those of one core together; nothing where the system does not tell."""
    found: dict[tuple[int, ...], None] = {}
    for cpu in usable:
        siblings = cpu_list(text(root / CPUS / f"cpu{cpu}/topology/thread_siblings_list"))
        if cpu not in siblings:
            return ()
        found[tuple(each for each in siblings if each in usable)] = None
    return tuple(found)


def _nodes(root: Path, usable: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    found = {}
    for folder in (root / NODES).glob("node[0-9]*"):
        cpus = tuple(cpu for cpu in cpu_list(text(folder / "cpulist")) if cpu in usable)
        if cpus and (node := tried(lambda folder=folder: int(folder.name[4:]))) is not None:  # type: ignore[misc]  # binds it
            found[node] = cpus
    return dict(sorted(found.items()))


def _governors(root: Path) -> tuple[str, ...]:
    """The distinct governors of all CPUs."""
    files = (root / CPUS).glob("cpu[0-9]*/cpufreq/scaling_governor")
    return tuple(sorted({found for file in files if (found := text(file))}))


def _temperature_c(root: Path) -> float | None:
    """The hottest of the processor's sensors."""
    files = [
        file
        for chip in (root / HWMON).glob("hwmon*")
        if text(chip / "name") in CPU_SENSORS
        for file in chip.glob("temp*_input")
    ] + [
        zone / "temp" for zone in (root / THERMAL).glob("thermal_zone*") if text(zone / "type") in CPU_SENSORS
    ]
    return max((found / 1000 for file in files if (found := number(file)) is not None), default=None)


def _on_battery(root: Path) -> bool | None:
    """Whether no mains is plugged in, of those that there are."""
    mains = [
        text(supply / "online") == "1"
        for supply in (root / POWER).glob("*")
        if text(supply / "type") == "Mains"
    ]
    return not any(mains) if mains else None
