"""How figures look: colours, markers, fonts, and a drawing context that no user setting can disturb."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["DANGER", "GRID", "INK", "MUTED", "PALETTE", "PAPER", "Look", "drawing", "looks"]

#: Ink, secondary ink, grid lines, paper and alarm. The inline figures of a page replace each of these, and
#: each colour of the palette, by a CSS variable, so that they follow the page's theme.
INK = "#1c2128"
MUTED = "#59626f"
GRID = "#dde1e7"
PAPER = "#fffffe"
DANGER = "#c11f3a"

#: Distinct for the colour-blind (after Okabe and Ito), each with a contrast of 3 : 1 on white.
PALETTE = ("#0072b2", "#d55e00", "#008f68", "#b8478b", "#9a7400", "#4b5563", "#6a4ca3", "#2f8fc4")

# As many as share no factor with the palette's length: the pair repeats after 88 implementations only.
_MARKERS = ("o", "s", "^", "D", "v", "P", "p", "<", "h", ">", "d")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (5, 1.4, 1.2, 1.4)), (0, (2.6, 1.3)), (0, (8, 2)))

_SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names from outside may hold a dollar sign
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "figure.dpi": 100,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",  # text stays text: light, selectable, and in the page's own font
    "svg.hashsalt": "attnbench",
    "path.simplify": False,
}


@dataclass(frozen=True, slots=True)
class Look:
    """How one implementation is drawn, in every figure alike; tells series apart in grey scale too."""

    color: str
    marker: str
    dash: Any


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look for each implementation, by its place in `labels`."""
    return {
        label: Look(PALETTE[i % len(PALETTE)], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)])
        for i, label in enumerate(labels)
    }


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save under our settings alone, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        # Names may hold any character; the SVG carries them as text, and the PNG shows a box.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message="Matplotlib currently does not support", category=UserWarning
        )
        yield
