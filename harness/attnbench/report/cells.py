"""The cells of a result table as people read them; shared by the terminal, the page and the summary."""

from __future__ import annotations

from attnbench.plots.rows import Row, clean, failed_accuracy, flag_text, shape_label
from attnbench.units import format_bytes, format_count, format_ratio, format_seconds, significant

__all__ = ["DASH", "cells", "error", "interval", "latency", "memory", "speedup", "status", "value"]

#: What is not known.
DASH = "–"

_SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}


def interval(low: float | None, high: float | None, scale: float = 1.0) -> str:
    """`[1.20, 1.26]`, in units of `scale`; empty when unknown."""
    if low is None or high is None:
        return ""
    return f"[{significant(low / scale)}, {significant(high / scale)}]"


def latency(row: Row) -> str:
    """`1.23 ms [1.20, 1.26]`: the median and its 95% interval, in the median's unit."""
    text = format_seconds(row.get("latency_median_s"))
    scale = _SECONDS.get(text.rpartition(" ")[2], 1.0)
    return f"{text} {interval(row.get('latency_ci_low_s'), row.get('latency_ci_high_s'), scale)}".strip()


def speedup(row: Row) -> str:
    """`1.85× [1.80, 1.90]`: the ratio to the anchor and its 95% interval; the anchor itself is `1×`."""
    ratio, low, high = (row.get(name) for name in ("speedup", "speedup_ci_low", "speedup_ci_high"))
    if ratio == 1 and low in (None, 1) and high in (None, 1):
        return "1×"
    return f"{format_ratio(ratio)} {interval(low, high)}".strip()


def memory(row: Row) -> str:
    """The allocator's peak: `12.3 MiB`; with `(RSS)` where only the operating system's view is known."""
    peak, resident = row.get("peak_alloc_bytes"), row.get("peak_rss_bytes")
    if peak is None and resident is not None:
        return f"{format_bytes(resident)} (RSS)"
    return format_bytes(peak)


def error(row: Row) -> str:
    """`3.1e-07 (0.21)`: relative L2 error, and the larger error as a share of its bound, times 2."""
    relative, ratio = row.get("error_rel_l2"), row.get("error_ratio")
    if relative is None and ratio is None:
        return DASH
    text = DASH if relative is None else _error_figure(relative)
    return text if ratio is None else f"{text} ({significant(ratio, 2)})"


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
    """One line of the result table, column by column, of a row that `attnbench.plots.rows.rows_of` gave."""
    return {
        "implementation": row["label"],
        "shape": shape_label(row),
        "mask": clean(row.get("mask") or DASH),
        "dtype": clean(row.get("dtype") or DASH),
        "pass": clean(row.get("pass") or DASH),
        "device": clean(row.get("device") or DASH),
        "latency": latency(row),
        "speedup": speedup(row),
        "memory": memory(row),
        "error": error(row),
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
        if column.startswith("error"):
            return _error_figure(content)
        if column == "tflops_per_s":
            return format_count(content * 1e12, "FLOP/s")
        if column == "gb_per_s":
            return format_count(content * 1e9, "B/s")
        return str(content) if isinstance(content, int) else significant(content)
    return clean(content)
