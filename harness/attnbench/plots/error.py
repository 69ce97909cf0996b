"""Numerical error along an axis, between the floor and the yardstick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbench.plots.lines import Quantity, line_plots
from attnbench.plots.panels import Panel
from attnbench.plots.plot import Plot
from attnbench.plots.style import INK, MUTED, Look
from attnbench.plots.ticks import error_scale
from attnbench.units import significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["error"]

_GUIDES = (
    ("error_yardstick", "yardstick (textbook algorithm)", INK, (0, (6, 2))),
    ("error_floor", "floor (rounding alone)", MUTED, (0, (1, 1.6))),
)


def _guides(axes: Axes, panel: Panel, looks: dict[str, Look]) -> Sequence[Line2D]:
    """The floor and the yardstick: they belong to the workload, so any row of a place can tell them."""
    del looks
    handles: list[Line2D] = []
    for column, name, color, dash in _GUIDES:
        known = {panel.along.at(row): float(row[column]) for row in panel.rows if row.get(column)}
        x = sorted(known)
        if known:
            y = [known[place] for place in x]
            handles += axes.plot(x, y, color=color, linestyle=dash, linewidth=1.3, zorder=2.5, label=name)
    return handles


def error(panels: Sequence[Panel], looks: dict[str, Look]) -> list[Plot]:
    """Relative L2 error along each axis, with the workload's floor and yardstick."""
    exact = any(row.get("error_rel_l2") == 0 for panel in panels for row in panel.rows)
    quantity = Quantity(
        id="error",
        title="Numerical error",
        axis="relative L2 error",
        caption="Distance to the float64 reference. The floor is what rounding the reference to this dtype "
        "costs; the yardstick is the textbook algorithm with every intermediate rounded. Lower is better."
        + (" Errors of exactly zero have no place on a logarithmic axis and are left out." if exact else ""),
        column="error_rel_l2",
        more=("error_floor", "error_yardstick"),
        scale=error_scale,
        write=significant,
        columns=(
            "error_rel_l2",
            "error_max_abs",
            "error_floor",
            "error_yardstick",
            "error_ratio",
            "accuracy",
        ),
        under=_guides,
    )
    return line_plots(panels, looks, quantity)
