"""What goes to stdout: texts from outside made harmless, and JSON documents."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["clean", "jsonable", "print_json", "without_figures"]

# C0 and C1 controls (escape sequences among them), and the marks that reorder or hide text.
_HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_HARMFUL_BUT_LINES = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def clean(text: str, *, keep_lines: bool = False) -> str:
    """`text` without control characters; line ends become blanks unless `keep_lines`.

    Names, reasons and messages come from scenario files and from other people's kernels, and must not
    be able to steer a terminal.
    """
    if keep_lines:
        return _HARMFUL_BUT_LINES.sub("", text.replace("\t", "    ").replace("\r\n", "\n"))
    return _HARMFUL.sub("", " ".join(text.split()))


def jsonable(value: Any) -> Any:
    """`value` in types that JSON has; what is not known (NaN, NaT, an infinity) is null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if hasattr(value, "item"):  # NumPy's scalars
        return jsonable(value.item())
    text = str(value)
    return None if text in ("<NA>", "NaT") else text


def print_json(document: Any) -> None:
    """Print the one JSON document that a command with `--json` answers with."""
    click.echo(json.dumps(jsonable(document), ensure_ascii=False, allow_nan=False, indent=2))


def without_figures(reason: str) -> str:
    """A reason's words: failures that differ by their figures alone are one."""
    return re.sub(r"[0-9][0-9.,e+-]*", "#", reason)
