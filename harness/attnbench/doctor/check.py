"""Checks: a figure that was measured beside the truth, and whether they agree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["FAIL", "PASS", "SKIPPED", "Check", "compared", "impossible"]

#: What a check can end with.
PASS, FAIL, SKIPPED = "pass", "fail", "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One figure of the table held against the truth.

    `measured` and `truth` are in `unit`: `s`, `B`, `×`, `flag` (1: yes, 0: no), empty for a plain number.
    `deviation` is measured / truth − 1, and `tolerance` the largest that it may be, to either side. `verdict`
    is `pass`, `fail` or `skipped`: then there is no figure, or none that would tell, and `note` says why.
    """

    name: str
    device: str
    measured: float | None
    truth: float | None
    unit: str
    deviation: float | None
    tolerance: float | None
    verdict: str
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The check as a JSON object."""
        return asdict(self)


def compared(
    name: str, device: str, measured: float, truth: float, unit: str, tolerance: float, note: str = ""
) -> Check:
    """Whether `measured` deviates from `truth`, which is not 0, by no more than the share `tolerance`."""
    deviation = measured / truth - 1
    verdict = PASS if abs(deviation) <= tolerance else FAIL
    return Check(name, device, measured, truth, unit, deviation, tolerance, verdict, note)


def impossible(
    name: str, device: str, why: str, *, truth: float | None = None, unit: str = "", verdict: str = SKIPPED
) -> Check:
    """A check without a figure, and why: none can be had here, or something broke (`verdict` is `fail`)."""
    return Check(name, device, None, truth, unit, None, None, verdict, why)
