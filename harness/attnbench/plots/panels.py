"""Small multiples: rows split into panels, panels laid out in figures, one legend shared by all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attnbench.plots.axis import AS_A_RULE, Axis
from attnbench.plots.rows import Row, goes_without_saying, measured, shorten, usual, workload_label
from attnbench.plots.style import DANGER, INK, PAPER, Look
from attnbench.plots.sweeps import AXES, differing, sweeps

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PANELS_PER_FIGURE",
    "Panel",
    "across",
    "along",
    "any_row",
    "busiest",
    "grid",
    "legend",
    "mark",
    "pages",
    "shared_text",
    "split",
    "wrap",
]

PANELS_PER_FIGURE = 6
_COLUMNS = 3
_WIDTH_IN = 9.6


@dataclass(frozen=True)
class Panel:
    """The measured rows of one panel, and what sets them apart from the other panels.

    Those of a sweep stand along `axis` and share its `facts`; `failed` holds the implementations and places
    that were tried and gave no figures. Those of a single workload have no axis.
    """

    title: str
    rows: tuple[Row, ...]
    axis: Axis | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    failed: frozenset[tuple[str, Any]] = frozenset()

    @property
    def along(self) -> Axis:
        """The axis of a panel that is known to show a sweep."""
        assert self.axis is not None, f"{self.title or 'the panel'} shows a single workload"
        return self.axis


def split(rows: Sequence[Row]) -> tuple[list[Panel], list[Panel]]:
    """The measured rows as sweeps and as single workloads; see `attnbench.plots.sweeps`.

    A sweep's title tells what sets it apart from others along the same axis.
    """
    shared = usual(row for row in rows if measured(row))
    found, single = sweeps(rows)
    panels = []
    for sweep in found:
        facts = sweep.facts
        names = differing([other.facts for other in found if other.axis.key == sweep.axis.key])
        failed = frozenset((row["label"], sweep.axis.at(row)) for row in sweep.rows if not measured(row))
        panels.append(
            Panel(
                title=", ".join(facts[name] for name in names if name in facts),
                rows=tuple(filter(measured, sweep.rows)),
                axis=sweep.axis,
                facts=facts,
                failed=failed,
            )
        )
    return panels, [Panel(workload_label(own[0], shared), tuple(own)) for own in single]


def along(panels: Sequence[Panel]) -> list[tuple[str, list[Panel]]]:
    """Sweeps grouped by the key of their axis, in the order of `attnbench.plots.sweeps.AXES`."""
    keys = dict.fromkeys(axis.key for axis in AXES)
    groups = [(key, [panel for panel in panels if panel.along.key == key]) for key in keys]
    return [(key, group) for key, group in groups if group]


def shared_text(panels: Sequence[Panel]) -> str:
    """What all sweeps have in common, as a sentence; empty where there is nothing."""
    told = [
        text
        for name, text in panels[0].facts.items()
        if name not in ("run_id", "scenario")
        and text not in AS_A_RULE
        and not goes_without_saying(panels[0].rows[0], name)
        and all(panel.facts.get(name) == text for panel in panels)
    ]
    return f"All here: {', '.join(told)}." if told else ""


def busiest(panel: Panel, rows: Sequence[Row]) -> Panel:
    """A sweep at one place: where the most implementations were measured, at the largest size of those.

    Of categories the first is taken. The title tells what sets it apart from the rest of `rows`.
    """
    axis = panel.along
    places = axis.places(panel.rows)

    def at(place: Any) -> list[Row]:
        return [row for row in panel.rows if axis.at(row) == place]

    # The first of equals is taken.
    chosen = at(max(places[::-1] if axis.numeric else places, key=lambda place: len(at(place))))
    return Panel(workload_label(chosen[0], usual(rows)), tuple(chosen))


def pages(panels: Sequence[Panel], most: int = PANELS_PER_FIGURE) -> Iterator[tuple[str, tuple[Panel, ...]]]:
    """The panels of each figure, with the ending that keeps the figures' ids apart: '', '-2', '-3'."""
    count = math.ceil(len(panels) / most)
    for page in range(count):  # as evenly as possible: no last figure with a lone panel
        first, end = (len(panels) * index // count for index in (page, page + 1))
        yield ("" if page == 0 else f"-{page + 1}"), tuple(panels[first:end])


def grid(
    panels: Sequence[Panel], *, height_in: float = 2.7, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with a titled set of axes for each panel and nothing where there is none."""
    from matplotlib.figure import Figure

    # Four panels stand better as two by two than as three and one.
    columns = 2 if len(panels) == 4 else min(_COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    width = _WIDTH_IN if columns > 1 else 6.4
    figure = Figure(figsize=(width, height_in * lines + 0.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.02, hspace=0.06)  # type: ignore[union-attr, call-arg]  # the base class's stub lacks the engine's own parameters
    axes: list[Axes] = []
    for index, panel in enumerate(panels):
        shared = axes[0] if axes and share_y else None
        each = figure.add_subplot(lines, columns, index + 1, sharey=shared)
        each.set_title(wrap(panel.title, 96 // columns if columns > 1 else 64))
        if shared is not None and index % columns:
            each.tick_params(labelleft=False)
        axes.append(each)
    return figure, axes


def across(figure: Figure, axes: Axes) -> float:
    """About how many characters of a tick label stand side by side below one of the axes of `grid`."""
    # About 13 characters an inch; a quarter of the width goes to the labels of the other axis.
    return 13 * 0.75 * figure.get_figwidth() / axes.get_gridspec().ncols  # type: ignore[union-attr]  # axes of a grid have one


def wrap(title: str, width: int) -> str:
    """`title` on at most two lines of `width` characters, broken at a comma."""
    if len(title) <= width:
        return title
    cut = title.rfind(", ", 0, width)
    if cut < 0:
        return shorten(title, width)
    return f"{title[: cut + 1]}\n{shorten(title[cut + 2 :], width)}"


def mark(axes: Axes, x: float, y: float, *, wrong: bool, doubtful: bool, look: Look) -> None:
    """One point: filled; hollow where it is not to be trusted; crossed out where its numbers are wrong."""
    hollow = wrong or doubtful
    axes.plot(
        [x],
        [y],
        linestyle="none",
        marker=look.marker,
        markerfacecolor=PAPER if hollow else look.color,
        markeredgecolor=look.color,
        zorder=4,
    )
    if wrong:
        axes.plot(
            [x], [y], linestyle="none", marker="x", markersize=9, markeredgewidth=1.6, color=DANGER, zorder=5
        )


def legend(
    figure: Figure,
    looks: dict[str, Look],
    *,
    lines: bool = True,
    wrong: bool = False,
    doubtful: bool = False,
    extra: Sequence[Artist] = (),
) -> None:
    """One legend above all panels, in as many columns as fit."""
    from matplotlib.lines import Line2D

    handles: list[Artist] = [
        Line2D(
            [],
            [],
            color=look.color,
            marker=look.marker,
            linestyle=look.dash if lines else "none",
            label=shorten(name),
        )
        for name, look in looks.items()
    ]
    handles += extra
    if doubtful:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="o",
                markerfacecolor=PAPER,
                markeredgecolor=INK,
                label="flagged",
            )
        )
    if wrong:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="x",
                markersize=8,
                color=DANGER,
                label="fails the accuracy check",
            )
        )
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=_columns([len(str(handle.get_label())) for handle in handles], figure.get_figwidth()),
        handlelength=2.6,
        columnspacing=1.4,
    )


def _columns(sizes: Sequence[int], width_in: float) -> int:
    """In how many columns a legend's texts of so many characters fit, in as few lines as possible."""
    for lines in range(1, len(sizes)):
        columns = math.ceil(len(sizes) / lines)
        share, longer = divmod(
            len(sizes), columns
        )  # matplotlib fills column by column, the first ones longer
        starts = [index * share + min(index, longer) for index in range(columns + 1)]
        widest = [max(sizes[start:end]) for start, end in itertools.pairwise(starts)]
        if sum(each + 8 for each in widest) <= 13 * width_in:  # 8 for the line and the gaps beside a text
            return columns
    return 1


def any_row(panels: Sequence[Panel], test: Callable[[Row], bool]) -> bool:
    """Whether a row of any panel passes `test`."""
    return any(test(row) for panel in panels for row in panel.rows)
