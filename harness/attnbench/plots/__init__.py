"""Figures of a table: what is worth drawing, and how.

`figures(frame)` describes every figure that the rows give; `svg(plot)` and `png(plot)` draw one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.plots.categories import categories
from attnbench.plots.error import error
from attnbench.plots.latency import latency
from attnbench.plots.memory import memory
from attnbench.plots.panels import busiest, split
from attnbench.plots.plot import Plot
from attnbench.plots.render import png, svg
from attnbench.plots.rows import labels, measured, rows_of, usual
from attnbench.plots.singles import singles
from attnbench.plots.speedup import speedup
from attnbench.plots.style import looks
from attnbench.plots.tradeoff import tradeoff
from attnbench.plots.work import work_plots

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Plot", "figures", "png", "svg"]


def figures(frame: pd.DataFrame) -> list[Plot]:
    """Every figure that the rows of `frame` give; none where nothing was measured.

    Workloads that are swept along a size are drawn as lines, those that differ in a category as dots on
    common axes, the others as dots of their own. Of modules a figure tells where the arithmetic is. An
    implementation looks the same in all of them.
    """
    everything = rows_of(frame)
    rows = [row for row in everything if measured(row)]
    look = looks(labels(rows))
    swept, single = split(everything)
    lines = [panel for panel in swept if panel.along.numeric]
    known = usual(rows)
    return [
        *latency(lines, look),
        *speedup(lines, look),
        *memory(lines, look),
        *error(lines, look),
        *categories([panel for panel in swept if not panel.along.numeric], look),
        *tradeoff([*(busiest(panel, rows) for panel in swept), *single], look, known),
        *singles(single, look, known),
        *work_plots(rows, look, known),
    ]
