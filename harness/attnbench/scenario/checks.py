"""Checks what is written in a scenario file, each key by itself and the keys against one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from attnbench.scenario.matrix import check_exclude, check_include, check_listed, check_matrix, workloads
from attnbench.scenario.model import REQUIRED, Document, document, keys
from attnbench.scenario.names import near, nearest, shown
from attnbench.scenario.source import Source
from attnbench.scenario.variants import Listed, anchor_of, listed, parse_label, select
from attnbench.workload import SHAPES

__all__ = ["Checked", "check", "operation_meant"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found: the file's keys, the variants chosen, the anchor's label, axes in the file's order.

    `named` are the variants that a catalogue must know: those listed, those chosen, and what an include
    names that could not be compared with them.
    """

    operation: str
    file: Document
    variants: list[Listed]
    anchor: str
    matrix: dict[str, Any]
    exclude: list[dict[str, Any]]
    include: list[dict[str, Any]]
    named: list[Listed]


def operation_meant(source: Source) -> str | None:
    """The operation of a document, or the one that it comes nearest to; None where that cannot be told.

    The first there is where the document does not say.
    """
    written = source.data.get("operation", next(iter(SHAPES)))
    return written if isinstance(written, str) and written in SHAPES else near(written, SHAPES)


def check(source: Source, chosen: Sequence[str] = (), command: str = "") -> Checked:
    """What `source` says, with the implementations `chosen` in place of those listed.

    With a `command` the document is one that was checked before, changed by these options; then exclude
    and include may name cases that are not there any more. Each step looks at what the steps before it
    found sound, so that all mistakes are reported at once: they are added to the findings of `source`, and
    what is returned is worth using when there are none.
    """
    unsound = {finding.loc[0] for finding in source.findings if finding.loc}
    operation = operation_meant(source)
    if operation is None:
        # What depends on it cannot be judged, and is not told to be wrong; what does not, is.
        operation = next(iter(SHAPES))
        unsound |= {"matrix", "exclude", "include"} & source.data.keys()
    file = _validate(source, operation, unsound)
    own = _listed(file, source, unsound)
    if not unsound & {"measure", "devices"}:
        _check_cuda_graph(file, source)
    if "check" not in unsound and file.check.tolerated() >= file.check.gate:
        source.find(
            ("check", "margin"),
            f"expected less than the gate, which is {file.check.gate:g}, got {file.check.margin:g}: what is "
            "slower than the margin may fail, what is slower than the gate must not pass",
        )
    variants, findings = select(chosen, own) if chosen else (own, [])
    source.findings.extend(findings)
    anchor = _anchor(source, own, variants, unsound)
    matrix, exclude, include = _axes(file, operation, source, variants, unsound)
    named = [*own, *variants] if not command else variants
    checked = Checked(operation, file, variants, anchor, matrix, exclude, include, named)
    if not command and not unsound & {"implementations", "devices"}:
        _check_selections(checked, "matrix" not in unsound, source)
    elif not command:
        named.extend(_included(include, source))
    return checked


def _validate(source: Source, operation: str, unsound: set[str | int]) -> Any:
    """The document's sound sections as a model; mistakes are noted and their sections become `unsound`."""
    for key in REQUIRED:
        if key not in source.data:
            source.find((key,), f"is missing; every scenario needs {', '.join(REQUIRED)}")
    if not {"matrix", "include"} & source.data.keys():
        source.find(("matrix",), "is missing; give a matrix of workloads, or include whole ones")
    model: type[Document] = document(operation)
    try:
        return model.model_validate({key: each for key, each in source.data.items() if key not in unsound})
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            unknown = problem["type"] == "extra_forbidden"
            source.find(problem["loc"], _message(problem, operation), key=unknown)
            unsound.add(problem["loc"][0])
    return model.model_validate({key: each for key, each in source.data.items() if key not in unsound})


def _message(problem: ErrorDetails, operation: str) -> str:
    section = [part for part in problem["loc"] if isinstance(part, str)]
    got = shown(problem["input"])
    match problem["type"]:
        case "extra_forbidden":
            known = keys(operation, section[:-1]) or ()
            whose = ".".join(section[:-1]) or "a scenario"
            return f"is no key of {whose}; the keys are {', '.join(known)}{nearest(section[-1], known)}"
        case "model_type":
            known = keys(operation, section) or ()
            return f"expected a mapping with keys among {', '.join(known)}; got {got}"
        case "tuple_type":
            return f"expected a list, got {got}"
        case _:
            return problem["msg"]


def _listed(file: Any, source: Source, unsound: set[str | int]) -> list[Listed]:
    """The variants and devices listed, which must be some and differ."""
    before = len(source.findings)
    variants = listed(file.implementations, source)
    if not file.implementations and "implementations" in source.data and "implementations" not in unsound:
        source.find(("implementations",), "expected at least one implementation, got an empty list")
    if len(source.findings) > before or not variants:
        unsound.add("implementations")
    for index, device in enumerate(file.devices):
        if device in file.devices[:index]:
            source.find(("devices", index), f"{device} is listed twice; keep one")
            unsound.add("devices")
    return variants


def _check_cuda_graph(file: Any, source: Source) -> None:
    """Beside a GPU other devices are measured as they are; without one, somebody is mistaken."""
    if file.measure.cuda_graph and not any(device.split(":")[0] == "cuda" for device in file.devices):
        source.find(
            ("measure", "cuda_graph"),
            f"is for NVIDIA GPUs, and devices names none ({', '.join(file.devices)}); "
            "add cuda to devices, or set it to false",
        )


def _anchor(source: Source, own: list[Listed], chosen: list[Listed], unsound: set[str | int]) -> str:
    """The anchor's label: the file's (by default its first implementation), or the first one chosen."""
    labels = [each.variant.label for each in chosen]
    written = "anchor" in source.data and not unsound & {"anchor", "implementations"}
    label = own[0].variant.label if own else ""
    if written:
        # An anchor from the command line must be one of the chosen; the file's gives way to `--impl`.
        among = chosen if source.values["anchor",].option else own
        try:
            label = anchor_of(source.data["anchor"], [each.variant for each in among])
        except ValueError as error:
            source.find(("anchor",), str(error))
    return label if label in labels or not labels else labels[0]


def _axes(
    file: Any, operation: str, source: Source, variants: list[Listed], unsound: set[str | int]
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Matrix, exclude and include in the file's order; what is wrong with their combinations is noted."""
    matrix = {} if file.matrix is None else _given(file.matrix)
    if matrix:
        matrix = {key: matrix[key] for key in source.data["matrix"]}
    exclude = [_given(each) for each in file.exclude]
    include = [_given(each) for each in file.include]
    factor = max(1, len(variants)) * len(file.devices)
    if "matrix" in source.data.keys() - unsound and not check_matrix(operation, matrix, source, factor):
        unsound.add("matrix")
    check_include(operation, include, source)
    return matrix, exclude, include


def _given(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(by_alias=True, exclude_unset=True)


def _included(include: Sequence[dict[str, Any]], source: Source) -> list[Listed]:
    """The variants that entries of `include` name."""
    return [
        Listed(
            parse_label(label),
            source.place(("include", index, "implementation", position)),
            f"include[{index}].implementation",
            {},
        )
        for index, entry in enumerate(include)
        for position, label in enumerate(entry.get("implementation", ()))
    ]


def _check_selections(checked: Checked, matrix_is_sound: bool, source: Source) -> None:
    """Note what exclude and include say of cases that the file as written does not have."""
    variants = [each.variant for each in checked.variants]
    devices = checked.file.devices
    names = list(dict.fromkeys(name for each in variants for name in (each.implementation, each.label)))
    for index, entry in enumerate(checked.include):
        for key, there in (("implementation", names), ("device", devices)):
            check_listed(("include", index, key), entry.get(key, ()), there, "the scenario", source)
    if checked.exclude and matrix_is_sound:
        operation = checked.file.operation
        every = workloads(operation, checked.matrix) if checked.matrix else []
        check_exclude(checked.exclude, every, variants, devices, source)
