"""The sinusoidal positional encoding as pictures: position × dimension, and single dimensions as waves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from attnbench.plots.style import INK, MUTED, PALETTE, drawing
from attnbench.units import significant

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["sinusoidal_encoding", "sinusoidal_positions", "wavelength"]

#: The wavelengths go from 2π towards so many times that.
BASE = 10000.0

#: Where among the dimensions the waves stand that are drawn by default: closer where they are fast.
_WAVES = (0.0, 0.1, 0.2, 0.35, 0.6, 1.0)

#: Points of a drawn curve: eight a position within these bounds. Of 10000 positions a wave has ten at least.
_FEWEST_POINTS, _MOST_POINTS, _BETWEEN_POSITIONS = 256, 16384, 8

#: Of more positions than this, fast waves could only be drawn as slower ones.
MOST_DRAWN = 10_000

#: Beyond so many positions the dots on a curve would touch.
_MOST_DOTS = 80

#: No more rows, or columns, than the map has dots.
_MOST_POSITIONS, _MOST_DIMENSIONS = 512, 640


def sinusoidal_encoding(length: int, embed_dim: int) -> npt.NDArray[np.float64]:
    """The encoding of the first `length` positions, float64 `[length, embed_dim]`.

    PE[p, 2i] = sin(p / 10000^(2i/E)) and PE[p, 2i+1] = cos(p / 10000^(2i/E)) with E = `embed_dim` (Vaswani et
    al., Attention Is All You Need, 2017, §3.5). Of an odd E the last cosine is left out.

    Raises:
        ValueError: a size below 1.
    """
    _require(length, embed_dim)
    return _encoding(np.arange(length, dtype=np.float64), np.arange(embed_dim), embed_dim)


def wavelength(dimension: int, embed_dim: int) -> float:
    """After how many positions a dimension repeats: 2π·10000^(2i/E) for the dimensions 2i and 2i + 1.

    Raises:
        ValueError: there is no such dimension.
    """
    if not 0 <= dimension < embed_dim:
        raise ValueError(
            f"dimension must be from 0 to {embed_dim - 1} (embed_dim {embed_dim}), got {dimension}"
        )
    return float(2 * np.pi * BASE ** (dimension // 2 * 2 / embed_dim))


def sinusoidal_positions(
    length: int = 64, embed_dim: int = 128, *, dimensions: Sequence[int] | None = None
) -> Figure:
    """The sinusoidal positional encoding: a map of position × dimension, beside waves of single dimensions.

    Each wave is a pair of dimensions, 2i (sine) and 2i + 1 (cosine), with their wavelength: from 2π at
    dimension 0 towards 10000·2π at the last. `dimensions` chooses the pairs by either of the two; by default
    they are spread over all. Dots are whole positions, which is where the encoding is read.

    Raises:
        ValueError: a size below 1, more than 10000 positions, no dimension, or one that there is not.
    """
    _require(length, embed_dim)
    if length > MOST_DRAWN:
        raise ValueError(
            f"length must be at most {MOST_DRAWN} in a picture, got {length}: fast waves would look slow"
        )
    if dimensions is None:
        last = (embed_dim - 1) // 2
        chosen = sorted({round(last * share) for share in _WAVES})
    else:
        for each in dimensions:
            wavelength(each, embed_dim)
        chosen = list(dict.fromkeys(each // 2 for each in dimensions))
    if not chosen:
        raise ValueError("dimensions must name at least one dimension, got none")
    with drawing():
        return _drawn(length, embed_dim, [2 * pair for pair in chosen])


def _require(length: int, embed_dim: int) -> None:
    for name, size in (("length", length), ("embed_dim", embed_dim)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _encoding(
    positions: npt.NDArray[np.float64], dimensions: npt.NDArray[np.int64], embed_dim: int
) -> npt.NDArray[np.float64]:
    """The encoding of any positions, whole or not: `[positions, dimensions]`."""
    even = dimensions - dimensions % 2
    angles = positions[:, None] / BASE ** (even / embed_dim)
    return np.where(dimensions % 2 == 0, np.sin(angles), np.cos(angles))


def _drawn(length: int, embed_dim: int, dimensions: Sequence[int]) -> Figure:
    from matplotlib.figure import Figure

    height = max(4.0, 0.5 + 0.7 * len(dimensions))
    figure = Figure(figsize=(9.6, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.04)  # type: ignore[union-attr, call-arg]  # the base class's stub lacks the engine's own parameters
    places = figure.add_gridspec(len(dimensions), 2, width_ratios=(1.15, 1))
    _map(figure, figure.add_subplot(places[:, 0]), length, embed_dim, dimensions)
    waves = [figure.add_subplot(places[row, 1]) for row in range(len(dimensions))]
    for axes, dimension in zip(waves, dimensions, strict=True):
        _wave(axes, length, embed_dim, dimension, last=axes is waves[-1])
    handles, labels = waves[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(handles), handlelength=2.4)
    return figure


def _map(figure: Figure, axes: Axes, length: int, embed_dim: int, marked: Sequence[int]) -> None:
    """Position × dimension, and marks above the dimensions whose waves are beside."""
    every = -(-embed_dim // _MOST_DIMENSIONS)
    dimensions = np.arange(embed_dim)
    # Whole pairs are left out, never the cosines alone.
    values, several = _rows(length, dimensions[dimensions // 2 % every == 0], embed_dim)
    image = axes.imshow(
        values,
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        interpolation="nearest",
        aspect="auto",
        extent=(-0.5, values.shape[1] * every - 0.5, values.shape[0] * several - 0.5, -0.5),
    )
    axes.set(
        xlim=(-0.5, embed_dim - 0.5),
        ylim=(length - 0.5, -0.5),
        xlabel="dimension" + f" (one pair in {every} is shown)" * (every > 1),
        ylabel="position" + f" (each row the mean of {several})" * (several > 1),
    )
    axes.set_title(f"{length} positions × {embed_dim} dimensions", pad=12)
    for axis in (axes.xaxis, axes.yaxis):
        _whole(axis)
    axes.grid(visible=False)
    axes.spines[["top", "right"]].set_visible(True)
    axes.plot(
        marked,
        [1.02] * len(marked),
        linestyle="none",
        marker="v",
        color=INK,
        clip_on=False,
        transform=axes.get_xaxis_transform(),
    )
    bar = figure.colorbar(image, ax=axes, label="value", pad=0.015, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_edgecolor(MUTED)


def _rows(
    length: int, dimensions: npt.NDArray[np.int64], embed_dim: int
) -> tuple[npt.NDArray[np.float64], int]:
    """The rows of the map, and of how many positions each is the mean.

    The mean of a wave that is too fast to be shown is 0; single values of it would show waves that there are
    not.
    """
    several = -(-length // _MOST_POSITIONS)
    positions = np.arange(length, dtype=np.float64)
    rows = [
        _encoding(positions[first : first + several], dimensions, embed_dim).mean(0)
        for first in range(0, length, several)
    ]
    return np.stack(rows), several


def _points(length: int) -> int:
    return min(max(_FEWEST_POINTS, _BETWEEN_POSITIONS * length), _MOST_POINTS)


def _whole(axis: Axis) -> None:
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def _wave(axes: Axes, length: int, embed_dim: int, dimension: int, *, last: bool) -> None:
    """Sine and cosine of one wavelength along the positions."""
    pair = np.arange(dimension, min(dimension + 2, embed_dim))
    fine = np.linspace(0, max(length - 1, 1), _points(length))
    curves = _encoding(fine, pair, embed_dim)
    positions = np.arange(length, dtype=np.float64)
    dots = _encoding(positions, pair, embed_dim)
    for index, (name, color, dash) in enumerate(
        (("sine, 2i", PALETTE[0], "-"), ("cosine, 2i + 1", PALETTE[1], (0, (4, 1.5))))
    ):
        if index == len(pair):
            break
        axes.plot(fine, curves[:, index], color=color, linestyle=dash, linewidth=1.2, label=name)
        if length <= _MOST_DOTS:
            axes.plot(positions, dots[:, index], color=color, linestyle="none", marker="o", markersize=2.4)
    axes.set_title(_wave_title(dimension, embed_dim), fontsize=8.5, fontweight="normal", pad=3)
    axes.set(ylim=(-1.15, 1.15), yticks=(-1, 0, 1), xlim=(-0.5, max(length - 1, 1) + 0.5))
    axes.tick_params(labelbottom=last, labelsize=8)
    _whole(axes.xaxis)
    if last:
        axes.set_xlabel("position")


def _wave_title(dimension: int, embed_dim: int) -> str:
    """`dimensions 42, 43: wavelength 20.7·2π = 130`, in positions."""
    length = wavelength(dimension, embed_dim)
    pair = (
        f"dimensions {dimension}, {dimension + 1}" if dimension + 1 < embed_dim else f"dimension {dimension}"
    )
    turns = length / (2 * math.pi)
    times = "2π" if dimension == 0 else f"{significant(turns)}·2π"
    return f"{pair}: wavelength {times} = {significant(length)}"
