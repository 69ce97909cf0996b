"""Findings about the clock, and about what takes time away from what is measured."""

from __future__ import annotations

import math
from statistics import median

from attnbench.doctor.finding import Finding, ok, unknown, warning
from attnbench.doctor.findings.words import counted, percent, ranges, share
from attnbench.doctor.readings import Readings
from attnbench.doctor.spin import GAP_S, Spin
from attnbench.sampling import SHORTEST_SAMPLE_S
from attnbench.units import format_seconds

__all__ = ["all_cpus", "clock", "one_cpu", "other_load", "stolen_time", "together", "too_disturbed"]

#: A sample reads the clock twice and is known to one step of it: beyond a thousandth of the shortest sample
#: these are no longer nothing beside the precision of 1 to 2% that scenarios ask for.
CLOCK_LIMIT = 0.001

#: Beyond this, what is lost is as large as the precision that scenarios ask for.
LOST_LIMIT = 0.01

#: Beyond this, a hypervisor gives away what the guest believes to have.
STOLEN_LIMIT = 0.005

#: A tenth of a CPU: a kernel on all threads waits for the thread that shares its CPU.
OTHERS_LIMIT = 0.1

#: Clocks that give way when all cores are busy cost up to some 25%; siblings that share a core cost 35% and
#: more of each.
TOGETHER_LIMIT = 0.7

#: What is the best of many repetitions bears some noise; beyond this share it would still be too low.
DISTURBED_LIMIT = 0.1


def clock(found: Readings) -> Finding:
    """Is the clock fine and cheap enough for the shortest samples?"""
    reading = found.clock
    if reading.resolution_s is None or reading.cost_s is None:
        return unknown("clock", "perf_counter did not move while it was read")
    of_sample = (2 * reading.cost_s + reading.resolution_s) / SHORTEST_SAMPLE_S
    source = f" ({reading.source})" if reading.source else ""
    step, cost = format_seconds(reading.resolution_s), format_seconds(reading.cost_s)
    text = (
        f"steps of {step}{source}, {cost} a reading: "
        f"{percent(of_sample)} of the shortest sample ({format_seconds(SHORTEST_SAMPLE_S, 1)})"
    )
    if reading.monotonic is False:
        return warning(
            "clock",
            f"the clock may be set back; {text}",
            effect="a sample during which the clock is set is wrong by as much",
            remedy="none here: this system gives Python no monotonic clock; measure on another system",
        )
    if of_sample <= CLOCK_LIMIT:
        return ok("clock", text)
    faster = "tsc" in reading.sources and reading.source != "tsc"
    return warning(
        "clock",
        text,
        effect="times of samples that last 1 ms are wrong by as much; longer samples by less",
        remedy="echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource"
        if faster
        else "none here: the system has no better clock; trust kernels of more than 10 ms",
    )


def one_cpu(found: Readings) -> Finding:
    """How much of its time does a process on one thread lose?"""
    alone = found.noise.alone
    lost = None if alone is None else share(alone.lost_s, alone.elapsed_s)
    if alone is None or lost is None:
        return unknown("one CPU", "the process that should spin could not be started")
    text = f"spinning alone{_where(alone)} lost {percent(lost)} of its time{_gaps(alone)}"
    if not lost > LOST_LIMIT:
        return ok("one CPU", text)
    longer = percent(share(lost, 1 - lost) or lost)
    return warning(
        "one CPU",
        text,
        effect=f"times are longer by about {longer} and intervals wider; ratios hold, since rounds are "
        "interleaved",
        remedy=_quieter(found),
    )


def all_cpus(found: Readings) -> Finding | None:
    """How much of their time do threads on all CPUs lose? Nothing to say where there is but one."""
    spins = [
        (spin, lost)
        for spin in found.noise.together
        if (lost := share(spin.lost_s, spin.elapsed_s)) is not None
    ]
    if not spins:
        return unknown("all CPUs", "the processes that should spin could not be started")
    throttled = found.noise.throttled or 0
    if len(spins) == 1 and not throttled:
        return None
    worst, lost = max(spins, key=lambda each: each[1])
    mean = sum(each for _, each in spins) / len(spins)
    text = (
        f"spinning on {counted(len(spins), 'CPU')} at once lost {percent(mean)}, "
        f"the worst{_where(worst)} {percent(lost)}{_gaps(worst)}"
    )
    if throttled > 0:
        text += f"; the control group's quota stopped us {counted(throttled, 'time')}"
    if not lost > LOST_LIMIT:
        return ok("all CPUs", text)
    longer = percent(share(lost, 1 - lost) or lost)
    return warning(
        "all CPUs",
        text,
        effect=f"kernels on all threads wait for the thread that is held up: times are longer by {longer} or "
        "more, and uneven",
        remedy=_fewer_threads(found) or _quieter(found),
    )


def together(found: Readings) -> Finding | None:
    """Is a CPU as fast beside busy ones as alone? Nothing to say where there is but one."""
    alone = _rate(found.noise.alone)
    rates = [rate for spin in found.noise.together if (rate := _rate(spin)) is not None]
    speed = share(median(rates), alone) if rates else None
    if speed is None:
        return unknown("shared speed", "the processes that should spin could not be started")
    if len(rates) == 1:
        return None
    text = (
        f"with all busy each CPU runs at {percent(speed)} of its speed alone"
        if speed < 1
        else "with all busy each CPU is as fast as alone"
    )
    if not speed < TOGETHER_LIMIT:
        return ok("shared speed", text)
    cores = found.processor.cores
    one_each = [core[0] for core in cores if core]
    siblings = 0 < len(one_each) < len(rates)
    return warning(
        "shared speed",
        text + (": they share cores" if siblings else ""),
        effect="twice the threads do not compute twice as fast; compare only figures of equal threads",
        remedy=f"taskset -c {ranges(one_each)} attnbench sweep …"
        if siblings
        else "none here: the clock gives way, or the host runs two of these CPUs on one core; "
        "--set measure.threads=1 is not affected",
    )


def stolen_time(found: Readings) -> Finding | None:
    """Does the hypervisor give our time to others? Nothing to say where there is none."""
    if found.processor.hypervisor is not True:
        return None
    spent = sum(spin.elapsed_s or 0.0 for spin in found.noise.together)
    stolen = share(found.noise.stolen_s, spent)
    if stolen is None:
        return unknown("stolen time", "the host of this virtual machine does not tell what it gave to others")
    text = f"the host gave {percent(stolen)} of our CPUs' time to others, while we wanted all of it"
    if not stolen > STOLEN_LIMIT:
        return ok("stolen time", text)
    return warning(
        "stolen time",
        text,
        effect="times are longer by at least this share, at random",
        remedy="none from within a virtual machine: measure on one with CPUs of its own, or at another time",
    )


def other_load(found: Readings) -> Finding:
    """What did others do while we slept?"""
    others = found.others
    average = "" if others.load_average is None else f" (load average {others.load_average:.2f})"
    if others.busy_cpus is None:
        return unknown("other load", f"the system does not tell what others do{average}")
    text = f"while we slept others used {counted(float(others.busy_cpus), 'CPU')} of ours{average}"
    if not others.busy_cpus > OTHERS_LIMIT:
        return ok("other load", text)
    busy = [each for each in others.busiest if each.cpus > OTHERS_LIMIT / 2]
    named = ", ".join(f"{each.name} (pid {each.pid}) {percent(each.cpus)}" for each in busy)
    pids = " ".join(str(each.pid) for each in busy if each.stoppable)
    return warning(
        "other load",
        f"{text}: {named} of a CPU" if named else f"{text}; nothing that is seen from here",
        effect="they take CPUs, caches and memory bandwidth from what is measured: times are longer and "
        "intervals wider",
        remedy=f"kill -STOP {pids}\n(freezes; afterwards: kill -CONT {pids})"
        if pids
        else "none from here: neither the kernel's threads nor what this was started from can be frozen"
        if busy
        else "none from here: it runs outside of this container, or for a moment only; try again later",
    )


def too_disturbed(found: Readings) -> str | None:
    """Why ceilings that are measured now would be too low, or None."""
    alone = found.noise.alone
    lost = None if alone is None else share(alone.lost_s, alone.elapsed_s)
    if lost is not None and lost > DISTURBED_LIMIT:
        return f"a process that wanted one CPU lost {percent(lost)} of its time"
    busy = share(found.others.busy_cpus, len(found.processor.usable or ()))
    if busy is not None and busy > DISTURBED_LIMIT:
        return f"others used {percent(busy)} of the CPUs"
    return None


def _where(spin: Spin) -> str:
    return "" if spin.cpu is None else f" (CPU {spin.cpu})"


def _gaps(spin: Spin) -> str:
    if not spin.gaps:
        return f": no gap of more than {format_seconds(GAP_S, 1)}"
    return (
        f": {counted(spin.gaps, 'gap')} of more than {format_seconds(GAP_S, 1)}, "
        f"the longest {format_seconds(spin.longest_s, 2)}"
    )


def _rate(spin: Spin | None) -> float | None:
    """Turns in a second that nobody took."""
    if spin is None or spin.turns is None or spin.elapsed_s is None or spin.lost_s is None:
        return None
    rate = share(spin.turns, spin.elapsed_s - spin.lost_s)
    return rate if rate is not None and math.isfinite(rate) and rate > 0 else None


def _quieter(found: Readings) -> str:
    if other_load(found).level == "warning":
        return "freeze or end what else runs: see other load"
    if found.processor.hypervisor:
        return "none from within a virtual machine: measure on one with CPUs of its own, or at another time"
    return "end what else runs: `top -o %CPU` names it, interrupts are in /proc/interrupts"


def _fewer_threads(found: Readings) -> str | None:
    """The remedy where a quota is the reason."""
    quota = found.processor.quota_cpus
    if not found.noise.throttled or quota is None or not 1 <= quota < 2**20:
        return None
    return f"attnbench sweep … --set measure.threads={int(quota)}"
