"""A run as pytest-benchmark keeps one: its JSON document, for `pytest-benchmark compare` and others.

Names, groups and what stands beside the times are said here once. `attnbench.pytest_plugin` gives its tests
the same, so that pytest-benchmark compares them with a document made of a run, case by case.
"""

from __future__ import annotations

import json
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from attnbench.case import Case, Variant
from attnbench.record import Record
from attnbench.store import Run

__all__ = [
    "COLLECTION",
    "Document",
    "as_benchmark",
    "document",
    "extra_info",
    "full_name",
    "machine_info",
    "parameters",
    "statistics_of",
    "why_left_out",
]

#: The version of pytest-benchmark whose format and definitions these are.
FORMAT_VERSION = "5.3.1"

#: What the names of a scenario's tests begin with; no path looks like it.
COLLECTION = "attnbench:"

#: Entries of a fingerprint that say on what was measured, and not when, how or from where.
_OF_THE_MACHINE = (
    "machine",
    "cores_usable",
    "smt",
    "governor",
    "boost",
    "huge_pages",
    "memory_bytes",
    "cgroup_cpus",
    "cgroup_memory_bytes",
    "libc",
    "os",
    "hypervisor",
    "libraries",
    "devices",
    "attnbench",
)


@dataclass(frozen=True, slots=True)
class Document:
    """pytest-benchmark's JSON as a mapping, and how many cases are not in it, by why."""

    content: dict[str, Any]
    left_out: Mapping[str, int]

    def to_json(self) -> bytes:
        """The document as a file holds it; equal documents give equal bytes."""
        text = json.dumps(self.content, indent=2, allow_nan=False, ensure_ascii=False)
        return text.encode() + b"\n"


def document(run: Run) -> Document:
    """The run's cases that have a time and may be compared with others'; `left_out` counts the rest.

    Raises:
        RunError: the ceilings in the run's header are corrupted.
    """
    from attnbench import table
    from attnbench.export.table import rows_of

    rows = rows_of(table.from_runs([run]))
    reasons = [why_left_out(row) for row in rows]
    header = run.header
    found = header.get("environment")
    environment = found if isinstance(found, Mapping) else {}
    content = {
        "machine_info": machine_info(environment),
        "commit_info": {
            "id": environment.get("git_commit") or "unversioned",
            "dirty": bool(environment.get("git_dirty")),
            "time": None,
            "author_time": None,
            "project": None,
            "branch": None,
        },
        "benchmarks": [
            as_benchmark(record, row)
            for record, row, why in zip(run.records, rows, reasons, strict=True)
            if why is None
        ],
        "datetime": _with_offset(header.get("started_at")),
        "version": FORMAT_VERSION,
    }
    return Document(content, Counter(why for why in reasons if why is not None))


def why_left_out(row: Mapping[str, Any]) -> str | None:
    """Why a row of the table has no place among times that are compared; None if it has.

    pytest-benchmark knows no time that does not count: what is wrong would win there.
    """
    if row["status"] != "ok" or not row["samples"]:
        return "without samples"
    if row["accuracy"] == "fail":
        return "with a wrong answer"
    if row["flagged"]:
        return "flagged as measured wrong"
    return None


def full_name(scenario: str, case_id: str) -> str:
    """`attnbench:smoke::attention/…/cpu/sdpa`: by this pytest-benchmark knows a case again."""
    return f"{COLLECTION}{scenario}::{case_id}"


def parameters(case: Case) -> dict[str, Any]:
    """What `--benchmark-group-by param:NAME` can group by."""
    workload = case.workload
    return {
        "implementation": case.variant.label,
        "operation": workload.operation,
        "device": case.device,
        "dtype": workload.dtype,
        "pass": workload.pass_,
        "mask": workload.mask,
        **workload.shape.columns(),
        "inputs": workload.inputs,
    }


def extra_info(record: Record, row: Mapping[str, Any], *, interleaved: bool) -> dict[str, Any]:
    """The columns of the case's row (docs/columns.md), and how its samples were taken.

    `interleaved` says whether the cases of its block were sampled in turn, so that their times can be
    compared whatever the machine did meanwhile.
    """
    return {
        **{name: value for name, value in row.items() if name != "run_id"},
        "cache": record.cache,
        "threads": record.threads,
        "interleaved": interleaved,
    }


def as_benchmark(record: Record, row: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `benchmarks`: the case's names, its row, and the statistics of its samples.

    `data` are seconds per call, a value a sample, those of all processes in a row; `iterations` is how many
    calls a sample is made of.
    """
    case = Case(Variant.of(record.implementation, record.options), record.workload, record.device)
    data = [value for process in record.processes for value in process.per_call_s]
    return {
        "group": record.block_id,
        "name": record.case_id,
        "fullname": full_name(record.scenario, record.case_id),
        "params": parameters(case),
        "param": case.variant.label,
        "extra_info": extra_info(record, row, interleaved=True),
        "options": {
            "disable_gc": None,
            "timer": "attnbench",
            "min_rounds": None,
            "max_time": None,
            "min_time": None,
            "warmup": True,
        },
        "stats": {**statistics_of(data), "data": data, "iterations": row["calls_per_sample"]},
    }


def machine_info(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What pytest-benchmark compares machines by, of a fingerprint; under its own names where there are.

    Equal on one machine with the same libraries, whenever it is taken.
    """
    return {
        "cpu": {
            "brand_raw": fingerprint.get("cpu"),
            "count": fingerprint.get("cores_logical"),
            "l1_data_cache_size": fingerprint.get("cache_l1d_bytes"),
            "l2_cache_size": fingerprint.get("cache_l2_bytes"),
            "l3_cache_size": fingerprint.get("cache_l3_bytes"),
        },
        "python_version": fingerprint.get("python"),
        "release": fingerprint.get("kernel"),
        **{name: fingerprint.get(name) for name in _OF_THE_MACHINE},
    }


def statistics_of(data: Sequence[float]) -> dict[str, Any]:
    """The statistics of `data` (one value at least), as pytest-benchmark defines them.

    Quartiles are medians of the halves where their number is even, and weighted as by "method 3" of
    https://en.wikipedia.org/wiki/Quartile where it is odd. Outliers are counted beyond one standard deviation
    from the mean, and beyond 1.5 interquartile ranges from the quartiles; `ld15iqr` and `hd15iqr` are the
    outermost values within the latter.
    """
    ordered = sorted(data)
    mean = statistics.mean(ordered)
    stddev = statistics.stdev(ordered) if len(ordered) > 1 else 0.0
    q1, q3 = _quartiles(ordered)
    iqr = q3 - q1
    within = _within(ordered, q1 - 1.5 * iqr, q3 + 1.5 * iqr)
    iqr_outliers = len(ordered) - len(within)
    stddev_outliers = len(ordered) - len(_within(ordered, mean - stddev, mean + stddev))
    total = sum(data)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": stddev,
        "rounds": len(ordered),
        "median": statistics.median(ordered),
        "iqr": iqr,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": iqr_outliers,
        "stddev_outliers": stddev_outliers,
        "outliers": f"{stddev_outliers};{iqr_outliers}",
        "ld15iqr": within[0],
        "hd15iqr": within[-1],
        "ops": len(ordered) / total if total else 0.0,
        "total": total,
    }


def _within(ordered: Sequence[float], low: float, high: float) -> Sequence[float]:
    """The values from `low` to `high`, both included."""
    return ordered[bisect_left(ordered, low) : bisect_right(ordered, high)]


def _quartiles(ordered: Sequence[float]) -> tuple[float, float]:
    count = len(ordered)
    if count == 1:
        return ordered[0], ordered[0]
    half = count // 2
    if count % 2 == 0:
        return statistics.median(ordered[:half]), statistics.median(ordered[half:])
    # The first stands 3/4 of the way between two values, or 1/4, by turns; the third is its mirror image.
    below, share = (count // 4 - 1, 0.75) if count % 4 == 1 else (count // 4, 0.25)
    first = (1 - share) * ordered[below] + share * ordered[below + 1]
    mirrored = count - 1 - below
    third = (1 - share) * ordered[mirrored] + share * ordered[mirrored - 1]
    return first, third


def _with_offset(time: object) -> str | None:
    """ISO 8601 as pytest-benchmark writes it: `+00:00` in place of `Z`; None for what is no time."""
    try:
        return datetime.fromisoformat(str(time)).isoformat()
    except ValueError:
        return None
