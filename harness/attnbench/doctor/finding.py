"""What the doctor says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "Level", "ok", "unknown", "warning"]

Level = Literal["ok", "warning", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` says what was found, with figures; `effect` what it does to the numbers; `remedy` what mends it.

    `remedy` begins with the command, where there is one. A warning has both effect and remedy, if only to
    say that nothing can be done here. `device` is `cpu` for what concerns the machine, else a GPU's name.
    """

    check: str
    level: Level
    text: str
    effect: str | None = None
    remedy: str | None = None
    device: str = "cpu"

    def to_json(self) -> dict[str, Any]:
        """The finding as a mapping of its fields."""
        return asdict(self)


def ok(check: str, text: str, *, effect: str | None = None, device: str = "cpu") -> Finding:
    """Nothing to mend; `effect` is what is worth knowing all the same."""
    return Finding(check, "ok", text, effect, None, device)


def warning(check: str, text: str, *, effect: str, remedy: str, device: str = "cpu") -> Finding:
    """Something that makes the numbers worse."""
    return Finding(check, "warning", text, effect, remedy, device)


def unknown(check: str, text: str, *, device: str = "cpu") -> Finding:
    """Something that cannot be known here; `text` says why, in one line."""
    return Finding(check, "unknown", text, None, None, device)
