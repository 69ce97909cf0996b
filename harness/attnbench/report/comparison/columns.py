"""The columns of a comparison's table, one spelling for the terminal, the page and the summary.

They read the flat rows of `attnbench.compare.rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from attnbench.compare import Row, Verdict
from attnbench.plots.plot import listed
from attnbench.plots.rows import clean, varying
from attnbench.report import cells
from attnbench.report.columns import SETTINGS, Column, names_for
from attnbench.units import format_ratio, significant

__all__ = ["ABSENT", "besides", "columns_for", "in_a_line", "line_state", "places", "ratio_text", "reasons"]

#: Verdicts of a case that one of the runs lacks.
ABSENT = (str(Verdict.GONE), str(Verdict.NEW))

#: Ratios beyond this are not worth three digits.
_HUGE = 10_000

_RUN = Column("run", "after", "The run that is compared with the first one.", lambda row: clean(row["after"]))


def ratio_text(row: Row, figure: str) -> str:
    """`1.08×`; `from 0`, `to 0`; an en dash where there is none."""
    value = row[f"{figure}_ratio"]
    if value is None:
        return "from 0" if row[f"{figure}_note"] == "from 0" else cells.DASH
    if value == 1:
        return "1×"
    if value == 0:
        return "to 0"
    return format_ratio(value) if 1 / _HUGE < value < _HUGE else f"{value:.1e}×"


def _interval(row: Row, figure: str) -> str:
    low, high = row[f"{figure}_ratio_ci_low"], row[f"{figure}_ratio_ci_high"]
    return "" if low is None or high is None else f"[{significant(low)}, {significant(high)}]"


def _values(row: Row, figure: str, unit: str) -> str:
    """`29.0 KiB → 44.9 KiB`; once where nothing changed, empty where neither is known."""
    texts = [cells.value(f"{figure}{unit}", row[f"{figure}_{when}{unit}"]) for when in ("before", "after")]
    if texts[0] == texts[1]:
        return "" if texts[0] == cells.DASH else texts[0]
    return " → ".join(texts)


def _one(row: Row, column: str) -> str:
    return cells.value(column, row[column])


def _exact(key: str, heading: str, meaning: str, figure: str, unit: str, *, more: bool = False) -> Column:
    return Column(
        key,
        heading,
        meaning,
        partial(ratio_text, figure=figure),
        f"{figure}_ratio",
        partial(_values, figure=figure, unit=unit),
        more,
    )


_LATENCY = (
    Column(
        "before",
        "before",
        "Median time of one call in the first run.",
        partial(_one, column="latency_before_s"),
        "latency_before_s",
    ),
    Column(
        "after",
        "after",
        "Median time of one call in the other run.",
        partial(_one, column="latency_after_s"),
        "latency_after_s",
    ),
    Column(
        "latency",
        "latency",
        "Latency after over before: below 1 is faster. Below it the 95% interval, between the processes of "
        "either run; how the machine has drifted from one run to the other is not in it.",
        partial(ratio_text, figure="latency"),
        "latency_ratio",
        partial(_interval, figure="latency"),
    ),
)

_SPEEDUP = (
    Column(
        "speedups",
        "speed-ups",
        "How many times faster than its anchor the case is in either run, from rounds side by side.",
        lambda row: _values(row, "speedup", "") or cells.DASH,
        "speedup_after",
    ),
    Column(
        "speedup",
        "speed-up",
        "Speed-up over the anchor, after over before: above 1 is better. What makes anchor and case slower "
        "alike has no part in it. Below it the 95% interval, between the processes of either run.",
        partial(ratio_text, figure="speedup"),
        "speedup_ratio",
        partial(_interval, figure="speedup"),
    ),
)

_EXACT = (
    _exact(
        "memory",
        "memory",
        "Peak memory by the framework's allocator, after over before; below it both.",
        "peak_alloc",
        "_bytes",
    ),
    _exact(
        "error",
        "error",
        "Relative L2 error, after over before; below it both.",
        "error_rel_l2",
        "",
    ),
)

_VERDICT = Column(
    "status",
    "verdict",
    "faster or slower where the whole interval is on one side of 1; no difference seen where it holds 1; not "
    "comparable where there is no interval, or where either run has no time that can be trusted.",
    lambda row: str(row["verdict"]),
)

_MORE = (
    _exact(
        "resident",
        "resident",
        "Peak memory as the operating system sees it, after over before; it counts whole pages, so small "
        "figures vary.",
        "peak_rss",
        "_bytes",
        more=True,
    ),
    _exact(
        "largest",
        "largest error",
        "The largest error of any number, after over before; below it both.",
        "error_max_abs",
        "",
        more=True,
    ),
)


def besides(rows: Sequence[Row]) -> Callable[[Row], str]:
    """What else is to be said of a case: why it is not comparable, what changed, what was set otherwise.

    Settings in which all of `rows` differ alike are left out: they are told once, before everything else.
    """
    both = [row for row in rows if row["verdict"] not in ABSENT]
    shared = len({row["conditions"] for row in both}) == 1

    def text(row: Row) -> str:
        memory = row["peak_alloc_note"]
        parts = [
            row["why"],
            row["changes"],
            memory if memory is None or row["verdict"] in ABSENT else f"memory: {memory}",
            None if shared else row["conditions"],
        ]
        return clean("; ".join(part for part in parts if part))

    return text


def columns_for(rows: Sequence[Row]) -> list[Column]:
    """The columns of a table: the settings in which the rows differ, and the figures that any row has.

    Speed-ups are shown at once where a verdict goes by them, and on request otherwise.
    """
    names = varying(rows)
    if len({row["scenario"] for row in rows if row["verdict"] not in ABSENT}) < 2:
        names = [name for name in names if name != "scenario"]  # renamed from run to run, and told so
    several = len({row["after"] for row in rows}) > 1
    settings = [SETTINGS[name] for name in SETTINGS if name in names and name != "run_id"]
    by = {row["compared_by"] for row in rows if row["verdict"] not in ABSENT}
    # A table of both would not fit: the ratio of speed-ups is shown then, and they themselves on request.
    shown = 2 if by == {"speedup"} else 1 if "speedup" in by else 0
    speedups = [*map(_later, _SPEEDUP[: 2 - shown]), *_SPEEDUP[2 - shown :]]
    figures = [*(_LATENCY if "latency" in by or not by else _LATENCY[:2]), *speedups, *_EXACT]

    def known(columns: Sequence[Column]) -> list[Column]:
        return [column for column in columns if column.raw and any(map(_has(column), rows))]

    first = known([column for column in figures if not column.more])
    more = known([*(column for column in figures if column.more), *_MORE])
    told = besides(rows)
    meaning = "Why it is not comparable, and what else is different."
    last = [Column("changes", "besides", meaning, told, more=True)] if any(map(told, rows)) else []
    return [*([_RUN] if several else []), *names_for(rows), *settings, *first, _VERDICT, *more, *last]


def reasons(rows: Sequence[Row]) -> list[tuple[str, str, str, list[Row]]]:
    """What is to be said of cases besides their figures: implementation, verdict, text, and the cases."""
    told = besides(rows)
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if told(row):
            key = cells.implementation(row), str(row["verdict"]), told(row)
            found.setdefault(key, []).append(row)
    return [(*key, group) for key, group in found.items()]


def in_a_line(column: Column, row: Row) -> str:
    """A cell with its detail: `1.08× [1.02, 1.14]`, `1.50× (4.25 KiB → 6.38 KiB)`."""
    text, detail = column.text(row), column.detail(row) if column.detail else ""
    if text == cells.DASH:
        return text
    if not detail or detail.startswith("["):
        return f"{text} {detail}".rstrip()
    return f"{text} ({detail})" if " → " in detail else text


def _later(column: Column) -> Column:
    return Column(
        column.key, column.heading, column.meaning, column.text, column.raw, column.detail, more=True
    )


def _has(column: Column) -> Callable[[Row], bool]:
    return lambda row: column.text(row) != cells.DASH


def places(rows: Sequence[Row], most: int = 4) -> str:
    """Where cases of one implementation stand: `B1-H8-L512-D64, causal and B1-H8-L1024-D64, causal`."""
    return listed([_place(row) for row in rows], most)


def _place(row: Row) -> str:
    """The shape, and what of the rest is not as it mostly is."""
    told = [cells.shape(row)]
    for name, mostly in (("mask", "none"), ("dtype", "float32"), ("pass", "forward"), ("inputs", "normal")):
        if row[name] != mostly:
            told.append(clean(row[name]))
    return ", ".join(told)


def line_state(row: Row) -> str:
    """How a line looks: `wrong` (struck out), `failed`, `flagged`, `absent`, `slower`, `faster`, or empty."""
    if row["verdict"] in ABSENT:
        return "absent"
    if "fail" in (row["accuracy_before"], row["accuracy_after"]):
        return "wrong"
    if any(row[f"status_{when}"] != "ok" for when in ("before", "after")):
        return "failed"
    if row["flagged_before"] or row["flagged_after"]:
        return "flagged"
    return str(row["verdict"]) if row["verdict"] in (Verdict.SLOWER, Verdict.FASTER) else ""
