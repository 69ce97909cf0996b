"""What the doctor says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["PROGRAMS", "Finding", "Level", "ok", "unknown", "warning"]

#: What a remedy that is a command begins with; others are words.
PROGRAMS = frozenset({"attnbench", "echo", "kill", "nvidia-smi", "sudo", "taskset", "unset"})

Level = Literal["ok", "warning", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` says what was found, with figures; `effect` what it does to the numbers; `remedy` what mends it.

    The first line of `remedy` is the command, where there is one; what stands below it is a note. A warning
    has both effect and remedy, if only to say that nothing can be done here. `device` is `cpu` for what
    concerns the machine, else a GPU's name.
    """

    check: str
    level: Level
    text: str
    effect: str | None = None
    remedy: str | None = None
    device: str = "cpu"

    @property
    def command(self) -> str | None:
        """The command that mends it; None where it takes more, or less, than a command."""
        first = (self.remedy or "").split("\n", 1)[0]
        return first if first.split(" ", 1)[0] in PROGRAMS else None

    def to_json(self) -> dict[str, Any]:
        """The finding as a mapping of its fields, and its command."""
        return {**asdict(self), "command": self.command}


def ok(check: str, text: str, *, effect: str | None = None, device: str = "cpu") -> Finding:
    """Nothing to mend; `effect` is what is worth knowing all the same."""
    return Finding(check, "ok", text, effect, None, device)


def warning(check: str, text: str, *, effect: str, remedy: str, device: str = "cpu") -> Finding:
    """Something that makes the numbers worse."""
    return Finding(check, "warning", text, effect, remedy, device)


def unknown(check: str, text: str, *, device: str = "cpu") -> Finding:
    """Something that cannot be known here; `text` says why, in one line."""
    return Finding(check, "unknown", text, None, None, device)
