"""What a report says of its runs: names, machines, environment, scenario texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.ceilings import of_header
from attnbench.plots.rows import Row, clean
from attnbench.units import format_bytes, format_count

if TYPE_CHECKING:
    from attnbench.scenario import Scenario

__all__ = ["Fact", "Run", "environment", "precisions", "runs_of", "scenario_texts", "scenarios_of"]


@dataclass(frozen=True, slots=True)
class Run:
    """A run in short: `machine` is what it was measured on, `software` the libraries that measured."""

    name: str
    started_at: str
    command: str
    machine: str
    software: str
    cases: int


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the environment: a value for each run, and whether they differ."""

    name: str
    values: tuple[str, ...]
    differs: bool


def _names(rows: Sequence[Row], headers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The runs' names: the table's in order of appearance, or the headers' own where a run has no rows."""
    seen = [str(name) for name in dict.fromkeys(row.get("run_id") for row in rows) if name is not None]
    if len(seen) == len(headers):
        return seen
    return [
        str(header.get("run_id") or (seen[index] if index < len(seen) else f"run {index + 1}"))
        for index, header in enumerate(headers)
    ]


def runs_of(rows: Sequence[Row], headers: Sequence[Mapping[str, Any]]) -> list[Run]:
    """One entry per header."""
    runs = []
    for name, header in zip(_names(rows, headers), headers, strict=True):
        own = [row for row in rows if row.get("run_id") == name] if len(headers) > 1 else rows
        command = header.get("command") or ""
        runs.append(
            Run(
                name=clean(name),
                started_at=clean(header.get("started_at") or "unknown"),
                command=clean(command if isinstance(command, str) else " ".join(map(str, command))),
                machine=_machine(header.get("environment") or {}, own),
                software=_software(header.get("environment") or {}),
                cases=len(own),
            )
        )
    return runs


def _machine(environment: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """`AMD EPYC, 2 cores, 23.5 GiB; 4 × NVIDIA H200`: what the header tells, otherwise the rows' devices."""
    host = [clean(environment["cpu"])] if isinstance(environment.get("cpu"), str) else []
    cores, usable = environment.get("cores_physical"), environment.get("cores_usable")
    if isinstance(cores, int):
        host.append(f"{cores} core{'' if cores == 1 else 's'}")
    if isinstance(usable, int) and usable != cores:
        host.append(f"{usable} hardware thread{'' if usable == 1 else 's'} to use")
    if isinstance(environment.get("memory_bytes"), int):
        host.append(format_bytes(environment["memory_bytes"]))
    kinds = environment.get("devices")
    names = Counter(
        clean(device["name"])
        for kind, found in (kinds.items() if isinstance(kinds, Mapping) else ())
        if kind != "cpu" and isinstance(found, Sequence)
        for device in found
        if isinstance(device, Mapping) and device.get("name")
    )
    others = [name if number == 1 else f"{number} × {name}" for name, number in names.items()]
    if host or others:
        return "; ".join([", ".join(host), *others] if host else others)
    return (
        ", ".join(dict.fromkeys(clean(row["device_name"]) for row in rows if row.get("device_name")))
        or "unknown"
    )


def _software(environment: Mapping[str, Any]) -> str:
    """`Python 3.11.7, torch 2.13.0, numpy 2.4.6, 2 threads`; empty where nothing is known."""
    libraries, threads = environment.get("libraries"), environment.get("threads")
    parts = [f"Python {clean(environment['python'])}"] if environment.get("python") else []
    if isinstance(libraries, Mapping):
        parts += [f"{clean(name)} {clean(version)}" for name, version in libraries.items() if version]
    if isinstance(threads, int):
        parts.append(f"{threads} thread{'' if threads == 1 else 's'}")
    return ", ".join(parts)


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key in value:
            yield from _flat(value[key], f"{name}.{key}" if name else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if any(isinstance(each, Mapping) for each in value):
            for index, each in enumerate(value):
                yield from _flat(each, f"{name}.{index}")
        else:
            yield clean(name), ", ".join(clean(each) for each in value) or "–"
    elif value is None or value == {}:
        yield clean(name), "–"
    elif isinstance(value, bool):
        yield clean(name), "yes" if value else "no"
    elif name.endswith("_bytes") and isinstance(value, int):
        yield clean(name), format_bytes(value)
    else:
        yield clean(name), clean(value)


def _resumed(header: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """When and how the run was gone on with."""
    for index, each in enumerate(header.get("resumed") or ()):
        if isinstance(each, Mapping):
            kept = {key: value for key, value in each.items() if key != "ceilings"}
            yield from _flat(kept, f"resumed.{index}")


def _ceilings(header: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the run's devices were measured to reach with all threads, and when."""
    try:
        known = of_header(header)
    except ValueError:
        return  # the table says what is wrong with them
    for (device, name), found in known.items():
        of = clean(f"ceilings of {device} ({name})")
        most = max((rate.threads for rate in found.matrix if rate.threads is not None), default=None)
        by = "" if most is None else f" by {most} thread{'' if most == 1 else 's'}"
        for rate in found.matrix:
            if rate.threads == most:
                reached = format_count(found.flops_per_s(rate.dtype, most), "FLOP/s")
                yield f"{of}: {rate.dtype}", f"{reached}{by} ({clean(rate.way)})"
        if found.bandwidth:
            yield f"{of}: bandwidth", f"{format_count(found.bytes_per_s(most), 'B/s')}{by}"
        yield f"{of}: measured at", clean(found.measured_at)
        if found.disturbed is not None:
            yield f"{of}: may be too low", clean(found.disturbed)


def environment(headers: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """What the headers tell of machines and settings, flattened; what differs between runs first."""
    shown_elsewhere = ("scenarios", "environment", "command", "run_id", "ceilings", "resumed")
    flat = [
        dict(_flat(header.get("environment") or {}, ""))
        | dict(_flat({key: value for key, value in header.items() if key not in shown_elsewhere}, ""))
        | dict(_resumed(header))
        | dict(_ceilings(header))
        for header in headers
    ]
    names = dict.fromkeys(name for each in flat for name in each if name)
    facts = []
    for name in names:
        values = tuple(each.get(name, "–") for each in flat)
        facts.append(Fact(name, values, differs=len(set(values)) > 1))
    return sorted(facts, key=lambda fact: not fact.differs)


def scenario_texts(headers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Each scenario's name and text, as it was measured; the same text is told once.

    A header's `scenarios` is a list of mappings with `name` and `text`.
    """
    found: dict[tuple[str, str], None] = {}
    for header in headers:
        for scenario in header.get("scenarios") or ():
            lines = str(scenario.get("text") or "").splitlines()
            # Line by line: the text keeps its lines and its indentation, and loses what could disguise it.
            text = "\n".join(line[: len(line) - len(line.lstrip(" "))] + clean(line) for line in lines)
            found[clean(scenario.get("name") or "scenario"), text] = None
    return list(found)


def scenarios_of(headers: Sequence[Mapping[str, Any]]) -> Iterator[Scenario]:
    """Every scenario as it was measured, what the command line changed included.

    Those of an earlier version, which this one does not read, are left out.
    """
    from attnbench.errors import AttnbenchError
    from attnbench.scenario import parse

    for header in headers:
        for each in header.get("scenarios") or ():
            try:
                yield parse(
                    str(each.get("text") or ""),
                    str(each.get("path") or "scenario"),
                    sets=each.get("sets") or (),
                    implementations=each.get("implementations") or (),
                    devices=each.get("devices") or (),
                )
            except AttnbenchError:
                continue


def precisions(headers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The precision that each scenario asked for, by its name; without those that cannot be told.

    Those are scenarios of an earlier version, and names under which two runs asked for different ones.
    """
    asked: dict[str, set[float]] = {}
    for scenario in scenarios_of(headers):
        asked.setdefault(scenario.name, set()).add(float(scenario.measure.precision))
    return {name: next(iter(found)) for name, found in asked.items() if len(found) == 1}
