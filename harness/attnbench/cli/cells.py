"""One row of the table as the short texts that a terminal shows. Rows are plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnbench.cli.output import clean, jsonable
from attnbench.report.cells import memory, status
from attnbench.units import format_ratio, format_seconds, significant

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "AXES",
    "FAILURES",
    "Row",
    "accuracy_failed",
    "case_line",
    "counted",
    "duration",
    "error",
    "failed",
    "implementation",
    "interval",
    "latency",
    "latency_and_interval",
    "memory",
    "ratio",
    "rows_of",
    "shape",
    "shape_part",
    "speedup",
    "status",
]

Row = Mapping[str, Any]

#: Statuses that `--strict` counts as failures. What a kernel never claimed to do (`unsupported`) and what
#: this machine lacks (`unavailable`) are answers, not failures.
FAILURES = ("oom", "timeout", "crashed", "error")

UNKNOWN = "–"

#: The axes of attention's shape, in the order of its label.
AXES = ("batch", "heads", "kv_heads", "q_len", "kv_len", "head_dim")


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table with plain values; what is not known is None."""
    return [jsonable(row) for row in frame.to_dict(orient="records")]


def failed(row: Row) -> bool:
    """Whether `--strict` counts the case as failed: it broke, or its answer is wrong."""
    return row.get("status") in FAILURES or accuracy_failed(row)


def accuracy_failed(row: Row) -> bool:
    """Whether the kernel's answer was found wrong."""
    return row.get("accuracy") == "fail"


def implementation(row: Row) -> str:
    """`chunked(block=256)`."""
    name, options = clean(str(row["implementation"])), clean(str(row.get("options") or ""))
    return f"{name}({options.replace(' ', '')})" if options else name


def shape(row: Row) -> str:
    """`B1-H8-L512-D64`, as in the case's id."""
    return shape_part(row, AXES)


def shape_part(row: Row, axes: Sequence[str]) -> str:
    """The shape's label with the named axes alone: `L512`, or `H32kv8-Lq1-Lk512`."""
    parts = []
    if "batch" in axes:
        parts.append(f"B{row['batch']}")
    if "heads" in axes or "kv_heads" in axes:
        grouped = row["heads"] != row["kv_heads"]
        parts.append(f"H{row['heads']}" + (f"kv{row['kv_heads']}" if grouped else ""))
    if "q_len" in axes or "kv_len" in axes:
        equal = row["q_len"] == row["kv_len"]
        parts.append(f"L{row['q_len']}" if equal else f"Lq{row['q_len']}-Lk{row['kv_len']}")
    if "head_dim" in axes:
        parts.append(f"D{row['head_dim']}")
    return "-".join(parts)


def latency(row: Row) -> str:
    """The median time of a call: `1.23 ms`."""
    return format_seconds(row.get("latency_median_s"))


def interval(row: Row) -> str:
    """The 95% interval of the median: `[1.21, 1.26] ms`."""
    low, high = row.get("latency_ci_low_s"), row.get("latency_ci_high_s")
    if low is None or high is None:
        return UNKNOWN
    low_text, high_text = format_seconds(low), format_seconds(high)
    if low_text.split()[-1] == high_text.split()[-1]:
        return f"[{low_text.split()[0]}, {high_text.split()[0]}] {high_text.split()[-1]}"
    return f"[{low_text}, {high_text}]"


def latency_and_interval(row: Row) -> str:
    """The median and half its interval's width: `1.23 ms ±2.1%`; where that says nothing, `±>100%`."""
    median, low, high = (row.get(f"latency_{part}_s") for part in ("median", "ci_low", "ci_high"))
    if not median or low is None or high is None:
        return latency(row)
    percent = 50 * (high - low) / median
    return f"{latency(row)} ±{significant(percent, 2) if percent <= 100 else '>100'}%"


def speedup(row: Row) -> str:
    """How many times as fast as the anchor: `1.85×`."""
    return format_ratio(row.get("speedup"))


def error(row: Row) -> str:
    """The error relative to the reference in the L2 norm: `1.2e-07`."""
    value = row.get("error_rel_l2")
    return UNKNOWN if value is None else f"{value:.1e}"


def ratio(row: Row) -> str:
    """The error as a share of its bound, times 2: up to 2 passes."""
    value = row.get("error_ratio")
    return UNKNOWN if value is None else significant(value, 2)


def case_line(row: Row) -> str:
    """One line that says all of a finished case."""
    where = " ".join([shape(row), *(str(row[name]) for name in ("dtype", "mask", "pass", "device"))])
    head = f"{implementation(row):<20} {clean(where)}"
    if row["status"] != "ok":
        return f"{head}  {row['status']}: {clean(str(row.get('reason') or 'no reason given'))}"
    figures = [latency(row), interval(row), speedup(row), memory(row), f"error {error(row)} ({ratio(row)})"]
    verdict = f"{status(row)}: {clean(str(row['reason']))}" if row.get("reason") else status(row)
    return "  ".join([head, *figures, verdict])


def counted(number: int, what: str) -> str:
    """`1 case`, `3 cases`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """A length of time as people say it: `45 s`, `1 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
