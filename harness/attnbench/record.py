"""Records: what was measured of one case, raw samples included, and their JSON form.

A record holds what cannot be derived. Every statistic is computed from it, in `attnbench.table`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Self, get_args, get_type_hints

from attnbench.case import Option
from attnbench.protocol import FAILURES, AccuracyReply, MemoryReply
from attnbench.workload import DISTRIBUTIONS, DTYPES, PASSES, SHAPES, Workload

__all__ = ["CACHES", "SCHEMA_VERSION", "STATUSES", "ProcessSamples", "Record"]

#: Version of the JSON form; a reader refuses a higher one.
SCHEMA_VERSION = 1

#: What can become of a case.
STATUSES = ("ok", *FAILURES)

#: Whether a sample's data was in the cache (`warm`) or flushed from it before every call (`cold`).
CACHES = ("warm", "cold")


#: What a process' samples have of a GPU alone.
_OF_A_GPU = ("launch_bound", "sm_clock_hz", "temperature_c", "power_w", "clock_reasons")


@dataclass(frozen=True, slots=True)
class ProcessSamples:
    """The samples of one case in one measuring process (bench).

    `start` is how the bench came to be (`forked`, `spawned`, `scripted`). Sample i was taken in round
    `rounds[i]` and made `calls` calls, which took `elapsed_s[i]` seconds on the wall clock and `cpu_s[i]` of
    process time *together*; `launch_s[i]` is the host's time to launch them, None where the host computes.

    Of a GPU there is more: `launch_bound[i]` says that the device had to wait for the host, whose time is in
    `elapsed_s[i]` then; `sm_clock_hz`, `temperature_c`, `power_w` and `clock_reasons` (those of
    `attnbench.nvml.REASONS`, joined by `+`; empty where nothing held the clock down) are how it was right
    after each sample. Each is None where there is no GPU, and each value where it does not tell.

    Raises:
        ValueError: the sequences differ in length, or samples are claimed of no calls.
    """

    start: str
    calls: int
    rounds: tuple[int, ...]
    elapsed_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    launch_s: tuple[float, ...] | None = None
    launch_bound: tuple[bool, ...] | None = None
    sm_clock_hz: tuple[float | None, ...] | None = None
    temperature_c: tuple[float | None, ...] | None = None
    power_w: tuple[float | None, ...] | None = None
    clock_reasons: tuple[str | None, ...] | None = None

    def __post_init__(self) -> None:
        samples = len(self.rounds)
        for name in ("elapsed_s", "cpu_s", "launch_s", *_OF_A_GPU):
            values = getattr(self, name)
            if values is not None and len(values) != samples:
                raise ValueError(f"{name}: expected {samples} samples, as many as rounds, got {len(values)}")
        if samples and self.calls < 1:
            raise ValueError(f"calls must be at least 1 where there are samples, got {self.calls}")

    @property
    def per_call_s(self) -> tuple[float, ...]:
        """Seconds per call of each sample."""
        return tuple(elapsed / self.calls for elapsed in self.elapsed_s)

    @property
    def cpu_per_call_s(self) -> tuple[float, ...]:
        """Seconds of process time per call of each sample."""
        return tuple(cpu / self.calls for cpu in self.cpu_s)

    @property
    def launch_per_call_s(self) -> tuple[float, ...] | None:
        """Seconds that the host needed per launch, of each sample; None where the host computes."""
        if self.launch_s is None:
            return None
        return tuple(launch / self.calls for launch in self.launch_s)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back; what only a GPU has is in it where there is one."""
        return {
            "start": self.start,
            "calls": self.calls,
            "rounds": list(self.rounds),
            "elapsed_s": list(self.elapsed_s),
            "cpu_s": list(self.cpu_s),
            "launch_s": None if self.launch_s is None else list(self.launch_s),
            **{name: list(each) for name in _OF_A_GPU if (each := getattr(self, name)) is not None},
        }

    @classmethod
    def from_json(cls, data: Any, where: str = "process") -> Self:
        """The samples that `to_json` wrote.

        Raises:
            ValueError: something is missing, superfluous or of the wrong type; the text names it.
        """
        values = _checked(cls, data, where)
        for name in ("rounds", "elapsed_s", "cpu_s", "launch_s", *_OF_A_GPU):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was measured of one case.

    `status` is one of `STATUSES`, `reason` says why it is not `ok`. `anchor` is the case id of the case that
    speed-ups of this block are relative to, `attempt` counts the times this case was measured in the run,
    `started_at` is UTC in ISO 8601, `cache` one of `CACHES`. `processes` has an entry per bench: two cases of
    a block were sampled side by side where process index and round agree. `converged` says whether the
    interval became narrower than asked before the time was spent. `discarded_rounds` counts the rounds whose
    samples were thrown away, over all processes. `energy_j` is what one call takes by the GPU's own meter;
    `cuda_graph` says that replays of a CUDA graph were timed in place of calls. `threads` is how many each
    kernel could use on the host (what `measure.threads` came to); None in records of earlier versions.

    Raises:
        ValueError: an unknown status or cache, or an attempt below 1.
    """

    scenario: str
    case_id: str
    block_id: str
    implementation: str
    workload: Workload
    device: str
    seed: int
    status: str
    started_at: str
    options: Mapping[str, Option] = field(default_factory=dict)
    attempt: int = 1
    reason: str | None = None
    anchor: str | None = None
    device_name: str | None = None
    framework: str | None = None
    resolved_backend: str | None = None
    duration_s: float | None = None
    first_call_s: float | None = None
    output_bytes: int | None = None
    processes: tuple[ProcessSamples, ...] = ()
    converged: bool | None = None
    cache: str = "warm"
    memory: MemoryReply | None = None
    accuracy: AccuracyReply | None = None
    discarded_rounds: int = 0
    energy_j: float | None = None
    cuda_graph: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        _require("status", self.status, STATUSES)
        _require("cache", self.cache, CACHES)
        if self.attempt < 1:
            raise ValueError(f"attempt counts from 1, got {self.attempt}")

    @property
    def samples(self) -> int:
        """How many samples were taken, over all processes."""
        return sum(len(process.rounds) for process in self.processes)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back, its `schema` version in it."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["workload"] = self.workload.to_json()
        data["processes"] = [process.to_json() for process in self.processes]
        for name in ("options", "memory", "accuracy"):
            data[name] = None if data[name] is None else dict(data[name])
        return {"schema": SCHEMA_VERSION, **data}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The record that `to_json` wrote. Fields that have a default may be missing.

        Raises:
            ValueError: something is missing, superfluous or of the wrong type, or the schema is newer than
                this version reads; the text names it.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"record: expected an object, got {_shown(data)}")
        schema = data.get("schema")
        if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
            raise ValueError(f"schema: expected a version, a whole number from 1, got {_shown(schema)}")
        if schema > SCHEMA_VERSION:
            raise ValueError(
                f"schema: this version of attnbench reads records up to version {SCHEMA_VERSION}, "
                f"got {schema}; a newer attnbench reads it"
            )
        plain = {name: value for name, value in data.items() if name != "schema"}
        values = _checked(cls, plain, "", parsed_apart=("workload", "processes", "memory", "accuracy"))
        values["workload"] = _workload(values["workload"])
        for name, reply in (("memory", MemoryReply), ("accuracy", AccuracyReply)):
            if values.get(name) is not None:
                values[name] = _checked(reply, values[name], name)
        processes = values.get("processes", [])
        if not isinstance(processes, list):
            raise ValueError(f"processes: expected a list, got {_shown(processes)}")
        values["processes"] = tuple(
            ProcessSamples.from_json(process, f"processes[{i}]") for i, process in enumerate(processes)
        )
        return cls(**values)


def _require(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{what}: expected one of {', '.join(allowed)}, got {value!r}")


def _workload(data: Any) -> Workload:
    if not isinstance(data, Mapping):
        raise ValueError(f"workload: expected an object, got {_shown(data)}")
    for name in ("operation", "mask", "dtype", "pass", "inputs"):
        if not isinstance(data.get(name), str):
            raise ValueError(f"workload.{name}: expected text, got {_shown(data.get(name))}")
    _require("workload.operation", data["operation"], tuple(SHAPES))
    _require("workload.dtype", data["dtype"], tuple(DTYPES))
    _require("workload.pass", data["pass"], PASSES)
    _require("workload.inputs", data["inputs"], DISTRIBUTIONS)
    if not isinstance(data.get("shape"), Mapping):
        raise ValueError(f"workload.shape: expected an object, got {_shown(data.get('shape'))}")
    try:
        return Workload.from_json(data)
    except (TypeError, ValueError) as error:  # a missing, superfluous or impossible axis
        raise ValueError(f"workload.shape: {error}") from error


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    return get_type_hints(cls)


def _checked(cls: type, data: Any, where: str, parsed_apart: Sequence[str] = ()) -> dict[str, Any]:
    """`data`'s values by name, each of the type that `cls` (a dataclass or TypedDict) declares.

    What is named in `parsed_apart` is taken as it is.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected an object, got {_shown(data)}")
    prefix = f"{where}." if where else ""
    hints = _hints(cls)
    # What may be left out: a dataclass' fields with defaults, nothing of a TypedDict's.
    required = [name for name in hints if not _has_default(cls, name)]
    for name in required:
        if name not in data:
            raise ValueError(f"{prefix}{name}: is missing")
    for name, value in data.items():
        if name not in hints:
            raise ValueError(f"{prefix}{name}: is no field; the fields are {', '.join(hints)}")
        if name not in parsed_apart and not _conforms(value, hints[name]):
            raise ValueError(f"{prefix}{name}: expected {_expected(hints[name])}, got {_shown(value)}")
    return dict(data)


@cache
def _has_default(cls: type, name: str) -> bool:
    if not is_dataclass(cls):
        return False
    declared = next(f for f in fields(cls) if f.name == name)
    return declared.default is not MISSING or declared.default_factory is not MISSING


def _conforms(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON has the declared type; floats are finite, and no bool is a number."""
    if isinstance(hint, UnionType):
        return any(_conforms(value, member) for member in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, NoneType):
        return isinstance(value, hint)
    if issubclass(hint.__origin__, tuple):
        return isinstance(value, list) and all(_conforms(item, get_args(hint)[0]) for item in value)
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and _conforms(item, get_args(hint)[1]) for name, item in value.items()
    )


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _expected(hint: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}
    if isinstance(hint, UnionType):
        return " or ".join(_expected(member) for member in get_args(hint))
    if hint is NoneType:
        return "null"
    if hint in names:
        return names[hint]
    if issubclass(hint.__origin__, tuple):
        return f"a list (each item {_expected(get_args(hint)[0])})"
    return f"an object (each value {_expected(get_args(hint)[1])})"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
