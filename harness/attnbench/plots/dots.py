"""What figures of dots have in common: time, memory and error beside one another, each on its own axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.plots.panels import Panel, any_row, legend, mark, wrap
from attnbench.plots.rows import Row, failed_accuracy, flag_text
from attnbench.plots.style import INK, MUTED, Look
from attnbench.plots.ticks import (
    Scale,
    bytes_scale,
    error_scale,
    fitting,
    limits,
    reached,
    seconds_scale,
    set_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MEASURED", "Band", "Lines", "draw_dots"]


@dataclass(frozen=True)
class _Guide:
    column: str
    name: str
    dash: Any


@dataclass(frozen=True)
class _What:
    """One column of panels: the quantity, and lines that tell what it should be compared with."""

    column: str
    title: str
    scale: Scale
    interval: tuple[str, str] | None = None
    guides: tuple[_Guide, ...] = ()


_COLUMNS = (
    _What(
        "latency_median_s",
        "latency, median",
        seconds_scale,
        ("latency_ci_low_s", "latency_ci_high_s"),
    ),
    _What("peak_alloc_bytes", "peak memory above the inputs", bytes_scale),
    _What(
        "error_rel_l2",
        "relative L2 error",
        error_scale,
        guides=(
            _Guide("error_yardstick", "yardstick", (0, (6, 2))),
            _Guide("error_floor", "floor", (0, (1, 1.6))),
        ),
    ),
)

#: The columns behind such a figure.
MEASURED = (
    "latency_median_s",
    "latency_ci_low_s",
    "latency_ci_high_s",
    "peak_alloc_bytes",
    "error_rel_l2",
    "error_floor",
    "error_yardstick",
    "accuracy",
)


@dataclass(frozen=True)
class Band:
    """The rows of one workload, each at its height; the workload's guides reach from `low` to `high`."""

    rows: tuple[tuple[float, Row], ...]
    low: float
    high: float


@dataclass(frozen=True)
class Lines:
    """What stands in one panel: bands above one another, texts beside them, and how high it all is."""

    bands: tuple[Band, ...]
    ticks: tuple[tuple[float, str], ...]
    height_in: float


def _value(row: Row, column: str) -> float | None:
    """A positive value: nothing else has a place on a logarithmic axis."""
    value = row.get(column)
    return float(value) if value is not None and value > 0 else None


def _panel(axes: Axes, lines: Lines, looks: dict[str, Look], what: _What, characters: float) -> None:
    known: list[float] = []
    ends: list[float] = []
    for band in lines.bands:
        for height, row in band.rows:
            value, look = _value(row, what.column), looks[row["label"]]
            if value is None:
                continue
            known.append(value)
            low, high = (_value(row, column) for column in what.interval or (what.column, what.column))
            if what.interval and low is not None and high is not None:
                axes.hlines(height, low, high, color=look.color, linewidth=3.2, alpha=0.35, zorder=2)
                ends += [low, high]
            wrong, doubtful = failed_accuracy(row), flag_text(row) is not None
            mark(axes, value, height, wrong=wrong, doubtful=doubtful, look=look)
        for guide in what.guides:
            x = next((value for _, row in band.rows if (value := _value(row, guide.column))), None)
            if x is not None:
                known.append(x)
                axes.vlines(
                    x, band.low, band.high, color=INK, linewidth=1.2, linestyle=guide.dash, zorder=1.5
                )
    axes.set_ylim(min(band.low for band in lines.bands), max(band.high for band in lines.bands))
    axes.set_yticks([y for y, _ in lines.ticks], labels=[text for _, text in lines.ticks])
    axes.tick_params(axis="y", length=0)
    if len(lines.bands) > 1:  # what is apart are the bands, not the dots within one
        axes.grid(visible=False, axis="y")
        axes.hlines(
            [band.low for band in lines.bands[:-1]],
            0,
            1,
            transform=axes.get_yaxis_transform(),
            color=MUTED,
            linewidth=0.6,
        )
    if known:
        low, high = limits(reached(known, ends), margin=0.08)
        axes.set(xscale="log", xlim=(low, high))
        set_ticks(axes.xaxis, fitting(what.scale, low, high, characters))
    else:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", va="center", color=INK)


def draw_dots(
    panels: Sequence[Panel],
    looks: dict[str, Look],
    lines_of: Callable[[Panel], Lines],
    named: Mapping[str, Look],
) -> Figure:
    """A line of panels for each of `panels`, a column for each quantity; `named` stand in the legend."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = [what for what in _COLUMNS if any_row(panels, lambda row: _value(row, what.column) is not None)]  # noqa: B023
    lines = [lines_of(panel) for panel in panels]
    heights = [each.height_in for each in lines]
    figure = Figure(figsize=(9.6, sum(heights) + 0.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1)  # type: ignore[union-attr, call-arg]  # the base class's stub lacks the engine's own parameters
    axes_grid = figure.subplots(
        len(panels), len(columns), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    # About 13 characters an inch; the texts beside the panels take as much as half a column.
    characters = 13 * 0.85 * figure.get_figwidth() / (len(columns) + 0.5)
    for each, panel, axes_line in zip(lines, panels, axes_grid, strict=True):
        for axes, what in zip(axes_line, columns, strict=True):
            _panel(axes, each, looks, what, characters)
            if axes is not axes_line[0]:
                axes.tick_params(labelleft=False)
            # Above every panel, below the title: a figure is often read from its middle.
            axes.xaxis.set_label_position("top")
            axes.set_xlabel(what.title, loc="left", color=MUTED)
        axes_line[0].set_title(wrap(panel.title, 90))
    extra = [
        Line2D([], [], color=INK, linewidth=1.2, linestyle=guide.dash, label=guide.name)
        for what in columns
        for guide in what.guides
    ]
    wrong = any_row(panels, failed_accuracy)
    doubtful = any_row(panels, lambda row: flag_text(row) is not None)
    if named or extra or wrong or doubtful:
        legend(figure, dict(named), lines=False, wrong=wrong, doubtful=doubtful, extra=extra)
    return figure
