"""Attention weights as pictures: one heat map a head, on one scale."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from attnbench.plots.pooling import Cells, pooled
from attnbench.plots.rows import clean, shorten
from attnbench.plots.style import DANGER, GRID, INK, MUTED, drawing
from attnbench.units import significant

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

__all__ = ["attention_weights"]

_COLUMNS = 8

#: How wide a heat map is in inches, by how many stand side by side.
_PANEL_IN = {1: 4.6, 2: 3.3, 3: 2.7, 4: 2.3, 5: 2.0, 6: 1.9, 7: 1.75, 8: 1.65}

#: What a heat map's height may be of its width, in which a cell is square as long as it can be.
_LOWEST, _HIGHEST = 0.22, 1.6

#: Dots an inch of the PNG: no cell is smaller than one.
_DOTS = 144

_LETTER_IN = 0.076
_LINE_IN = 0.19
_LONGEST_LABEL = 14
_HATCH = "//////"


def attention_weights(
    weights: npt.ArrayLike,
    allowed: npt.ArrayLike | None = None,
    *,
    queries: Sequence[object] | None = None,
    keys: Sequence[object] | None = None,
    heads: Sequence[int] | None = None,
    title: str | None = None,
    notes: Sequence[str] = (),
) -> Figure:
    """Heat maps of attention weights: a panel a head, queries downwards, keys to the right, one colour scale.

    `weights` is `[H, Lq, Lk]`, or `[Lq, Lk]` for one head or the average of several. `allowed`, `[Lq, Lk]` or
    `[H, Lq, Lk]`, is True where attention is allowed: what is masked is hatched and off the scale, so that it
    is not mistaken for a weight of 0. What no weight can be (negative, not finite, or a weight where
    attention is not allowed) is red, and the legend says what it is. `queries` and `keys` name the positions,
    with tokens for example; by default they are counted from 0. `heads` are the panels' numbers, from 0 by
    default. `title` stands above all, `notes` below.

    Where there are more positions than room, a cell shows the largest weight of several, and a note says so.

    Raises:
        ValueError: a shape, or a number of names, that does not fit.
    """
    given = np.asarray(weights, dtype=np.float64)
    single = given.ndim == 2
    values = given[None] if single else given
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(
            f"weights must have shape [H, Lq, Lk] or [Lq, Lk], none of them 0; got {given.shape}"
        )
    visible = _broadcast(allowed, values.shape)
    for what, names, count in (
        ("queries", queries, values.shape[1]),
        ("keys", keys, values.shape[2]),
        ("heads", heads, values.shape[0]),
    ):
        if names is not None and len(names) != count:
            raise ValueError(
                f"{what} must name each of the {count} that weights {given.shape} has; got {len(names)} names"
            )
    numbers = heads if heads is not None else range(len(values))
    plan = _Plan.of(values.shape)
    cells = pooled(values, visible, plan.most_cells)
    titles = [""] if single and heads is None else [f"head {number}" for number in numbers]
    with drawing():
        return _drawn(plan, cells, titles, _named(queries), _named(keys), title, [*_told(cells), *notes])


def _broadcast(allowed: npt.ArrayLike | None, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if allowed is None:
        return np.ones(shape, dtype=np.bool_)
    mask = np.asarray(allowed)
    if mask.dtype != np.bool_ or mask.shape not in (shape, shape[1:]):
        raise ValueError(
            f"allowed must be boolean with shape {shape[1:]} or {shape}, True where attention is allowed; "
            f"got {mask.dtype} with shape {mask.shape}"
        )
    return np.broadcast_to(mask, shape)


def _named(names: Sequence[object] | None) -> list[str] | None:
    return None if names is None else [shorten(clean(name), _LONGEST_LABEL) for name in names]


def _told(cells: Cells) -> list[str]:
    if cells.step == (1, 1):
        return []
    queries, keys = cells.step
    several = [
        f"{count} neighbouring {what}" for count, what in ((queries, "queries"), (keys, "keys")) if count > 1
    ]
    return [
        f"There are more positions than room: each cell shows the largest weight of {' × '.join(several)}."
    ]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How many panels stand side by side, how large each is, for `[H, Lq, Lk]`."""

    heads: int
    queries: int
    keys: int
    columns: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> _Plan:
        heads, queries, keys = shape

        def waste(columns: int) -> float:
            """Places without a panel, and how far from half as wide again as high."""
            lines = math.ceil(heads / columns)
            return lines * columns - heads + abs(columns - 1.5 * lines)

        return cls(heads, queries, keys, min(range(1, min(heads, _COLUMNS) + 1), key=waste))

    @property
    def lines(self) -> int:
        return math.ceil(self.heads / self.columns)

    @property
    def width_in(self) -> float:
        return _PANEL_IN[self.columns]

    @property
    def height_in(self) -> float:
        return self.width_in * min(max(self.queries / self.keys, _LOWEST), _HIGHEST)

    @property
    def most_cells(self) -> tuple[int, int]:
        """At most as many rows and columns of cells as a panel has dots; the layout may take some of them."""
        return max(1, int(self.height_in * _DOTS * 0.95)), int(self.width_in * _DOTS * 0.95)


def _drawn(
    plan: _Plan,
    cells: Cells,
    titles: Sequence[str],
    queries: list[str] | None,
    keys: list[str] | None,
    title: str | None,
    notes: Sequence[str],
) -> Figure:
    from matplotlib.figure import Figure

    size = (plan.columns * plan.width_in + 2, plan.lines * (plan.height_in + 0.3) + 1)
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05)  # type: ignore[union-attr, call-arg]  # the base class's stub lacks the engine's own parameters
    panels = [figure.add_subplot(plan.lines, plan.columns, index + 1) for index in range(plan.heads)]
    for index, (axes, values, name) in enumerate(zip(panels, cells.values, titles, strict=True)):
        _heat(axes, plan, values, cells)
        axes.set_title(name)
        first, last = index % plan.columns == 0, index + plan.columns >= plan.heads
        _label(axes, plan, queries, keys, first=first, last=last)
    _scale(figure, panels, plan, cells)
    _fit(figure, panels[0], plan)
    _around(figure, title, notes, _legend(cells))
    return figure


def _heat(axes: Axes, plan: _Plan, values: npt.NDArray[np.float64], cells: Cells) -> None:
    """One head: the hatching of the axes shows where no cell is painted."""
    from matplotlib import colormaps

    axes.patch.set(facecolor=GRID, edgecolor=MUTED, hatch=_HATCH, linewidth=0)
    rows, columns = values.shape
    axes.imshow(
        np.ma.masked_invalid(values),
        cmap=colormaps["YlGnBu"].with_extremes(bad="none", under=DANGER),
        vmin=0,
        vmax=cells.largest,
        interpolation="nearest",
        aspect="auto",
        extent=(-0.5, columns * cells.step[1] - 0.5, rows * cells.step[0] - 0.5, -0.5),
    )
    axes.set(xlim=(-0.5, plan.keys - 0.5), ylim=(plan.queries - 0.5, -0.5))
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(True)


def _scale(figure: Figure, panels: Sequence[Axes], plan: _Plan, cells: Cells) -> None:
    """The one colour bar, about as thin beside one line of panels as beside four."""
    bar = figure.colorbar(
        panels[0].images[0],
        ax=panels,
        label="attention weight",
        aspect=max(6, 5 * plan.lines * plan.height_in),
        pad=0.01,
    )
    ticks = [cells.largest * share / 4 for share in range(5)]
    bar.set_ticks(ticks, labels=[significant(tick, 2) for tick in ticks])
    bar.outline.set_edgecolor(MUTED)


def _fit(figure: Figure, panel: Axes, plan: _Plan) -> None:
    """Make the figure so large that its panels are as large as planned, whatever their labels take."""
    engine = figure.get_layout_engine()
    assert engine is not None  # the figure was made with one
    engine.execute(figure)
    width, height = figure.get_size_inches()
    box = panel.get_position()
    figure.set_size_inches(
        width + plan.columns * (plan.width_in - box.width * width),
        height + plan.lines * (plan.height_in - box.height * height),
    )


def _label(
    axes: Axes, plan: _Plan, queries: list[str] | None, keys: list[str] | None, *, first: bool, last: bool
) -> None:
    """Name the positions: of the queries on the first panel of a line, of the keys below the last ones."""
    axes.tick_params(labelleft=first, labelbottom=last, length=2.5)
    if first:
        axes.set_ylabel("query" if queries else "query position")
    if last:
        axes.set_xlabel("key" if keys else "key position")
    every = _every(plan.queries, plan.height_in, 0.16)
    axes.set_yticks(range(0, plan.queries, every), queries[::every] if queries else None)
    if keys:
        every = _every(plan.keys, plan.width_in, 0.16)
        axes.set_xticks(range(0, plan.keys, every), keys[::every], rotation=90)
    else:
        digits = len(str(plan.keys - 1))
        axes.set_xticks(range(0, plan.keys, _every(plan.keys, plan.width_in, 0.16 + _LETTER_IN * digits)))


def _every(count: int, length_in: float, needed_in: float) -> int:
    """Which positions get a tick so that none touches the next one: every, every second, fifth, tenth, …"""
    fewest = math.ceil(count / max(1, int(length_in / needed_in)))
    power: int = 10 ** int(math.log10(fewest))
    return min(step * power for step in (1, 2, 5, 10) if step * power >= fewest)


def _legend(cells: Cells) -> list[Patch]:
    from matplotlib.patches import Patch

    handles = []
    if np.isnan(cells.values).any():
        handles.append(Patch(facecolor=GRID, edgecolor=MUTED, hatch=_HATCH, linewidth=0, label="masked"))
    if cells.faults:
        handles.append(Patch(facecolor=DANGER, label=f"wrong: {', '.join(cells.faults)}"))
    return handles


def _around(figure: Figure, title: str | None, notes: Sequence[str], handles: Sequence[Patch]) -> None:
    """Title and legend above the panels, notes below them, in room that is added to the figure."""
    width, panels_in = figure.get_size_inches()
    header = [] if title is None else _wrapped(title, 9.5 * 1.1, width)
    footer = [line for note in notes for line in _wrapped(note, 8, width)]
    letters = sum(len(str(handle.get_label())) + 8 for handle in handles)  # 8 for the patch and the gaps
    columns = len(handles) if letters * _LETTER_IN < width else 1
    legend_lines = math.ceil(len(handles) / columns) if handles else 0
    above = _LINE_IN * (len(header) + legend_lines) + 0.12 * bool(header or handles)
    below = _LINE_IN * len(footer) + 0.08 * bool(footer)
    height = panels_in + above + below
    figure.set_size_inches(width, height)
    figure.get_layout_engine().set(rect=(0, below / height, 1, panels_in / height))  # type: ignore[union-attr, call-arg]  # as above
    left = 0.08 / width
    if header:
        y = 1 - 0.08 / height
        figure.text(left, y, "\n".join(header), va="top", fontsize=9.5, fontweight="bold", color=INK)
    if handles:
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(left, 1 - (0.08 + _LINE_IN * len(header)) / height),
            borderaxespad=0,
            borderpad=0,
            ncols=columns,
            handlelength=1.8,
        )
    if footer:
        figure.text(left, 0.07 / height, "\n".join(footer), va="bottom", fontsize=8, color=MUTED)


def _wrapped(text: str, size: float, width_in: float) -> list[str]:
    """`text` in lines that fit into a figure so wide, in letters of so many points."""
    return textwrap.wrap(clean(text), max(16, int((width_in - 0.2) / (_LETTER_IN * size / 9))))
