"""A quantity along an axis: one panel per setting, one line per implementation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from attnbench.plots.panels import Panel, across, along, any_row, grid, legend, mark, pages, shared_text
from attnbench.plots.plot import Plot, data_table, listed
from attnbench.plots.rows import Row, failed_accuracy, flag_text, labels, series
from attnbench.plots.style import Look
from attnbench.plots.ticks import Scale, limits, reached, set_ticks, thinned

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
    lies under the lines and returns its entries in the legend. `write` gives a value with its unit; `note`
    what is to be said of some panels besides the caption.
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
    note: Callable[[Sequence[Panel]], str] = lambda _: ""


def _positive(row: Row, column: str) -> float | None:
    value = row.get(column)
    return float(value) if value is not None and value > 0 else None


def _known(rows: Sequence[Row], *columns: str) -> list[float]:
    found = (_positive(row, column) for row in rows for column in columns)
    return [value for value in found if value is not None]


def path(panel: Panel, label: str, column: str) -> tuple[list[float], list[float]]:
    """x and y of an implementation's line, with a gap (NaN) at each place that it failed at."""
    own = series(panel.rows, label)
    points = {place: float("nan") for name, place in panel.failed if name == label}
    points |= {panel.along.at(row): _positive(row, column) or float("nan") for row in own}
    return [float(place) for place in sorted(points)], [points[place] for place in sorted(points)]


def _draw_panel(
    axes: Axes, panel: Panel, looks: dict[str, Look], quantity: Quantity, characters: float
) -> None:
    ticks = sorted({float(panel.along.at(row)): panel.along.tick(row) for row in panel.rows}.items())
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
                mark(axes, panel.along.at(row), value, wrong=wrong, doubtful=doubtful, look=look)
    axes.set_xscale("log", base=2)
    axes.set_xlim(ticks[0][0] / 1.12, ticks[-1][0] * 1.12)
    set_ticks(axes.xaxis, thinned(ticks, characters))


def _draw(panels: Sequence[Panel], looks: dict[str, Look], quantity: Quantity) -> Figure:
    figure, all_axes = grid(panels)
    characters = across(figure, all_axes[0])
    extra: dict[str, Line2D] = {}
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_panel(axes, panel, looks, quantity, characters)
        if quantity.under:
            extra |= {str(handle.get_label()): handle for handle in quantity.under(axes, panel, looks)}
    rows = [row for panel in panels for row in panel.rows]
    values = [*_known(rows, quantity.column, *quantity.more), *quantity.holds]
    low, high = limits(reached(values, _known(rows, *(quantity.interval or ()))))
    all_axes[0].set_yscale("log")
    all_axes[0].set_ylim(low, high)
    for axes in all_axes:  # shared axes share limits and scale, but not fixed ticks
        set_ticks(axes.yaxis, quantity.scale(low, high, 7))
    figure.supxlabel(panels[0].along.label, fontsize=9)
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


def _alt(panels: Sequence[Panel], quantity: Quantity, title: str) -> str:
    sentences = [
        f"Line chart on logarithmic axes: {title[0].lower()}{title[1:]}, "
        f"{len(panels)} panel{'s' if len(panels) > 1 else ''}, one line for each of "
        f"{listed(labels(row for panel in panels for row in panel.rows), 9)}."
    ]
    for panel in panels:
        axis = panel.along
        last = max(axis.at(row) for row in panel.rows)
        ends = [(row[quantity.column], row["label"]) for row in panel.rows if axis.at(row) == last]
        (low, lowest), (high, highest) = min(ends), max(ends)
        where = f"{panel.title}, at {axis.place(last)}" if panel.title else f"At {axis.place(last)}"
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
    for key, group in along(shown):
        id_ = quantity.id if key == "kv_len" else f"{quantity.id}-{key.replace('_', '-')}"
        title = f"{quantity.title} against {group[0].along.name}"
        for ending, page in pages(group):

            def draw(page: Sequence[Panel] = page) -> Figure:
                return _draw(page, looks, quantity)

            plots.append(
                Plot(
                    id=f"{id_}{ending}",
                    title=title + (f" ({ending[1:]})" if ending else ""),
                    caption=" ".join(
                        filter(None, (quantity.caption, quantity.note(page), shared_text(page)))
                    ),
                    alt=_alt(page, quantity, title),
                    data=data_table([row for panel in page for row in panel.rows], quantity.columns),
                    draw=draw,
                )
            )
    return plots
