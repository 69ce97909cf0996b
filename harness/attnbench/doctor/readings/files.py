"""Reading the system's files: what is not there, or reads oddly, is not known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["cpu_list", "number", "text", "tried"]

Answer = TypeVar("Answer")


def tried(probe: Callable[[], Answer]) -> Answer | None:
    """The probe's answer; None where it fails. A doctor never falls over what a system lacks."""
    try:
        return probe()
    except Exception:
        return None


def text(file: Path) -> str | None:
    """The file's text, stripped; None where it cannot be read, or is empty."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip() or None
    except (OSError, ValueError):
        return None


def number(file: Path) -> int | None:
    """The whole number that the file holds."""
    found = text(file)
    return tried(lambda: int(found)) if found else None


def cpu_list(written: str | None) -> tuple[int, ...]:
    """The kernel's lists of CPUs: `0-2,8` → (0, 1, 2, 8); nothing where it is none."""

    def parse() -> tuple[int, ...]:
        found: list[int] = []
        for part in (written or "").split(","):
            first, _, last = part.partition("-")
            if part:
                found += range(int(first), int(last or first) + 1)
        return tuple(found)

    return tried(parse) or ()
