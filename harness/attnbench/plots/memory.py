"""Peak memory along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbench.plots.lines import Quantity, line_plots, path
from attnbench.plots.panels import Panel
from attnbench.plots.plot import Plot
from attnbench.plots.rows import labels
from attnbench.plots.style import MUTED, Look
from attnbench.plots.ticks import bytes_scale
from attnbench.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["memory"]


def _resident(axes: Axes, panel: Panel, looks: dict[str, Look]) -> Sequence[Line2D]:
    """The operating system's view as thin, light lines under the allocator's."""
    from matplotlib.lines import Line2D

    drawn = False
    for label in labels(panel.rows):
        x, y = path(panel, label, "peak_rss_bytes")
        drawn = drawn or any(value == value for value in y)
        axes.plot(x, y, color=looks[label].color, linestyle=":", linewidth=1.1, alpha=0.75, zorder=2)
    return (
        [Line2D([], [], color=MUTED, linestyle=":", linewidth=1.1, label="resident (RSS)")] if drawn else []
    )


def memory(panels: Sequence[Panel], looks: dict[str, Look]) -> list[Plot]:
    """The allocator's peak along each axis, and the operating system's view of it."""
    quantity = Quantity(
        id="memory",
        title="Peak memory",
        axis="peak memory above the inputs",
        caption="What one call adds at its peak to what was held before it: by the framework's own allocator "
        "(lines with markers; exact), and by the operating system (thin dotted lines). Lower is better.",
        column="peak_alloc_bytes",
        more=("peak_rss_bytes",),
        scale=bytes_scale,
        write=format_bytes,
        columns=("peak_alloc_bytes", "peak_rss_bytes", "output_bytes"),
        under=_resident,
    )
    return line_plots(panels, looks, quantity)
