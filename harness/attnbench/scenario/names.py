"""Values and names as messages show them, and the nearest right name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["join", "near", "nearest", "shown", "told"]

_LONGEST = 60

#: What other tools call the same thing.
_ALIASES = {
    "bf16": "bfloat16",
    "double": "float64",
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
    "gpu": "cuda",
    "half": "float16",
    "single": "float32",
}


def shown(value: object) -> str:
    """A value of a scenario file as a message quotes it: `'causal'`, `true`, `nothing`, `a list`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r}…"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    return str(value)


def told(value: object) -> str:
    """A value as a message tells it without quoting: `512`, `causal`, `true`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def nearest(name: object, right: Iterable[str]) -> str:
    """`; did you mean 'causal'?`, or nothing when no right name is near."""
    found = near(name, right)
    return "" if found is None else f"; did you mean {found!r}?"


def near(name: object, right: Iterable[str]) -> str | None:
    """The right name that `name` is near to, if there is one."""
    by_lower = {each.lower(): each for each in right}
    wanted = str(name)[:_LONGEST].lower()
    alias = _ALIASES.get(wanted)
    close = [alias] if alias in by_lower else get_close_matches(wanted, by_lower, n=1)
    return by_lower[close[0]] if close else None


def join(names: Iterable[object], most: int = 12) -> str:
    """`128, 256, 512`, cut after `most`."""
    texts = [told(name) for name in names]
    return ", ".join(texts[:most]) + (f", … ({len(texts)} in all)" if len(texts) > most else "")
