"""Workloads that differ in a category alone (mask, dtype, pass, inputs), as dots on common axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attnbench.plots.dots import MEASURED, Band, Lines, draw_dots
from attnbench.plots.panels import Panel, along, shared_text
from attnbench.plots.plot import Plot, data_table, listed
from attnbench.plots.rows import clean, labels, shorten
from attnbench.plots.style import Look
from attnbench.units import format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["categories"]

#: Inches from dot to dot within a category, and how many dots' room lies between two categories.
_STEP_IN, _GAP = 0.125, 1.4

#: Inches of panels in one figure, about; a panel is never split.
_TALLEST_IN = 9.0


def _broken(category: str, width: int = 20) -> str:
    """A category's name, an intersection of masks on several lines where it is long."""
    if len(category) <= width or "+" not in category:
        return shorten(category, 30)
    return "\n".join(shorten(part, 30) for part in category.replace("+", "+\n").split("\n"))


def _lines(panel: Panel) -> Lines:
    """A band for each category, from above; in it a line for each implementation that has figures there."""
    bands: list[Band] = []
    ticks: list[tuple[float, str]] = []
    top = 0.0
    names, told = labels(panel.rows), panel.along.place
    for place in panel.along.places(panel.rows):
        own = [row for row in panel.rows if panel.along.at(row) == place]
        own.sort(key=lambda row: names.index(row["label"]))
        text = _broken(clean("no mask" if place == "none" and panel.along.column == "mask" else told(place)))
        # Two lines of text need the room of three dots.
        room = max(len(own), 1.5 * len(text.split("\n"))) - 1
        low = top - _GAP - room
        start = top - _GAP / 2 - (room - (len(own) - 1)) / 2
        bands.append(Band(tuple((start - index, row) for index, row in enumerate(own)), low, top))
        ticks.append(((low + top) / 2, text))
        top = low
    return Lines(tuple(bands), tuple(ticks), 0.9 - top * _STEP_IN)


def _pages(panels: Sequence[Panel]) -> Iterator[tuple[str, tuple[Panel, ...]]]:
    """The panels of each figure, as many as fit, with the ending of the figure's id."""
    page: list[Panel] = []
    number = 1
    for panel in panels:
        tall = sum(_lines(each).height_in for each in (*page, panel))
        if page and tall > _TALLEST_IN:
            yield ("" if number == 1 else f"-{number}"), tuple(page)
            page, number = [], number + 1
        page.append(panel)
    yield ("" if number == 1 else f"-{number}"), tuple(page)


def _alt(panels: Sequence[Panel]) -> str:
    axis = panels[0].along
    parts = [
        f"Dot chart by {axis.name}: latency, peak memory and error of "
        f"{listed(labels(row for panel in panels for row in panel.rows), 9)}."
    ]
    for panel in panels:
        told = []
        for place in axis.places(panel.rows):
            own = [row for row in panel.rows if axis.at(row) == place]
            best = min(own, key=lambda row: float(row["latency_median_s"]))
            told.append(
                f"{clean(axis.place(place))} from {best['label']} {format_seconds(best['latency_median_s'])}"
            )
        parts.append(f"{panel.title or 'Least latencies'}: {listed(told, 12)}.")
    return " ".join(parts)


def categories(panels: Sequence[Panel], looks: dict[str, Look]) -> list[Plot]:
    """One line of panels for each setting; the categories stand in it below one another, on common axes."""
    plots = []
    for key, group in along(panels):
        name = group[0].along.name
        for ending, page in _pages(group):
            present = labels(row for panel in page for row in panel.rows)
            named = {label: look for label, look in looks.items() if label in present}

            def draw(page: Sequence[Panel] = page, named: dict[str, Look] = named) -> Figure:
                return draw_dots(page, looks, _lines, named)

            plots.append(
                Plot(
                    id=f"by-{key.replace('_', '-')}{ending}",
                    title=f"By {name}" + (f" ({ending[1:]})" if ending else ""),
                    caption=f"Workloads that differ in their {name} alone stand below one another, on common "
                    "axes. Bars behind the dots are 95% intervals; dashed and dotted lines are the error's "
                    f"yardstick and floor. Left is better. {shared_text(page)}".strip(),
                    alt=_alt(page),
                    data=data_table([row for panel in page for row in panel.rows], MEASURED),
                    draw=draw,
                )
            )
    return plots
