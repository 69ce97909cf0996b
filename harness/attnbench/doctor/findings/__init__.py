"""What the doctor concludes from its readings: pure functions, each about one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attnbench.doctor.finding import Finding
from attnbench.doctor.findings import memory, processor, software, timing
from attnbench.doctor.findings.gpu import gpu_findings
from attnbench.doctor.findings.timing import too_disturbed
from attnbench.doctor.readings import Readings

__all__ = ["CHECKS", "conclude", "too_disturbed"]

#: Every check of the machine, in the order in which they are told.
CHECKS: Sequence[Callable[[Readings], Finding | None]] = (
    timing.clock,
    timing.one_cpu,
    timing.all_cpus,
    timing.together,
    timing.stolen_time,
    timing.other_load,
    processor.virtual,
    processor.governor,
    processor.boost,
    processor.heat,
    processor.battery,
    processor.smt,
    processor.affinity,
    processor.cpu_quota,
    processor.numa,
    memory.room,
    memory.swap,
    memory.huge_pages,
    memory.malloc,
    software.thread_variables,
    software.inherited,
    software.thread_pools,
    software.precision,
)


def conclude(found: Readings) -> list[Finding]:
    """All findings, the machine's first, then each GPU's; no reading makes it raise."""
    machine = [finding for check in CHECKS if (finding := check(found)) is not None]
    return [*machine, *(finding for gpu in found.gpus for finding in gpu_findings(gpu))]
