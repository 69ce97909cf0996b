"""How near a measured time comes to what the machine was measured to reach, and whether it is beyond it.

The roofline model: a kernel can be no faster than its arithmetic at the machine's matrix rate, nor than its
traffic at the memory's bandwidth (Williams, Waterman & Patterson, 2009).
"""

from __future__ import annotations

from dataclasses import dataclass

from attnbench.ceilings import Ceilings
from attnbench.costs import Costs
from attnbench.units import format_count

__all__ = ["BEYOND_CACHE", "TOLERANCE", "TOLERANCE_OF_DISTURBED", "Standing", "standing"]

#: So much faster than the ceiling a time may be: ceilings too are measured, and clocks rise and fall.
TOLERANCE = 1.05

#: Likewise where the ceilings were measured on a disturbed machine, and are too low by nobody knows how much:
#: beyond this is what no disturbance explains.
TOLERANCE_OF_DISTURBED = 2.0

#: Traffic is held against the memory's bandwidth where it is so many times what the caches hold.
BEYOND_CACHE = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """`fraction` of the nearer limit, and why the time cannot be (`beyond`); None where that is not known.

    `flagged` says whether the time is beyond a limit; None where no limit of the arithmetic is known.
    """

    fraction: float | None = None
    beyond: str | None = None
    flagged: bool | None = None


def standing(
    costs: Costs, ceilings: Ceilings, *, dtype: str, threads: int | None, cold: bool, latency_s: float
) -> Standing:
    """How `latency_s`, the time of one call that does work of `costs`, stands to `ceilings`.

    The fraction is that of the arithmetic by the field's convention, without what a cache saves, or of the
    least traffic, whichever is larger. Beyond a limit it is where even the least arithmetic, or the least
    traffic of a cold call, would take longer than `latency_s` at 1.05 times the machine's best (2 times,
    where ceilings may be too low).
    """
    tolerance = TOLERANCE if ceilings.disturbed is None else TOLERANCE_OF_DISTURBED
    flops_per_s = ceilings.flops_per_s(dtype, threads)
    bytes_per_s = ceilings.bytes_per_s(threads)
    if ceilings.cache_bytes is None or costs.least_bytes < BEYOND_CACHE * ceilings.cache_bytes:
        bytes_per_s = None
    shares = []
    beyond = []
    if flops_per_s is not None and costs.flops:  # what computes no product has no place below that limit
        shares.append(costs.useful_flops / latency_s / flops_per_s)
        least = costs.least_flops / latency_s
        if least > tolerance * flops_per_s:
            reached = f"at least {format_count(least, 'FLOP/s')} in {dtype}"
            beyond.append(_told(reached, format_count(flops_per_s, "FLOP/s"), ceilings, threads))
    if bytes_per_s is not None:
        moved = costs.least_bytes / latency_s
        shares.append(moved / bytes_per_s)
        if cold and moved > tolerance * bytes_per_s:
            reached = f"at least {format_count(moved, 'B/s')} from memory"
            beyond.append(_told(reached, format_count(bytes_per_s, "B/s"), ceilings, threads))
    flagged = True if beyond else None if flops_per_s is None else False
    return Standing(max(shares, default=None), "; ".join(beyond) or None, flagged)


def _told(reached: str, limit: str, ceilings: Ceilings, threads: int | None) -> str:
    of_threads = ceilings.device == "cpu" and threads is not None
    by = f" with {threads} thread{'' if threads == 1 else 's'}" if of_threads else ""
    return (
        f"faster than this machine can be: {reached}, where {ceilings.device_name}{by} was measured to reach "
        f"{limit}"
    )
