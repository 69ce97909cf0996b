"""Runs compared case by case: data alone, from what is stored; nothing here measures, prints or draws.

`compare(runs)` compares every run with the first; `rows(comparison)` is the same as a flat table.
"""

from __future__ import annotations

from attnbench.compare.case import CaseComparison, Ratio, Verdict
from attnbench.compare.comparison import Against, Comparison, compare
from attnbench.compare.flat import COLUMNS, Row, rows

__all__ = ["COLUMNS", "Against", "CaseComparison", "Comparison", "Ratio", "Row", "Verdict", "compare", "rows"]
