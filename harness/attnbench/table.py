"""The table: one row a record, every statistic derived from its raw samples.

`COLUMNS` is the one place that says what a column is; docs/columns.md is written from it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench import stats, store
from attnbench.case import format_options
from attnbench.costs import Costs, costs
from attnbench.errors import RunError
from attnbench.record import Record
from attnbench.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "TABLE_FILE", "Column", "document", "from_records", "load", "write_parquet"]

#: The derived table's name in a run's folder.
TABLE_FILE = "table.parquet"

LARGEST_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: its name, pandas dtype, unit, meaning, and when it is null."""

    name: str
    dtype: str
    unit: str
    meaning: str
    null: str = "never"


_NOT_OK = "the status is not ok"
_NOT_CALLED = "the case was never called"
_NO_INTERVAL = "the status is not ok, or fewer than 6 samples"
_UNCHECKED = "accuracy is unchecked"
_NO_RATIO = "the status is not ok, or there is no anchor with samples beside this case's"
_NO_GRADIENTS = "the pass has no gradients, or accuracy is unchecked"

COLUMNS: tuple[Column, ...] = (
    Column(
        "run_id", "string", "", "The run's name when it was made; with its folder where two runs share it."
    ),
    Column("scenario", "string", "", "The scenario that the case comes from."),
    Column("case_id", "string", "", "Implementation × workload × device, readable and stable between runs."),
    Column("block_id", "string", "", "Workload × device: cases that share it were measured side by side."),
    Column("operation", "string", "", "What is computed, e.g. `attention`."),
    Column("implementation", "string", "", "The way in which it is computed."),
    Column("options", "string", "", "The implementation's options, `block=256`; empty without any."),
    Column("framework", "string", "", "What the kernel is written with: `torch` or `numpy`.", _NOT_CALLED),
    Column(
        "resolved_backend",
        "string",
        "",
        "The kernel that really ran, where choosing it is the library's affair.",
        "the implementation has no choice, or was never called",
    ),
    Column("device", "string", "", "The device as the scenario names it: `cpu`, `cuda`."),
    Column("device_name", "string", "", "The device as it names itself.", "it is not here"),
    Column("dtype", "string", "", "Of inputs and output: `float64`, `float32`, `bfloat16`, `float16`."),
    Column("pass", "string", "", "What is timed: `forward`, `backward` or `forward_backward`."),
    Column("mask", "string", "", "Which keys a query may see, e.g. `none`, `causal`, `causal+padding(0.5)`."),
    Column("batch", "Int64", "", "Batch size B."),
    Column("heads", "Int64", "", "Query heads H."),
    Column("kv_heads", "Int64", "", "Key and value heads; fewer than `heads` with grouped queries."),
    Column("q_len", "Int64", "tokens", "Queries a head."),
    Column("kv_len", "Int64", "tokens", "Keys and values a head."),
    Column("head_dim", "Int64", "", "Features a head D."),
    Column(
        "inputs", "string", "", "How the inputs were drawn: `normal`, `uniform`, `large_logits`, `outliers`."
    ),
    Column("seed", "Int64", "", "Of the inputs, of random masks and of the order within rounds."),
    Column(
        "status", "string", "", "`ok`, `unsupported`, `unavailable`, `oom`, `timeout`, `crashed` or `error`."
    ),
    Column(
        "reason",
        "string",
        "",
        "Why the status is not ok, or why accuracy failed.",
        "there is nothing to explain",
    ),
    Column(
        "latency_median_s",
        "float64",
        "s",
        "Time per call: the median of the processes' medians.",
        _NOT_OK,
    ),
    Column(
        "latency_ci_low_s",
        "float64",
        "s",
        "Lower end of the median's 95% interval. Several processes: Student's t on the logarithms of their "
        "medians, because samples of one process share its memory layout. One: between order statistics.",
        _NO_INTERVAL,
    ),
    Column("latency_ci_high_s", "float64", "s", "Upper end of that interval.", _NO_INTERVAL),
    Column(
        "latency_mean_s", "float64", "s", "Mean time per call over all samples of all processes.", _NOT_OK
    ),
    Column("latency_p05_s", "float64", "s", "5th percentile over all samples, linear between them.", _NOT_OK),
    Column(
        "latency_p95_s", "float64", "s", "95th percentile over all samples, linear between them.", _NOT_OK
    ),
    Column("latency_min_s", "float64", "s", "The fastest sample, per call.", _NOT_OK),
    Column(
        "latency_mad_s",
        "float64",
        "s",
        "Median absolute deviation of all samples from their median (not scaled to a standard deviation).",
        _NOT_OK,
    ),
    Column(
        "cpu_median_s",
        "float64",
        "s",
        "Process CPU time per call, of all threads together: the median over all samples.",
        _NOT_OK,
    ),
    Column(
        "launch_median_s",
        "float64",
        "s",
        "Host time to launch a call: the median over all samples.",
        "the status is not ok, or the device is the host itself",
    ),
    Column(
        "samples", "Int64", "", "Samples taken, over all processes. A sample times `calls_per_sample` calls."
    ),
    Column("processes", "Int64", "", "Measuring processes that gave samples."),
    Column(
        "calls_per_sample",
        "Int64",
        "",
        "Calls timed together as one sample (the processes' median).",
        _NOT_OK,
    ),
    Column(
        "converged",
        "boolean",
        "",
        "Whether the interval became narrower than `measure.precision` before the time was spent.",
        _NOT_OK,
    ),
    Column(
        "first_call_s",
        "float64",
        "s",
        "The very first call: compilation, autotuning and lazy loading included, the mask's making not.",
        _NOT_CALLED,
    ),
    Column(
        "speedup",
        "float64",
        "ratio",
        "The anchor's time over this case's (above 1: faster than the anchor), formed per round and process; "
        "the median of log ratios of each process, then the median of those. 1 for the anchor itself.",
        _NO_RATIO,
    ),
    Column(
        "speedup_ci_low",
        "float64",
        "ratio",
        "Lower end of its 95% interval, formed as the latency's.",
        f"{_NO_RATIO}, or fewer than 6 common rounds",
    ),
    Column(
        "speedup_ci_high",
        "float64",
        "ratio",
        "Upper end of that interval.",
        f"{_NO_RATIO}, or fewer than 6 common rounds",
    ),
    Column(
        "flops",
        "Int64",
        "FLOP",
        "The least work: 2 · pairs · heads · 2 · head_dim, pairs being those that the mask allows; "
        "a backward 2.5 times that, both passes 3.5 times.",
        "beyond 2⁶³ − 1",
    ),
    Column("bytes", "Int64", "B", "The least traffic: every operand moved once.", "beyond 2⁶³ − 1"),
    Column("tflops_per_s", "float64", "TFLOP/s", "`flops` / `latency_median_s` / 10¹².", _NOT_OK),
    Column("gb_per_s", "float64", "GB/s", "`bytes` / `latency_median_s` / 10⁹.", _NOT_OK),
    Column(
        "roofline_fraction",
        "float64",
        "share",
        "The rate reached as a share of what this machine was measured to reach.",
        "the machine was not measured",
    ),
    Column(
        "flagged",
        "boolean",
        "",
        "Faster than the machine was measured to be: a broken measurement, never a winner.",
        "the machine was not measured",
    ),
    Column(
        "peak_alloc_bytes",
        "Int64",
        "B",
        "Peak of the framework's own allocator above what was held before the call; deterministic.",
        "memory was not or cannot be measured",
    ),
    Column(
        "peak_rss_bytes",
        "Int64",
        "B",
        "Peak of the process' resident memory above what was resident before the call; the system's view.",
        "memory was not or cannot be measured",
    ),
    Column("output_bytes", "Int64", "B", "Size of what the call returns.", _NOT_CALLED),
    Column("error_max_abs", "float64", "", "Largest |output − float64 reference|.", _UNCHECKED),
    Column("error_rel_l2", "float64", "", "‖output − reference‖₂ / ‖reference‖₂.", _UNCHECKED),
    Column("error_rmse", "float64", "", "Root of the mean squared error.", _UNCHECKED),
    Column(
        "error_floor",
        "float64",
        "",
        "Error of the reference itself once rounded to the dtype: nobody can be better.",
        _UNCHECKED,
    ),
    Column(
        "error_yardstick",
        "float64",
        "",
        "Error of the textbook algorithm with every intermediate rounded to the dtype.",
        _UNCHECKED,
    ),
    Column(
        "error_ratio",
        "float64",
        "",
        "The larger error as a share of its bound, times 2: up to 2 passes.",
        _UNCHECKED,
    ),
    Column(
        "accuracy",
        "string",
        "",
        "`pass`, `fail` or `unchecked`. What fails keeps its time and can never be a winner.",
    ),
    Column("bitwise_repeatable", "boolean", "", "Whether a second call gave the same bits.", _UNCHECKED),
    Column("error_dq_max_abs", "float64", "", "`error_max_abs` of the gradient of q.", _NO_GRADIENTS),
    Column("error_dk_max_abs", "float64", "", "`error_max_abs` of the gradient of k.", _NO_GRADIENTS),
    Column("error_dv_max_abs", "float64", "", "`error_max_abs` of the gradient of v.", _NO_GRADIENTS),
    Column(
        "energy_j", "float64", "J", "Energy per call by the device's own meter.", "the device has no meter"
    ),
    Column(
        "sm_clock_hz", "float64", "Hz", "Median clock of the GPU's multiprocessors.", "the device has none"
    ),
    Column(
        "discarded_rounds",
        "Int64",
        "",
        "Rounds thrown away whole, because the device was slowed down by heat.",
    ),
    Column(
        "attempt", "Int64", "", "How often the case's block was begun in this run; a resumed block counts on."
    ),
    Column("started_at", "string", "UTC", "When its block was begun, in ISO 8601."),
    Column(
        "duration_s", "float64", "s", "What measuring the case took, all told.", "the case was never measured"
    ),
)


def load(run: str | os.PathLike[str], *more: str | os.PathLike[str]) -> pd.DataFrame:
    """The table of a run's folder, or of several runs below one another: one row a case.

    Columns are `COLUMNS`, in that order (docs/columns.md); what is not known is null.

    Raises:
        RunError: a folder that is no run, is corrupted or given twice.
    """
    runs = [store.read(Path(path)) for path in (run, *more)]
    rows = []
    for index, each in enumerate(runs):
        others = runs[:index] + runs[index + 1 :]
        if any(each.path.resolve() == other.path.resolve() for other in others):
            raise RunError(f"{each.path}: is given twice; name each run once")
        shared = any(each.run_id == other.run_id for other in others)
        rows += _rows(each.records, f"{each.run_id} ({each.path})" if shared else each.run_id)
    return _frame(rows)


def from_records(records: Sequence[Record], run_id: str) -> pd.DataFrame:
    """One row a record, in their order, the columns `COLUMNS`; nothing is read or written."""
    return _frame(_rows(records, run_id))


def write_parquet(run: str | os.PathLike[str]) -> Path:
    """Derive a run's table anew and write it into its folder; returns the file.

    Raises:
        RunError: no run, corrupted, or not writable.
    """
    from io import BytesIO

    buffer = BytesIO()
    load(run).to_parquet(buffer, index=False)
    target = Path(run) / TABLE_FILE
    store.replace_file(target, buffer.getvalue())
    return target


def document() -> str:
    """docs/columns.md: every column with its unit, its meaning and when it is null."""
    lines = [
        "# Columns of the table",
        "",
        "One row a case: what `attnbench.load(run)` returns, what `attnbench export` writes and what",
        "`table.parquet` in a run's folder holds. Every statistic is computed from the raw samples in the",
        "run's records when the table is made. Units are in the names: `_s` seconds, `_bytes` bytes, `_hz`",
        "hertz, `_j` joule. What is not known is null (`NaN` or `<NA>` in pandas, empty in CSV, `null` in",
        "JSON).",
        "",
        "This page is written from `COLUMNS` in `harness/attnbench/table.py`.",
        "",
        "| column | type | unit | meaning | null when |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| `{c.name}` | {c.dtype} | {c.unit or '–'} | {c.meaning} | {c.null} |" for c in COLUMNS]
    return "\n".join(lines) + "\n"


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({c.name: pd.Series([row[c.name] for row in rows], dtype=c.dtype) for c in COLUMNS})


def _rows(records: Sequence[Record], run_id: str) -> list[dict[str, Any]]:
    known = {(record.scenario, record.case_id): record for record in records}
    least: dict[tuple[Workload, int], Costs] = {}
    rows = []
    for record in records:
        work = (record.workload, record.seed)
        if work not in least:
            least[work] = costs(*work)
        anchor = None if record.anchor is None else known.get((record.scenario, record.anchor))
        row = dict.fromkeys((column.name for column in COLUMNS), None) | {"run_id": run_id}
        row |= _identity(record) | _latency(record) | _speedup(record, anchor) | _inspected(record)
        row |= _rates(least[work], row["latency_median_s"])
        rows.append(row)
    return rows


def _identity(record: Record) -> dict[str, Any]:
    workload = record.workload
    return {
        "scenario": record.scenario,
        "case_id": record.case_id,
        "block_id": record.block_id,
        "operation": workload.operation,
        "implementation": record.implementation,
        "options": format_options(record.options),
        "framework": record.framework,
        "resolved_backend": record.resolved_backend,
        "device": record.device,
        "device_name": record.device_name,
        "dtype": workload.dtype,
        "pass": workload.pass_,
        "mask": workload.mask,
        **workload.shape.columns(),
        "inputs": workload.inputs,
        "seed": record.seed,
        "status": record.status,
        "discarded_rounds": record.discarded_rounds,
        "attempt": record.attempt,
        "started_at": record.started_at,
        "duration_s": record.duration_s,
    }


def _latency(record: Record) -> dict[str, Any]:
    """What the samples say of one call; only their number where the case failed: half a case is no time."""
    sampled = [process for process in record.processes if process.rounds]
    counts = {"samples": record.samples, "processes": len(sampled)}
    per_call_s = [process.per_call_s for process in sampled]
    estimate = stats.hierarchical_interval(per_call_s)
    if record.status != "ok" or estimate is None:
        return counts
    interval = estimate.interval
    pooled_s = [value for group in per_call_s for value in group]
    cpu_s = [value for process in sampled for value in process.cpu_per_call_s]
    launch_s = [value for process in sampled for value in process.launch_per_call_s or ()]
    return {
        **counts,
        "latency_median_s": estimate.value,
        "latency_ci_low_s": interval.low if interval else None,
        "latency_ci_high_s": interval.high if interval else None,
        "latency_mean_s": sum(pooled_s) / len(pooled_s),
        "latency_p05_s": stats.percentile(pooled_s, 5),
        "latency_p95_s": stats.percentile(pooled_s, 95),
        "latency_min_s": min(pooled_s),
        "latency_mad_s": stats.mad(pooled_s),
        "cpu_median_s": stats.median(cpu_s),
        "launch_median_s": stats.median(launch_s) if launch_s else None,
        "calls_per_sample": round(stats.median([process.calls for process in sampled])),
        "converged": record.converged,
    }


def _speedup(record: Record, anchor: Record | None) -> dict[str, Any]:
    """The ratio to the anchor; only of the same attempt, for others were not sampled side by side."""
    if anchor is None or not (record.status == anchor.status == "ok") or record.attempt != anchor.attempt:
        return {}
    if record.case_id == anchor.case_id:
        return dict.fromkeys(("speedup", "speedup_ci_low", "speedup_ci_high"), 1.0) if record.samples else {}
    estimate = stats.speedup(anchor.processes, record.processes)
    if estimate is None:
        return {}
    interval = estimate.interval
    return {
        "speedup": estimate.value,
        "speedup_ci_low": interval.low if interval else None,
        "speedup_ci_high": interval.high if interval else None,
    }


def _rates(least: Costs, latency_s: float | None) -> dict[str, Any]:
    return {
        "flops": least.flops if least.flops <= LARGEST_INT64 else None,
        "bytes": least.bytes if least.bytes <= LARGEST_INT64 else None,
        "tflops_per_s": least.flops / latency_s / 1e12 if latency_s else None,
        "gb_per_s": least.bytes / latency_s / 1e9 if latency_s else None,
    }


def _inspected(record: Record) -> dict[str, Any]:
    """First call, memory and accuracy, and the reason that goes with a status or verdict."""
    row: dict[str, Any] = {
        "first_call_s": record.first_call_s,
        "output_bytes": record.output_bytes,
        "accuracy": "unchecked",
    }
    if record.memory is not None:
        row["peak_alloc_bytes"] = record.memory["peak_alloc_bytes"]
        row["peak_rss_bytes"] = record.memory["peak_rss_bytes"]
    why = record.reason
    if record.accuracy is not None:
        row |= record.accuracy
        why = why or record.accuracy["reason"]
    # A message out of a bench may hold half characters, which no file format takes.
    row["reason"] = None if why is None else why.encode(errors="replace").decode()
    return row
