"""Speed-up over the anchor along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.plots.lines import Quantity, line_plots
from attnbench.plots.panels import Panel
from attnbench.plots.plot import Plot, listed
from attnbench.plots.rows import anchor_of, blocks
from attnbench.plots.style import INK, Look
from attnbench.plots.ticks import ratio_scale
from attnbench.units import format_ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["speedup"]


def _line_at_one(axes: Axes, panel: Panel, looks: dict[str, Look]) -> Sequence[Line2D]:
    del panel, looks
    axes.axhline(1.0, color=INK, linewidth=1.0, zorder=2.5)
    return ()


def speedup(panels: Sequence[Panel], looks: dict[str, Look]) -> list[Plot]:
    """Speed-up over the anchor along each axis, with 95% intervals; nothing where only anchors are known."""
    compared: list[Panel] = []
    anchors: dict[str, None] = {}
    for panel in panels:
        others = []
        for block in blocks(panel.rows):
            anchor = anchor_of(block)
            if anchor is not None:
                anchors[anchor["label"]] = None
            others += [row for row in block if row is not anchor]
        if others:
            compared.append(replace(panel, rows=tuple(others)))
    over = f"the anchor ({listed(anchors)})" if anchors else "the anchor"
    interval = ("speedup_ci_low", "speedup_ci_high")
    quantity = Quantity(
        id="speedup",
        title="Speed-up over the anchor",
        axis="speed-up over the anchor",
        caption=f"How many times faster than {over}, from rounds measured side by side; the bands are 95% "
        "intervals. The line at 1× is the anchor itself: above it is faster.",
        column="speedup",
        interval=interval,
        scale=ratio_scale,
        write=format_ratio,
        columns=("speedup", *interval, "accuracy"),
        holds=(1.0,),
        under=_line_at_one,
    )
    return line_plots(compared, looks, quantity)
