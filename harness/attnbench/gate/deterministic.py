"""What needs no statistics: statuses, verdicts, errors and peaks of memory, the same at every measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attnbench.gate.verdict import Change, Outcome
from attnbench.protocol import AccuracyReply, MemoryReply
from attnbench.record import Record
from attnbench.scenario import Check
from attnbench.units import KIB, MIB, format_bytes, significant

__all__ = ["changes", "confirmed", "doubtful"]

#: The allocator's peak repeats itself to the byte; this lets through what an alignment may add.
ALLOC = (1.01, 64 * KIB)

#: The operating system's view stands in where the allocator's is blind; it varies by pages and caches.
RESIDENT = (1.10, 8 * MIB)

#: An innocent change of a block's size moves the error by more than 10% in a fifth of the cases; what fails
#: is more than twice the base's, and more than a quarter of what passes (`error_ratio` up to 2).
ERROR_FACTOR, ERROR_RATIO = 2.0, 0.5

#: How bad a status is: measured; not claimed, or not to be had here; broken.
_RANK = {"ok": 0, "unsupported": 1, "unavailable": 1}
_BROKEN = 2


def changes(base: Record, head: Record, check: Check) -> list[Change]:
    """What differs between the records of one case in the two arms, the worst first.

    A status that got worse always fails; `check.error` and `check.memory` say whether the others can, or are
    only told.
    """
    found = _status(base, head)
    if base.status == head.status == "ok":
        found += _judged(_accuracy(base, head), "error", on=check.error)
        if base.memory is not None and head.memory is not None:
            found += _judged(_memory(base.memory, head.memory), "memory", on=check.memory)
    return _worst_first(found)


def _judged(found: Sequence[Change], name: str, *, on: bool) -> list[Change]:
    """`found`, which nothing is held against where `check.<name>` is off."""
    return [
        each
        if on or each.outcome is Outcome.PASS
        else replace(each, outcome=Outcome.PASS, text=f"{each.text} (not judged: check.{name} is off)")
        for each in found
    ]


def _worst_first(found: Sequence[Change]) -> list[Change]:
    return sorted(found, key=lambda change: change.outcome.rank, reverse=True)


def doubtful(change: Change) -> bool:
    """Whether it counts only if it is seen again: a failure, and a base that broke, as that is not timed."""
    return change.outcome is Outcome.FAIL or (change.metric == "status" and change.base != change.head)


def confirmed(first: Sequence[Change], again: Sequence[Change]) -> list[Change]:
    """The changes seen first; doubtful ones that a second look, in fresh processes, misses are inconclusive.

    What failed differently the second time failed twice, all the same: that is added.
    """
    seen = {(change.metric, change.outcome) for change in again if doubtful(change)}
    found = [
        replace(change, outcome=Outcome.INCONCLUSIVE, text=f"{change.text}; not so when repeated")
        if doubtful(change) and (change.metric, change.outcome) not in seen
        else change
        for change in first
    ]
    if any(change.outcome is Outcome.FAIL for change in first):
        metrics = {change.metric for change in first}
        found += [each for each in again if each.outcome is Outcome.FAIL and each.metric not in metrics]
    return _worst_first(found)


def _status(base: Record, head: Record) -> list[Change]:
    reason = f": {head.reason}" if head.reason else ""
    if base.status == head.status:
        told = f"{head.status} in both arms, not compared{reason}"
        return [] if head.status == "ok" else [Change("status", Outcome.PASS, told, base.status, head.status)]
    worse = _RANK.get(head.status, _BROKEN) > _RANK.get(base.status, _BROKEN)
    text = f"status {base.status} → {head.status}{reason}"
    return [Change("status", Outcome.FAIL if worse else Outcome.PASS, text, base.status, head.status)]


def _accuracy(base_record: Record, head_record: Record) -> list[Change]:
    base, head = base_record.accuracy, head_record.accuracy
    if base is None or head is None:
        return [_unjudged(base_record, head_record)]
    before, after = base["accuracy"], head["accuracy"]
    if before != after:
        outcome = {"fail": Outcome.FAIL, "pass": Outcome.PASS}.get(after, Outcome.INCONCLUSIVE)
        reason = f": {head['reason']}" if head["reason"] else ""
        return [Change("accuracy", outcome, f"accuracy {before} → {after}{reason}", before, after)]
    return _error(base, head) if after == "pass" else []


def _unjudged(base: Record, head: Record) -> Change:
    """Answers that somebody could not judge: nothing got worse, unless that is new or the head is wrong."""
    arms = [arm for arm, record in (("base", base), ("head", head)) if record.accuracy is None]
    reason = head.reason or base.reason
    text = f"answers of the {' and the '.join(arms)} could not be judged" + (f": {reason}" if reason else "")
    if head.accuracy is None:
        return Change("accuracy", Outcome.PASS if base.accuracy is None else Outcome.INCONCLUSIVE, text)
    after = head.accuracy["accuracy"]
    outcome = Outcome.INCONCLUSIVE if after == "fail" else Outcome.PASS
    return Change("accuracy", outcome, f"accuracy {after}; {text}", None, after)


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
    """By the allocator's peaks; where it does not see all of both arms, by the resident ones if there are."""
    peaks = [
        ("peak_alloc_bytes", base["peak_alloc_bytes"], head["peak_alloc_bytes"], ALLOC),
        ("peak_rss_bytes", base["peak_rss_bytes"], head["peak_rss_bytes"], RESIDENT),
    ]
    if base["peak_alloc_partial"] is not None or head["peak_alloc_partial"] is not None:
        peaks.reverse()
    for name, before, after, allowed in peaks:
        if before is not None and after is not None:
            return _peak(name, before, after, *allowed)
    return [Change("memory", Outcome.PASS, "memory not compared: no peak is known of both arms")]


def _peak(name: str, before: int, after: int, factor: float, slack: int) -> list[Change]:
    if after > before * factor + slack:
        text = f"{name} {format_bytes(before)} → {format_bytes(after)}, {format_bytes(after - before)} more"
        return [Change("memory", Outcome.FAIL, text, before, after)]
    if before > after * factor + slack:
        text = f"{name} {format_bytes(before)} → {format_bytes(after)}, {format_bytes(before - after)} less"
        return [Change("memory", Outcome.PASS, text, before, after)]
    return []
