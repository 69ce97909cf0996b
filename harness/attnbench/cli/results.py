"""The table at the end of a sweep, one line a case, at any width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from attnbench.cli.cells import Row, accuracy_failed, failed
from attnbench.cli.output import clean, without_figures
from attnbench.plots.choices import CHOICES
from attnbench.plots.rows import SHAPE, goes_without_saying
from attnbench.report import cells

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable
    from rich.table import Table

__all__ = ["print_results", "results_table", "varying_axes"]

#: Columns that are shown only when they differ between cases; else the line above the table says them once.
_VARYING = ("scenario", "operation", "device", "dtype", "mask", "pass", "inputs")


def print_results(rows: Sequence[Row], target: Console) -> None:
    """The table, one line a case, then the reasons of what was not measured or is wrong."""
    from rich.text import Text

    if not rows:
        target.print(Text("No case was measured."))
        return
    common = _common(rows)
    if common:
        target.print(Text(common, style="bold"))
    layout = _fitting(rows, target)
    target.print(_drawn(rows, layout, target.width))
    shown = {column.text for column in layout.columns}
    marks = ((cells.latency_interval, cells.WIDE_MEANING), (cells.memory, cells.PARTIAL_MEANING))
    absent = [meaning for text, meaning in marks if text not in shown]
    for meaning in cells.legend(rows):
        if meaning not in absent:
            target.print(Text(meaning, style="dim"))
    for line in _reasons(rows):
        target.print(Text(line))


def results_table(rows: Sequence[Row], target: Console) -> ConsoleRenderable:
    """One line a case, in the fullest of several layouts that fits the width.

    Narrower layouts merge the interval into the latency; then leave out of the shape what all cases share;
    then say each block's workload once, above its cases; then drop the absolute error, the interval, the
    memory and the error's ratio. Where even the leanest is too wide, its cells are folded.
    """
    return _drawn(rows, _fitting(rows, target), target.width)


def _fitting(rows: Sequence[Row], target: Console) -> Layout:
    roomy = target.options.update(width=10_000)
    layouts = _layouts(rows)
    for layout in layouts:
        if target.measure(_table(rows, layout.columns), options=roomy).maximum <= target.width:
            return layout
    return layouts[-1]


def _drawn(rows: Sequence[Row], layout: Layout, width: int) -> ConsoleRenderable:
    return _with_headings(rows, layout, width) if layout.heading else _table(rows, layout.columns)


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its header, the text of a row's cell, and whether it is aligned to the right."""

    header: str
    text: Callable[[Row], str]
    right: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a table; `heading` are those that are said once, above each block's cases."""

    columns: tuple[Column, ...]
    heading: tuple[Column, ...] = ()


def _layouts(rows: Sequence[Row]) -> list[Layout]:
    """From the fullest to the leanest."""
    name = Column("implementation", cells.implementation, right=False)
    full_shape = Column("shape", cells.shape, right=False)
    axes = varying_axes(rows)
    short_shape = (Column("shape", lambda row: cells.shape(row, axes), right=False),) if axes else ()
    where = tuple(
        Column(column, lambda row, column=column: clean(str(row[column])), right=False)  # type: ignore[misc]
        for column in _VARYING
        if _varies(rows, column)
    )
    latency, interval = Column("latency", cells.latency), Column("95% interval", cells.latency_interval)
    merged = Column("latency", lambda row: cells.with_interval(cells.latency(row), cells.latency_spread(row)))
    speedup, memory = Column("speed-up", cells.speedup), Column("memory", cells.memory)
    error, ratio = Column("error", cells.error), Column("ratio", cells.ratio)
    status = Column("status", cells.status, right=False)
    workload = (*short_shape, *where)
    return [
        Layout((name, full_shape, *where, latency, interval, speedup, memory, error, ratio, status)),
        Layout((name, full_shape, *where, merged, speedup, memory, error, ratio, status)),
        Layout((name, *workload, merged, speedup, memory, error, ratio, status)),
        Layout((name, merged, speedup, memory, error, ratio, status), workload),
        Layout((name, merged, speedup, memory, ratio, status), workload),
        Layout((name, latency, speedup, memory, ratio, status), workload),
        Layout((name, latency, speedup, ratio, status), workload),
        Layout((name, latency, speedup, status), workload),
    ]


def _table(
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    widths: Sequence[int] | None = None,
    show_header: bool = True,
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), show_header=show_header
    )
    for index, column in enumerate(columns):
        table.add_column(
            column.header,
            justify="right" if column.right else "left",
            overflow="fold",
            min_width=widths[index] if widths else None,
        )
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and _block(before) != _block(row):
            table.add_section()
        table.add_row(*(Text(each.text(row), style=_style(each.header, row)) for each in columns))
    return table


def _with_headings(rows: Sequence[Row], layout: Layout, width: int) -> ConsoleRenderable:
    """A table a block, below its workload; columns of all of them are equally wide, if there is room."""
    from rich.cells import cell_len
    from rich.console import Group
    from rich.text import Text

    widths = [
        max(cell_len(text) for text in (column.header, *(column.text(row) for row in rows)))
        for column in layout.columns
    ]
    fits = sum(widths) + 2 * (len(widths) - 1) <= width
    parts: list[ConsoleRenderable] = [_table((), layout.columns, widths=widths if fits else None)]
    for _, group in groupby(rows, key=_block):
        block = list(group)
        if len(parts) > 1:
            parts.append(Text(""))
        parts.append(Text(" · ".join(column.text(block[0]) for column in layout.heading), style="bold"))
        parts.append(_table(block, layout.columns, widths=widths if fits else None, show_header=False))
    return Group(*parts)


def _block(row: Row) -> tuple[object, object]:
    return row["scenario"], row["block_id"]


def _style(header: str, row: Row) -> str:
    """Wrong answers are struck out; what failed is red, what cannot be yellow, what was not possible dim."""
    if accuracy_failed(row):
        return "red" if header in ("status", "ratio", "error") else "strike"
    if failed(row):
        return "red"
    if row.get("flagged"):
        return "yellow"
    return "" if row["status"] == "ok" else "dim"


def _varies(rows: Sequence[Row], column: str) -> bool:
    return len({_value(row, column) for row in rows}) > 1


def _value(row: Row, column: str) -> object:
    """What the row has there; an operation that cannot be told to do something else has the usual."""
    value = row.get(column)
    return CHOICES[column].usual if value is None and column in CHOICES else value


def varying_axes(rows: Sequence[Row]) -> list[str]:
    """The axes of the shape that differ between cases; those that share a part of the label go together."""
    together = (("batch",), ("heads", "kv_heads"), ("q_len", "kv_len"), ("head_dim", "v_head_dim"))
    alone = tuple((axis,) for axis in (*SHAPE, *CHOICES) if not any(axis in axes for axes in together))
    return [
        axis for axes in (*together, *alone) if any(_varies(rows, each) for each in axes) for axis in axes
    ]


def _common(rows: Sequence[Row]) -> str:
    """What all cases share, and columns therefore leave out."""
    varying = varying_axes(rows)
    axes = [
        axis for axis in (*SHAPE, *CHOICES) if axis not in varying and not goes_without_saying(rows[0], axis)
    ]
    shared = [
        str(rows[0][column])
        for column in _VARYING
        if not _varies(rows, column) and rows[0].get(column) not in (None, "attention")
    ]
    told = ["all cases: " + cells.shape(rows[0], axes), *dict.fromkeys(shared)]
    return clean(" · ".join(told).replace(":  ·", ":"))


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Each reason once, with the implementation and how many cases it stopped.

    Of an implementation's flagged cases, each of which has figures of its own, the first one's; so too of
    wrong ones that differ by their figures alone.
    """
    counts: dict[tuple[str, str, str], int] = {}
    firsts: dict[tuple[str, str, str], str] = {}
    for row in rows:
        if row["status"] != "ok" or accuracy_failed(row) or row.get("flagged"):
            name, status = cells.implementation(row), cells.status(row)
            reason = clean(str(row.get("reason") or "no reason given"))
            alike = "" if status == "flagged" else reason
            if accuracy_failed(row):
                alike = without_figures(alike)
            key = (name, status, firsts.setdefault((name, status, alike), reason))
            counts[key] = counts.get(key, 0) + 1
    return [
        f"{name}: {status}" + (f" ({count} cases)" if count > 1 else "") + f": {reason}"
        for (name, status, reason), count in counts.items()
    ]
