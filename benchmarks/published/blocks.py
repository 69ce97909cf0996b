"""A page's code blocks: what a reader would paste into one interpreter, and what the page says it prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

__all__ = ["Block", "blocks", "difference", "printed", "with_outputs"]

#: A block of Python, and the block of text right below it, if there is one.
_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<text>.*?)^```\n)?", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Block:
    """Code that begins at `line` of its page, and the text that the page shows as its output."""

    line: int
    code: str
    shown: str


def blocks(page: str) -> list[Block]:
    """The blocks of Python of `page`, in order."""
    return [
        Block(page.count("\n", 0, found.start("code")) + 1, found["code"], found["text"] or "")
        for found in _BLOCK.finditer(page)
    ]


def printed(of: Sequence[Block], name: str, folder: Path) -> list[str]:
    """What each block prints, run in order in one namespace, with `folder` as the working directory.

    Errors are reported at the lines of the page `name`.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    outputs = []
    with chdir(folder):
        for block in of:
            source = "\n" * (block.line - 1) + block.code
            with redirect_stdout(StringIO()) as output:
                exec(compile(source, name, "exec"), namespace)
            outputs.append(output.getvalue())
    return outputs


def with_outputs(page: str, outputs: Sequence[str]) -> str:
    """`page` with what each of its blocks printed below it."""
    each = iter(outputs)

    def written(found: re.Match[str]) -> str:
        output = next(each)
        shown = f"\n```text\n{output}```\n" if output else ""
        return f"```python\n{found['code']}```\n{shown}"

    return _BLOCK.sub(written, page)


#: A number with decimals, and its exponent. Whole numbers are counts: they are text that must be the same.
_NUMBER = re.compile(r"-?\d+\.(\d+)(?:e([+-]\d+))?")


def difference(shown: str, output: str) -> str | None:
    """How `output` differs from what is `shown`, or None.

    Numbers with decimals may differ by one of the last digit that is shown: machines round differently.
    """
    told = f"the page shows {shown!r}, it prints {output!r}"
    if _NUMBER.sub("#", shown) != _NUMBER.sub("#", output):
        return told
    for ours, theirs in zip(_NUMBER.finditer(shown), _NUMBER.finditer(output), strict=True):
        last_digit = 10.0 ** (int(ours[2] or 0) - len(ours[1]))
        alike = ours[2] == theirs[2] and len(ours[1]) == len(theirs[1])
        if not alike or abs(float(ours[0]) - float(theirs[0])) > 1.001 * last_digit:
            return told
    return None
