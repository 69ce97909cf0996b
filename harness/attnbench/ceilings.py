"""Ceilings: the fastest that this machine was measured to multiply matrices and to move bytes.

They are measured once (`attnbench.doctor.ceilings`), kept in the user's cache by what decides them, and
written into the header of each run, so that a table follows from its run's folder alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from attnbench.errors import RunError
from attnbench.files import reason, replace_file
from attnbench.workload import DTYPES

__all__ = [
    "BANDWIDTHS",
    "Bandwidth",
    "Ceilings",
    "Known",
    "MatrixRate",
    "cache_key",
    "load",
    "of_header",
    "save",
]

#: What bandwidth is measured of: reading, and copying (bytes read and bytes written, together).
BANDWIDTHS = ("read", "copy")

#: Version of the files in the cache and of their form in run.json; another one is not read.
SCHEMA_VERSION = 1

#: Entries of a fingerprint that decide what a processor reaches, and libraries that do.
_OF_THE_CPU = (
    "cpu",
    "cores_usable",
    "cgroup_cpus",
    "smt",
    "boost",
    "governor",
    "hypervisor",
    "inherited_variables",
)
_LIBRARIES = ("torch", "numpy")

#: Entries of a device that decide what it reaches.
_OF_THE_DEVICE = ("name", "uuid", "driver", "capability", "memory_bytes")


@dataclass(frozen=True, slots=True)
class MatrixRate:
    """The most FLOP/s at which matrices of `dtype` were multiplied by `threads` threads (None: on a GPU).

    `way` says what was the fastest: `torch matmul`, `numpy matmul`, `oneDNN in float32`, …

    Raises:
        ValueError: no such dtype, no rate, or no number of threads.
    """

    dtype: str
    threads: int | None
    flops_per_s: float
    way: str

    def __post_init__(self) -> None:
        _require_one_of("dtype", self.dtype, tuple(DTYPES))
        _require_positive(self.flops_per_s, "flops_per_s", self.threads)


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """The most bytes a second that `threads` threads moved, by reading or by copying (`kind`).

    Raises:
        ValueError: no such kind, no rate, or no number of threads.
    """

    kind: str
    threads: int | None
    bytes_per_s: float

    def __post_init__(self) -> None:
        _require_one_of("kind", self.kind, BANDWIDTHS)
        _require_positive(self.bytes_per_s, "bytes_per_s", self.threads)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a device was measured to reach.

    `device` is `cpu` or `cuda:0`, `device_name` what it calls itself; `cache_bytes` is what its last-level
    cache holds (None: not found out), `measured_at` UTC in ISO 8601. `disturbed` says why these may be too
    low: what else ran, say (None: nothing did).
    """

    device: str
    device_name: str
    cache_bytes: int | None
    measured_at: str
    matrix: tuple[MatrixRate, ...]
    bandwidth: tuple[Bandwidth, ...]
    disturbed: str | None = None

    def flops_per_s(self, dtype: str, threads: int | None) -> float | None:
        """The most that up to `threads` threads reached in `dtype`; None where that was not measured.

        Between measured counts that of the next larger one holds: no fewer threads can do more. A GPU's
        rates are for any number of the host's threads.
        """
        return _most({each.threads: each.flops_per_s for each in self.matrix if each.dtype == dtype}, threads)

    def bytes_per_s(self, threads: int | None) -> float | None:
        """The most that up to `threads` threads read or copied; None where that was not measured."""
        rates: dict[int | None, float] = {}
        for each in self.bandwidth:
            rates[each.threads] = max(each.bytes_per_s, rates.get(each.threads, 0.0))
        return _most(rates, threads)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        data = asdict(self)
        return {
            "schema": SCHEMA_VERSION,
            **data,
            "matrix": [*data["matrix"]],
            "bandwidth": [*data["bandwidth"]],
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The ceilings that `to_json` wrote.

        Raises:
            ValueError: something is missing, superfluous or of the wrong type, or of another version; the
                text names it.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"ceilings: expected an object, got {data!r:.60}")
        if data.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"schema: expected {SCHEMA_VERSION}, got {data.get('schema')!r:.60}")
        values = _values(cls, {name: value for name, value in data.items() if name != "schema"}, "")
        return cls(
            **{
                **values,
                "matrix": _entries(MatrixRate, values["matrix"], "matrix"),
                "bandwidth": _entries(Bandwidth, values["bandwidth"], "bandwidth"),
            }
        )


#: The ceilings that are known, by device as rows name it and by the device's own name.
Known = Mapping[tuple[str, str], Ceilings]


def of_header(header: Mapping[str, Any]) -> Known:
    """The ceilings in a run's header: those known when it began, and when it was gone on with.

    Of one device the last ones hold: they describe the machine, whenever they were measured. That of a
    machine of another name, on which a run was gone on with, stand beside them.

    Raises:
        ValueError: they are not what `Ceilings.to_json` writes; the text says where.
    """
    known: dict[tuple[str, str], Ceilings] = {}
    resumed = header.get("resumed", [])
    for part in [header, *(each for each in resumed if isinstance(each, Mapping))]:
        by_device = part.get("ceilings") or {}
        if not isinstance(by_device, Mapping):
            raise ValueError(f"ceilings: expected an object, got {by_device!r:.60}")
        for device, data in by_device.items():
            try:
                found = Ceilings.from_json(data)
            except ValueError as error:
                raise ValueError(f"ceilings.{device}: {error}") from error
            known[device, found.device_name] = found
    return known


def cache_key(environment: Mapping[str, Any], device: str) -> str:
    """A digest of all that decides what `device` reaches on the machine of that fingerprint.

    For a CPU: the processor, how much of it may be used and how fast it may run. For others: the device with
    its driver. For both: the versions of torch and NumPy.
    """
    libraries = environment.get("libraries") or {}
    decisive: dict[str, Any] = {name: libraries.get(name) for name in _LIBRARIES}
    if _place(device) == "cpu":
        decisive |= {name: environment.get(name) for name in _OF_THE_CPU}
    entry = _entry(environment, device) or {}
    decisive |= {f"device.{name}": entry.get(name) for name in _OF_THE_DEVICE}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


def load(environment: Mapping[str, Any], device: str) -> Ceilings | None:
    """The ceilings of `device` that were measured on the machine of that fingerprint, or None.

    A file that is corrupted, of another version or of another device counts as none.
    """
    try:
        found = Ceilings.from_json(json.loads(_file(environment, device).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None
    entry = _entry(environment, device)
    named = entry is None or entry.get("name") == found.device_name
    return found if named and _place(found.device) == _place(device) else None


def save(environment: Mapping[str, Any], ceilings: Ceilings) -> Path:
    """Keep `ceilings` for that machine; returns the file.

    Raises:
        RunError: it cannot be written.
    """
    file = _file(environment, ceilings.device)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{file.parent}: the folder of ceilings cannot be made: {reason(error)}; "
            "set XDG_CACHE_HOME to a folder that can be written to"
        ) from error
    replace_file(file, json.dumps(ceilings.to_json(), indent=2).encode() + b"\n")
    return file


def _file(environment: Mapping[str, Any], device: str) -> Path:
    import platformdirs

    name = re.sub(r"[^a-z0-9]+", "-", _place(device))
    folder = platformdirs.user_cache_path("attnbench") / "ceilings"
    return folder / f"{name}-{cache_key(environment, device)}.json"


def _place(device: str) -> str:
    """The one device that a name stands for: `cuda` is `cuda:0`."""
    return device if device == "cpu" or ":" in device else f"{device}:0"


def _entry(environment: Mapping[str, Any], device: str) -> Mapping[str, Any] | None:
    """What a fingerprint says of `device`."""
    place = _place(device)
    listed = (environment.get("devices") or {}).get(place.split(":")[0]) or ()
    return next((each for each in listed if _place(str(each.get("device"))) == place), None)


def _most(rates: Mapping[int | None, float], threads: int | None) -> float | None:
    if None in rates:
        return rates[None]
    counts = {count: rate for count, rate in rates.items() if count is not None}
    enough = [count for count in counts if threads is not None and count >= threads]
    if not enough:
        return None
    # A smaller count may have been caught at a better moment.
    return max(rate for count, rate in counts.items() if count <= min(enough))


# Reading what was written


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


def _require_positive(rate: float, name: str, threads: int | None) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"{name}: expected a finite number above 0, got {rate!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected at least 1 or none, got {threads!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


#: What a field's value must be, by its annotation.
_TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "str": ("text", lambda value: isinstance(value, str)),
    "str | None": ("text or null", lambda value: value is None or isinstance(value, str)),
    "float": ("a number", lambda value: _is_whole(value) or isinstance(value, float)),
    "int | None": ("a whole number or null", lambda value: value is None or _is_whole(value)),
    "tuple[MatrixRate, ...]": ("a list", lambda value: isinstance(value, list | tuple)),
    "tuple[Bandwidth, ...]": ("a list", lambda value: isinstance(value, list | tuple)),
}


def _values(cls: type, data: Any, where: str) -> dict[str, Any]:
    """`data`'s values by name, each of the type that `cls` declares."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected an object, got {data!r:.60}")
    prefix = f"{where}." if where else ""
    declared = {field.name: str(field.type) for field in fields(cls)}
    for name in data:
        if name not in declared:
            raise ValueError(f"{prefix}{name}: is no field; the fields are {', '.join(declared)}")
    for name, annotation in declared.items():
        if name not in data:
            raise ValueError(f"{prefix}{name}: is missing")
        what, holds = _TYPES[annotation]
        if not holds(data[name]):
            raise ValueError(f"{prefix}{name}: expected {what}, got {data[name]!r:.60}")
    return dict(data)


def _entries(cls: type, data: list[Any], where: str) -> tuple[Any, ...]:
    found = []
    for index, each in enumerate(data):
        at = f"{where}[{index}]"
        values = _values(cls, each, at)
        try:
            found.append(cls(**values))
        except ValueError as error:
            raise ValueError(f"{at}.{error}") from error
    return tuple(found)
