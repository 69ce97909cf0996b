"""The two sides of a gate: what --base and --head name, made ready, opened, and gone afterwards."""

from __future__ import annotations

from attnbench.gate.arms.arm import Arm, open_all, prepared
from attnbench.gate.arms.request import Request, resolve
from attnbench.gate.arms.sameness import require_own, require_same_cases

__all__ = ["Arm", "Request", "open_all", "prepared", "require_own", "require_same_cases", "resolve"]
