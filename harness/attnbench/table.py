"""The table: one row a record, every statistic derived from its raw samples.

What each column is stands in `attnbench.columns`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from attnbench import stats, store
from attnbench.case import format_options
from attnbench.ceilings import Known, of_header
from attnbench.columns import COLUMNS, telling
from attnbench.costs import Costs, costs
from attnbench.errors import RunError
from attnbench.files import replace_file
from attnbench.record import Record
from attnbench.roofline import Standing, standing
from attnbench.store import HEADER_FILE, Run
from attnbench.units import format_seconds
from attnbench.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TABLE_FILE", "from_records", "from_runs", "load", "run_names", "write_parquet"]

#: The derived table's name in a run's folder.
TABLE_FILE = "table.parquet"

Folder = str | os.PathLike[str]

LARGEST_INT64 = 2**63 - 1


def load(run: Folder | Sequence[Folder], *more: Folder) -> pd.DataFrame:
    """The table of a run's folder, or of several runs below one another: one row a case.

    Several are given one by one or as a list. Columns are `COLUMNS`, in that order, then those of
    `OCCASIONAL` that tell something (docs/columns.md); what is not known is null.

    Raises:
        RunError: a folder that is no run, is corrupted or given twice.
        TypeError: no folder, or something that is no path.
    """
    return from_runs([store.read(path) for path in _folders(run, *more)])


def _folders(run: object, *more: object) -> list[Path]:
    given = [*run, *more] if isinstance(run, list | tuple) else [run, *more]
    folders = [Path(each) for each in given if isinstance(each, str | os.PathLike)]
    if not given or len(folders) < len(given):
        got = [type(each).__name__ for each in given if not isinstance(each, str | os.PathLike)]
        raise TypeError(
            f"load takes the folders of runs, got {', '.join(got) or 'none'}; call attnbench.load(run), "
            "attnbench.load(run, other) or attnbench.load([run, other]), each of them a path"
        )
    return folders


def from_runs(runs: Sequence[Run]) -> pd.DataFrame:
    """The table of runs that were read, below one another; like `load`.

    Raises:
        RunError: a run is given twice, or the ceilings in its header are corrupted.
    """
    names = run_names(runs)
    rows = (_rows(run.records, name, _ceilings(run)) for name, run in zip(names, runs, strict=True))
    return _frame([row for of_run in rows for row in of_run])


def _ceilings(run: Run) -> Known:
    """What the machine was measured to reach before the run began, as its header has it."""
    try:
        return of_header(run.header)
    except ValueError as error:
        raise RunError(
            f"{run.path / HEADER_FILE}: is corrupted: {error}; restore it from a copy, or take its ceilings "
            "out to go on without roofline_fraction"
        ) from error


def run_names(runs: Sequence[Run]) -> list[str]:
    """What the table's column `run_id` calls each run: its name, with its folder where two share it.

    Raises:
        RunError: a run is given twice.
    """
    names = []
    for index, run in enumerate(runs):
        others = [*runs[:index], *runs[index + 1 :]]
        if any(run.path.resolve() == other.path.resolve() for other in others):
            raise RunError(f"{run.path}: is given twice; name each run once")
        shared = any(run.run_id == other.run_id for other in others)
        names.append(f"{run.run_id} ({run.path})" if shared else run.run_id)
    return names


def from_records(
    records: Sequence[Record], run_id: str, ceilings: Known = MappingProxyType({})
) -> pd.DataFrame:
    """One row a record, in their order, columns as in `load`; nothing is read or written.

    `ceilings` are those of the machine that the records were measured on, as far as they are known.
    """
    return _frame(_rows(records, run_id, ceilings))


def write_parquet(run: str | os.PathLike[str]) -> Path:
    """Derive a run's table anew and write it into its folder; returns the file.

    Raises:
        RunError: no run, corrupted, or not writable.
    """
    from io import BytesIO

    buffer = BytesIO()
    load(run).to_parquet(buffer, index=False)
    target = Path(run) / TABLE_FILE
    replace_file(target, buffer.getvalue())
    return target


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    columns = (*COLUMNS, *telling(rows))
    return pd.DataFrame(
        {c.name: pd.Series([row.get(c.name) for row in rows], dtype=c.dtype) for c in columns}
    )


def _rows(records: Sequence[Record], run_id: str, ceilings: Known) -> list[dict[str, Any]]:
    known = {(record.scenario, record.case_id): record for record in records}
    least: dict[tuple[Workload, int], Costs] = {}
    rows = []
    for record in records:
        work = (record.workload, record.seed)
        if work not in least:
            least[work] = costs(*work)
        anchor = None if record.anchor is None else known.get((record.scenario, record.anchor))
        row = dict.fromkeys((column.name for column in COLUMNS), None) | {"run_id": run_id}
        row |= _identity(record) | _latency(record) | _speedup(record, anchor)
        row |= _rates(least[work], row["latency_median_s"])
        stands = _standing(record, least[work], ceilings, row["latency_median_s"])
        row |= {"roofline_fraction": stands.fraction, "flagged": stands.flagged}
        row |= _inspected(record, stands.beyond, _launch_bound(record, row["launch_median_s"]))
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
        "energy_j": record.energy_j,
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
    clocks_hz = [value for process in sampled for value in process.sm_clock_hz or () if value is not None]
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
        "sm_clock_hz": stats.median(clocks_hz) if clocks_hz else None,
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
    """What the work comes to; a rate of arithmetic only where there is some, without what a cache saves."""
    counts = {"flops": least.flops, "bytes": least.bytes}
    counts |= {f"flops_{part}": flops for part, flops in least.parts.items()}
    return {
        **{name: count if count <= LARGEST_INT64 else None for name, count in counts.items()},
        "tflops_per_s": least.useful_flops / latency_s / 1e12 if latency_s and least.flops else None,
        "gb_per_s": least.bytes / latency_s / 1e9 if latency_s else None,
    }


def _standing(record: Record, least: Costs, ceilings: Known, latency_s: float | None) -> Standing:
    """How the median stands to what the device was measured to reach; nothing where that is not known."""
    known = ceilings.get((record.device, record.device_name or ""))
    if known is None or not latency_s:
        return Standing()
    return standing(
        least,
        known,
        dtype=record.workload.dtype,
        threads=record.threads,
        cold=record.cache == "cold",
        latency_s=latency_s,
    )


def _launch_bound(record: Record, launch_s: float | None) -> str | None:
    """Whether the latency is the host's as well as the GPU's; None where it is the GPU's alone."""
    told = [bound for process in record.processes for bound in process.launch_bound or ()]
    if record.status != "ok" or launch_s is None or not any(told):
        return None
    said = (
        f"launch-bound: in {sum(told)} of {len(told)} samples the host could not run ahead of the GPU, "
        f"so the time holds launching ({format_seconds(launch_s)} a call) or waiting for the GPU"
    )
    return said if record.cuda_graph else f"{said}; measure.cuda_graph=true replays the kernels without"


def _inspected(record: Record, beyond: str | None, launch_bound: str | None) -> dict[str, Any]:
    """First call, memory and accuracy, and the reason that goes with a status, a flag or a verdict.

    `beyond` is why the case is flagged; it comes first, since it is about all of the other figures.
    `launch_bound` says what else its time is of.
    """
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
    if record.status == "ok" and record.memory is not None and record.memory["peak_alloc_partial"]:
        why = why or f"peak_alloc_bytes is partial: {record.memory['peak_alloc_partial']}"
    why = "; ".join(filter(None, (beyond, launch_bound, why))) or None
    # A message out of a bench may hold half characters, which no file format takes.
    row["reason"] = None if why is None else why.encode(errors="replace").decode()
    return row
