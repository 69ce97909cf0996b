"""A comparison of runs for people and tools: findings, page, Markdown, JSON, CSV."""

from __future__ import annotations

from attnbench.report.comparison.columns import columns_for, in_a_line, line_state, reasons
from attnbench.report.comparison.findings import cautions, findings
from attnbench.report.comparison.folder import COMPARISON, write
from attnbench.report.comparison.markdown import summary
from attnbench.report.comparison.tables import document, to_csv

__all__ = [
    "COMPARISON",
    "cautions",
    "columns_for",
    "document",
    "findings",
    "in_a_line",
    "line_state",
    "reasons",
    "summary",
    "to_csv",
    "write",
]
