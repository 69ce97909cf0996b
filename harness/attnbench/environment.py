"""The fingerprint of where a run was measured: what could explain that two runs differ.

`FIELDS` says what each entry is. A probe that fails leaves None; nothing here raises, needs a framework or
records the machine's name on the network.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attnbench.inherited import inherited
from attnbench.nvml import Gpu
from attnbench.protocol import HelloReply

__all__ = [
    "FIELDS",
    "VOLATILE",
    "cgroup_cpus",
    "cgroup_memory_bytes",
    "cgroups",
    "differences",
    "fingerprint",
]

#: Every entry of a fingerprint and what it says; what could not be found out is None.
FIELDS: Mapping[str, str] = {
    "machine": "a label made of the processor's name and the usable cores, such as amd-epyc-7b13-2c",
    "cpu": "the processor's name",
    "cores_physical": "physical cores",
    "cores_logical": "hardware threads",
    "cores_usable": "hardware threads that this process may run on (its affinity)",
    "smt": "whether simultaneous multithreading is active",
    "cache_l1d_bytes": "level 1 data cache that core 0 sees",
    "cache_l2_bytes": "level 2 cache that core 0 sees",
    "cache_l3_bytes": "level 3 cache that core 0 sees",
    "governor": "frequency governor of core 0",
    "boost": "whether the processor may raise its clock above the nominal one",
    "huge_pages": "transparent huge pages: always, madvise or never",
    "memory_bytes": "physical memory",
    "cgroup_cpus": "processors' worth of time that the control group grants; None: not limited",
    "cgroup_memory_bytes": "memory that the control group grants; None: not limited",
    "kernel": "release of the operating system's kernel",
    "libc": "the C library and its version",
    "os": "the distribution",
    "hypervisor": "whether the processor says that it is a virtual one",
    "python": "version of the interpreter that measures",
    "libraries": "versions of the libraries in the measuring processes",
    "devices": "devices by kind, as they name themselves, with UUIDs where they have them",
    "gpus": "what the driver says of each NVIDIA GPU: versions, clocks, power limit, persistence, ECC, MIG",
    "threads": "threads that each kernel may use",
    "malloc": "the allocator's policy in the measuring processes: pinned or default",
    "bench_environment": "environment variables set for the measuring processes",
    "inherited_variables": "variables that reach them from outside and change how fast kernels are",
    "git_commit": "commit of the checkout that the run was started in; None: in none",
    "git_dirty": "whether its tracked files had changes",
    "load_average": "runnable processes, averaged over the minute before the run",
    "attnbench": "version of attnbench",
    "time": "when this was taken, UTC in ISO 8601",
}

#: Entries that differ between any two runs and explain nothing by it.
VOLATILE = frozenset({"load_average", "time"})

ROOT = Path("/")
CPU0 = Path("sys/devices/system/cpu/cpu0")

#: A control group of version 1 without a limit says a number near 2⁶³.
UNLIMITED_BYTES = 2**60


def fingerprint(
    hello: HelloReply | None = None,
    bench_environment: Mapping[str, str] | None = None,
    threads: int | None = None,
    malloc: str | None = None,
) -> dict[str, Any]:
    """What `FIELDS` names, of this machine and of the measuring processes that said `hello`; JSON-able."""
    import attnbench

    cpu = _probe(cpu_model)
    usable = _probe(_cores_usable)
    commit = _probe(_git_commit)
    return {
        "machine": machine_label(cpu, usable),
        "cpu": cpu,
        "cores_physical": _probe(lambda: _cores(logical=False)),
        "cores_logical": _probe(lambda: _cores(logical=True)),
        "cores_usable": usable,
        "smt": _probe(lambda: {"0": False, "1": True}[_text("sys/devices/system/cpu/smt/active")]),
        "cache_l1d_bytes": _probe(lambda: cache_bytes(1)),
        "cache_l2_bytes": _probe(lambda: cache_bytes(2)),
        "cache_l3_bytes": _probe(lambda: cache_bytes(3)),
        "governor": _probe(lambda: _text(CPU0 / "cpufreq/scaling_governor")),
        "boost": _probe(boost),
        "huge_pages": _probe(huge_pages),
        "memory_bytes": _probe(_memory_bytes),
        "cgroup_cpus": _probe(cgroup_cpus),
        "cgroup_memory_bytes": _probe(cgroup_memory_bytes),
        "kernel": _probe(platform.release),
        "libc": _probe(lambda: " ".join(platform.libc_ver()).strip() or None),
        "os": _probe(_os_name),
        "hypervisor": _probe(hypervisor),
        "python": hello["python"] if hello else platform.python_version(),
        "libraries": dict(hello["libraries"]) if hello else {},
        "devices": {kind: [dict(each) for each in found] for kind, found in hello["devices"].items()}
        if hello
        else {},
        "gpus": (_probe(lambda: gpus(hello)) or []) if hello else [],
        "threads": threads,
        "malloc": malloc,
        "bench_environment": dict(bench_environment or {}),
        "inherited_variables": inherited(os.environ),
        "git_commit": commit,
        "git_dirty": _probe(_git_dirty) if commit else None,
        "load_average": _probe(lambda: round(os.getloadavg()[0], 2)),
        "attnbench": attnbench.__version__,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where two fingerprints differ: `(key, a's, b's)`, None for what one lacks; `VOLATILE` entries left out.

    Keys of entries within entries are joined by dots: `libraries.torch`, `devices.cuda.0.name`.
    """
    flat_a, flat_b = _flat(a), _flat(b)
    return [
        (key, flat_a.get(key), flat_b.get(key))
        for key in dict.fromkeys((*flat_a, *flat_b))
        if key not in VOLATILE and flat_a.get(key) != flat_b.get(key)
    ]


def gpus(hello: HelloReply) -> list[dict[str, Any]]:
    """What NVML says of the measuring processes' GPUs, found by their UUIDs, but who computes on them now.

    Makes no CUDA context; a GPU that the driver tells nothing of is left out.
    """
    described = []
    for device in hello["devices"].get("cuda", []):
        found = Gpu.open(device["uuid"]) if device.get("uuid") else None
        if found is not None:
            with found:
                described.append({"device": device.get("device"), **found.describe()})
            del described[-1]["processes"]
    return described


def machine_label(cpu: str | None, cores: int | None) -> str:
    """A plain folder name: `AMD EPYC 7B13 64-Core Processor`, 2 usable cores → `amd-epyc-7b13-2c`."""
    decoration = r"\((r|tm)\)|@.*|\b\d+-core\b|\b(processor|cpu)\b"
    words = re.findall(r"[a-z0-9]+", re.sub(decoration, " ", (cpu or "").lower())) or ["unknown"]
    return "-".join([*words, f"{cores}c"] if cores else words)


def cpu_model(root: Path = ROOT) -> str | None:
    """The processor's name, or at least its architecture."""
    for line in _text("proc/cpuinfo", root).splitlines() if (root / "proc/cpuinfo").exists() else []:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model") and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine() or None


def hypervisor(root: Path = ROOT) -> bool | None:
    """Whether the processor's flags name a hypervisor; None where it lists no such flags."""
    for line in _text("proc/cpuinfo", root).splitlines():
        if line.split(":")[0].strip() == "flags":
            return "hypervisor" in line.split()
    return None


def cache_bytes(level: int, root: Path = ROOT) -> int | None:
    """Size of the data or unified cache of `level` that core 0 sees."""
    for index in sorted((root / CPU0 / "cache").glob("index*")):
        if _text(index / "level") == str(level) and _text(index / "type") in ("Data", "Unified"):
            size = _text(index / "size")
            scale = {"K": 2**10, "M": 2**20, "G": 2**30}.get(size[-1], 1)
            return int(size.rstrip("KMG")) * scale
    return None


def boost(root: Path = ROOT) -> bool | None:
    """Whether clocks above the nominal one are allowed."""
    for file, on in (
        ("sys/devices/system/cpu/cpufreq/boost", "1"),
        ("sys/devices/system/cpu/intel_pstate/no_turbo", "0"),
    ):
        if (root / file).exists():
            return _text(file, root) == on
    return None


def huge_pages(root: Path = ROOT) -> str | None:
    """The policy in brackets: `always [madvise] never` → `madvise`."""
    found = re.search(r"\[(\w+)\]", _text("sys/kernel/mm/transparent_hugepage/enabled", root))
    return found.group(1) if found else None


def cgroup_cpus(root: Path = ROOT) -> float | None:
    """Processors' worth of time that the control groups of this process grant; None: not limited."""
    granted = []
    for folder in cgroups(root, "cpu"):
        if (folder / "cpu.max").exists():
            quota, period = _text(folder / "cpu.max").split()
        elif (folder / "cpu.cfs_quota_us").exists():
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        else:
            continue
        if quota not in ("max", "-1"):
            granted.append(int(quota) / int(period))
    return min(granted, default=None)


def cgroup_memory_bytes(root: Path = ROOT) -> int | None:
    """Memory that the control groups of this process grant; None: not limited."""
    granted = []
    for folder in cgroups(root, "memory"):
        for file in (folder / "memory.max", folder / "memory.limit_in_bytes"):
            if file.exists() and (limit := _text(file)) != "max" and int(limit) < UNLIMITED_BYTES:
                granted.append(int(limit))
    return min(granted, default=None)


def cgroups(root: Path, controller: str) -> list[Path]:
    """The folders of this process' control group and of those above it, whose limits hold as well.

    Raises:
        OSError: the system has no control groups.
    """
    mount = root / "sys/fs/cgroup"
    tops = {"": mount, controller: mount / controller}  # version 2 has one tree, version 1 one a controller
    folders = []
    for line in _text("proc/self/cgroup", root).splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if name in tops:
                group = Path(path.lstrip("/"))
                folders += [tops[name] / part for part in (group, *group.parents)]
    return folders


def _probe(probe: Callable[[], Any]) -> Any:
    """The probe's answer; None where it fails: a fingerprint is worth having with holes in it."""
    try:
        return probe()
    except Exception:
        return None


def _text(file: str | Path, root: Path = ROOT) -> str:
    return (root / file).read_text(encoding="utf-8", errors="replace").strip()


def _cores(*, logical: bool) -> int | None:
    import psutil

    return psutil.cpu_count(logical=logical)


def _cores_usable() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()  # where the system knows no affinity


def _memory_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _git(*arguments: str) -> str:
    """What git answers in the current folder, without taking its locks.

    Raises:
        OSError, subprocess.SubprocessError: no git, no checkout, or no answer within two seconds.
    """
    return subprocess.run(
        ["git", *arguments],
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
        timeout=2,
    ).stdout.strip()


def _git_commit() -> str:
    return _git("rev-parse", "HEAD")


def _git_dirty() -> bool:
    return bool(_git("status", "--porcelain", "--untracked-files=no"))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, list):
            entry = {str(index): item for index, item in enumerate(entry)}
        if isinstance(entry, Mapping):
            flat |= _flat(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = entry
    return flat
