"""Figures as bytes: the same data give the same bytes."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from attnbench.plots.style import drawing

if TYPE_CHECKING:
    from attnbench.plots.plot import Plot

__all__ = ["WHITE", "png", "svg"]

#: The background of figures on disk; a page takes it away.
WHITE = "#ffffff"

_DPI = 144


def _saved(plot: Plot, format_: str, **options: Any) -> bytes:
    buffer = BytesIO()
    with drawing():
        plot.draw().savefig(buffer, format=format_, **options)
    return buffer.getvalue()


def svg(plot: Plot) -> str:
    """The figure as an SVG document on white."""
    return _saved(plot, "svg", facecolor=WHITE, metadata={"Date": None, "Creator": None}).decode("utf-8")


def png(plot: Plot) -> bytes:
    """The figure as a PNG on white."""
    return _saved(plot, "png", facecolor=WHITE, dpi=_DPI, metadata={"Software": None})
