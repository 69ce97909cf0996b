"""The keys of a scenario file, as pydantic models; docs/scenarios.md explains them.

What a file may hold is decided here and only here: validation, the JSON Schema and the names that messages
suggest all come from these models. The axes are those of the operation's shape type.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, create_model

from attnbench.scenario.values import (
    Anything,
    Ascending,
    Device,
    Label,
    MaskName,
    Name,
    Number,
    OneOf,
    OneOrMore,
    Switch,
    Text,
    Whole,
)
from attnbench.shapes import LARGEST, Axis
from attnbench.workload import DISTRIBUTIONS, DTYPES, PASSES, SHAPES

__all__ = ["CONDITIONS", "REQUIRED", "Check", "Document", "Limits", "Measure", "document", "keys"]

#: Processes per block unless a scenario says otherwise: one process is one draw of memory layout on a CPU.
PROCESSES_ON_CPU, PROCESSES_ELSEWHERE = 5, 1


class _Section(BaseModel):
    # `pass` is a keyword of Python, so its field is `pass_`.
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=lambda name: name.rstrip("_"))


class Measure(_Section):
    """How latency is sampled."""

    precision: Annotated[float, Number(0, 1)] = Field(
        0.02, description="A case is done when its 95% interval is narrower than this share of its median."
    )
    max_seconds: Annotated[float, Number(0)] = Field(
        2.0, description="Seconds of sampling for one case at most, over all processes together."
    )
    processes: Annotated[int | None, Whole(1, 1000)] = Field(
        None, description="Fresh processes that measure each block; by default 5 on the CPU, 1 on a GPU."
    )
    threads: Annotated[int | str, Whole(1, 4096, ("all",))] = Field(
        "all", description="CPU threads of each implementation; `all` is every core the process may use."
    )
    cache: Annotated[str, OneOf(("warm", "cold"))] = Field(
        "warm",
        description="Whether a call finds its inputs in the cache (`warm`) or flushed from it (`cold`).",
    )
    cuda_graph: Annotated[bool, Switch()] = Field(
        False,
        description="On NVIDIA GPUs, replay a CUDA graph of each call: launching it costs nothing.",
    )
    malloc: Annotated[str, OneOf(("pinned", "default"))] = Field(
        "pinned", description="Keep freed memory (`pinned`), or the C library's default, page faults and all."
    )
    seed: Annotated[int, Whole(0, 2**32 - 1)] = Field(
        0, description="Seed of the inputs, of masks with random lengths and of the order in each round."
    )

    def processes_on(self, device: str) -> int:
        """How many processes measure each block on `device`."""
        if self.processes is not None:
            return self.processes
        return PROCESSES_ON_CPU if device == "cpu" else PROCESSES_ELSEWHERE

    def threads_count(self) -> int:
        """`threads` as a number: `all` is the cores that this process may run on."""
        if isinstance(self.threads, int):
            return self.threads
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1


class Limits(_Section):
    """What one case may take before it is stopped and recorded as a failure."""

    seconds_per_case: Annotated[float, Number(0)] = Field(
        60.0, description="Seconds that one step of a case may take; beyond, its row says `timeout`."
    )
    memory_fraction: Annotated[float, Number(0, 1, closed=True)] = Field(
        0.8, description="Share of the available memory that a case may take; beyond, its row says `oom`."
    )


class Check(_Section):
    """The regression gate, for `attnbench check` only."""

    gate: Annotated[float, Number(0, 1)] = Field(
        0.10, description="The slow-down that must not pass: 0.10 is 10%."
    )
    margin: Annotated[float | None, Number(0, 1)] = Field(
        None,
        description="The slow-down that is forgiven: whatever is slower than that may fail; below the gate. "
        "By default 0.6 × gate − 0.01, a quarter of the gate at least.",
    )
    alpha: Annotated[float, Number(0, 0.5)] = Field(
        0.01, description="The most often that a change without effect may fail, over all cases."
    )
    beta: Annotated[float, Number(0, 0.5)] = Field(
        0.05, description="The most often that a slow-down beyond the gate may pass."
    )
    pairs: Annotated[tuple[Annotated[int, Whole(1, 100_000)], ...], Ascending()] = Field(
        (20, 40, 80, 120),
        description="After how many pairs of processes the gate looks at the result; ascending.",
    )
    budget: Annotated[float, Number(0)] = Field(
        600.0, description="Seconds of timing at most; what is undecided then is inconclusive."
    )
    floor: Annotated[float, Number(0, closed_below=True)] = Field(
        0.0, description="Seconds a call: a slow-down by less than that counts as none."
    )
    threads: Annotated[int | str, Whole(1, 4096, ("all",))] = Field(
        1, description="CPU threads while checking; one thread is the least noisy."
    )
    latency: Annotated[bool, Switch()] = Field(True, description="Whether a longer time can fail.")
    memory: Annotated[bool, Switch()] = Field(True, description="Whether a higher peak of memory can fail.")
    error: Annotated[bool, Switch()] = Field(
        True, description="Whether a wrong answer, or a larger error, can fail."
    )
    build: Annotated[str | None, Text()] = Field(
        None,
        description="A shell command that builds and installs the checkout of a git revision, run in it "
        "before it is measured, with a virtual environment of its own active: `pip install .`",
    )

    def tolerated(self) -> float:
        """The margin, chosen or derived from the gate."""
        return self.margin if self.margin is not None else max(0.25 * self.gate, 0.6 * self.gate - 0.01)

    def fewest_pairs(self, cases: int) -> int:
        """With fewer pairs none of `cases` can fail or pass, even if all its pairs agree.

        A case fails at the probability α / (cases · looks), and passes at β / looks; n pairs agree at 2⁻ⁿ.
        """
        return math.ceil(math.log2(len(self.pairs) * max(cases / self.alpha, 1 / self.beta)))


_OPTION = {"type": ["number", "boolean", "string"]}
_SWEPT = {"anyOf": [_OPTION, {"type": "array", "items": _OPTION, "minItems": 1}]}


def _variant_schema(value: Mapping[str, Any]) -> dict[str, Any]:
    options = {"type": ["object", "null"], "additionalProperties": value}
    one = {"type": "object", "additionalProperties": options, "minProperties": 1, "maxProperties": 1}
    return {"anyOf": [{"type": "string", "examples": ["sdpa", "chunked(block=256)"]}, one]}


class Document(_Section):
    """A scenario file: which implementations are measured at which workloads, and how."""

    # Required keys have a default here too, so that one that is missing hides no mistake in the others;
    # `REQUIRED` names them.
    name: Annotated[str, Name()] = Field(
        "", description="The scenario's name; run folders are named after it."
    )
    description: Annotated[str, Text()] = Field("", description="The question that the scenario answers.")
    operation: Annotated[str, OneOf(SHAPES)] = Field("attention", description="What is computed.")
    implementations: tuple[Annotated[Any, Anything(_variant_schema(_SWEPT))], ...] = Field(
        (),
        description="What is measured: names, or {name: {option: value}}; a list of values sweeps an option.",
        json_schema_extra={"minItems": 1},
    )
    anchor: Annotated[Any, Anything(_variant_schema(_OPTION))] = Field(
        None, description="The listed implementation that speed-ups are relative to; by default the first."
    )
    devices: Annotated[tuple[Annotated[str, Device()], ...], OneOrMore()] = Field(
        ("cpu",), description="Where it is measured; a device that is not there gives `unavailable` rows."
    )
    measure: Measure = Measure()
    limits: Limits = Limits()
    check: Check = Check()


#: Keys that a file must have; `matrix` or `include` beside them.
REQUIRED = ("name", "operation", "implementations")


def _kind(axis: Axis) -> Any:
    """The kind of value that an axis of a shape takes."""
    match axis.kind:
        case "size":
            return Annotated[int, Whole(1, LARGEST)]
        case "switch":
            return Annotated[bool, Switch()]
        case "choice":
            return Annotated[str, OneOf(axis.choices)]
        case "share":
            return Annotated[float, Number(0, 1, closed_below=True)]
        case "mask":
            return Annotated[str, MaskName()]
    raise ValueError(f"there is no kind of axis {axis.kind!r}")


#: What a workload is defined by beside its shape: the kind of value, its default, what it means.
CONDITIONS: dict[str, tuple[Any, str, str]] = {
    "dtype": (Annotated[str, OneOf(DTYPES)], "float32", "Data type of inputs and output."),
    "mask": (Annotated[str, MaskName()], "none", "Which query sees which key."),
    "pass": (Annotated[str, OneOf(PASSES)], "forward", "What is timed."),
    "inputs": (Annotated[str, OneOf(DISTRIBUTIONS)], "normal", "How the inputs are drawn."),
}


def _key(kind: Any, description: str, default: Any = None) -> tuple[Any, Any]:
    return kind, Field(default, description=description)


def _many(kind: Any, description: str, default: Any = None) -> tuple[Any, Any]:
    values = None if default is None else (default,)
    return _key(Annotated[_tuple_of(kind), OneOrMore()], description, values)


def _tuple_of(kind: Any) -> Any:
    return tuple[kind, ...]


def _section(name: str, about: str, fields: Mapping[str, tuple[Any, Any]]) -> Any:
    renamed: dict[str, Any] = {"pass_" if key == "pass" else key: field for key, field in fields.items()}
    return create_model(name, __base__=_Section, __doc__=about, **renamed)


@cache
def document(operation: str) -> type[Document]:
    """The model of a scenario file for one operation."""
    axes = {name: (_kind(axis), axis) for name, axis in SHAPES[operation].AXES.items()}
    own = operation.title().replace("_", "")  # the operation's part of a model's name

    def one() -> dict[str, tuple[Any, Any]]:
        return {name: _key(kind, axis.about) for name, (kind, axis) in axes.items()}

    def many(*, defaults: bool) -> dict[str, tuple[Any, Any]]:
        shape = {
            name: _many(kind, axis.about, axis.default if defaults else None)
            for name, (kind, axis) in axes.items()
        }
        return shape | {
            key: _many(kind, text, default if defaults else None)
            for key, (kind, default, text) in CONDITIONS.items()
        }

    def where() -> dict[str, tuple[Any, Any]]:
        return {
            "implementation": _many(Annotated[str, Label()], "Listed implementations, by name or label."),
            "device": _many(Annotated[str, Device()], "Devices listed under devices."),
        }

    shape = _section(f"{own}ShapeEntry", "Axes whose values belong together.", one())
    linked = {"shape": _many(shape, "Axes that vary together, crossed with the other axes.")}
    matrix = _section(
        f"{own}Matrix",
        "Axes of the workloads; the product of their values is measured.",
        linked | many(defaults=True),
    )
    exclude = _section(
        f"{own}Exclude",
        "Leaves out the cases of the matrix that match every key.",
        where() | many(defaults=False),
    )
    conditions = {key: _key(kind, text, default) for key, (kind, default, text) in CONDITIONS.items()}
    include: Any = _section(f"{own}Include", "One more workload, whole.", where() | one() | conditions)
    model: type[Document] = create_model(
        f"{own}Scenario",
        __base__=Document,
        __doc__=Document.__doc__,
        operation=(
            Annotated[str, OneOf(SHAPES)],
            Field(operation, description="What is computed.", json_schema_extra={"enum": [operation]}),
        ),
        matrix=_key(matrix, "The workloads: the product of the values of these axes."),
        exclude=_key(_tuple_of(exclude), "Cases of the matrix to leave out.", ()),
        include=_key(_tuple_of(include), "Whole workloads besides the matrix.", ()),
    )
    return model


def keys(operation: str, section: Sequence[str]) -> tuple[str, ...] | None:
    """The keys of a section such as `("matrix", "shape")`, `()` being the file; None where there is none."""
    model: Any = document(operation)
    for name in section:
        field = model.model_fields.get(name)
        inner = field and (get_args(field.annotation) or (field.annotation,))[0]
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        model = inner
    return tuple(field.alias or name for name, field in model.model_fields.items())
