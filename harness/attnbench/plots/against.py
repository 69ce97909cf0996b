"""Before against after: every case of a comparison as a point, beside the line on which nothing changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.compare.case import LATENCY, SPEEDUP, CaseComparison
from attnbench.compare.comparison import Against, Comparison
from attnbench.plots.panels import Panel, across, grid, legend, mark, pages
from attnbench.plots.plot import Plot, listed
from attnbench.plots.ratios import after_names
from attnbench.plots.rows import clean, failed_accuracy, flag_text, labels, shape_label
from attnbench.plots.style import INK, Look, looks
from attnbench.plots.ticks import Scale, fitting, limits, ratio_scale, seconds_scale, set_ticks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["before_after"]


@dataclass(frozen=True)
class _Quantity:
    """What is drawn, of the cases whose verdict goes by it; the better side of the line in words."""

    by: str
    id: str
    title: str
    axis: str
    better: str
    scale: Scale


_QUANTITIES = (
    _Quantity(
        LATENCY,
        "before-after",
        "Latency before and after",
        "latency, median",
        "below the line is faster",
        seconds_scale,
    ),
    _Quantity(
        SPEEDUP,
        "before-after-speedup",
        "Speed-up over the anchor before and after",
        "speed-up over the anchor",
        "above the line is better",
        ratio_scale,
    ),
)


def before_after(comparison: Comparison) -> list[Plot]:
    """A panel for each run after the first; implementations look the same in all of them."""
    everything = [case.either.row for against in comparison.against for case in against.cases]
    look = looks(labels(everything))
    plots = []
    for quantity in _QUANTITIES:
        panels, points = [], {}
        for title, against in zip(after_names(comparison), comparison.against, strict=True):
            found = _points(against, quantity)
            if found:
                panels.append(Panel(title, tuple(case.either.row for case, _, _ in found)))
                points[title] = found
        for ending, page in pages(panels):

            def draw(
                page: Sequence[Panel] = page, points: dict[str, Any] = points, quantity: _Quantity = quantity
            ) -> Figure:
                return _drawn(page, points, look, quantity)

            shown = [(panel.title, *point) for panel in page for point in points[panel.title]]
            plots.append(
                Plot(
                    id=f"{quantity.id}{ending}",
                    title=quantity.title + (f" ({ending[1:]})" if ending else ""),
                    caption=f"Each point is one case; on the line nothing changed, {quantity.better}. "
                    f"Before: {clean(comparison.base.name)}.",
                    alt=f"Scatter chart of {quantity.axis} before against after, {len(shown)} points: "
                    f"{listed(panel.title for panel in page)}.",
                    data=_data(shown, quantity),
                    draw=draw,
                )
            )
    return plots


def _points(against: Against, quantity: _Quantity) -> list[tuple[CaseComparison, float, float]]:
    """The cases that have the figure in both runs."""
    found = []
    for case in against.both:
        ratio = case.latency if quantity.by == LATENCY else case.speedup
        if case.by == quantity.by and ratio.before and ratio.after:
            found.append((case, ratio.before, ratio.after))
    return found


def _drawn(
    panels: Sequence[Panel],
    points: dict[str, list[tuple[CaseComparison, float, float]]],
    look: dict[str, Look],
    quantity: _Quantity,
) -> Figure:
    figure, all_axes = grid(panels, height_in=3.4, share_y=False)
    characters = across(figure, all_axes[0])
    wrong = doubtful = False
    for axes, panel in zip(all_axes, panels, strict=True):
        own = points[panel.title]
        low, high = limits([value for _, x, y in own for value in (x, y)], margin=0.1)
        axes.plot([low, high], [low, high], color=INK, linewidth=1.0, zorder=1.5)
        for case, x, y in own:
            rows = [side.row for side in (case.before, case.after) if side is not None]
            fails, flagged = any(map(failed_accuracy, rows)), any(map(flag_text, rows))
            wrong, doubtful = wrong or fails, doubtful or flagged
            mark(axes, x, y, wrong=fails, doubtful=flagged, look=look[case.either.row["label"]])
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        set_ticks(axes.xaxis, fitting(quantity.scale, low, high, characters))
        set_ticks(axes.yaxis, quantity.scale(low, high, 7))
    figure.supxlabel(f"{quantity.axis}, before", fontsize=9)
    figure.supylabel(f"{quantity.axis}, after", fontsize=9)
    named = labels(row for panel in panels for row in panel.rows)
    legend(figure, {label: look[label] for label in named}, lines=False, wrong=wrong, doubtful=doubtful)
    return figure


def _data(shown: Sequence[tuple[str, CaseComparison, float, float]], quantity: _Quantity) -> pd.DataFrame:
    import pandas as pd

    # As in the comparison's table.
    name, unit = ("latency", "_s") if quantity.by == LATENCY else ("speedup", "")
    return pd.DataFrame(
        [
            {
                "after": run,
                "implementation": case.either.row["label"],
                "shape": shape_label(case.either.row),
                f"{name}_before{unit}": before,
                f"{name}_after{unit}": after,
            }
            for run, case, before, after in shown
        ]
    )
