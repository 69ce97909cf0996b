"""Reports: one folder with a page, a summary, figures and tables, derived from runs and nothing else."""

from __future__ import annotations

from attnbench.report.folder import require_writable, write

__all__ = ["require_writable", "write"]
