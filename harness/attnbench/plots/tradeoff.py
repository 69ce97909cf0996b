"""Latency against peak memory: who pays for speed with memory, and who is beaten at both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnbench.plots.panels import Panel, across, any_row, grid, legend, mark, pages
from attnbench.plots.plot import Plot, common_text, data_table, listed
from attnbench.plots.rows import Row, can_win, failed_accuracy, flag_text, memory_is_partial
from attnbench.plots.style import GRID, INK, MUTED, Look
from attnbench.plots.ticks import bytes_scale, fitting, limits, seconds_scale, set_ticks
from attnbench.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["pareto", "tradeoff"]


def _time(row: Row) -> float:
    return float(row["latency_median_s"])


def _size(row: Row) -> float:
    return float(row["peak_alloc_bytes"])


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Those that nobody beats in both time and memory, fastest first.

    Only verified rows can be, and only those whose memory is known in full.
    """
    sure = (row for row in rows if can_win(row) and not memory_is_partial(row))
    front: list[Row] = []
    for row in sorted(sure, key=lambda row: (_time(row), _size(row))):
        if not front or _size(row) < _size(front[-1]):
            front.append(row)
    return front


def _draw(panels: Sequence[Panel], looks: dict[str, Look]) -> Figure:
    from matplotlib.lines import Line2D

    figure, all_axes = grid(panels, share_y=False)
    characters = across(figure, all_axes[0])
    for axes, panel in zip(all_axes, panels, strict=True):
        low_x, high_x = limits(map(_time, panel.rows), margin=0.12)
        low_y, high_y = limits(map(_size, panel.rows), margin=0.12)
        front = pareto(panel.rows)
        if front:
            x, y = [_time(row) for row in front], [_size(row) for row in front]
            axes.fill_between(
                [*x, high_x], [*y, y[-1]], high_y, step="post", color=GRID, alpha=0.45, linewidth=0, zorder=1
            )
            axes.step(
                [x[0], *x, high_x], [high_y, *y, y[-1]], where="post", color=MUTED, linewidth=1.1, zorder=2
            )
        for row in panel.rows:
            look = looks[row["label"]]
            mark(
                axes,
                _time(row),
                _size(row),
                wrong=failed_accuracy(row),
                doubtful=flag_text(row) is not None,
                look=look,
            )
        for row in front:
            axes.plot(
                [_time(row)],
                [_size(row)],
                linestyle="none",
                marker="o",
                markersize=11,
                markerfacecolor="none",
                markeredgecolor=INK,
                zorder=3,
            )
        axes.set(xscale="log", yscale="log", xlim=(low_x, high_x), ylim=(low_y, high_y))
        set_ticks(axes.xaxis, fitting(seconds_scale, low_x, high_x, characters))
        set_ticks(axes.yaxis, bytes_scale(low_y, high_y))
    figure.supxlabel("latency, median", fontsize=9)
    figure.supylabel("peak memory above the inputs", fontsize=9)
    ring = Line2D(
        [],
        [],
        linestyle="none",
        marker="o",
        markersize=9,
        markerfacecolor="none",
        markeredgecolor=INK,
        label="not beaten at both",
    )
    legend(
        figure,
        {label: looks[label] for label in looks if any_row(panels, lambda row: row["label"] == label)},  # noqa: B023
        lines=False,
        wrong=any_row(panels, failed_accuracy),
        doubtful=any_row(panels, lambda row: flag_text(row) is not None),
        extra=[ring],
    )
    return figure


def _alt(panels: Sequence[Panel]) -> str:
    parts = [
        f"Scatter chart of latency against peak memory, {len(panels)} panel{'s' if len(panels) > 1 else ''}."
    ]
    for panel in panels:
        front = [
            f"{row['label']} ({format_seconds(_time(row))}, {format_bytes(_size(row))})"
            for row in pareto(panel.rows)
        ]
        parts.append(
            f"{panel.title}: {'not beaten at both: ' + listed(front) if front else 'no verified row'}."
        )
    return " ".join(parts)


def tradeoff(panels: Sequence[Panel], looks: dict[str, Look], known: Mapping[str, Any]) -> list[Plot]:
    """Each panel is one workload; a workload with fewer than two implementations has nothing to trade.

    `known` are the usual settings, which the panels' titles do not tell.
    """
    shown = []
    for panel in panels:
        rows = tuple(row for row in panel.rows if (row.get("peak_alloc_bytes") or 0) > 0)
        if len(rows) > 1:
            shown.append(Panel(panel.title, rows))
    plots = []
    for ending, page in pages(shown):
        rows_shown = [row for panel in page for row in panel.rows]
        unseen = "Points whose memory is a lower bound are not ringed. "

        def draw(page: Sequence[Panel] = page) -> Figure:
            return _draw(page, looks)

        plots.append(
            Plot(
                id=f"tradeoff{ending}",
                title="Latency against peak memory" + (f" ({ending[1:]})" if ending else ""),
                caption="Each point is one implementation; towards the lower left is better. Ringed points "
                "are beaten by nobody in both time and memory; the shaded side holds those that are. Of "
                "each sweep one workload is shown: with the most implementations, the largest of those. "
                f"{unseen if any(map(memory_is_partial, rows_shown)) else ''}"
                f"{common_text(rows_shown, known)}".strip(),
                alt=_alt(page),
                data=data_table(rows_shown, ("latency_median_s", "peak_alloc_bytes", "accuracy")),
                draw=draw,
            )
        )
    return plots
