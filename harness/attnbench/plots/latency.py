"""Latency along an axis."""

from __future__ import annotations

from collections.abc import Sequence

from attnbench.plots.lines import Quantity, line_plots
from attnbench.plots.panels import Panel
from attnbench.plots.plot import Plot
from attnbench.plots.style import Look
from attnbench.plots.ticks import seconds_scale
from attnbench.units import format_seconds

__all__ = ["latency"]


def _per_token(panels: Sequence[Panel]) -> str:
    """Where a call computes one position after others, what its time is to whoever generates text."""
    tokens = all(panel.along.context and row["q_len"] == 1 for panel in panels for row in panel.rows)
    return (
        "Each call computes the newest position alone: its latency is the time per token." if tokens else ""
    )


def latency(panels: Sequence[Panel], looks: dict[str, Look]) -> list[Plot]:
    """Median latency along each axis, with 95% intervals as bands."""
    interval = ("latency_ci_low_s", "latency_ci_high_s")
    quantity = Quantity(
        id="latency",
        title="Latency",
        axis="latency, median",
        caption="Median time of one call; the bands are 95% intervals of the median. Both axes are "
        "logarithmic, so that a straight line is a power law. Lower is better.",
        column="latency_median_s",
        interval=interval,
        scale=seconds_scale,
        write=format_seconds,
        columns=("latency_median_s", *interval, "samples", "processes", "accuracy"),
        note=_per_token,
    )
    return line_plots(panels, looks, quantity)
