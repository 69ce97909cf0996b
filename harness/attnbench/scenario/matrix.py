"""From axes to workloads and cases: the matrix, its exclusions and inclusions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from attnbench.case import Case, Variant
from attnbench.scenario.model import CONDITIONS
from attnbench.scenario.names import join, nearest, told
from attnbench.scenario.source import Loc, Source
from attnbench.workload import SHAPES, AxisError, Workload

__all__ = [
    "MOST_CASES",
    "Entry",
    "cases_of",
    "check_exclude",
    "check_include",
    "check_matrix",
    "workload_of",
    "workloads",
]

#: A matrix with more cases than this is a slip of the pen: at a second each it would take a day.
MOST_CASES = 100_000

#: The keys of a matrix, an exclude or an include, in the file's order: tuples of values, or one value.
Entry = Mapping[str, Any]


def workload_of(operation: str, axes: Entry) -> Workload:
    """The workload of one value per axis.

    Raises:
        AxisError: the axes of the shape are incomplete or contradict one another.
    """
    sizes = {axis: value for axis, value in axes.items() if axis not in CONDITIONS}
    conditions = {key: axes.get(key, default) for key, (_, default, _) in CONDITIONS.items()}
    pass_ = conditions.pop("pass")
    return Workload(operation, SHAPES[operation].from_axes(sizes), pass_=pass_, **conditions)


def _combinations(matrix: Entry) -> Iterator[dict[str, Any]]:
    """One value per axis, the last axis fastest; entries of `shape` become their axes."""
    for values in product(*matrix.values()):
        axes: dict[str, Any] = {}
        for key, value in zip(matrix, values, strict=True):
            axes.update(value if key == "shape" else {key: value})
        yield axes


def workloads(operation: str, matrix: Entry) -> list[Workload]:
    """The workloads of a checked matrix, in the order of its axes, the last one fastest."""
    return [workload_of(operation, axes) for axes in _combinations(matrix)]


def check_matrix(operation: str, matrix: Entry, source: Source, factor: int) -> bool:
    """Note what is wrong with a matrix whose values are sound one by one; whether nothing is.

    `factor` is the number of variants times devices.
    """
    before = len(source.findings)
    if not matrix:
        source.find(("matrix",), "expected at least one axis, got an empty matrix", key=True)
        return False
    count = prod(len(values) for values in matrix.values()) * factor
    if count > MOST_CASES:
        source.find(
            ("matrix",),
            f"makes {count} cases; at most {MOST_CASES} are allowed: shorten a list or split the scenario",
            key=True,
        )
        return False
    for axis, values in matrix.items():
        seen = set()
        for index, value in enumerate(values):
            comparable = tuple(sorted(value.items())) if axis == "shape" else value
            if comparable in seen:
                text = "the entry" if axis == "shape" else told(value)
                source.find(("matrix", axis, index), f"{text} is given twice; keep one")
            seen.add(comparable)
    for axis in {axis: None for entry in matrix.get("shape", ()) for axis in entry}:
        if axis in matrix:
            source.find(("matrix", axis), "is given in matrix.shape too; keep one of them", key=True)
    if len(source.findings) == before:
        _check_shapes(operation, matrix, source)
    return len(source.findings) == before


def _check_shapes(operation: str, matrix: Entry, source: Source) -> None:
    axes = {axis: range(len(values)) for axis, values in matrix.items() if axis not in CONDITIONS}
    seen: dict[Any, str] = {}
    for indices in product(*axes.values()):
        sizes: dict[str, int] = {}
        locs: dict[str, Loc] = {}
        for axis, index in zip(axes, indices, strict=True):
            given = matrix[axis][index] if axis == "shape" else {axis: matrix[axis][index]}
            for name, size in given.items():
                sizes[name] = size
                locs[name] = ("matrix", axis, index, name) if axis == "shape" else ("matrix", axis, index)
        written = ", ".join(f"{axis} {told(size)}" for axis, size in sizes.items())
        try:
            shape = SHAPES[operation].from_axes(sizes)
        except AxisError as error:
            source.find(locs.get(error.axis, ("matrix", error.axis)), str(error))
            continue
        for index, mask in enumerate(matrix.get("mask", ())):
            try:
                Workload(operation, shape, mask)
            except AxisError as error:
                source.find(("matrix", "mask", index), str(error))
        if shape in seen:
            source.find(
                ("matrix",),
                f"makes the shape {shape.label} twice: by {seen[shape]} and by {written}",
                key=True,
            )
        seen.setdefault(shape, written)


def check_include(operation: str, include: Sequence[Entry], source: Source) -> bool:
    """Note what is wrong with included workloads whose values are sound one by one; whether nothing is."""
    before = len(source.findings)
    for index, entry in enumerate(include):
        try:
            workload_of(operation, _axes(entry))
        except AxisError as error:
            source.find(("include", index, error.axis), str(error))
    return len(source.findings) == before


def _axes(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("implementation", "device")}


def facts(workload: Workload) -> dict[str, Any]:
    """What an `exclude` can name of a workload; `seq_len` is None where queries and keys differ in length."""
    columns: dict[str, Any] = dict(workload.shape.columns())
    if columns.get("q_len") == columns.get("kv_len"):
        columns.setdefault("seq_len", columns.get("q_len"))
    conditions = {key: getattr(workload, "pass_" if key == "pass" else key) for key in CONDITIONS}
    return {**columns, **conditions}


def _matches(entry: Entry, known: Mapping[str, Any], variant: Variant, device: str) -> bool:
    for key, values in entry.items():
        if key == "implementation":
            if variant.label not in values and variant.implementation not in values:
                return False
        elif (device if key == "device" else known.get(key)) not in values:
            return False
    return True


def check_exclude(
    exclude: Sequence[Entry],
    matrix: Sequence[Workload],
    variants: Sequence[Variant],
    devices: Sequence[str],
    source: Source,
) -> None:
    """Note the exclusions that match no case of the matrix."""
    known = [facts(workload) for workload in matrix]
    there: dict[str, list[Any]] = {
        "implementation": list(
            dict.fromkeys(name for each in variants for name in (each.implementation, each.label))
        ),
        "device": list(devices),
    }
    for index, entry in enumerate(exclude):
        before = len(source.findings)
        if not entry:
            source.find(
                ("exclude", index), "expected at least one key; an empty entry would exclude every case"
            )
        for key, values in entry.items():
            if key not in there:
                there[key] = sorted({each[key] for each in known if each.get(key) is not None})
            check_listed(("exclude", index, key), values, there[key], "the matrix", source)
        if len(source.findings) > before:
            continue
        if not any(
            _matches(entry, each, variant, device)
            for each in known
            for variant in variants
            for device in devices
        ):
            source.find(("exclude", index), "matches no case: none of the matrix has all of this at once")


def check_listed(loc: Loc, values: Sequence[Any], there: Sequence[Any], whose: str, source: Source) -> None:
    """Note the `values` at `loc` that are not among those `there`."""
    known = frozenset(there)
    for position, value in enumerate(values):
        if value not in known:
            has = f"has {join(there)}" if there else "has none"
            near = nearest(value, there) if isinstance(value, str) else ""
            source.find((*loc, position), f"no case has {loc[-1]} {told(value)}; {whose} {has}{near}")


def cases_of(
    operation: str,
    matrix: Entry,
    exclude: Sequence[Entry],
    include: Sequence[Entry],
    variants: Sequence[Variant],
    devices: Sequence[str],
) -> dict[tuple[str, Workload], tuple[Case, ...]]:
    """The cases of each device and workload: devices outermost, the matrix in its order, then `include`.

    What is included and in the matrix already is there once.
    """
    whole = [(workload, facts(workload)) for workload in workloads(operation, matrix)] if matrix else []
    more = [(workload_of(operation, _axes(entry)), entry) for entry in include]
    blocks: dict[tuple[str, Workload], tuple[Case, ...]] = {}
    for device in devices:
        chosen: dict[Workload, set[Variant]] = {}
        for workload, known in whole:
            chosen[workload] = {
                variant
                for variant in variants
                if not any(_matches(entry, known, variant, device) for entry in exclude)
            }
        for workload, entry in more:
            only = {key: entry[key] for key in ("implementation", "device") if key in entry}
            chosen.setdefault(workload, set()).update(
                variant for variant in variants if _matches(only, {}, variant, device)
            )
        for workload, selected in chosen.items():
            if selected:
                ordered = (variant for variant in variants if variant in selected)
                blocks[device, workload] = tuple(Case(variant, workload, device) for variant in ordered)
    return blocks
