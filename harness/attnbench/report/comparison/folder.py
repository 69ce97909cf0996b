"""A comparison's folder: page, summary, figures, tables."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from attnbench.compare import Comparison
from attnbench.report.folder import Kind, replaced, write_figures

__all__ = ["COMPARISON", "write"]

COMPARISON = Kind(
    "comparison",
    "attnbench comparison",
    ("index.html", "summary.md", "figures", "comparison.csv", "comparison.json"),
)


def write(comparison: Comparison, out: Path) -> Path:
    """Write the comparison into the folder `out` and return its index.html.

    The folder holds index.html, summary.md, comparison.csv, comparison.json and figures/ (SVG and PNG). The
    same input gives the same bytes. An older comparison is replaced as a whole; other files beside it stay.

    Raises:
        UsageError: `out` is something else than a comparison or an empty folder, or cannot be written.
    """
    return replaced(out, COMPARISON, partial(_fill, comparison))


def _fill(comparison: Comparison, folder: Path) -> None:
    from attnbench.plots import svg
    from attnbench.plots.against import before_after
    from attnbench.plots.ratios import ratios
    from attnbench.report.comparison.markdown import summary
    from attnbench.report.comparison.page import page
    from attnbench.report.comparison.tables import document, to_csv

    drawings = [(plot, svg(plot)) for plot in (*ratios(comparison), *before_after(comparison))]
    write_figures(folder / "figures", drawings)
    text = json.dumps(document(comparison), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / "comparison.json").write_text(text + "\n", encoding="utf-8", errors="replace")
    (folder / "comparison.csv").write_text(to_csv(comparison), encoding="utf-8", errors="replace")
    (folder / "summary.md").write_text(summary(comparison), encoding="utf-8")
    (folder / "index.html").write_text(page(comparison, drawings, COMPARISON.generator), encoding="utf-8")
