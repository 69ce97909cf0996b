"""`attnbench list`: what is there, what is missing and how to get it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbench.cli.options import json_option, plugin_option
from attnbench.cli.output import clean
from attnbench.errors import ScenarioError

if TYPE_CHECKING:
    from attnbench.cli.capability import Asker
    from attnbench.protocol import BenchSource, ImplementationInfo

__all__ = ["listing"]

#: What only --json tells, for want of room.
JSON_ONLY = ("origin", "memory_bytes", "memory", "flops", "source", "compiles", "precision", "uuid", "driver")

#: The dtypes in which an implementation is asked whether it runs; some kernels know halves alone.
ASKED_DTYPES = ("float32", "bfloat16", "float16")


@click.command("list", short_help="List implementations, scenarios or devices.")
@click.argument("what", type=click.Choice(["implementations", "scenarios", "devices"]))
@plugin_option
@json_option
def listing(what: str, plugins: tuple[Path, ...], as_json: bool) -> None:
    """List what is there, what is missing, and how to get it.

    \b
    Examples:
      attnbench list implementations
      attnbench list implementations --plugin my_kernel.py
      attnbench list scenarios
      attnbench list devices --json
    """
    from attnbench.cli import terminal
    from attnbench.cli.output import print_json

    if what == "scenarios":
        rows = _scenarios()
    else:
        from attnbench.cli.preparation import Sources, warn_of_problems

        with Sources(plugins) as sources:
            source = sources.any()
            warn_of_problems(source.hello)
            rows = _devices(source) if what == "devices" else _implementations(source)
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo(f"there are no {what} here")
    else:
        terminal.print_grid([_shown(row) for row in rows])


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's columns as texts; what each device says has a column of its own."""
    columns = {name: value for name, value in row.items() if name not in (*JSON_ONLY, "devices")}
    return {name: clean(_text(value)) for name, value in {**columns, **row.get("devices", {})}.items()}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        from attnbench.case import format_options

        value = format_options(value)
    return "–" if value in (None, "") else str(value)


def _scenarios() -> list[dict[str, Any]]:
    from attnbench import scenario

    rows = []
    for name, path in scenario.shipped().items():
        try:
            description = scenario.read(str(path)).description
        except ScenarioError as error:
            description = f"has mistakes: {error.mistakes[0]}"
        rows.append({"name": name, "description": description, "path": str(path)})
    return rows


def _devices(source: BenchSource) -> list[dict[str, Any]]:
    from attnbench.bench.devices import HOW_TO_GET
    from attnbench.nvml import driver_version

    rows: list[dict[str, Any]] = []
    for kind, found in source.hello["devices"].items():
        rows += [
            {
                "device": each.get("device", kind),
                "name": each.get("name"),
                "status": "available",
                "memory_bytes": each.get("memory_bytes"),
                "uuid": each.get("uuid"),
                "driver": driver_version() if kind == "cuda" else None,
            }
            for each in found
        ]
        if not found:
            how = HOW_TO_GET.get(kind, "was looked for and not found")
            absent = dict.fromkeys(("name", "memory_bytes", "uuid", "driver"))
            rows.append({"device": kind, **absent, "status": f"missing: {how}"})
    return rows


def _implementations(source: BenchSource) -> list[dict[str, Any]]:
    from attnbench.cli.capability import asking

    kinds = [kind for kind, found in source.hello["devices"].items() if found]
    with asking(source) as asker:
        return [
            {
                "name": info["name"],
                "operation": info["operation"],
                "framework": info["framework"],
                "summary": info["summary"],
                "memory": info["memory"],
                "flops": info["flops"],
                "source": info["source"],
                "compiles": info["compiles"],
                "precision": info["precision"] or None,
                "options": info["options"],
                "origin": info["origin"],
                "devices": {kind: _state(asker, info, kind) for kind in kinds},
            }
            for info in source.hello["catalogue"]
        ]


def _state(asker: Asker, info: ImplementationInfo, device: str) -> str:
    """`available`, or why not, of a small workload in the first dtype that the implementation takes."""
    from attnbench.case import Case, Variant
    from attnbench.workload import SHAPES, Workload

    shape = SHAPES[info["operation"]].plain()
    first = ""
    for dtype in ASKED_DTYPES:
        workload = Workload(info["operation"], shape, dtype=dtype)
        answer = asker.ask(Case(Variant.of(info["name"]), workload, device))
        if answer.status is None:
            return "available"
        first = first or f"{answer.status}: {answer.reason}"
        if answer.status != "unsupported":
            return f"{answer.status}: {answer.reason}"
    return first
