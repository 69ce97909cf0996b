"""All that the doctor found out, as far as it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnbench.ceilings import Ceilings
from attnbench.doctor.check import FAIL, PASS, SKIPPED, Check
from attnbench.doctor.finding import Finding

__all__ = ["Diagnosis"]


@dataclass(slots=True)
class Diagnosis:
    """What was found of `devices`; parts that were not come to are empty.

    `environment` is the machine's fingerprint. `remembered` are the devices whose ceilings were known from an
    earlier time; `unkept` says why those of others were not kept, `unmeasured` why some have none.
    """

    devices: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    self_test: Sequence[Check] = ()
    ceilings: dict[str, Ceilings] = field(default_factory=dict)
    remembered: set[str] = field(default_factory=set)
    unkept: dict[str, str] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Check]:
        """The checks whose figures are not true."""
        return [check for check in self.self_test if check.verdict == FAIL]

    @property
    def summary(self) -> str:
        """One sentence: `2 warnings; self-test: 11 of 11 figures true; ceilings of cpu known`."""
        warnings = sum(finding.level == "warning" for finding in self.findings)
        verdicts = [check.verdict for check in self.self_test]
        judged = sum(verdict != SKIPPED for verdict in verdicts)
        parts = [
            "no warnings" if not warnings else "1 warning" if warnings == 1 else f"{warnings} warnings",
            f"self-test: {verdicts.count(PASS)} of {judged} figures true"
            + (f" ({verdicts.count(SKIPPED)} skipped)" if SKIPPED in verdicts else ""),
            f"ceilings of {', '.join(self.ceilings)} known" if self.ceilings else "no ceilings known",
        ]
        if self.unkept:
            parts[-1] += f" (not kept: {', '.join(self.unkept)})"
        return "; ".join(parts)

    def to_json(self, *, duration_s: float, exit_code: int) -> dict[str, Any]:
        """The document of `attnbench doctor --json`."""
        return {
            "environment": dict(self.environment),
            "devices": list(self.devices),
            "findings": [finding.to_json() for finding in self.findings],
            "self_test": [check.to_json() for check in self.self_test],
            "ceilings": {device: found.to_json() for device, found in self.ceilings.items()},
            "ceilings_remembered": sorted(self.remembered),
            "ceilings_unkept": dict(self.unkept),
            "ceilings_unmeasured": dict(self.unmeasured),
            "duration_s": duration_s,
            "exit_code": exit_code,
        }
