"""A quantity along the length: one panel per setting, one line per implementation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attnbench.plots.panels import Panel, any_row, grid, legend, mark, pages
from attnbench.plots.plot import Plot, common_text, data_table, listed
from attnbench.plots.rows import Row, failed_accuracy, flag_text, labels, lengths, series
from attnbench.plots.style import Look
from attnbench.plots.ticks import Scale, length_ticks, limits, set_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["Quantity", "line_plots", "path"]


@dataclass(frozen=True)
class Quantity:
    """What a line figure shows.

    `column` gives the lines, `interval` the two columns of the band around them; `columns` go into the
    data table; `more` are further columns that the axis must hold. `under(axes, panel, looks)` draws what
    lies under the lines and returns its entries in the legend. `write` gives a value with its unit.
    """

    id: str
    title: str
    axis: str
    caption: str
    column: str
    scale: Scale
    write: Callable[[float], str]
    columns: tuple[str, ...]
    interval: tuple[str, str] | None = None
    more: tuple[str, ...] = ()
    holds: tuple[float, ...] = ()
    under: Callable[[Axes, Panel, dict[str, Look]], Sequence[Line2D]] | None = None


def _positive(row: Row, column: str) -> float | None:
    value = row.get(column)
    return float(value) if value is not None and value > 0 else None


def path(panel: Panel, label: str, column: str) -> tuple[list[float], list[float]]:
    """x and y of an implementation's line, with a gap (NaN) at each length that it failed at."""
    own = series(panel.rows, label)
    points = {length: float("nan") for name, length in panel.failed if name == label}
    points |= {row["length"]: _positive(row, column) or float("nan") for row in own}
    return [float(length) for length in sorted(points)], [points[length] for length in sorted(points)]


def _draw_panel(axes: Axes, panel: Panel, looks: dict[str, Look], quantity: Quantity) -> None:
    panel_lengths = lengths(panel.rows)
    for label in labels(panel.rows):
        own, look = series(panel.rows, label), looks[label]
        x, y = path(panel, label, quantity.column)
        axes.plot(x, y, color=look.color, linestyle=look.dash, zorder=3)
        if quantity.interval:
            low, high = (path(panel, label, column)[1] for column in quantity.interval)
            axes.fill_between(x, low, high, color=look.color, alpha=0.22, linewidth=0, zorder=2)
            axes.vlines(x, low, high, color=look.color, linewidth=1.0, zorder=3)
        for row in own:
            value = _positive(row, quantity.column)
            if value is not None:
                wrong, doubtful = failed_accuracy(row), flag_text(row) is not None
                mark(axes, row["length"], value, wrong=wrong, doubtful=doubtful, look=look)
    axes.set_xscale("log", base=2)
    axes.set_xlim(panel_lengths[0] / 1.12, panel_lengths[-1] * 1.12)
    set_ticks(axes.xaxis, length_ticks(panel_lengths))


def _draw(panels: Sequence[Panel], looks: dict[str, Look], quantity: Quantity) -> Figure:
    figure, all_axes = grid(panels)
    extra: dict[str, Line2D] = {}
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_panel(axes, panel, looks, quantity)
        if quantity.under:
            extra |= {str(handle.get_label()): handle for handle in quantity.under(axes, panel, looks)}
    columns = (quantity.column, *(quantity.interval or ()), *quantity.more)
    known = [_positive(row, column) for panel in panels for row in panel.rows for column in columns]
    low, high = limits([value for value in known if value is not None] + list(quantity.holds))
    all_axes[0].set_yscale("log")
    all_axes[0].set_ylim(low, high)
    for axes in all_axes:  # shared axes share limits and scale, but not fixed ticks
        set_ticks(axes.yaxis, quantity.scale(low, high, 7))
    figure.supxlabel("length (keys)", fontsize=9)
    figure.supylabel(quantity.axis, fontsize=9)
    shown = {label: looks[label] for label in looks if any_row(panels, lambda row: row["label"] == label)}  # noqa: B023
    legend(
        figure,
        shown,
        wrong=any_row(panels, failed_accuracy),
        doubtful=any_row(panels, lambda row: flag_text(row) is not None),
        extra=list(extra.values()),
    )
    return figure


def _alt(panels: Sequence[Panel], quantity: Quantity) -> str:
    sentences = [
        f"Line chart on logarithmic axes: {quantity.title[0].lower()}{quantity.title[1:]}, "
        f"{len(panels)} panel{'s' if len(panels) > 1 else ''}, one line for each of "
        f"{listed(labels(row for panel in panels for row in panel.rows), 9)}."
    ]
    for panel in panels:
        longest = max(row["length"] for row in panel.rows if _positive(row, quantity.column) is not None)
        ends = [
            (row[quantity.column], row["label"])
            for row in panel.rows
            if row["length"] == longest and _positive(row, quantity.column)
        ]
        (low, lowest), (high, highest) = min(ends), max(ends)
        where = f"{panel.title}, at length {longest}" if panel.title else f"At length {longest}"
        if lowest == highest:
            sentences.append(f"{where}: {lowest} {quantity.write(low)}.")
        else:
            sentences.append(
                f"{where}: from {lowest} {quantity.write(low)} to {highest} {quantity.write(high)}."
            )
    return " ".join(sentences)


def line_plots(panels: Sequence[Panel], looks: dict[str, Look], quantity: Quantity) -> list[Plot]:
    """The figures of a quantity; panels without a single value of it are left out."""
    shown = []
    for panel in panels:
        known = tuple(row for row in panel.rows if _positive(row, quantity.column) is not None)
        if known:
            shown.append(replace(panel, rows=known))
    plots = []
    for ending, page in pages(shown):
        rows = [row for panel in page for row in panel.rows]

        def draw(page: Sequence[Panel] = page) -> Figure:
            return _draw(page, looks, quantity)

        plots.append(
            Plot(
                id=f"{quantity.id}{ending}",
                title=quantity.title + (f" ({ending[1:]})" if ending else ""),
                caption=f"{quantity.caption} {common_text(rows)}".strip(),
                alt=_alt(page, quantity),
                data=data_table(rows, quantity.columns),
                draw=draw,
            )
        )
    return plots
