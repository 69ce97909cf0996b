"""Whether two runs, or two cases of theirs, were measured on one machine and under the same conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnbench import environment
from attnbench.compare.sides import Measured, Side

__all__ = ["arrow", "conditions", "differences", "other_machine"]

#: Entries of a fingerprint that make it another machine to a CPU's cases. A limit of the control group is
#: as good as fewer cores, and where it is None there is none; elsewhere None is what was not found out.
_HOST = (
    "cpu",
    "cores_physical",
    "cores_logical",
    "cores_usable",
    "cgroup_cpus",
    "cache_l1d_bytes",
    "cache_l2_bytes",
    "cache_l3_bytes",
)
_NONE_IS_KNOWN = frozenset({"cgroup_cpus"})


def differences(before: Measured, after: Measured) -> list[tuple[str, Any, Any]]:
    """Where the runs' environments and plug-ins differ, entry by entry; None for what one lacks."""
    return environment.differences(*(_described(run) for run in (before, after)))


def _described(run: Measured) -> dict[str, Any]:
    return {**run.environment, "plugins": run.header.get("plugins") or []}


def other_machine(
    before: Side, after: Side, host_before: Mapping[str, Any], host_after: Mapping[str, Any]
) -> str | None:
    """What makes it another machine to this case, `cpu: AMD EPYC → Xeon`; None where it is the same.

    A case on a GPU goes by the GPU, any other by the fingerprint of the host. What either does not know
    makes no difference.
    """
    names = before.record.device_name, after.record.device_name
    if not before.record.device.startswith("cpu") and None not in names:
        return None if names[0] == names[1] else f"device: {arrow(*names)}"
    told = []
    for key in _HOST:
        if key not in host_before or key not in host_after:
            continue
        a, b = host_before[key], host_after[key]
        if a != b and (key in _NONE_IS_KNOWN or None not in (a, b)):
            told.append(f"{key}: {arrow(a, b)}")
    return ", ".join(told) or None


def conditions(
    before: Side, after: Side, host_before: Mapping[str, Any], host_after: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """The settings that change what is measured and in which the two differ: (name, before's, after's).

    `threads`, `malloc`, `cache`, `cuda_graph`, `seed`. What either does not know makes no difference.
    """
    a, b = before.record, after.record
    known: Sequence[tuple[str, Any, Any]] = (
        (
            "threads",
            host_before.get("threads") if a.threads is None else a.threads,
            host_after.get("threads") if b.threads is None else b.threads,
        ),
        ("malloc", host_before.get("malloc"), host_after.get("malloc")),
        ("cache", a.cache, b.cache),
        ("cuda_graph", a.cuda_graph, b.cuda_graph),
        ("seed", a.seed, b.seed),
    )
    return [(name, x, y) for name, x, y in known if x != y and x is not None and y is not None]


def arrow(before: object, after: object) -> str:
    """`2 → 8`; what one lacks is an en dash."""
    texts = ["–" if each is None else str(each) for each in (before, after)]
    return " → ".join(texts)
