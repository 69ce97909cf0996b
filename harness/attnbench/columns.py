"""The columns of the table: the one place that says what each of them is.

docs/columns.md is written from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["COLUMNS", "OCCASIONAL", "Column", "document", "telling"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: its name, pandas dtype, unit, meaning, and when it is null.

    `like` names the column whose value it has unless it tells something, if there is one.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    null: str = "never"
    like: str = ""


_NOT_OK = "the status is not ok"
_NOT_CALLED = "the case was never called"
_NO_INTERVAL = "the status is not ok, or fewer than 6 samples"
_UNCHECKED = "accuracy is unchecked"
_NO_RATIO = "the status is not ok, or there is no anchor with samples beside this case's"
_NO_HEADS = "the operation has no heads"
_NO_GRADIENTS = "the pass has no gradients, the operation is not `attention`, or accuracy is unchecked"

COLUMNS: tuple[Column, ...] = (
    Column(
        "run_id", "string", "", "The run's name when it was made; with its folder where two runs share it."
    ),
    Column("scenario", "string", "", "The scenario that the case comes from."),
    Column("case_id", "string", "", "Implementation × workload × device, readable and stable between runs."),
    Column("block_id", "string", "", "Workload × device: cases that share it were measured side by side."),
    Column("operation", "string", "", "What is computed: `attention`, `mha`, `encoder_layer`, …"),
    Column("implementation", "string", "", "The way in which it is computed."),
    Column("options", "string", "", "The implementation's options, `block=256`; empty without any."),
    Column(
        "framework",
        "string",
        "",
        "What the kernel is written with: `torch` or `numpy`.",
        "the implementation is unknown",
    ),
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
    Column("heads", "Int64", "", "Query heads H.", _NO_HEADS),
    Column(
        "kv_heads", "Int64", "", "Key and value heads; fewer than `heads` with grouped queries.", _NO_HEADS
    ),
    Column(
        "q_len",
        "Int64",
        "tokens",
        "Queries a head; of decoders and transformers the length of the decoder's sequence.",
    ),
    Column(
        "kv_len",
        "Int64",
        "tokens",
        "Keys and values a head; of decoders and transformers the length of the encoder's sequence.",
    ),
    Column("head_dim", "Int64", "", "Features a head D; of modules `embed_dim` / `heads`.", _NO_HEADS),
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
        "Why the status is not ok, why the row is flagged, or why accuracy failed; otherwise what limits a "
        "figure: `launch-bound: …`, `peak_alloc_bytes is partial: …`.",
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
        "Process CPU time per call, of all threads together: the median over all samples. On a GPU that of "
        "launching it.",
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
        "The anchor's time over this case's (above 1: faster than the anchor), formed per round: the median "
        "over all rounds that both have in the same process. 1 for the anchor itself.",
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
        "The work by FlashAttention's convention: a forward 2 · pairs · heads · (d_qk + d_v), pairs being "
        "those that the mask allows; a backward, recomputation included, 2 · pairs · heads · (3 · d_qk + 2 · "
        "d_v), which is 2.5 forwards where d_qk = d_v; both 3.5. Of modules their linear layers too: "
        "2 · rows · inputs · outputs in a forward, twice that in a backward; keys and values of a past are "
        "projected.",
        "beyond 2⁶³ − 1",
    ),
    Column(
        "bytes",
        "Int64",
        "B",
        "The least traffic: every operand, of modules their weights too, moved once.",
        "beyond 2⁶³ − 1",
    ),
    Column(
        "tflops_per_s",
        "float64",
        "TFLOP/s",
        "`flops` / `latency_median_s` / 10¹²; of a past without projecting it, which a cache may hold.",
        f"{_NOT_OK}, or `flops` is 0",
    ),
    Column("gb_per_s", "float64", "GB/s", "`bytes` / `latency_median_s` / 10⁹.", _NOT_OK),
    Column(
        "roofline_fraction",
        "float64",
        "share",
        "How near to the machine's limits: `flops` / `latency_median_s` as a share of the matrix rate "
        "measured for the dtype and threads (of a past as in `tflops_per_s`), or, where the least traffic is "
        "twice the caches and more, that traffic / `latency_median_s` as a share of the measured bandwidth; "
        "the larger of both.",
        f"{_NOT_OK}, or no ceilings were known (`attnbench doctor` measures them)",
    ),
    Column(
        "flagged",
        "boolean",
        "",
        "Faster than the machine was measured to be, by more than 5% (where that was measured beside other "
        "load: twice as fast): even the least work of a right answer "
        "(in a backward pass four products, the weights kept), or the least traffic of a cold call, takes "
        "longer. A broken measurement, never a winner; `reason` has the figures.",
        f"{_NOT_OK}, or no ceilings were known",
    ),
    Column(
        "peak_alloc_bytes",
        "Int64",
        "B",
        "Peak of the framework's own allocator above what was held before the call; deterministic. Where "
        "`peak_rss_bytes` exceeds it by more than 10% and 8 MiB it is partial, a lower bound: what other "
        "threads allocate, or libraries past that allocator, is not seen.",
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
        "The largest of three errors (a number's, the whole's, and what all of it has in common) as a share "
        "of its bound, times 2: up to 2 passes.",
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
        "energy_j",
        "float64",
        "J",
        "Energy per call by the GPU's own meter, of the whole board, over calls of a second or so.",
        "the device has no meter (a part of a GPU has none), the cache was cold, or it was not measured",
    ),
    Column(
        "sm_clock_hz",
        "float64",
        "Hz",
        "Clock of the GPU's multiprocessors right after a sample: the median over all samples.",
        "the status is not ok, or the device does not tell",
    ),
    Column(
        "discarded_rounds",
        "Int64",
        "",
        "Rounds thrown away whole, because a GPU was slowed down by heat or for want of power.",
    ),
    Column(
        "attempt",
        "Int64",
        "",
        "Which attempt at the case's block this is, from 1; attempts that left no records are not counted.",
    ),
    Column("started_at", "string", "UTC", "When its block was begun, in ISO 8601."),
    Column(
        "duration_s", "float64", "s", "What measuring the case took, all told.", "the case was never measured"
    ),
)

_NOT_AN_AXIS = "the operation has no such axis"


def _axis(name: str, dtype: str, meaning: str) -> Column:
    return Column(name, dtype, "", meaning, _NOT_AN_AXIS)


def _part(name: str, meaning: str) -> Column:
    return Column(f"flops_{name}", "Int64", "FLOP", meaning, "the operation has no such part")


#: Columns that stand at the end of a table, and only where they tell something of some row.
OCCASIONAL: tuple[Column, ...] = (
    Column(
        "v_head_dim",
        "Int64",
        "",
        "Features a head of the values and the output; only in tables where some case has others than "
        "`head_dim`.",
        "the operation is not `attention`",
        like="head_dim",
    ),
    _axis("embed_dim", "Int64", "Features a position E. This column and those below are of modules alone."),
    _axis("kdim", "Int64", "Features a position of the keys, before they are projected."),
    _axis("vdim", "Int64", "Features a position of the values, before they are projected."),
    _axis("ff_dim", "Int64", "Inner features of the feed-forward network F."),
    _axis("layers", "Int64", "Encoder layers, and as many decoder layers."),
    _axis("bias", "boolean", "Whether linear layers and normalisations add a bias."),
    _axis("add_bias_kv", "boolean", "Whether one learnt key and value are appended."),
    _axis("add_zero_attn", "boolean", "Whether a key and value of zeros are appended."),
    _axis("norm_first", "boolean", "Whether each part of a layer is normalised before, not after it."),
    _axis("batch_first", "boolean", "Whether the first axis is the batch, not the position."),
    _axis("rotary", "boolean", "Whether queries and keys are rotated by their positions."),
    _axis("qk_norm", "boolean", "Whether queries and keys are normalised, head by head."),
    _axis("training", "boolean", "Training mode, in which dropout acts; else evaluation."),
    _axis("dropout", "float64", "Share of the numbers that is dropped, when training."),
    _axis("need_weights", "string", "Weights that are returned too: `none`, `averaged`, `per_head`."),
    _axis("attention", "string", "Where keys and values come from: `self` or `cross`."),
    _axis("src_mask", "string", "Which position of its own sequence the encoder sees; as `mask`."),
    _axis("memory_mask", "string", "Which position of the memory the cross attention sees; as `mask`."),
    _part(
        "projections", "Of `flops` those of the linear layers before and after attention: q, k, v and output."
    ),
    _part("attention", "Of `flops` those of attention itself: scores and weighted values."),
    _part("feed_forward", "Of `flops` those of the feed-forward network."),
)


def telling(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Those of `OCCASIONAL` that tell something of some of `rows`; what a row has not it does not know."""

    def tells(column: Column, row: Mapping[str, Any]) -> bool:
        value = row.get(column.name)
        return value is not None and (not column.like or value != row.get(column.like))

    return [column for column in OCCASIONAL if any(tells(column, row) for row in rows)]


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
        "Those below `duration_s` stand in a table only where they tell something of one of its cases: a",
        "table of `attention` alone has none of the modules' columns.",
        "",
        "This page is written from `COLUMNS` and `OCCASIONAL` in `harness/attnbench/columns.py`.",
        "",
        "| column | type | unit | meaning | null when |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{c.name}` | {c.dtype} | {c.unit or '–'} | {c.meaning} | {c.null} |"
        for c in (*COLUMNS, *OCCASIONAL)
    ]
    return "\n".join(lines) + "\n"
