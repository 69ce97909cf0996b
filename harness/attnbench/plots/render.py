"""Figures as bytes: the same data give the same bytes."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from attnbench.plots.style import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attnbench.plots.plot import Plot

__all__ = ["WHITE", "png", "png_of", "svg", "svg_of"]

#: The background of figures on disk; a page takes it away.
WHITE = "#ffffff"

_DPI = 144


def _saved(figure: Figure, format_: str, **options: Any) -> bytes:
    buffer = BytesIO()
    with drawing():
        figure.savefig(buffer, format=format_, facecolor=WHITE, **options)
    return buffer.getvalue()


def svg_of(figure: Figure) -> str:
    """The figure as an SVG document on white; heat maps in it have the dots of the PNG."""
    return _saved(figure, "svg", dpi=_DPI, metadata={"Date": None, "Creator": None}).decode("utf-8")


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG on white."""
    return _saved(figure, "png", dpi=_DPI, metadata={"Software": None})


def _drawn(plot: Plot) -> Figure:
    with drawing():
        return plot.draw()


def svg(plot: Plot) -> str:
    """The plot as an SVG document on white."""
    return svg_of(_drawn(plot))


def png(plot: Plot) -> bytes:
    """The plot as a PNG on white."""
    return png_of(_drawn(plot))
