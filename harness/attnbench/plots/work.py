"""Where a module's arithmetic is, workload by workload, beside the times that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from attnbench.costs import PARTS
from attnbench.plots.panels import Panel, any_row, legend, mark, pages, wrap
from attnbench.plots.plot import Plot, common_text, listed
from attnbench.plots.rows import (
    Row,
    blocks,
    can_win,
    failed_accuracy,
    flag_text,
    has_past,
    labels,
    measured,
    shape_label,
    workload_label,
)
from attnbench.plots.style import GRID, INK, MUTED, PAPER, Look
from attnbench.plots.ticks import fitting, limits, reached, seconds_scale, set_ticks
from attnbench.units import format_count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Work", "part_text", "work", "work_plots"]

#: Inches of a bar with its gap, of a line of text, from dot to dot; and of all workloads in one figure.
_BAR_IN, _TEXT_IN, _DOT_IN, _TALLEST_IN = 0.34, 0.15, 0.1, 9.2

#: How each part is drawn, and what is written on it: shades, so that colours stay the implementations'.
_SHADES = {"projections": (MUTED, PAPER), "attention": (INK, PAPER), "feed_forward": (GRID, INK)}

#: A share that is narrower has no room for its number.
_LEAST_WRITTEN = 0.08


_CAPTION = (
    "On the left the share of each part in the floating-point operations, whose number stands below the "
    "workload's name; on the right the measured times. If all operations took equally long, each part would "
    "have that share of the time."
)
_OF_A_PAST = (
    " By definition keys and values of the past are projected at every call; the second bar is what is left "
    "where a cache holds them."
)


@dataclass(frozen=True)
class Work:
    """One workload: its name, its operations, the share of each part in them, and its measured rows.

    `cached` is the same workload where a cache holds the keys and values of its past, if it has one: fewer
    operations in other shares.
    """

    name: str
    flops: int
    shares: Mapping[str, float]
    rows: tuple[Row, ...]
    cached: Work | None = None

    @property
    def fastest(self) -> Row | None:
        """The row of the least latency among those that may be called the best."""
        return min(filter(can_win, self.rows), key=lambda row: float(row["latency_median_s"]), default=None)

    @property
    def bars(self) -> tuple[Work, ...]:
        """Itself, and what a cache leaves of it."""
        return (self,) if self.cached is None else (self, self.cached)


def part_text(part: str) -> str:
    """`feed-forward`."""
    return part.replace("_", "-")


def work(rows: Iterable[Row], known: Mapping[str, Any]) -> list[Work]:
    """The measured workloads whose operations are of more than one part, in order of appearance.

    `known` are the usual settings, which the names do not tell; lengths are always told.
    """
    known = {name: value for name, value in known.items() if name != "lengths"}
    found = []
    for block in blocks(filter(measured, rows)):
        parts = _parts(block[0])
        if len(parts) > 1:
            name = workload_label(block[0], known)
            left = _with_cache(block[0], parts)
            cached = None if left is None else _work(f"{name}, with a cache", left, block)
            found.append(replace(_work(name, parts, block), cached=cached))
    return found


def _parts(row: Row) -> dict[str, int]:
    counts = {part: row.get(f"flops_{part}") for part in PARTS}
    return {part: int(count) for part, count in counts.items() if count is not None}


def _work(name: str, parts: Mapping[str, int], block: Sequence[Row]) -> Work:
    flops = sum(parts.values())
    shares = {part: count / flops for part, count in parts.items()} if flops else {}
    return Work(name, flops, shares, tuple(block))


def _with_cache(row: Row, parts: Mapping[str, int]) -> dict[str, int] | None:
    """The parts without projecting the past; None where there is none, or it has gradients.

    Of a position the query and the output take embed_dim² each, the key and the value embed_dim × their own.
    """
    if not has_past(row) or row.get("pass") != "forward":
        return None
    own = 2 * row["q_len"] * row["embed_dim"]
    of_keys = 2 * row["kv_heads"] * row["head_dim"]
    whole, left = (own + of_keys * length for length in (row["kv_len"], row["q_len"]))
    return {**parts, "projections": parts["projections"] * left // whole}


def work_plots(rows: Sequence[Row], looks: dict[str, Look], known: Mapping[str, Any]) -> list[Plot]:
    """Stacked bars of the parts' shares beside dots of the times, a line a workload."""
    plots = []
    for ending, page in _pages(work(rows, known)):
        shown = [row for each in page for row in each.rows]

        def draw(page: Sequence[Work] = page) -> Figure:
            return _draw(page, looks)

        plots.append(
            Plot(
                id=f"work{ending}",
                title="Where the time should go" + (f" ({ending[1:]})" if ending else ""),
                caption=f"{_CAPTION}{_OF_A_PAST if any(map(has_past, shown)) else ''} "
                f"{common_text(shown, known)}".strip(),
                alt=_alt(page),
                data=_data(page),
                draw=draw,
            )
        )
    return plots


def _text(bar: Work) -> str:
    return f"{wrap(bar.name, 40)}\n{format_count(bar.flops, 'FLOP')}"


def _height_in(each: Work) -> float:
    dots = _DOT_IN * (2 + len(each.rows))
    return max(dots, sum(map(_bar_in, each.bars)))


def _bar_in(bar: Work) -> float:
    return max(_BAR_IN, _TEXT_IN * (1 + len(_text(bar).split("\n"))))


def _pages(every: Sequence[Work]) -> Iterable[tuple[str, Sequence[Work]]]:
    """As many lines a figure as fit, as evenly as possible; with the ending of the figure's id."""
    most = max(1, int(_TALLEST_IN / max(map(_height_in, every), default=1)))
    panels = [Panel(str(index), each.rows) for index, each in enumerate(every)]
    for ending, page in pages(panels, most):
        yield ending, [every[int(panel.title)] for panel in page]


def _draw(page: Sequence[Work], looks: dict[str, Look]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    heights = [_height_in(each) for each in page]
    figure = Figure(figsize=(9.6, sum(heights) + 1.0), layout="constrained")
    bars, times = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": (1, 1)})
    top, ticks = 0.0, []
    for each, height in zip(page, heights, strict=True):
        for index, bar in enumerate(each.bars):
            middle = top - height * (index + 0.5) / len(each.bars)
            ticks.append((middle, _text(bar)))
            _bar(bars, bar, middle, _BAR_IN * 0.72)
        _dots(times, each, top - height / 2, looks)
        top -= height
    bars.set_yticks([y for y, _ in ticks], labels=[text for _, text in ticks], fontsize=8)
    bars.set(xlim=(0, 1), ylim=(top, 0))
    bars.grid(visible=False)
    bars.tick_params(axis="both", length=0)
    set_ticks(bars.xaxis, [(share / 4, f"{25 * share}%") for share in range(5)])
    times.grid(visible=False, axis="y")
    times.tick_params(axis="y", length=0, labelleft=False)
    rows = [row for each in page for row in each.rows]
    ends = [
        row[end]
        for row in rows
        for end in ("latency_ci_low_s", "latency_ci_high_s")
        if row.get(end) is not None and row[end] > 0
    ]
    low, high = limits(reached([row["latency_median_s"] for row in rows], ends), margin=0.08)
    times.set(xscale="log", xlim=(low, high))
    set_ticks(times.xaxis, fitting(seconds_scale, low, high, 13 * 0.35 * figure.get_figwidth()))
    for axes, text in ((bars, "share of the floating-point operations"), (times, "latency, median")):
        axes.xaxis.set_label_position("top")
        axes.set_xlabel(text, loc="left", color=MUTED)
    panel = [Panel("", tuple(rows))]
    present = labels(rows)
    parts = [part for part in PARTS if any(part in each.shares for each in page)]
    legend(
        figure,
        {label: look for label, look in looks.items() if label in present},
        lines=False,
        wrong=any_row(panel, failed_accuracy),
        doubtful=any_row(panel, lambda row: flag_text(row) is not None),
        extra=[Patch(color=_SHADES[part][0], label=part_text(part)) for part in parts],
    )
    return figure


def _bar(axes: Axes, each: Work, middle: float, height: float) -> None:
    left = 0.0
    for part, share in each.shares.items():
        shade, ink = _SHADES[part]
        axes.barh(middle, share, left=left, height=height, color=shade, edgecolor=PAPER, linewidth=0.8)
        if share >= _LEAST_WRITTEN:
            axes.text(
                left + share / 2,
                middle,
                f"{100 * share:.0f}%",
                ha="center",
                va="center",
                color=ink,
                fontsize=8,
            )
        left += share


def _dots(axes: Axes, each: Work, middle: float, looks: dict[str, Look]) -> None:
    for index, row in enumerate(each.rows):
        height = middle + _DOT_IN * ((len(each.rows) - 1) / 2 - index)
        low, high, look = row.get("latency_ci_low_s"), row.get("latency_ci_high_s"), looks[row["label"]]
        if low is not None and high is not None:
            axes.hlines(height, low, high, color=look.color, linewidth=3.2, alpha=0.35, zorder=2)
        wrong, doubtful = failed_accuracy(row), flag_text(row) is not None
        mark(axes, float(row["latency_median_s"]), height, wrong=wrong, doubtful=doubtful, look=look)


def _alt(page: Sequence[Work]) -> str:
    told = []
    for each in (bar for one in page for bar in one.bars):
        shares = listed(f"{part_text(part)} {100 * share:.0f}%" for part, share in each.shares.items())
        told.append(f"{each.name}: {shares} of {format_count(each.flops, 'FLOP')}")
    return (
        "Bars of the parts' shares in the floating-point operations, and dots of the measured times. "
        f"{'; '.join(told[:12])}{'; …' if len(told) > 12 else ''}."
    )


def _data(page: Sequence[Work]) -> pd.DataFrame:
    import pandas as pd

    columns = ("latency_median_s", "latency_ci_low_s", "latency_ci_high_s", "tflops_per_s", "accuracy")
    lines = []
    for each in page:
        for row in each.rows:
            named = {"implementation": row["label"], "shape": shape_label(row), "workload": each.name}
            counts = {"flops": each.flops, **{f"flops_{part}": row.get(f"flops_{part}") for part in PARTS}}
            lines.append({**named, **counts, **{column: row.get(column) for column in columns}})
    frame = pd.DataFrame(lines)
    return frame.dropna(axis="columns", how="all")
