"""Every case of a comparison as a dot: its ratio after / before, sorted, with its interval, around 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.compare.case import LATENCY, SPEEDUP, CaseComparison, Ratio
from attnbench.compare.comparison import Comparison
from attnbench.compare.naming import naming
from attnbench.compare.sides import Key
from attnbench.plots.panels import legend, mark
from attnbench.plots.plot import Plot, listed
from attnbench.plots.rows import Row, clean, failed_accuracy, flag_text, shorten
from attnbench.plots.style import INK, Look, looks
from attnbench.plots.ticks import fitting, limits, ratio_scale, reached, set_ticks
from attnbench.units import format_ratio

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["after_names", "ratios"]

#: Cases in one figure, at most, and dots: several runs make a line of a figure taller.
_LINES, _DOTS = 36, 72

#: Inches from dot to dot within a case, and from case to case besides.
_DOT_IN, _GAP_IN = 0.1, 0.11

#: An axis reaches at least so far to either side of 1: less would blow chance up to the figure's width.
_LEAST = 1.25


@dataclass(frozen=True)
class _Quantity:
    """What a figure shows of each case; `drawn` says of which cases."""

    id: str
    title: str
    axis: str
    caption: str
    of: Callable[[CaseComparison], Ratio]
    drawn: Callable[[CaseComparison], bool]
    worst_first: int = 1


_EXACT = (
    "It is measured once in either run, so it has no interval. Cases in which it is the same are left out."
)

_QUANTITIES = (
    _Quantity(
        "latency-ratios",
        "Latency, after over before",
        "latency after / before: left of 1× is faster",
        "The bars are 95% intervals, between the processes of either run; what the machine has drifted from "
        "one run to the other is in none of them.",
        lambda case: case.latency,
        lambda case: case.by == LATENCY,
    ),
    _Quantity(
        "speedup-ratios",
        "Speed-up over the anchor, after over before",
        "speed-up over the anchor, after / before: right of 1× is better",
        "Measured on different machines: what is compared is how many times faster than its anchor a case "
        "is on either. The bars are 95% intervals, between the processes of either run.",
        lambda case: case.speedup,
        # An anchor is 1 everywhere.
        lambda case: case.by == SPEEDUP and case.either.record.anchor != case.either.record.case_id,
        worst_first=-1,
    ),
    _Quantity(
        "memory-ratios",
        "Peak memory, after over before",
        "peak memory after / before: left of 1× is less",
        f"The peak of the framework's allocator. {_EXACT}",
        lambda case: case.peak_alloc,
        lambda case: case.peak_alloc.value != 1,
    ),
    _Quantity(
        "error-ratios",
        "Error, after over before",
        "relative L2 error after / before: left of 1× is nearer to the reference",
        f"The relative L2 error. {_EXACT}",
        lambda case: case.error_rel_l2,
        lambda case: case.error_rel_l2.value != 1,
    ),
)


@dataclass(frozen=True)
class _Dot:
    run: str
    case: CaseComparison
    ratio: Ratio
    value: float


@dataclass(frozen=True)
class _Line:
    """A case, with a dot for each run that has the ratio; the runs in their order."""

    row: Row
    dots: tuple[_Dot, ...]

    @property
    def height_in(self) -> float:
        return _GAP_IN + _DOT_IN * len(self.dots)


def ratios(comparison: Comparison) -> list[Plot]:
    """A figure or several for each quantity that any case has a ratio of; several runs in their colours."""
    names = after_names(comparison)
    look = looks(names)
    where = naming(comparison.against)
    plots = []
    for quantity in _QUANTITIES:
        lines = _lines(comparison, quantity)
        if not lines:
            continue
        shown = [dot for line in lines for dot in line.dots]
        span = _span(shown)
        for number, page in enumerate(_pages(lines), 1):

            def draw(
                page: Sequence[_Line] = page, quantity: _Quantity = quantity, span: Any = span
            ) -> Figure:
                return _drawn(page, quantity, look, where, span)

            ending = "" if number == 1 else f" ({number})"
            plots.append(
                Plot(
                    id=quantity.id + ("" if number == 1 else f"-{number}"),
                    title=quantity.title + ending,
                    caption=f"Each line is one case, the worst first. {quantity.caption} "
                    f"Before: {clean(comparison.base.name)}; after: {listed(names)}.",
                    alt=_alt(page, quantity, where),
                    data=_data(page, quantity),
                    draw=draw,
                )
            )
    return plots


def after_names(comparison: Comparison) -> list[str]:
    """The runs that are compared with the first, as figures name them: harmless, and no two alike."""
    names: list[str] = []
    for against in comparison.against:
        name = clean(against.after.name)
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def _lines(comparison: Comparison, quantity: _Quantity) -> list[_Line]:
    """The cases that have the ratio, the worst first by the first run that has it."""
    found: dict[Key, list[_Dot]] = {}
    for name, against in zip(after_names(comparison), comparison.against, strict=True):
        for case in against.both:
            ratio = quantity.of(case)
            # Nothing but a positive value has a place on a logarithmic axis.
            if (
                quantity.drawn(case)
                and ratio.value is not None
                and ratio.value > 0
                and case.before is not None
            ):
                dot = _Dot(name, case, ratio, ratio.value)
                found.setdefault(case.before.key, []).append(dot)
    lines = [_Line(dots[0].case.either.row, tuple(dots)) for dots in found.values()]
    return sorted(lines, key=lambda line: -quantity.worst_first * line.dots[0].value)


def _pages(lines: Sequence[_Line]) -> list[Sequence[_Line]]:
    """As many lines a figure as fit, as evenly as possible."""
    count = max(
        math.ceil(len(lines) / _LINES),
        math.ceil(sum(len(line.dots) for line in lines) / _DOTS),
    )
    return [lines[len(lines) * i // count : len(lines) * (i + 1) // count] for i in range(count)]


def _span(dots: Sequence[_Dot]) -> tuple[float, float]:
    """The same axis for all pages, as far to the left of 1 as to the right."""
    ends = [end for dot in dots if (each := dot.ratio.interval) for end in (each.low, each.high)]
    farthest = max(abs(math.log(value)) for value in reached([1.0, *(dot.value for dot in dots)], ends))
    return limits((math.exp(-farthest), math.exp(farthest)), least=_LEAST**2)


def _drawn(
    page: Sequence[_Line],
    quantity: _Quantity,
    look: Mapping[str, Look],
    where: Callable[[Row], str],
    span: tuple[float, float],
) -> Figure:
    from matplotlib.figure import Figure

    heights = [line.height_in for line in page]
    figure = Figure(figsize=(9.6, sum(heights) + 1.15), layout="constrained")
    axes = figure.subplots()
    top = 0.0
    ticks: list[tuple[float, str]] = []
    for line in page:
        middle = top - line.height_in / 2
        ticks.append((middle, _label(line.row, where)))
        for index, dot in enumerate(line.dots):
            _dot(axes, dot, middle + _DOT_IN * ((len(line.dots) - 1) / 2 - index), look[dot.run])
        top -= line.height_in
    axes.axvline(1.0, color=INK, linewidth=1.0, zorder=2.5)
    axes.set_ylim(top - _GAP_IN / 2, _GAP_IN / 2)
    axes.set_yticks([y for y, _ in ticks], labels=[text for _, text in ticks], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set(xscale="log", xlim=span)
    set_ticks(axes.xaxis, fitting(ratio_scale, *span, characters=13 * 0.6 * figure.get_figwidth()))
    axes.tick_params(axis="x", labeltop=len(page) > _LINES // 2)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(quantity.axis, loc="left")
    dots = [dot for line in page for dot in line.dots]
    wrong, doubtful = any(_wrong(dot.case) for dot in dots), any(_flagged(dot.case) for dot in dots)
    present = {dot.run for dot in dots}
    named = {run: each for run, each in look.items() if run in present and len(look) > 1}
    if named or wrong or doubtful:
        legend(figure, named, lines=False, wrong=wrong, doubtful=doubtful)
    return figure


def _dot(axes: Axes, dot: _Dot, height: float, look: Look) -> None:
    interval = dot.ratio.interval
    if interval is not None:
        axes.hlines(
            height, interval.low, interval.high, color=look.color, linewidth=3.2, alpha=0.35, zorder=2
        )
    mark(axes, dot.value, height, wrong=_wrong(dot.case), doubtful=_flagged(dot.case), look=look)


def _wrong(case: CaseComparison) -> bool:
    return any(side is not None and failed_accuracy(side.row) for side in (case.before, case.after))


def _flagged(case: CaseComparison) -> bool:
    return any(side is not None and flag_text(side.row) is not None for side in (case.before, case.after))


def _label(row: Row, where: Callable[[Row], str]) -> str:
    """`sdpa · L512, causal`."""
    return f"{shorten(row['label'], 30)} · {shorten(where(row), 44)}"


def _alt(page: Sequence[_Line], quantity: _Quantity, where: Callable[[Row], str]) -> str:
    def told(line: _Line) -> str:
        return f"{_label(line.row, where)}: {listed(format_ratio(dot.value) for dot in line.dots)}"

    ends = [page[0], page[-1]] if len(page) > 1 else [page[0]]
    number = f"{len(page)} case{'' if len(page) == 1 else 's'}"
    return f"Dot chart of {number}, {quantity.axis}. From {' to '.join(map(told, ends))}."


def _data(page: Sequence[_Line], quantity: _Quantity) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "after": dot.run,
                "scenario": line.row["scenario"],
                "case_id": line.row["case_id"],
                "ratio": dot.value,
                "ratio_ci_low": dot.ratio.interval.low if dot.ratio.interval else None,
                "ratio_ci_high": dot.ratio.interval.high if dot.ratio.interval else None,
                "verdict": str(dot.case.verdict) if quantity.of(dot.case) is dot.case.deciding else None,
            }
            for line in page
            for dot in line.dots
        ]
    )
