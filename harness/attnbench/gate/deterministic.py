"""What needs no statistics: statuses, verdicts, errors and peaks of memory, the same at every measurement."""

from __future__ import annotations

from attnbench.gate.verdict import Change, Outcome
from attnbench.protocol import AccuracyReply, MemoryReply
from attnbench.record import Record
from attnbench.scenario import Check
from attnbench.units import KIB, MIB, format_bytes, significant

__all__ = ["changes"]

#: The allocator's peak repeats itself to the byte; this lets through what an alignment may add.
ALLOC_FACTOR, ALLOC_SLACK_BYTES = 1.01, 64 * KIB

#: The operating system's view stands in where the allocator's is blind; it varies by pages and caches.
RESIDENT_FACTOR, RESIDENT_SLACK_BYTES = 1.10, 8 * MIB

#: An innocent change of a block's size moves the error by more than 10% in a fifth of the cases; what fails
#: is more than twice the base's, and more than a quarter of what passes (`error_ratio` up to 2).
ERROR_FACTOR, ERROR_RATIO = 2.0, 0.5

#: How bad a status is: measured; not claimed, or not to be had here; broken.
_RANK = {"ok": 0, "unsupported": 1, "unavailable": 1}
_BROKEN = 2


def changes(base: Record, head: Record, check: Check) -> list[Change]:
    """What differs between the records of one case in the two arms, the worst first.

    A status that got worse always fails; `check.error` and `check.memory` say whether the others can.
    """
    found = _status(base, head)
    if base.status == head.status == "ok":
        if check.error and base.accuracy is not None:
            found += _accuracy(base.accuracy, head.accuracy)
        if check.memory and base.memory is not None and head.memory is not None:
            found += _memory(base.memory, head.memory)
    return sorted(found, key=lambda change: change.outcome.rank, reverse=True)


def _status(base: Record, head: Record) -> list[Change]:
    reason = f": {head.reason}" if head.reason else ""
    if base.status == head.status:
        told = f"{head.status} in both arms, not compared{reason}"
        return [] if head.status == "ok" else [Change("status", Outcome.PASS, told, base.status, head.status)]
    worse = _RANK.get(head.status, _BROKEN) > _RANK.get(base.status, _BROKEN)
    text = f"status {base.status} → {head.status}{reason}"
    return [Change("status", Outcome.FAIL if worse else Outcome.PASS, text, base.status, head.status)]


def _accuracy(base: AccuracyReply, head: AccuracyReply | None) -> list[Change]:
    if head is None:
        return [Change("accuracy", Outcome.INCONCLUSIVE, "its answer could not be judged any more")]
    before, after = base["accuracy"], head["accuracy"]
    if before != after:
        outcome = {"fail": Outcome.FAIL, "pass": Outcome.PASS}.get(after, Outcome.INCONCLUSIVE)
        reason = f": {head['reason']}" if head["reason"] else ""
        return [Change("accuracy", outcome, f"accuracy {before} → {after}{reason}", before, after)]
    return _error(base, head) if after == "pass" else []


def _error(base: AccuracyReply, head: AccuracyReply) -> list[Change]:
    before, after, ratio = base["error_rel_l2"], head["error_rel_l2"], head["error_ratio"]
    if before is None or after is None or ratio is None:
        return []
    if after <= ERROR_FACTOR * before or ratio <= ERROR_RATIO:
        return []
    times = f"{significant(after / before, 2)} times the base's" if before else "where the base has none"
    text = f"error_rel_l2 {before:.1e} → {after:.1e}, {times} (more than {ERROR_FACTOR:g} may not be)"
    return [Change("error", Outcome.FAIL, text, before, after)]


def _memory(base: MemoryReply, head: MemoryReply) -> list[Change]:
    """By the allocator's peaks; by the resident ones where head's allocator no longer sees all of it."""
    blind = head["peak_alloc_partial"] is not None or head["peak_alloc_bytes"] is None
    name = "peak_rss_bytes" if blind else "peak_alloc_bytes"
    factor, slack = (RESIDENT_FACTOR, RESIDENT_SLACK_BYTES) if blind else (ALLOC_FACTOR, ALLOC_SLACK_BYTES)
    before, after = (base["peak_rss_bytes"], head["peak_rss_bytes"])
    if not blind:
        before, after = (base["peak_alloc_bytes"], head["peak_alloc_bytes"])
    if before is None or after is None:
        return []
    if after > before * factor + slack:
        text = f"{name} {format_bytes(before)} → {format_bytes(after)}, {format_bytes(after - before)} more"
        return [Change("memory", Outcome.FAIL, text, before, after)]
    if before > after * factor + slack:
        text = f"{name} {format_bytes(before)} → {format_bytes(after)}, {format_bytes(before - after)} less"
        return [Change("memory", Outcome.PASS, text, before, after)]
    return []
