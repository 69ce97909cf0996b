"""A comparison for other tools: one JSON document, or a CSV of one line a case."""

from __future__ import annotations

import csv
import io
from typing import Any

import attnbench
from attnbench.compare import COLUMNS, Comparison, Verdict, rows
from attnbench.compare.sides import Measured
from attnbench.report.comparison.findings import cautions, findings

__all__ = ["document", "to_csv"]


def document(comparison: Comparison) -> dict[str, Any]:
    """What `--json` prints; every value has a JSON form, what is not known is None.

    `runs` are the first and those that are compared with it; `comparisons` has one entry for each of these,
    its `cases` being `attnbench.compare.rows`.
    """
    lines = rows(comparison)
    return {
        "attnbench": attnbench.__version__,
        "runs": [_run(run) for run in (comparison.base, *(against.after for against in comparison.against))],
        "comparisons": [
            {
                "before": against.before.name,
                "after": against.after.name,
                "cautions": [finding.text for finding in cautions(against)],
                "environment": [{"key": key, "before": a, "after": b} for key, a, b in against.environment],
                "findings": [
                    {"kind": finding.kind, "text": finding.text, "serious": finding.serious}
                    for finding in findings(against)
                ],
                "verdicts": {str(verdict): against.count(verdict) for verdict in Verdict},
                "cases": [row for row in lines if row["after"] == against.after.name],
            }
            for against in comparison.against
        ],
    }


def _run(run: Measured) -> dict[str, Any]:
    return {
        "run_id": run.name,
        "path": run.path,
        "started_at": run.header.get("started_at"),
        "cases": len(run.cases),
    }


def to_csv(comparison: Comparison) -> str:
    """A header, the keys of `attnbench.compare.rows`, and one line a case; what is not known is empty."""
    buffer = io.StringIO()
    lines = rows(comparison)
    writer = csv.DictWriter(buffer, lines[0] if lines else COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()
