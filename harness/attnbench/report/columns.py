"""The columns of the page's result table: what stands in them, what they mean, what they are sorted by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attnbench.plots.rows import Row, clean, flag_text, shape_label, varying
from attnbench.report import cells
from attnbench.units import format_bytes, format_seconds, significant

__all__ = ["Column", "columns_for"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `text(row)` is what people read; `raw` names the number that it is sorted by, if any."""

    key: str
    heading: str
    meaning: str
    text: Callable[[Row], str]
    raw: str | None = None

    def sort_value(self, row: Row) -> str:
        """The number behind the text, exactly; empty where there is none."""
        number = row.get(self.raw) if self.raw else None
        return "" if number is None else repr(number)


def _plain(column: str) -> Callable[[Row], str]:
    return lambda row: clean(row[column]) if row.get(column) is not None else cells.DASH


_SETTINGS = {
    "run_id": Column("run", "run", "The run that the row was measured in.", _plain("run_id")),
    "scenario": Column("scenario", "scenario", "The scenario that asked for it.", _plain("scenario")),
    "device": Column("device", "device", "Where it ran.", _plain("device")),
    "inputs": Column("inputs", "inputs", "How the inputs were drawn.", _plain("inputs")),
}

_FIRST = (
    Column(
        "implementation",
        "implementation",
        "The implementation with its options.",
        lambda row: str(row["label"]),
    ),
    Column(
        "shape",
        "shape",
        "B batch, H heads (H32kv8: 32 query heads on 8 key heads), L length, D size of a head; Lq and Lk "
        "where queries and keys differ in number.",
        shape_label,
    ),
    Column("mask", "mask", "Which query sees which key.", _plain("mask")),
    Column("dtype", "dtype", "The precision of inputs and output.", _plain("dtype")),
    Column("pass", "pass", "What was timed: the call, its gradients, or both together.", _plain("pass")),
)

_FIGURES = (
    Column(
        "latency",
        "latency [95%]",
        "Median time of one call, and its 95% interval in the same unit.",
        cells.latency,
        "latency_median_s",
    ),
    Column(
        "speedup",
        "speed-up [95%]",
        "How many times faster than the anchor of the same workload, from rounds measured side by side.",
        cells.speedup,
        "speedup",
    ),
    Column(
        "memory",
        "peak memory",
        "The most that the framework's allocator held above what was there before the call.",
        lambda row: format_bytes(row.get("peak_alloc_bytes")),
        "peak_alloc_bytes",
    ),
    Column(
        "resident",
        "resident",
        "The same as the operating system sees it (peak resident set).",
        lambda row: format_bytes(row.get("peak_rss_bytes")),
        "peak_rss_bytes",
    ),
    Column(
        "error",
        "error",
        "Relative L2 distance to the float64 reference.",
        lambda row: cells.value("error_rel_l2", row.get("error_rel_l2")),
        "error_rel_l2",
    ),
    Column(
        "ratio",
        "error ratio",
        "The error as a share of its bound, times 2: up to 2 passes.",
        lambda row: cells.DASH if row.get("error_ratio") is None else significant(row["error_ratio"], 2),
        "error_ratio",
    ),
    Column(
        "rate",
        "rate",
        "Useful arithmetic per second: only the pairs that the mask allows are counted.",
        lambda row: cells.value("tflops_per_s", row.get("tflops_per_s")),
        "tflops_per_s",
    ),
    Column(
        "first",
        "first call",
        "The very first call: compilation, autotuning and lazy loading included.",
        lambda row: format_seconds(row.get("first_call_s")),
        "first_call_s",
    ),
    Column("samples", "samples", "How many samples, over all processes.", _plain("samples"), "samples"),
)


def _status(row: Row) -> str:
    text = cells.status(row)
    return (
        f"{text}, wide" if row.get("converged") is False and flag_text(row) is None and text == "ok" else text
    )


_STATUS = Column(
    "status",
    "status",
    "ok; wrong (the accuracy check failed: struck out, can win nothing); flagged (faster than the machine "
    "can be); wide (the interval is wider than the precision asked); or why there are no figures.",
    _status,
)


def columns_for(rows: Sequence[Row]) -> list[Column]:
    """The columns of a table: those always shown, and the settings in which the rows differ."""
    names = varying(rows)
    first = [_SETTINGS[name] for name in ("run_id", "scenario") if name in names]
    later = [_SETTINGS[name] for name in ("inputs", "device") if name in names]
    shown = [
        column for column in _FIGURES if any(column.raw and row.get(column.raw) is not None for row in rows)
    ]
    return [*first, *_FIRST, *later, _STATUS, *shown]
