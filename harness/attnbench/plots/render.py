"""Figures as bytes: the same data give the same bytes."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from attnbench.plots.style import drawing

if TYPE_CHECKING:
    from attnbench.plots.plot import Plot

__all__ = ["png", "svg"]

_DPI = 144


def _saved(plot: Plot, format_: str, **options: Any) -> bytes:
    buffer = BytesIO()
    with drawing():
        plot.draw().savefig(buffer, format=format_, **options)
    return buffer.getvalue()


def svg(plot: Plot, *, background: str = "white") -> str:
    """The figure as an SVG document; `background` may be `none`."""
    data = _saved(plot, "svg", facecolor=background, metadata={"Date": None, "Creator": None})
    return data.decode("utf-8")


def png(plot: Plot) -> bytes:
    """The figure as a PNG on white."""
    return _saved(plot, "png", facecolor="white", dpi=_DPI, metadata={"Software": None})
