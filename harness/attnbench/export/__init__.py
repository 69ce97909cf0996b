"""Runs in other tools' formats."""

from __future__ import annotations

from attnbench.export.table import FORMATS, export, write

__all__ = ["FORMATS", "export", "write"]
