"""The page: one file, no request to anywhere, everything from outside escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from attnbench.report.folder import REPORT
from attnbench.report.page import figures_of, filters_of, is_tall, rendered
from attnbench.report.work import MEANING, table_of_work

if TYPE_CHECKING:
    import pandas as pd

    from attnbench.plots import Plot

__all__ = ["page", "reasons"]


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


def page(
    frame: pd.DataFrame,
    headers: Sequence[Mapping[str, Any]],
    drawings: Sequence[tuple[Plot, str]],
    found: Sequence[Finding],
) -> str:
    """The whole of index.html; `drawings` are the figures with their SVG documents."""
    rows = rows_of(frame)
    columns = columns_for(rows)
    known = usual(rows)
    headings, parts = table_of_work(rows, known)
    lines = [_line(row, columns, before) for before, row in zip([None, *rows], rows, strict=False)]
    return rendered(
        "report.html.j2",
        generator=REPORT.generator,
        runs=runs_of(rows, headers),
        implementations=[shorten(label, 64) for label in labels(rows)],
        measured=sum(map(measured, rows)),
        findings=found,
        columns=columns,
        lines=lines,
        tall=is_tall(lines),
        common=common(rows),
        legend=cells.legend(rows),
        usual=common_text(rows, known) if rows else "",
        work={"meaning": MEANING, "headings": headings, "lines": parts},
        filters=filters_of(columns, rows),
        figures=figures_of(drawings),
        reasons=[(cells.cells(row), status, reason) for row, status, reason in reasons(rows)],
        environment=environment(headers),
        scenarios=scenario_texts(headers),
    )
