"""The page: one file, no request to anywhere, everything from outside escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from attnbench.plots.plot import common_text
from attnbench.plots.rows import (
    Row,
    blocks,
    clean,
    failed_accuracy,
    flag_text,
    labels,
    measured,
    rows_of,
    shorten,
    usual,
)
from attnbench.report import cells
from attnbench.report.columns import Column, columns_for, common
from attnbench.report.facts import environment, runs_of, scenario_texts
from attnbench.report.findings import Finding
from attnbench.report.inline import inline_svg

if TYPE_CHECKING:
    import pandas as pd

    from attnbench.plots import Plot

__all__ = ["GENERATOR", "page", "reasons"]

#: The page's generator mark, by which a folder is known to be a report of ours.
GENERATOR = "attnbench report"

#: Columns that a page offers to filter by, where they hold more than one value.
_FILTERS = (
    "run",
    "scenario",
    "implementation",
    "shape",
    "mask",
    "dtype",
    "pass",
    "inputs",
    "device",
    "status",
)

#: Longer tables scroll in a box of their own.
_ROWS_IN_FULL = 120


def reasons(rows: Sequence[Row]) -> list[tuple[Row, str, str]]:
    """Every row that failed, is wrong or is flagged: the row, its status and why."""
    found = []
    for row in rows:
        if not measured(row) or failed_accuracy(row) or flag_text(row):
            found.append((row, cells.status(row), _reason(row) or "no reason was recorded"))
    return found


def _reason(row: Row) -> str:
    """What was recorded, or that the row is flagged; empty where there is neither."""
    return clean(row.get("reason") or "") or flag_text(row) or ""


def _line(row: Row, columns: Sequence[Column], before: Row | None) -> dict[str, Any]:
    state = (
        "wrong"
        if failed_accuracy(row)
        else "failed"
        if not measured(row)
        else "flagged"
        if flag_text(row)
        else ""
    )
    return {
        "state": state,
        "first": before is not None and blocks([before, row])[0] == [before],
        "reason": _reason(row),
        "cells": [
            (column, column.text(row), column.detail(row) if column.detail else "", column.sort_value(row))
            for column in columns
        ],
    }


def _data(plot: Plot) -> dict[str, Any]:
    rows = rows_of_data(plot.data)
    names = [str(name) for name in plot.data.columns]
    return {"names": names, "lines": [[cells.value(name, row[name]) for name in names] for row in rows]}


def rows_of_data(data: pd.DataFrame) -> list[dict[str, Any]]:
    """A figure's data with null as None."""
    return [
        {str(name): None if value is None or value != value else value for name, value in record.items()}
        for record in data.to_dict("records")
    ]


def page(
    frame: pd.DataFrame,
    headers: Sequence[Mapping[str, Any]],
    drawings: Sequence[tuple[Plot, str]],
    found: Sequence[Finding],
) -> str:
    """The whole of index.html; `drawings` are the figures with their SVG documents."""
    import jinja2

    folder = files("attnbench.report") / "template"
    text = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js", "report.html.j2")
    }
    rows = rows_of(frame)
    columns = columns_for(rows)
    lines = [_line(row, columns, before) for before, row in zip([None, *rows], rows, strict=False)]
    filters = []
    for column in columns:
        values = list(dict.fromkeys(column.text(row) for row in rows))
        if column.key in _FILTERS and len(values) > 1:
            filters.append((column, values))
    script_hash = base64.b64encode(hashlib.sha256(text["report.js"].encode()).digest()).decode()
    template = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return (
        template.from_string(text["report.html.j2"]).render(
            generator=GENERATOR,
            css=text["report.css"],
            js=text["report.js"],
            script_hash=script_hash,
            runs=runs_of(rows, headers),
            implementations=[shorten(label, 64) for label in labels(rows)],
            measured=sum(map(measured, rows)),
            findings=found,
            columns=columns,
            lines=lines,
            tall=len(lines) > _ROWS_IN_FULL,
            common=common(rows),
            legend=cells.legend(rows),
            usual=common_text(rows, usual(rows)) if rows else "",
            filters=filters,
            figures=[(plot, inline_svg(plot, document), _data(plot)) for plot, document in drawings],
            reasons=[(cells.cells(row), status, reason) for row, status, reason in reasons(rows)],
            environment=environment(headers),
            scenarios=scenario_texts(headers),
        )
        + "\n"
    )
