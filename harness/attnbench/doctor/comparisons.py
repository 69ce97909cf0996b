"""What the rows of the kernels of `truths` must say: pure functions of records and of the table's rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnbench import stats
from attnbench.doctor import truths
from attnbench.doctor.check import FAIL, SKIPPED, Check, compared, impossible
from attnbench.record import Record
from attnbench.units import MIB, format_bytes, format_count, format_seconds, significant

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["CRIES_WOLF", "DURATIONS", "Row", "checks_of"]

#: Durations in microseconds, and by what share their median may be off. Reading the clock that the kernel
#: spins by takes up to 0.1 µs, which is 0.5% of the shortest.
DURATIONS = {20: 0.025, 200: 0.01, 2000: 0.01}

#: By what share the time of known cycles may be off: the clock's rate is read beside the kernel, not in it.
CYCLES_TOLERANCE = 0.05

#: What peaks of memory may be off by: of an allocator; of the resident set, which is counted in pages.
ALLOC_TOLERANCE = 0.01
RSS_TOLERANCE, RSS_TOLERANCE_BYTES = 0.01, 2 * MIB

#: What known errors may be off by: rounding to float32 changes them by some 1e-5 of themselves. And an exact
#: answer's error by the floor: both are that rounding alone, but for a last bit now and then.
ERROR_TOLERANCE = 1e-3
FLOOR_TOLERANCE = 0.01

#: How often the pair of equals may be told apart by chance in one run of the self-test, over all devices.
CRIES_WOLF = 1e-3

#: An interval that reaches further than this says nothing about equals.
WIDEST = 0.25

#: A row of the table.
Row = Mapping["Hashable", Any]


def checks_of(records: Sequence[Record], rows: Sequence[Row], pairs: int = 1) -> list[Check]:
    """The checks of one block: what each row says of its own truth, then what the pair of equals says.

    `rows` are the table's, in the order of `records`; `pairs` is how many pairs of equals the self-test has.
    """
    told = list(zip(records, rows, strict=True))
    checks = [
        check for record, row in told for check in _CHECKS.get(record.implementation, _none)(record, row)
    ]
    pair = [(record, row) for record, row in told if record.implementation in ("truth_one", "truth_other")]
    return [*checks, _of_equals(pair, level=1 - CRIES_WOLF / pairs)] if pair else checks


def _none(record: Record, row: Row) -> list[Check]:
    """Half a pair says nothing by itself."""
    del record, row
    return []


def _broken(name: str, record: Record, unit: str = "") -> Check | None:
    """The check `name` of a case that came to nothing: it says why; None where the case is ok."""
    if record.status == "ok":
        return None
    verdict = FAIL if record.status in ("error", "crashed") else SKIPPED
    return impossible(name, record.device, f"{record.status}: {record.reason}", unit=unit, verdict=verdict)


def _of_duration(record: Record, row: Row) -> list[Check]:
    microseconds = int(record.options["microseconds"])
    truth_s = microseconds / 1e6
    name = f"latency of a kernel that lasts {format_seconds(truth_s)}"
    if (broken := _broken(name, record, "s")) is not None:
        return [broken]
    tolerance = DURATIONS[microseconds]
    latency_s, cpu_s = row["latency_median_s"], row["cpu_median_s"]
    check = compared(name, record.device, latency_s, truth_s, "s", tolerance, "truth: CLOCK_MONOTONIC_RAW")
    # The kernel spins: with a core to itself it takes as much of the processor's time as it lasts.
    if check.verdict == FAIL and latency_s > truth_s and cpu_s < (1 - tolerance) * truth_s:
        why = (
            f"read {format_seconds(latency_s)}, but the kernel had the processor for only "
            f"{cpu_s / latency_s:.0%} of that time: others use it; stop them, then run the doctor again"
        )
        return [impossible(name, record.device, why, truth=truth_s, unit="s")]
    return [check]


def _of_cycles(record: Record, row: Row) -> list[Check]:
    cycles = int(record.options["cycles"])
    name = f"latency of a kernel that lasts {format_count(cycles)} cycles"
    if (broken := _broken(name, record, "s")) is not None:
        return [broken]
    clock_hz = row["sm_clock_hz"]
    if clock_hz is None or not clock_hz > 0:  # a null of pandas compares as false
        why = "NVML does not tell the clock of the GPU's multiprocessors, so the truth is not known"
        return [impossible(name, record.device, why, unit="s")]
    note = f"truth: cycles over the {format_count(clock_hz, 'Hz')} that NVML reads for the multiprocessors"
    latency_s, truth_s = row["latency_median_s"], cycles / clock_hz
    return [compared(name, record.device, latency_s, truth_s, "s", CYCLES_TOLERANCE, note)]


def _known_peak(record: Record) -> int:
    """What a case of the memory kernels holds at its peak, in bytes."""
    mib = float(record.options["mib"])
    if record.workload.pass_ == "forward":
        return truths.peak_bytes(mib)
    kept = int(truths.KEPT_SHARE * mib * MIB) if record.framework == "torch" else 0
    return kept + truths.peak_bytes(truths.BACKWARD_GROWTH * mib)


def _of_memory(record: Record, row: Row) -> list[Check]:
    framework = {"truth_torch_memory": "torch", "truth_numpy_memory": "NumPy"}[record.implementation]
    what = f"{framework}, {record.workload.pass_.replace('_', ' and ')}"
    alloc, rss = f"peak of the allocator: {what}", f"peak of resident memory: {what}"
    if (broken := _broken(alloc, record, "B")) is not None:
        return [broken]
    truth = _known_peak(record)
    checks = [compared(alloc, record.device, int(row["peak_alloc_bytes"]), truth, "B", ALLOC_TOLERANCE)]
    on_cpu = record.device.split(":")[0] == "cpu"
    if on_cpu and record.memory is not None and record.memory["peak_rss_is_lower_bound"]:
        why = "this system keeps no peak of resident memory; what is polled is a lower bound"
        checks.append(impossible(rss, record.device, why, truth=truth, unit="B"))
    elif on_cpu:
        tolerance = RSS_TOLERANCE + RSS_TOLERANCE_BYTES / truth
        checks.append(compared(rss, record.device, int(row["peak_rss_bytes"]), truth, "B", tolerance))
    return checks


#: Memory that is in no allocator's peak, of which the row must say so: which it is, and where.
_UNSEEN = {
    "truth_foreign_memory": ("memory past the framework's allocator", "held in a thread that is not torch's"),
    "truth_kept_memory": ("memory kept from call to call", "allocated by the first call, and never freed"),
}


def _of_unseen_memory(record: Record, row: Row) -> list[Check]:
    which, where = _UNSEEN[record.implementation]
    name = f"{which} is told"
    if (broken := _broken(name, record, "flag")) is not None:
        return [broken]
    told = float("peak_alloc_bytes is partial" in str(row["reason"]))
    note = f"{format_bytes(float(record.options['mib']) * MIB)}, {where}"
    return [compared(name, record.device, told, 1.0, "flag", 0.0, note)]


def _of_exact(record: Record, row: Row) -> list[Check]:
    at_floor, passes = "error of an exact answer, over the floor", "an exact answer passes"
    if (broken := _broken(at_floor, record)) is not None:
        return [broken]
    over_floor = row["error_rel_l2"] / row["error_floor"]
    note = "float64, rounded once: nobody can be better"
    return [
        compared(at_floor, record.device, over_floor, 1.0, "", FLOOR_TOLERANCE, note),
        compared(passes, record.device, float(row["accuracy"] == "pass"), 1.0, "flag", 0.0),
    ]


def _of_wrong(record: Record, row: Row) -> list[Check]:
    known = {"error_rel_l2": truths.KNOWN_REL_L2, "error_max_abs": truths.KNOWN_MAX_ABS}
    names = {column: f"{column} of an answer off by {significant(truth)}" for column, truth in known.items()}
    if (broken := _broken(names["error_rel_l2"], record)) is not None:
        return [broken]
    refused = float(row["accuracy"] == "fail")
    return [
        *(
            compared(names[column], record.device, row[column], truth, "", ERROR_TOLERANCE)
            for column, truth in known.items()
        ),
        compared("that answer fails", record.device, refused, 1.0, "flag", 0.0),
    ]


#: What each kernel's row must say.
_CHECKS: Mapping[str, Callable[[Record, Row], list[Check]]] = {
    "truth_duration": _of_duration,
    "truth_cuda_duration": _of_cycles,
    "truth_torch_memory": _of_memory,
    "truth_numpy_memory": _of_memory,
    "truth_foreign_memory": _of_unseen_memory,
    "truth_kept_memory": _of_unseen_memory,
    "truth_exact": _of_exact,
    "truth_wrong": _of_wrong,
}


def _of_equals(pair: Sequence[tuple[Record, Row]], *, level: float) -> Check:
    """Does the interval of the pair's ratio contain 1? The table's, of 95%, misses in one run of twenty."""
    (one, _), (other, row) = pair
    name, device = "ratio of a kernel to itself", other.device
    for record, _ in pair:
        if (broken := _broken(name, record, "×")) is not None:
            return broken
    estimate = stats.speedup(one.processes, other.processes, level=level)
    if estimate is None or estimate.interval is None:
        why = "both took part in too few rounds for an interval; stop other programs and run the doctor again"
        return impossible(name, device, why, truth=1.0, unit="×")
    ratio, low, high = estimate.value, estimate.interval.low, estimate.interval.high
    note = (
        f"{_interval(row['speedup_ci_low'], row['speedup_ci_high'])} at 95%, which misses in 1 of 20 runs; "
        f"judged at {_interval(low, high)}, so that at most 1 doctor in {round(1 / CRIES_WOLF)} cries wolf"
    )
    if max(high / ratio, ratio / low) - 1 > WIDEST:
        why = f"the times vary too much to tell ({note}); stop other programs and run the doctor again"
        return impossible(name, device, why, truth=1.0, unit="×")
    # How far from 1 the ratio might be before an interval that reaches as far as this one excludes it.
    tolerance = ratio - low if ratio >= 1 else high - ratio
    return compared(name, device, ratio, 1.0, "×", tolerance, note)


def _interval(low: float, high: float) -> str:
    return f"{low:.4f} to {high:.4f}" if math.isfinite(low) and math.isfinite(high) else "no interval"
