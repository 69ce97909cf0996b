"""What the self-test measures: scenarios over the kernels of `truths`, and what their rows must say.

An experiment is one block. Its checks are pure functions of the records that came of it and of the table that
is derived from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench import stats, table
from attnbench.doctor import truths
from attnbench.doctor.check import FAIL, SKIPPED, Check, compared, impossible
from attnbench.record import Record
from attnbench.scenario import Scenario, parse
from attnbench.units import MIB, format_bytes, format_count, format_seconds, significant

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["CRIES_WOLF", "TRUTHS", "Experiment", "Row", "experiments", "rows_of"]

#: The plug-in file that declares the kernels.
TRUTHS = Path(truths.__file__).resolve()

#: Durations in microseconds, and by what share their median may be off. Reading the clock that the kernel
#: spins by takes up to 0.1 µs, which is 0.5% of the shortest.
DURATIONS = {20: 0.025, 200: 0.01, 2000: 0.01}

#: A duration that is off is measured so often in all: bursts of other work pass, a wrong clock stays.
DURATION_ATTEMPTS = 3

#: On a GPU: cycles that a kernel spins for (a few milliseconds), and by what share their time may be off: the
#: clock's rate is read beside the kernel, not in it.
CYCLES = 4_000_000
CYCLES_TOLERANCE = 0.05

#: What peaks of memory may be off by: of an allocator; of the resident set, which is counted in pages.
ALLOC_TOLERANCE = 0.01
RSS_TOLERANCE, RSS_TOLERANCE_BYTES = 0.01, 2 * MIB

#: Base size of the blocks that the memory kernels hold; with both passes they hold nearly twice as much.
FORWARD_MIB, BOTH_PASSES_MIB = 32, 16

#: What is held past the framework's allocator: more than what is put down to pages, stacks and tables, and
#: less than the 64 MiB from which on glibc always gives back to the system what a thread frees.
FOREIGN_MIB = 48

#: What known errors may be off by: rounding to float32 changes them by some 1e-5 of themselves. And an exact
#: answer's error by the floor: both are that rounding alone, but for a last bit now and then.
ERROR_TOLERANCE = 1e-3
FLOOR_TOLERANCE = 0.01

#: How often the pair of equals may be told apart by chance in one run of the self-test, over all devices.
CRIES_WOLF = 1e-3

#: An interval that reaches further than this says nothing about equals.
WIDEST = 0.25

Row = Mapping["Hashable", Any]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One block to be measured, and `checks(records, rows)` of what comes of it, both in the order of cases.

    It is measured up to `attempts` times, until none of its checks fails.
    """

    scenario: Scenario
    checks: Callable[[Sequence[Record], Sequence[Row]], list[Check]]
    attempts: int = 1


def experiments(devices: Sequence[str]) -> list[Experiment]:
    """All of the self-test on `devices` (`cpu`, `cuda`, `cuda:1`, …), in order of devices."""
    level = 1 - CRIES_WOLF / max(1, len(devices))
    found: list[Experiment] = []
    for device in devices:
        on_cpu = device.split(":")[0] == "cpu"
        found += [_durations() if on_cpu else _cycles(device)]
        found += [_memory(device, "forward", on_cpu), _memory(device, "forward_backward", on_cpu)]
        found += [_errors(device), _equals(device, on_cpu, level)]
    return found


def _scenario(
    name: str, device: str, implementations: Sequence[object], matrix: Mapping[str, Any], **measure: Any
) -> Scenario:
    """A scenario of one block, read as any other is: JSON is YAML."""
    document = {
        "name": f"self-test-{name}",
        "operation": "attention",
        "implementations": implementations,
        "devices": [device],
        "matrix": matrix,
        "measure": {"threads": 1, "precision": 0.001, **measure},
        "limits": {"seconds_per_case": 30},
    }
    return parse(json.dumps(document), f"the self-test's {name}")


#: Over a single key, attention returns v.
_SINGLE_KEY = {"heads": 1, "head_dim": 8, "seq_len": 1}


def _broken(name: str, record: Record, unit: str = "") -> Check | None:
    """The check `name` of a case that came to nothing: it says why; None where the case is ok."""
    if record.status == "ok":
        return None
    verdict = FAIL if record.status in ("error", "crashed") else SKIPPED
    return impossible(name, record.device, f"{record.status}: {record.reason}", unit=unit, verdict=verdict)


# Durations -----------------------------------------------------------------------------------------------


def _durations() -> Experiment:
    scenario = _scenario(
        "durations",
        "cpu",
        [{"truth_duration": {"microseconds": list(DURATIONS)}}],
        _SINGLE_KEY,
        processes=3,
        max_seconds=0.3,
    )
    return Experiment(scenario, _check_durations, DURATION_ATTEMPTS)


def _check_durations(records: Sequence[Record], rows: Sequence[Row]) -> list[Check]:
    return [_check_duration(record, row) for record, row in zip(records, rows, strict=True)]


def _check_duration(record: Record, row: Row) -> Check:
    microseconds = int(record.options["microseconds"])
    truth_s = microseconds / 1e6
    name = f"latency of a kernel that lasts {format_seconds(truth_s)}"
    if (broken := _broken(name, record, "s")) is not None:
        return broken
    tolerance = DURATIONS[microseconds]
    note = "truth: CLOCK_MONOTONIC_RAW"
    check = compared(name, record.device, row["latency_median_s"], truth_s, "s", tolerance, note)
    # The kernel spins: with a core to itself it takes as much of the processor's time as it lasts.
    latency_s, cpu_s = row["latency_median_s"], row["cpu_median_s"]
    if check.verdict == FAIL and latency_s > truth_s and cpu_s < (1 - tolerance) * truth_s:
        why = (
            f"read {format_seconds(latency_s)}, but the kernel had the processor for only "
            f"{cpu_s / latency_s:.0%} of that time: others use it; stop them, then run the doctor again"
        )
        return impossible(name, record.device, why, truth=truth_s, unit="s")
    return check


def _cycles(device: str) -> Experiment:
    scenario = _scenario(
        "cycles",
        device,
        [{"truth_cuda_duration": {"cycles": CYCLES}}],
        _SINGLE_KEY,
        processes=1,
        max_seconds=0.3,
    )
    return Experiment(scenario, _check_cycles)


def _check_cycles(records: Sequence[Record], rows: Sequence[Row]) -> list[Check]:
    (record,), (row,) = records, rows
    cycles = int(record.options["cycles"])
    name = f"latency of a kernel that lasts {format_count(cycles)} cycles"
    if (broken := _broken(name, record, "s")) is not None:
        return [broken]
    clock_hz = row.get("sm_clock_hz")
    if clock_hz is None or not clock_hz > 0:  # a null of pandas compares as false
        why = "NVML does not tell the clock of the GPU's multiprocessors, so the truth is not known"
        return [impossible(name, record.device, why, unit="s")]
    note = f"truth: cycles over the {format_count(clock_hz, 'Hz')} that NVML reads for the multiprocessors"
    latency_s, truth_s = row["latency_median_s"], cycles / clock_hz
    return [compared(name, record.device, latency_s, truth_s, "s", CYCLES_TOLERANCE, note)]


# Memory --------------------------------------------------------------------------------------------------


def _memory(device: str, pass_: str, on_cpu: bool) -> Experiment:
    mib = FORWARD_MIB if pass_ == "forward" else BOTH_PASSES_MIB
    names = ["truth_torch_memory", *(["truth_numpy_memory"] if on_cpu else [])]
    implementations: list[object] = [{name: {"mib": mib}} for name in names]
    if on_cpu and pass_ == "forward":
        implementations.append({"truth_foreign_memory": {"mib": FOREIGN_MIB}})
    scenario = _scenario(
        f"memory-{pass_.replace('_', '-')}",
        device,
        implementations,
        {**_SINGLE_KEY, "pass": pass_},
        processes=1,
        max_seconds=0.01,
    )
    return Experiment(scenario, _check_memory)


def _check_memory(records: Sequence[Record], rows: Sequence[Row]) -> list[Check]:
    checks: list[Check] = []
    for record, row in zip(records, rows, strict=True):
        told = _check_foreign if record.implementation == "truth_foreign_memory" else _check_peaks
        checks += told(record, row)
    return checks


def _known_peak(record: Record) -> int:
    """What a case of the memory kernels holds at its peak, in bytes."""
    mib = float(record.options["mib"])
    if record.workload.pass_ == "forward":
        return truths.peak_bytes(mib)
    kept = int(truths.KEPT_SHARE * mib * MIB) if record.framework == "torch" else 0
    return kept + truths.peak_bytes(truths.BACKWARD_GROWTH * mib)


def _check_peaks(record: Record, row: Row) -> list[Check]:
    framework = {"truth_torch_memory": "torch", "truth_numpy_memory": "NumPy"}[record.implementation]
    what = f"{framework}, {record.workload.pass_.replace('_', ' and ')}"
    alloc, rss = f"peak of the allocator: {what}", f"peak of resident memory: {what}"
    on_cpu = record.device.split(":")[0] == "cpu"
    if (broken := _broken(alloc, record, "B")) is not None:
        return [broken]
    truth = _known_peak(record)
    checks = [compared(alloc, record.device, int(row["peak_alloc_bytes"]), truth, "B", ALLOC_TOLERANCE)]
    if on_cpu and record.memory is not None and record.memory["peak_rss_is_lower_bound"]:
        why = "this system keeps no peak of resident memory; what is polled is a lower bound"
        checks.append(impossible(rss, record.device, why, truth=truth, unit="B"))
    elif on_cpu:
        tolerance = RSS_TOLERANCE + RSS_TOLERANCE_BYTES / truth
        checks.append(compared(rss, record.device, int(row["peak_rss_bytes"]), truth, "B", tolerance))
    return checks


def _check_foreign(record: Record, row: Row) -> list[Check]:
    name = "memory past the framework's allocator is told"
    if (broken := _broken(name, record, "flag")) is not None:
        return [broken]
    told = "peak_alloc_bytes is partial" in str(row["reason"])
    note = f"{format_bytes(float(record.options['mib']) * MIB)} are held in a thread that is not torch's"
    return [compared(name, record.device, float(told), 1.0, "flag", 0.0, note)]


# Numerical error -----------------------------------------------------------------------------------------


def _errors(device: str) -> Experiment:
    scenario = _scenario(
        "errors",
        device,
        ["truth_exact", "truth_wrong"],
        {"heads": 2, "head_dim": 16, "seq_len": 32},
        processes=1,
        max_seconds=0.01,
    )
    return Experiment(scenario, _check_errors)


def _check_errors(records: Sequence[Record], rows: Sequence[Row]) -> list[Check]:
    exact, wrong = zip(records, rows, strict=True)
    return [*_check_exact(*exact), *_check_wrong(*wrong)]


def _check_exact(record: Record, row: Row) -> list[Check]:
    at_floor, passes = "error of an exact answer, over the floor", "an exact answer passes"
    if (broken := _broken(at_floor, record)) is not None:
        return [broken]
    note = "float64, rounded once: nobody can be better"
    return [
        compared(
            at_floor, record.device, row["error_rel_l2"] / row["error_floor"], 1.0, "", FLOOR_TOLERANCE, note
        ),
        compared(passes, record.device, float(row["accuracy"] == "pass"), 1.0, "flag", 0.0),
    ]


def _check_wrong(record: Record, row: Row) -> list[Check]:
    known = {"error_rel_l2": truths.KNOWN_REL_L2, "error_max_abs": truths.KNOWN_MAX_ABS}
    names = {
        name: f"{name} of an answer that is off by {significant(truth)}" for name, truth in known.items()
    }
    if (broken := _broken(names["error_rel_l2"], record)) is not None:
        return [broken]
    checks = [
        compared(names[column], record.device, row[column], truth, "", ERROR_TOLERANCE)
        for column, truth in known.items()
    ]
    refused = float(row["accuracy"] == "fail")
    return [*checks, compared("that answer fails", record.device, refused, 1.0, "flag", 0.0)]


# A pair of equals ----------------------------------------------------------------------------------------


def _equals(device: str, on_cpu: bool, level: float) -> Experiment:
    scenario = _scenario(
        "equals",
        device,
        ["truth_one", "truth_other"],
        {"heads": 4, "head_dim": 32, "seq_len": 64},
        processes=8 if on_cpu else 1,
        max_seconds=1.0,
    )
    return Experiment(scenario, partial(_check_equals, level=level))


def _check_equals(records: Sequence[Record], rows: Sequence[Row], *, level: float) -> list[Check]:
    """Does the interval of the pair's ratio contain 1? The table's, of 95%, misses in one run of twenty."""
    (one, other), row = records, rows[1]
    name, device = "ratio of a kernel to itself", other.device
    for record in records:
        if (broken := _broken(name, record, "×")) is not None:
            return [broken]
    estimate = stats.speedup(one.processes, other.processes, level=level)
    if estimate is None or estimate.interval is None:
        why = "both took part in too few rounds for an interval; stop other programs and run the doctor again"
        return [impossible(name, device, why, truth=1.0, unit="×")]
    ratio, low, high = estimate.value, estimate.interval.low, estimate.interval.high
    odds = round(1 / CRIES_WOLF)
    note = (
        f"{_interval(row['speedup_ci_low'], row['speedup_ci_high'])} at 95%, which misses in 1 of 20 runs; "
        f"judged at {_interval(low, high)}, so that at most 1 doctor in {odds} cries wolf"
    )
    if max(high / ratio, ratio / low) - 1 > WIDEST:
        why = f"the times vary too much to tell ({note}); stop other programs and run the doctor again"
        return [impossible(name, device, why, truth=1.0, unit="×")]
    # How far from 1 the ratio might be before an interval that reaches as far as this one excludes it.
    tolerance = ratio - low if ratio >= 1 else high - ratio
    return [compared(name, device, ratio, 1.0, "×", tolerance, note)]


def _interval(low: float, high: float) -> str:
    return f"{low:.4f} to {high:.4f}" if math.isfinite(low) and math.isfinite(high) else "no interval"


def rows_of(records: Sequence[Record]) -> list[Row]:
    """The table's rows of `records`."""
    return list(table.from_records(records, "self-test").to_dict("records"))
