"""Runs in other tools' formats."""

from __future__ import annotations

from attnbench.export.table import FORMATS, export, require_free, write

__all__ = ["FORMATS", "export", "require_free", "write"]
