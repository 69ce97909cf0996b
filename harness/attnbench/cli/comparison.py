"""A comparison of runs in the terminal: what differs around them, the cases, what they come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from attnbench.cli import terminal
from attnbench.cli.output import clean
from attnbench.cli.results import varying_axes
from attnbench.compare import Comparison, Row, rows
from attnbench.compare.comparison import Against
from attnbench.report import cells
from attnbench.report.columns import Column, common
from attnbench.report.comparison import cautions, columns_for, findings, in_a_line, line_state, reasons
from attnbench.report.comparison.columns import ABSENT, places

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["print_comparison"]

#: What `--sort` takes: the ratio that it sorts by.
_SORTED = {"latency": "latency", "memory": "peak_alloc", "error": "error_rel_l2"}

#: Columns that narrower terminals go without, the first one first; findings tell of what they hold.
_DROPPED = ("error", "speedups", "before", "after", "memory")

#: The look of a line, and of its verdict, by its state.
_STYLES = {"wrong": "strike", "failed": "red", "flagged": "yellow"}
_VERDICTS = {**_STYLES, "wrong": "red", "slower": "red", "faster": "green"}


def print_comparison(comparison: Comparison, sort: str | None = None) -> None:
    """Everything on stdout; `sort` is a key of `_SORTED` or None for the first run's order."""
    everything = rows(comparison)
    for index, against in enumerate(comparison.against):
        if index:
            click.echo()
        own = [row for row in everything if row["after"] == against.after.name]
        _print(against, own if sort is None else _sorted(own, _SORTED[sort]))


def _print(against: Against, own: Sequence[Row]) -> None:
    from rich.text import Text

    target = terminal.console()
    names = [clean(run.name) for run in (against.before, against.after)]
    target.print(Text(f"before: {names[0]}\nafter:  {names[1]}", style="bold"))
    first = cautions(against)
    if first:
        click.echo()
        terminal.print_points([("!", finding.text) for finding in first])
    if against.environment:
        click.echo()
        terminal.print_grid(
            [
                {"environment": clean(key), "before": _shown(a), "after": _shown(b)}
                for key, a, b in against.environment
            ]
        )
    click.echo()
    # What either run has alone has no ratios: the findings tell of it.
    shown = [row for row in own if row["verdict"] not in ABSENT]
    shared = common(shown)
    if shared:
        target.print(Text(shared, style="bold"))
    target.print(_fitting(shown, target))
    for name, verdict, text, group in reasons(own):
        # What is said of some of an implementation's cases says of which.
        some = sum(cells.implementation(row) == name for row in shown) > len(group)
        at = f" at {clean(places(group))}" if some else ""
        of = f" ({len(group)} cases)" if len(group) > 1 else ""
        target.print(Text(f"{name}{at}: {verdict}{of}: {text}"))
    terminal.print_findings(findings(against))


def _shown(value: object) -> str:
    return cells.DASH if value is None else clean(str(value))


def _sorted(own: Sequence[Row], figure: str) -> list[Row]:
    """The worst first; a speed-up is the worse the smaller it is; what is not known comes last."""

    def worst(row: Row) -> float:
        value = row[f"{figure}_ratio"]
        if figure == "latency" and row["compared_by"] == "speedup" and row["speedup_ratio"]:
            value = 1 / row["speedup_ratio"]
        if row[f"{figure}_note"] == "from 0":
            return -math.inf
        return math.inf if value is None else -value

    return sorted(own, key=worst)


def _fitting(own: Sequence[Row], target: Console) -> Table:
    """The fullest table that fits the width; the leanest is folded where even that does not.

    Narrower ones leave out the values behind the ratios, then of the shape what all cases share, then
    columns in the order of `_DROPPED`.
    """
    roomy = target.options.update(width=10_000)
    full = [column for column in columns_for(own) if not column.more]
    table = _table(own, full, in_a_line)
    axes = varying_axes(own)
    lean = [
        replace(column, text=lambda row: cells.shape(row, axes)) if column.key == "shape" else column
        for column in full
        if axes or column.key != "shape"
    ]
    layouts = [full, lean]
    for key in _DROPPED:
        layouts.append([column for column in layouts[-1] if column.key != key])
    for columns in layouts:
        if target.measure(table, options=roomy).maximum <= target.width:
            break
        table = _table(own, columns, _short)
    return table


def _short(column: Column, row: Row) -> str:
    """A cell without the values behind a ratio; intervals stay."""
    return column.text(row) if column.key in ("memory", "error") else in_a_line(column, row)


def _table(own: Sequence[Row], columns: Sequence[Column], text: Callable[[Column, Row], str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column.heading, justify="right" if column.raw else "left", overflow="fold")
    for before, row in zip([None, *own], own, strict=False):
        if before is not None and _workload(before) != _workload(row):
            table.add_section()
        state = line_state(row)
        table.add_row(
            *(
                Text(
                    clean(text(column, row)),
                    style=(_VERDICTS if column.key == "status" else _STYLES).get(state, ""),
                )
                for column in columns
            )
        )
    return table


def _workload(row: Row) -> tuple[str, str]:
    return str(row["scenario"]), str(row["case_id"]).rpartition("/")[0]
