"""The columns of the page's result table: what stands in them, what they mean, what they are sorted by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from attnbench.plots.plot import common_text
from attnbench.plots.rows import Row, clean, of_module, varying
from attnbench.report import cells
from attnbench.units import format_bytes, format_seconds

__all__ = ["SETTINGS", "Column", "columns_for", "common", "names_for"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `text(row)` is what people read, `detail(row)` what stands below it in smaller type.

    `raw` names the number that it is sorted by, if any; `more` columns are shown on request.
    """

    key: str
    heading: str
    meaning: str
    text: Callable[[Row], str]
    raw: str | None = None
    detail: Callable[[Row], str] | None = None
    more: bool = False

    def sort_value(self, row: Row) -> str:
        """The number behind the text, exactly; empty where there is none."""
        number = row.get(self.raw) if self.raw else None
        return "" if number is None else repr(number)


def _plain(column: str) -> Callable[[Row], str]:
    return lambda row: clean(row[column]) if row.get(column) is not None else cells.DASH


#: Columns that are shown only where rows differ in them; otherwise they are told once.
SETTINGS = {
    "run_id": Column("run", "run", "The run that the row was measured in.", _plain("run_id")),
    "scenario": Column("scenario", "scenario", "The scenario that asked for it.", _plain("scenario")),
    "device": Column("device", "device", "Where it ran.", _plain("device")),
    "operation": Column("operation", "operation", "What is computed.", _plain("operation")),
    "mask": Column("mask", "mask", "Which query sees which key.", _plain("mask")),
    "dtype": Column("dtype", "dtype", "The precision of inputs and output.", _plain("dtype")),
    "pass": Column(
        "pass", "pass", "What was timed: the call, its gradients, or both together.", _plain("pass")
    ),
    "inputs": Column("inputs", "inputs", "How the inputs were drawn.", _plain("inputs")),
}

_IMPLEMENTATION = Column(
    "implementation", "implementation", "The implementation with its options.", cells.implementation
)

_SHAPE = Column(
    "shape",
    "shape",
    "B batch, H heads (H32kv8: 32 query heads on 8 key heads), L length, D size of a head (D192v128: 192 "
    "of queries and keys, 128 of values); Lq and Lk where queries and keys differ in number.",
    cells.shape,
)

_SHAPE_OF_MODULES = (
    "Of modules E numbers per position, F inner size of the feed-forward network, N layers (of the encoder "
    "as of the decoder); then what is not as usual: prenorm, cross, train, …"
)

_FIGURES = (
    Column(
        "latency",
        "latency",
        "Median time of one call; below it its 95% interval, in the same unit unless another is given. "
        f"{cells.WIDE_MEANING}.",
        cells.latency,
        "latency_median_s",
        cells.latency_interval,
    ),
    Column(
        "speedup",
        "speed-up",
        "How many times faster than the anchor of the same workload, from rounds measured side by side; "
        "below it its 95% interval.",
        cells.speedup,
        "speedup",
        cells.speedup_interval,
    ),
    Column(
        "memory",
        "memory",
        "Peak memory: the most that the framework's allocator held above what was there before the call. "
        f"{cells.PARTIAL_MEANING}.",
        cells.memory,
        "peak_alloc_bytes",
    ),
    Column(
        "error",
        "error",
        "Relative L2 distance to the float64 reference.",
        cells.error,
        "error_rel_l2",
    ),
    Column(
        "ratio",
        "ratio",
        "Error ratio: the error as a share of its bound, times 2. Up to 2 passes.",
        cells.ratio,
        "error_ratio",
    ),
)

_STATUS = Column(
    "status",
    "status",
    "ok; wrong (the accuracy check failed: struck out, can win nothing); flagged (faster than the machine "
    "was measured to be: can win nothing); or why there are no figures.",
    cells.status,
)

_MORE = (
    Column(
        "resident",
        "resident",
        "Peak memory as the operating system sees it (resident set).",
        lambda row: format_bytes(row.get("peak_rss_bytes")),
        "peak_rss_bytes",
        more=True,
    ),
    Column(
        "rate",
        "rate",
        "Useful arithmetic per second: only the pairs that the mask allows are counted.",
        lambda row: cells.value("tflops_per_s", row.get("tflops_per_s")),
        "tflops_per_s",
        more=True,
    ),
    Column(
        "roofline",
        "of limit",
        "How near to what this machine was measured to reach: to its matrix rate in this precision, or, "
        "where much more is moved than caches hold, to its bandwidth; whichever is nearer.",
        cells.roofline,
        "roofline_fraction",
        more=True,
    ),
    Column(
        "first",
        "first call",
        "The very first call: compilation, autotuning and lazy loading included.",
        lambda row: format_seconds(row.get("first_call_s")),
        "first_call_s",
        more=True,
    ),
    Column(
        "samples",
        "samples",
        "How many samples, over all processes.",
        _plain("samples"),
        "samples",
        more=True,
    ),
    Column(
        "kernel",
        "kernel",
        "The kernel that really ran, where choosing it is the library's affair.",
        _plain("resolved_backend"),
        more=True,
    ),
)


def names_for(rows: Sequence[Row]) -> list[Column]:
    """What names a row within its workloads: implementation and shape, with the letters that occur."""
    modules = any(map(of_module, rows))
    meaning = f"{_SHAPE.meaning} {_SHAPE_OF_MODULES}" if modules else _SHAPE.meaning
    return [_IMPLEMENTATION, replace(_SHAPE, meaning=meaning)]


def columns_for(rows: Sequence[Row]) -> list[Column]:
    """The columns of a table: the settings in which the rows differ, and the figures that any row has."""
    names = varying(rows)
    before = [column for name, column in SETTINGS.items() if name in names and name in ("run_id", "scenario")]
    after = [column for name, column in SETTINGS.items() if name in names and column not in before]

    def known(columns: Sequence[Column]) -> list[Column]:
        named = [(column, column.raw or "resolved_backend") for column in columns]
        return [column for column, name in named if any(row.get(name) is not None for row in rows)]

    return [*before, *names_for(rows), *after, *known(_FIGURES), _STATUS, *known(_MORE)]


def common(rows: Sequence[Row]) -> str:
    """What all rows share and no column tells, as a sentence; empty where there is nothing."""
    if not rows:
        return ""
    names = varying(rows)
    shared = {name: rows[0].get(name) for name in SETTINGS if name not in names}
    return common_text(rows, shared).replace("All here", "All cases")
