"""Workloads that are part of no sweep: time, memory and error as dots, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnbench.plots.dots import MEASURED, Band, Lines, draw_dots
from attnbench.plots.panels import Panel, pages
from attnbench.plots.plot import Plot, common_text, data_table
from attnbench.plots.rows import labels, shorten
from attnbench.plots.style import Look
from attnbench.units import format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["singles"]

_SHAPES_PER_FIGURE = 4


def _lines(panel: Panel) -> Lines:
    """One band, one line for each implementation."""
    names = labels(panel.rows)[::-1]
    return Lines(
        bands=(
            Band(
                rows=tuple((float(names.index(row["label"])), row) for row in panel.rows),
                low=-0.6,
                high=len(names) - 0.4,
            ),
        ),
        ticks=tuple((float(y), shorten(name, 26)) for y, name in enumerate(names)),
        height_in=0.86 + 0.27 * len(names),
    )


def _alt(panels: Sequence[Panel]) -> str:
    parts = ["Dot chart of single workloads: latency, peak memory and error of each implementation."]
    for panel in panels:
        ordered = sorted(panel.rows, key=lambda row: float(row["latency_median_s"]))
        parts.append(
            f"{panel.title}: from {ordered[0]['label']} {format_seconds(ordered[0]['latency_median_s'])}"
        )
        parts[-1] += (
            f" to {ordered[-1]['label']} {format_seconds(ordered[-1]['latency_median_s'])}."
            if len(ordered) > 1
            else "."
        )
    return " ".join(parts)


def singles(panels: Sequence[Panel], looks: dict[str, Look], known: Mapping[str, Any]) -> list[Plot]:
    """One line of panels per workload: latency with its interval, peak memory, relative L2 error.

    `known` are the usual settings, which the panels' titles do not tell.
    """
    plots = []
    for ending, page in pages(panels, _SHAPES_PER_FIGURE):
        rows = [row for panel in page for row in panel.rows]

        def draw(page: Sequence[Panel] = page) -> Figure:
            return draw_dots(page, looks, _lines, {})

        plots.append(
            Plot(
                id=f"singles{ending}",
                title="Single workloads" + (f" ({ending[1:]})" if ending else ""),
                caption="Workloads that are part of no sweep: each line of panels is one. Bars behind the "
                "dots are 95% intervals; dashed and dotted lines are the error's yardstick and floor. "
                f"Left is better. {common_text(rows, known)}".strip(),
                alt=_alt(page),
                data=data_table(rows, MEASURED),
                draw=draw,
            )
        )
    return plots
