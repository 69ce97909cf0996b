"""Figures of a table: what is worth drawing, and how.

`figures(frame)` describes every figure that the rows give; `svg(plot)` and `png(plot)` draw one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Plot", "figures", "png", "svg"]


def figures(frame: pd.DataFrame) -> list[Plot]:
    """Every figure that the rows of `frame` give; none where nothing was measured.

    Settings with two lengths or more are drawn as lines, one panel each; the others as single shapes.
    An implementation looks the same in all of them.
    """
    everything = rows_of(frame)
    rows = [row for row in everything if measured(row)]
    look = looks(labels(rows))
    along, single = split(everything)
    known = usual(rows)
    return [
        *latency(along, look),
        *speedup(along, look),
        *memory(along, look),
        *error(along, look),
        *tradeoff([*(busiest(panel, rows) for panel in along), *single], look, known),
        *singles(single, look, known),
    ]
