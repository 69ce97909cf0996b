"""The page of a comparison: like a report's, one file that asks nothing of anybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attnbench.compare import Comparison, Row, rows
from attnbench.plots.rows import clean
from attnbench.report.columns import Column, common
from attnbench.report.comparison.columns import besides, columns_for, line_state, places, reasons
from attnbench.report.comparison.findings import DRIFT, cautions, findings
from attnbench.report.facts import Fact, environment, runs_of
from attnbench.report.page import figures_of, filters_of, is_tall, rendered

if TYPE_CHECKING:
    from attnbench.plots import Plot

__all__ = ["page"]

#: What differs between any two runs and explains nothing by it.
_ALWAYS_DIFFER = ("time", "load_average", "started_at")


def page(comparison: Comparison, drawings: Sequence[tuple[Plot, str]], generator: str) -> str:
    """The whole of index.html; `drawings` are the figures with their SVG documents."""
    lines = rows(comparison)
    columns = columns_for(lines)
    runs = [comparison.base, *(against.after for against in comparison.against)]
    told = besides(lines)
    drawn = [
        _line(row, columns, before, told(row)) for before, row in zip([None, *lines], lines, strict=False)
    ]
    facts: list[Fact] = environment([run.header for run in runs])
    return rendered(
        "comparison.html.j2",
        generator=generator,
        runs=[
            {
                "facts": runs_of([side.row for side in run.cases.values()], [run.header])[0],
                "name": clean(run.name),
            }
            for run in runs
        ],
        comparisons=[
            {
                "name": clean(against.after.name),
                "cautions": cautions(against),
                "findings": [each for each in findings(against) if each.kind != "drift"],
            }
            for against in comparison.against
        ],
        drift=DRIFT,
        columns=columns,
        lines=drawn,
        tall=is_tall(drawn),
        filters=filters_of(columns, lines),
        common=common(lines),
        figures=figures_of(drawings),
        reasons=[
            (name, places(group, 6), verdict, text, clean(group[0]["after"]))
            for against in comparison.against
            for name, verdict, text, group in reasons(
                [row for row in lines if row["after"] == against.after.name]
            )
        ],
        differing=[fact for fact in facts if fact.differs and fact.name not in _ALWAYS_DIFFER],
        same=[fact for fact in facts if not fact.differs],
    )


def _line(row: Row, columns: Sequence[Column], before: Row | None, reason: str) -> dict[str, Any]:
    return {
        "state": line_state(row),
        "first": before is not None and _workload(before) != _workload(row),
        "reason": reason,
        "cells": [
            (column, column.text(row), column.detail(row) if column.detail else "", column.sort_value(row))
            for column in columns
        ],
    }


def _workload(row: Row) -> tuple[object, ...]:
    """What the lines of one block share; blocks are set apart by a rule."""
    return row["after"], row["scenario"], str(row["case_id"]).rpartition("/")[0]
