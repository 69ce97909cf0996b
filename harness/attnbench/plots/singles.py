"""Shapes that were measured at one length only: time, memory and error as dots, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.plots.panels import Panel, any_row, legend, mark, pages, wrap
from attnbench.plots.plot import Plot, common_text, data_table
from attnbench.plots.rows import Row, failed_accuracy, flag_text, labels, shorten
from attnbench.plots.style import INK, MUTED, Look
from attnbench.plots.ticks import Scale, bytes_scale, error_scale, fitting, limits, seconds_scale, set_ticks
from attnbench.units import format_bytes, format_seconds, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["singles"]

_SHAPES_PER_FIGURE = 4


@dataclass(frozen=True)
class _Column:
    column: str
    title: str
    scale: Scale
    write: Callable[[float], str]
    interval: tuple[str, str] | None = None


_COLUMNS = (
    _Column(
        "latency_median_s",
        "latency, median",
        seconds_scale,
        format_seconds,
        ("latency_ci_low_s", "latency_ci_high_s"),
    ),
    _Column("peak_alloc_bytes", "peak memory above the inputs", bytes_scale, format_bytes),
    _Column("error_rel_l2", "relative L2 error", error_scale, significant),
)


def _value(row: Row, column: str) -> float | None:
    value = row.get(column)
    return float(value) if value is not None and value > 0 else None


def _dots(axes: Axes, panel: Panel, looks: dict[str, Look], what: _Column, characters: float) -> None:
    names = labels(panel.rows)
    known: list[float] = []
    for row in panel.rows:
        value, height = _value(row, what.column), len(names) - 1 - names.index(row["label"])
        if value is None:
            continue
        known.append(value)
        look = looks[row["label"]]
        if what.interval:
            low, high = (_value(row, column) for column in what.interval)
            if low is not None and high is not None:
                axes.hlines(height, low, high, color=look.color, linewidth=3.2, alpha=0.35, zorder=2)
                known += [low, high]
        mark(axes, value, height, wrong=failed_accuracy(row), doubtful=flag_text(row) is not None, look=look)
    if what.column == "error_rel_l2":
        for column, dash in (("error_yardstick", (0, (6, 2))), ("error_floor", (0, (1, 1.6)))):
            guide = next((value for row in panel.rows if (value := _value(row, column))), None)
            if guide is not None:
                known.append(guide)
                axes.axvline(guide, color=INK, linewidth=1.2, linestyle=dash, zorder=1.5)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_yticks(range(len(names)), labels=[shorten(name, 26) for name in reversed(names)])
    axes.tick_params(axis="y", length=0)
    if known:
        low, high = limits(known, margin=0.08)
        axes.set(xscale="log", xlim=(low, high))
        set_ticks(axes.xaxis, fitting(what.scale, low, high, characters))
    else:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", va="center", color=INK)


def _draw(panels: Sequence[Panel], looks: dict[str, Look]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = [what for what in _COLUMNS if any_row(panels, lambda row: _value(row, what.column) is not None)]  # noqa: B023
    heights = [0.86 + 0.27 * len(labels(panel.rows)) for panel in panels]
    figure = Figure(figsize=(9.6, sum(heights) + 0.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1)  # type: ignore[union-attr, call-arg]  # the base class's stub lacks the engine's own parameters
    axes_grid = figure.subplots(
        len(panels), len(columns), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    # About 13 characters an inch; the implementations' names take as much as half a column.
    characters = 13 * 0.85 * figure.get_figwidth() / (len(columns) + 0.5)
    for line, panel in zip(axes_grid, panels, strict=True):
        for axes, what in zip(line, columns, strict=True):
            _dots(axes, panel, looks, what, characters)
            if axes is not line[0]:
                axes.tick_params(labelleft=False)
            # Above every panel, below the workload's title: a figure is often read from its middle.
            axes.xaxis.set_label_position("top")
            axes.set_xlabel(what.title, loc="left", color=MUTED)
        line[0].set_title(wrap(panel.title, 90))
    extra = []
    if any(what.column == "error_rel_l2" for what in columns):
        extra = [
            Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (6, 2)), label="yardstick"),
            Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (1, 1.6)), label="floor"),
        ]
    wrong, doubtful = (
        any_row(panels, failed_accuracy),
        any_row(panels, lambda row: flag_text(row) is not None),
    )
    if extra or wrong or doubtful:
        legend(figure, {}, wrong=wrong, doubtful=doubtful, extra=extra)
    return figure


def _alt(panels: Sequence[Panel]) -> str:
    parts = [
        "Dot chart of shapes measured at one length: latency, peak memory and error of each implementation."
    ]
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
    """One line of panels per shape: latency with its interval, peak memory, relative L2 error.

    `known` are the usual settings, which the panels' titles do not tell.
    """
    plots = []
    for ending, page in pages(panels, _SHAPES_PER_FIGURE):
        rows = [row for panel in page for row in panel.rows]

        def draw(page: Sequence[Panel] = page) -> Figure:
            return _draw(page, looks)

        measured = (
            "latency_median_s",
            "latency_ci_low_s",
            "latency_ci_high_s",
            "peak_alloc_bytes",
            "error_rel_l2",
            "error_floor",
            "error_yardstick",
            "accuracy",
        )
        plots.append(
            Plot(
                id=f"singles{ending}",
                title="Single shapes" + (f" ({ending[1:]})" if ending else ""),
                caption="Workloads measured at one length: each line of panels is one workload. Bars behind "
                "the dots are 95% intervals; dashed and dotted lines are the error's yardstick and floor. "
                f"Left is better. {common_text(rows, known)}".strip(),
                alt=_alt(page),
                data=data_table(rows, measured),
                draw=draw,
            )
        )
    return plots
