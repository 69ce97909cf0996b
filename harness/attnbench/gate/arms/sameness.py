"""What two arms must have in common, and what they must not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.errors import ScenarioError, UsageError
from attnbench.gate.arms.arm import Arm

if TYPE_CHECKING:
    from attnbench.protocol import HelloReply
    from attnbench.scenario import Scenario

__all__ = ["require_own", "require_same_cases"]


def require_same_cases(
    base: Arm, base_hello: HelloReply, head: Arm, head_hello: HelloReply, scenario: Scenario
) -> None:
    """Refuse arms of which only one defines what the scenario measures.

    Raises:
        ScenarioError: neither does.
        UsageError: one does not; or neither does, of implementations chosen on the command line.
    """
    either = {info["name"]: info for info in (*base_hello["catalogue"], *head_hello["catalogue"])}
    scenario.expand(list(either.values()))
    lacking = [
        f"{arm.role} lacks what {other.title} has: {complaint}{_why(arm, hello)}"
        for arm, hello, other in ((base, base_hello, head), (head, head_hello, base))
        if (complaint := _complaint(scenario, hello)) is not None
    ]
    if lacking:
        raise UsageError(
            f"{'. '.join(lacking)}. What is on one side only cannot be compared: name what both have "
            "(--impl NAME)"
        )


def _why(arm: Arm, hello: HelloReply) -> str:
    reasons = (*arm.notes, *hello["problems"])
    return f" (this may be why: {'; '.join(reasons)})" if reasons else ""


def _complaint(scenario: Scenario, hello: HelloReply) -> str | None:
    try:
        scenario.expand(hello["catalogue"])
    except ScenarioError as error:
        return "; ".join(dict.fromkeys(mistake.message for mistake in error.mistakes))
    except UsageError as error:
        return str(error)
    return None


def require_own(arm: Arm, hello: HelloReply, names: Sequence[str]) -> list[str]:
    """Notes on those of the implementations `names` that do not come from the revision that `arm` is of.

    Those that are not there at all are `require_same_cases`'s affair.

    Raises:
        UsageError: none does, so the head would be compared with itself.
    """
    if not arm.own:
        return []
    files = {info["name"]: info["file"] for info in hello["catalogue"] if info["name"] in names}
    foreign = {name: file for name, file in files.items() if not _lies_in(file, arm.own)}
    if not foreign:
        return []
    where = ", ".join(f"{name} ({file or 'a file that cannot be told'})" for name, file in foreign.items())
    if len(foreign) == len(set(names)):
        raise UsageError(
            f"{arm.role}: nothing that is measured comes from this revision, so the head would be compared "
            f"with itself: {where}. Install the checkout editable (pip install -e .), keep the plug-in under "
            "version control in it and give it by --plugin, or have the revision installed by check.build"
        )
    return [f"the same on both sides, not of {arm.title}: {where}"]


def _lies_in(file: str | None, folders: Sequence[Path]) -> bool:
    return file is not None and any(Path(file).resolve().is_relative_to(folder) for folder in folders)
