"""A figure as part of a page: no prolog, ids of its own, words for screen readers, colours of the theme."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from attnbench.plots import Plot
from attnbench.plots.render import WHITE
from attnbench.plots.style import DANGER, GRID, INK, MUTED, PALETTE, PAPER

__all__ = ["inline_svg"]

_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    WHITE: "none",
    DANGER: "var(--danger)",
    **{color: f"var(--series-{index})" for index, color in enumerate(PALETTE)},
}
# Only in attributes that matplotlib writes: text between tags stays as it is, whatever it says.
_TAG = re.compile(r"<[^>]*>")
_COLOR = re.compile("|".join(_VARIABLES))
_ID = re.compile(r'(\bid="|url\(#|xlink:href="#)')
_FONT = re.compile(r"(?<=font-family: )[^;\"]*")
# What makes a drawing half as long again and shows nowhere: names of groups, turns by nothing, more than
# hundredths of a point, and how deep lines are indented.
_GROUP = re.compile(r'<g id="[^"]*"')
_NO_TURN = re.compile(r' transform="rotate\(-?0 [^"]*\)"')
_FINE = re.compile(r"-?\b\d+\.\d{3,}")
_BETWEEN_TAGS = re.compile(r">\s+<")
_DROPPED = re.compile(r"<metadata>.*?</metadata>|<style\b.*?</style>", re.DOTALL)
_SIZE = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')


def inline_svg(plot: Plot, document: str) -> Markup:
    """`document`, the drawing of `plot`, as an `<svg>` element that can stand in a page beside others."""
    text = _DROPPED.sub("", document[document.index("<svg") :])
    text = _BETWEEN_TAGS.sub(">\n<", _TAG.sub(lambda tag: _tag(tag.group(), plot.id), text))
    width, height = _SIZE.findall(text)[0]
    opening = (
        f'<svg viewBox="0 0 {width} {height}" style="--width: {float(width):.0f}" role="img" '
        f'aria-labelledby="{plot.id}-title {plot.id}-alt">'
        f'<title id="{plot.id}-title">{escape(plot.title)}</title>'
        f'<desc id="{plot.id}-alt">{escape(plot.alt)}</desc>'
    )
    return Markup(opening + text[text.index(">") + 1 :])  # matplotlib escaped what it wrote


def _tag(tag: str, prefix: str) -> str:
    tag = _NO_TURN.sub("", _GROUP.sub("<g", tag))
    tag = _FINE.sub(lambda match: f"{float(match.group()):.2f}".rstrip("0").rstrip("."), tag)
    tag = _ID.sub(lambda match: f"{match.group()}{prefix}-", tag).replace("xlink:href", "href")
    tag = _FONT.sub("var(--font)", tag)
    return _COLOR.sub(lambda match: _VARIABLES[match.group()], tag)
