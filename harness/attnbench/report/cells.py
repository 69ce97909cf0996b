"""The cells of a result table as people read them: one spelling for the terminal, the page and the summary.

They read a row of the table as it is. Layout, what stands where and what is left out, is others' affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnbench.plots.rows import (
    Row,
    clean,
    failed_accuracy,
    flag_text,
    label_of,
    memory_is_partial,
    shape_label,
)
from attnbench.units import format_bytes, format_count, format_ratio, format_seconds, significant

__all__ = [
    "DASH",
    "PARTIAL",
    "PARTIAL_MEANING",
    "WIDE",
    "WIDE_MEANING",
    "cells",
    "error",
    "implementation",
    "latency",
    "latency_interval",
    "latency_spread",
    "legend",
    "memory",
    "ratio",
    "roofline",
    "shape",
    "speedup",
    "speedup_interval",
    "status",
    "value",
    "wide",
    "with_interval",
]

#: What is not known.
DASH = "–"

#: Stands before an interval that is wider than was asked.
WIDE = "≈"
WIDE_MEANING = "≈ the interval is wider than the precision asked"

#: An interval whose ends differ by this factor says nothing.
SAYS_NOTHING = 10_000

#: Stands before memory of which the framework's allocator saw but a part.
PARTIAL = "≥"
PARTIAL_MEANING = "≥ the framework's allocator does not see all of the memory; the resident set is larger"

_SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


def implementation(row: Row) -> str:
    """`chunked(block=256)`."""
    return label_of(row)


def shape(row: Row, axes: Iterable[str] | None = None) -> str:
    """`B1-H8-L512-D64` as in case ids; of the named axes alone, `L512` or `H32kv8-Lq1-Lk512`."""
    return shape_label(row, axes)


def latency(row: Row) -> str:
    """The median time of a call: `1.23 ms`."""
    return format_seconds(row.get("latency_median_s"))


def latency_interval(row: Row, *, mark: bool = True) -> str:
    """The median's 95% interval, in the median's unit: `[1.21, 1.26]`; empty when unknown.

    Ends that cannot be read in that unit have their own: `[385 µs, 1.24 ms]`; an interval that says nothing,
    as that of two processes may, is `±>100%`. `mark` puts `≈` before an interval wider than was asked.
    """
    median, low, high = (row.get(f"latency_{part}_s") for part in ("median", "ci_low", "ci_high"))
    if median is None or low is None or high is None:
        return ""
    scale = _SECONDS[format_seconds(median).rpartition(" ")[2]]
    if high > SAYS_NOTHING * low:
        text = latency_spread(row)
    elif low / scale >= 0.0995 and high / scale < 999.5:
        text = f"[{significant(low / scale)}, {significant(high / scale)}]"
    else:
        text = f"[{format_seconds(low)}, {format_seconds(high)}]"
    return f"{WIDE}{text}" if mark and wide(row) else text


def latency_spread(row: Row) -> str:
    """Half the interval's width as a share of the median: `±2.1%`; where that says nothing, `±>100%`."""
    median, low, high = (row.get(f"latency_{part}_s") for part in ("median", "ci_low", "ci_high"))
    if not median or low is None or high is None:
        return ""
    percent = 50 * (high - low) / median
    return f"±{significant(percent, 2) if percent <= 100 else '>100'}%"


def wide(row: Row) -> bool:
    """Whether the interval is wider than the precision that the scenario asked."""
    return row.get("converged") is False


def legend(rows: Sequence[Row]) -> list[str]:
    """What the marks mean that stand in the cells of these rows."""
    marks = ((wide, WIDE_MEANING), (memory_is_partial, PARTIAL_MEANING))
    return [meaning for holds, meaning in marks if any(map(holds, rows))]


def speedup(row: Row) -> str:
    """How many times as fast as the anchor: `1.85×`; the anchor itself is `1×`."""
    return "1×" if _is_anchor(row) else format_ratio(row.get("speedup"))


def speedup_interval(row: Row) -> str:
    """The 95% interval of the speed-up: `[1.80, 1.90]`; empty when unknown and for the anchor."""
    low, high = row.get("speedup_ci_low"), row.get("speedup_ci_high")
    if low is None or high is None or _is_anchor(row):
        return ""
    return f"[{significant(low)}, {significant(high)}]"


def _is_anchor(row: Row) -> bool:
    return row.get("speedup") == 1 and all(
        row.get(f"speedup_ci_{end}") in (None, 1) for end in ("low", "high")
    )


def with_interval(text: str, interval: str) -> str:
    """Both in one line: `1.23 ms [1.21, 1.26]`."""
    return f"{text} {interval}".rstrip()


def memory(row: Row) -> str:
    """The allocator's peak: `12.3 MiB`; `≥ 12.3 MiB` where it does not see all.

    With `(RSS)` where only the operating system's view is known.
    """
    peak, resident = row.get("peak_alloc_bytes"), row.get("peak_rss_bytes")
    if peak is None and resident is not None:
        return f"{format_bytes(resident)} (RSS)"
    return f"{PARTIAL} {format_bytes(peak)}" if memory_is_partial(row) else format_bytes(peak)


def error(row: Row) -> str:
    """The error relative to the reference in the L2 norm: `3.1e-07`."""
    return value("error_rel_l2", row.get("error_rel_l2"))


def ratio(row: Row) -> str:
    """The larger error as a share of its bound, times 2: up to 2 passes. `0.21`."""
    figure = row.get("error_ratio")
    return DASH if figure is None else significant(figure, 2)


def roofline(row: Row) -> str:
    """The share of what the machine was measured to reach: `45%`."""
    return value("roofline_fraction", row.get("roofline_fraction"))


def _error_figure(figure: float) -> str:
    return "0" if figure == 0 else f"{figure:.1e}"


def status(row: Row) -> str:
    """The row's status in words: `ok`, `wrong` (the accuracy check failed), `flagged`, `oom`, …"""
    text = clean(row.get("status") or "unknown")
    if text != "ok":
        return text
    if failed_accuracy(row):
        return "wrong"
    if flag_text(row):
        return "flagged"
    return "ok" if row.get("accuracy") == "pass" else "ok, unchecked"


def cells(row: Row) -> dict[str, str]:
    """One line of a result table, column by column."""
    plain = {name: clean(row.get(name) or DASH) for name in ("mask", "dtype", "pass", "device", "inputs")}
    return {
        "implementation": implementation(row),
        "shape": shape(row),
        **plain,
        "latency": with_interval(latency(row), latency_interval(row)),
        "speedup": with_interval(speedup(row), speedup_interval(row)),
        "memory": memory(row),
        "error": error(row),
        "ratio": ratio(row),
        "status": status(row),
    }


def value(column: str, content: object) -> str:
    """Any column's value, in the unit that its name tells."""
    if content is None:
        return DASH
    if isinstance(content, bool):
        return "yes" if content else "no"
    if isinstance(content, int | float):
        if column.endswith("_bytes"):
            return format_bytes(content)
        if column.endswith("_s") and "per_s" not in column:
            return format_seconds(content)
        if column.startswith("speedup"):
            return format_ratio(content)
        if column == "error_ratio":
            return significant(content)
        if column == "roofline_fraction":
            return f"{significant(100 * content, 2)}%"
        if column.startswith("error"):
            return _error_figure(content)
        if column == "tflops_per_s":
            return format_count(content * 1e12, "FLOP/s")
        if column == "gb_per_s":
            return format_count(content * 1e9, "B/s")
        return str(content) if isinstance(content, int) else significant(content)
    return clean(content)
