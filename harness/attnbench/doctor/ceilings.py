"""Measuring a device's ceilings: which points there are, how long each may take, and in which processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

#: More threads should be faster, by at least this share of what they are more; where they were not, they are
#: asked again, so many times at most: with all threads undisturbed moments are the rarest.
LEAST_GAIN = 0.3
REPEATS = 2

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
    asking = _Asking(source, device, min(point_s, ALL_S / points) / PROCESSES)
    for done in range(PROCESSES * len(rounds)):
        asking.ask(rounds[done % len(rounds)])
        progressed((done + 1) / (PROCESSES * len(rounds)))
    for _ in range(REPEATS):
        asking.ask([point for round_ in rounds for point in round_ if asking.was_disturbed(point)])
    return _ceilings(source, device, asking.best, utc_now(), asking.problem)


class _Asking:
    """Asks benches for points and keeps the best answers; `problem` is what the last one to fail said."""

    def __init__(self, source: BenchSource, device: str, seconds: float) -> None:
        self.best: dict[_Point, CeilingReply] = {}
        self.problem = ""
        self._source = source
        self._device = device
        self._seconds = seconds

    def ask(self, points: Sequence[_Point]) -> None:
        """Measure `points` in one fresh bench, or in as many as it takes."""
        if not points:
            return
        bench = self._source.bench()
        try:
            for point in points:
                parameters = {
                    "kind": point.kind,
                    "device": self._device,
                    "dtype": point.dtype,
                    "threads": point.threads,
                    "seconds": self._seconds,
                }
                deadline_s = DEADLINE_S + DEADLINE_FACTOR * self._seconds
                try:
                    reply = cast(CeilingReply, bench.request("ceiling", parameters, deadline_s))
                except BenchFailed as failure:
                    self.problem = str(failure)
                    if isinstance(failure, BenchLost):
                        bench.close()
                        bench = self._source.bench()
                else:
                    if point not in self.best or reply["per_s"] > self.best[point]["per_s"]:
                        self.best[point] = reply
        finally:
            bench.close()

    def was_disturbed(self, point: _Point) -> bool:
        """Whether more threads were hardly faster than the next fewer: others may have had their cores.

        It may also be that there is no more to be had, as of a memory that few threads keep busy.
        """
        fewer = [
            other
            for other in self.best
            if (other.kind, other.dtype) == (point.kind, point.dtype)
            and other.threads is not None
            and other.threads < (point.threads or 0)
        ]
        if point not in self.best or point.threads is None or not fewer:
            return False
        nearest = max(fewer, key=lambda other: other.threads or 0)
        gain = self.best[point]["per_s"] / self.best[nearest]["per_s"] - 1
        return gain < LEAST_GAIN * (point.threads / (nearest.threads or 1) - 1)


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
