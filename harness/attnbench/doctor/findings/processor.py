"""Findings about the processor: its clocks, its threads, and how much of it is ours."""

from __future__ import annotations

import math

from attnbench.doctor.finding import Finding, ok, unknown, warning
from attnbench.doctor.findings.words import counted, joined, ranges
from attnbench.doctor.readings import Readings

__all__ = ["affinity", "battery", "boost", "cpu_quota", "governor", "heat", "numa", "smt", "virtual"]

#: Governors that keep the clock where it is; `userspace` keeps what somebody has chosen.
STEADY_GOVERNORS = ("performance", "userspace")

#: Most processors slow down between 90 and 105 °C.
HOT_C = 90.0

#: A quota is in thousandths of a period; less than this beyond whole CPUs is none.
QUOTA_SLACK = 1e-3


def governor(found: Readings) -> Finding:
    """Does the clock stay where it is?"""
    governors = found.processor.governors
    if not governors:
        virtual = " (the host of this virtual machine decides)" if found.processor.hypervisor else ""
        return unknown("governor", f"the system does not tell how clocks are governed{virtual}")
    driver = f" ({found.processor.driver})" if found.processor.driver else ""
    text = f"clocks are governed by {joined(governors)}{driver}"
    if set(governors) <= set(STEADY_GOVERNORS):
        return ok("governor", text)
    return warning(
        "governor",
        text,
        effect="the clock follows the load: small kernels may never see the full clock, times depend on what "
        "ran before; warm-up and interleaving hide most of it",
        remedy=_on_host(
            found, "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        ),
    )


def boost(found: Readings) -> Finding:
    """May the clock rise above the nominal one?"""
    if found.processor.boost is None:
        return unknown("boost", "the system does not tell whether clocks are raised")
    if not found.processor.boost:
        return ok("boost", "off: the clock does not depend on heat and on how many cores are busy")
    switch = found.processor.boost_switch
    off = f"; {switch} turns it off" if switch else ""
    return ok(
        "boost",
        "on",
        effect="clocks depend on heat and on how many cores are busy; rounds are interleaved, so ratios "
        f"hold, but compare times of different runs with care{off}",
    )


def smt(found: Readings) -> Finding:
    """Do two of our threads share a core?"""
    processor = found.processor
    shared = [core for core in processor.cores if len(core) > 1]
    if processor.smt is not False and not processor.cores:
        return unknown("SMT", "the system does not tell which CPUs share a core")
    if not shared:
        state = "on, but " if processor.smt else ""
        return ok("SMT", f"{state}no two usable CPUs share a core, as far as the system tells")
    one_each = [core[0] for core in processor.cores if core]
    threads = sum(len(core) for core in processor.cores)
    return warning(
        "SMT",
        f"{counted(threads, 'CPU')} on {counted(len(one_each), 'core')}",
        effect="with threads: all, threads share cores: times vary more, and matrix kernels are rarely "
        "faster than with one thread a core",
        remedy=f"taskset -c {ranges(one_each)} attnbench sweep …\n(a CPU of each core)",
    )


def cpu_quota(found: Readings) -> Finding:
    """Does a control group stop us when we use all CPUs?"""
    quota, usable = found.processor.quota_cpus, found.processor.usable
    if quota is None:
        if not found.processor.quota_known:
            return unknown("CPU quota", "the system has no control groups that could be read")
        return ok("CPU quota", "none: no control group limits our time")
    text = f"a control group grants {counted(float(quota), 'CPU')}"
    if usable is None or not quota < len(usable) - QUOTA_SLACK:
        return ok("CPU quota", text)
    threads = max(1, int(quota)) if math.isfinite(quota) else 1
    return warning(
        "CPU quota",
        f"{text}, and {len(usable)} may be used",
        effect="kernels on all threads use the quota up, then stand still until the next period, for up to "
        "0.1 s: times jump",
        remedy=f"attnbench sweep … --set measure.threads={threads}\n(or start the container with "
        f"--cpuset-cpus instead of --cpus)",
    )


def affinity(found: Readings) -> Finding:
    """May we use the whole machine?"""
    usable, logical = found.processor.usable, found.processor.logical
    if usable is None or not usable or logical is None:
        return unknown("affinity", "the system does not tell which CPUs we may use")
    if len(usable) >= logical:
        return ok("affinity", f"all {counted(logical, 'CPU')} may be used")
    return ok(
        "affinity",
        f"{len(usable)} of {counted(logical, 'CPU')} may be used: {ranges(usable)}",
        effect="threads: all means these; other processes may use them, too, unless they are kept off",
    )


def numa(found: Readings) -> Finding:
    """Is all memory equally far?"""
    nodes = {node: cpus for node, cpus in found.processor.nodes.items() if cpus}
    if not nodes:
        return unknown("NUMA", "the system does not tell which memory is near which CPU")
    if len(nodes) == 1:
        return ok("NUMA", "one node: all memory is equally near")
    largest = max(nodes.values(), key=len)
    return warning(
        "NUMA",
        f"usable CPUs on {counted(len(nodes), 'node')}: "
        + ", ".join(f"{node} ({ranges(cpus)})" for node, cpus in nodes.items()),
        effect="a tensor lies where it was first written: each process draws another placement, and times "
        "of large tensors differ between processes",
        remedy=f"taskset -c {ranges(largest)} attnbench sweep …\n(one node; memory follows)",
    )


def virtual(found: Readings) -> Finding:
    """Is there a machine below the machine?"""
    if found.processor.hypervisor is None:
        return unknown("virtual machine", "the processor does not tell whether it is a virtual one")
    container = ", in a container" if found.processor.container else ""
    if not found.processor.hypervisor:
        return ok("virtual machine", f"none: the processor is a real one{container}")
    return ok(
        "virtual machine",
        f"yes{container}",
        effect="clocks, caches and memory are shared with guests that are not seen from here; their load "
        "shows as stolen time, gaps, and runs that differ",
    )


def heat(found: Readings) -> Finding:
    """Is the processor too hot for its clock?"""
    processor, slowed = found.processor, found.noise.slowed_by_heat
    if processor.temperature_c is None and processor.heat_events is None:
        return unknown("heat", "the system has no sensor and no counter of thermal throttling")
    said = []
    if processor.temperature_c is not None:
        said.append(f"{processor.temperature_c:.0f} °C")
    if processor.heat_events is not None:
        often = counted(processor.heat_events, "time") if processor.heat_events else "never"
        said.append(f"slowed down {often} since the system started")
    if slowed:
        said.append(f"{counted(slowed, 'time')} in this very second")
    text = ", ".join(said)
    if not (slowed or (processor.temperature_c or 0.0) >= HOT_C):
        return ok("heat", text)
    return warning(
        "heat",
        text,
        effect="the clock falls while we measure: later cases look slower; interleaved rounds keep ratios "
        "right, times are wrong",
        remedy="let it cool down and see to its fans; a lower, steady clock: "
        f"{processor.boost_switch or 'sudo cpupower frequency-set -u 2GHz'}",
    )


def battery(found: Readings) -> Finding | None:
    """Does it run on battery? Nothing to say where there is none."""
    if found.processor.on_battery is None:
        return None
    if not found.processor.on_battery:
        return ok("power", "mains")
    return warning(
        "power",
        "on battery",
        effect="clocks are lower, and fall with the charge",
        remedy="plug it in",
    )


def _on_host(found: Readings, command: str) -> str:
    """The command, with where to run it if not here."""
    return f"{command}\n(on the host: this is a container)" if found.processor.container else command
