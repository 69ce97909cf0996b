"""Measuring a device's ceilings: which points there are, how long each may take, and in which processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast

from attnbench.ceilings import BANDWIDTHS, Bandwidth, Ceilings, MatrixRate
from attnbench.driver import thread_count
from attnbench.errors import MeasuringError
from attnbench.protocol import BenchFailed, BenchLost, BenchSource, CeilingReply
from attnbench.workload import DTYPES

__all__ = ["measure", "thread_counts"]

#: What one point may take in all its processes, and what all points together, in seconds.
POINT_S = 0.8
ALL_S = 20.0

#: Each point is measured in so many processes, one round after another: what slows down a second of
#: measuring is seldom still there ten seconds later, and each process draws its own layout of memory.
PROCESSES = 2

#: A verb that takes so much longer than it was given hangs.
DEADLINE_FACTOR, DEADLINE_S = 10.0, 60.0


@dataclass(frozen=True, slots=True)
class _Point:
    kind: str
    threads: int | None
    dtype: str = "float32"


def measure(
    source: BenchSource,
    device: str,
    *,
    threads: int | None = None,
    point_s: float = POINT_S,
    progressed: Callable[[float], None] = lambda share: None,
    utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Ceilings:
    """The ceilings of `device`, in fresh benches of `source`; some 12 s with two cores, 20 s with many.

    On a CPU for one thread, each power of two and `threads` (all that this process may use). What cannot be
    measured here (a dtype that the libraries cannot multiply, bandwidth where memory is short) is left out.
    `progressed` is told the share that is done.

    Raises:
        MeasuringError: no matrix rate could be measured; the text says why.
    """
    counts = thread_counts(threads or thread_count("all")) if device == "cpu" else (None,)
    rounds = [
        [_Point("matrix", count, dtype) for dtype in DTYPES] + [_Point(kind, count) for kind in BANDWIDTHS]
        for count in counts
    ]
    points = sum(map(len, rounds))
    seconds = min(point_s, ALL_S / points) / PROCESSES
    best: dict[_Point, CeilingReply] = {}
    problem = ""
    done = 0
    for _ in range(PROCESSES):
        for round_ in rounds:
            bench = source.bench()
            try:
                for point in round_:
                    try:
                        reply = cast(
                            CeilingReply,
                            bench.request(
                                "ceiling",
                                {
                                    "kind": point.kind,
                                    "device": device,
                                    "dtype": point.dtype,
                                    "threads": point.threads,
                                    "seconds": seconds,
                                },
                                DEADLINE_S + DEADLINE_FACTOR * seconds,
                            ),
                        )
                    except BenchFailed as failure:
                        problem = str(failure)
                        if isinstance(failure, BenchLost):
                            bench.close()
                            bench = source.bench()
                    else:
                        if point not in best or reply["per_s"] > best[point]["per_s"]:
                            best[point] = reply
                    done += 1
                    progressed(done / (PROCESSES * points))
            finally:
                bench.close()
    return _ceilings(source, device, best, utc_now(), problem)


def thread_counts(threads: int) -> tuple[int, ...]:
    """1, the powers of two below `threads`, and `threads`."""
    powers = (2**power for power in range(threads.bit_length()))
    return (*(power for power in powers if power < threads), threads)


def _ceilings(
    source: BenchSource, device: str, best: dict[_Point, CeilingReply], now: datetime, problem: str
) -> Ceilings:
    rates = {
        (point.dtype, point.threads): MatrixRate(point.dtype, point.threads, reply["per_s"], reply["way"])
        for point, reply in best.items()
        if point.kind == "matrix"
    }
    matrix = tuple(_with_float32(rates, each, device) for each in rates.values())
    if not matrix:
        raise MeasuringError(f"the ceilings of {device} could not be measured: {problem}")
    moved = {point: reply for point, reply in best.items() if point.kind != "matrix"}
    return Ceilings(
        device=device,
        device_name=_device_name(source, device),
        cache_bytes=next((reply["cache_bytes"] for reply in moved.values()), None),
        measured_at=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        matrix=matrix,
        bandwidth=tuple(
            Bandwidth(point.kind, point.threads, reply["per_s"]) for point, reply in moved.items()
        ),
    )


def _with_float32(
    rates: Mapping[tuple[str, int | None], MatrixRate], own: MatrixRate, device: str
) -> MatrixRate:
    """`own`, or what float32 shows to be possible in that dtype, where that is more.

    A kernel may upcast halves. And a CPU's registers hold half as many numbers of twice the size: float64
    can be half as fast as float32, whether a library here makes it so or not.
    """
    single = rates.get(("float32", own.threads))
    if single is None or own.dtype == "float32" or (own.dtype == "float64" and device != "cpu"):
        return own
    share, way = (0.5, f"half of {single.way} in") if own.dtype == "float64" else (1.0, f"{single.way} in")
    possible = replace(own, flops_per_s=share * single.flops_per_s, way=f"{way} float32")
    return max(own, possible, key=lambda each: each.flops_per_s)


def _device_name(source: BenchSource, device: str) -> str:
    known = source.hello["devices"].get(device.split(":")[0], [])
    wanted = (device, f"{device}:0")
    return next((str(each["name"]) for each in known if each["device"] in wanted), device)
