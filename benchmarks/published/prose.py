"""Paragraphs of the page."""

from __future__ import annotations

from textwrap import fill

__all__ = ["WIDTH", "paragraph"]

#: Characters in a line of the page's source.
WIDTH = 110


def paragraph(text: str) -> str:
    """`text` in lines of at most `WIDTH`, however it was broken before."""
    return fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
