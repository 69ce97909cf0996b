"""Ticks on logarithmic axes where people expect them, written with units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from attnbench.units import format_bytes, format_ratio, format_seconds

if TYPE_CHECKING:
    from matplotlib.axis import Axis

__all__ = [
    "Scale",
    "bytes_scale",
    "error_scale",
    "fitting",
    "limits",
    "ratio_scale",
    "reached",
    "seconds_scale",
    "set_ticks",
    "thinned",
]

#: Chooses at most so many ticks for a range, and writes them.
Scale = Callable[[float, float, int], list[tuple[float, str]]]

#: How far an axis follows intervals beyond the values.
_REACH = 4.0

_STEPS: tuple[tuple[float, ...], ...] = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7))


#: Speed-ups around one, for ranges in which powers of two are few.
_FINER = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_FINEST = (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6)


def _short(text: str) -> str:
    """`1.00 ms` as `1 ms`."""
    number, _, unit = text.partition(" ")
    if "." in number and "e" not in number:
        number = number.rstrip("0").rstrip(".")
    return f"{number} {unit}".strip()


def _decimal(low: float, high: float, most: int) -> list[float]:
    """Round numbers between `low` and `high`: at least three where the range allows, at most `most`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found: list[float] = []
    for steps in _STEPS:
        ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(found) > 1 and len(ticks) > most:  # one tick alone tells no scale
            break
        found = ticks
        if len(found) >= min(4, most):
            break
    return found[:: math.ceil(len(found) / most)] if found else []


def _binary(low: float, high: float, most: int) -> list[float]:
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    step = max(1, math.ceil((last - first + 1) / most))
    return [2.0**power for power in range(first, last + 1) if power % step == 0]


def seconds_scale(low: float, high: float, most: int = 7) -> list[tuple[float, str]]:
    """Times: `200 µs`, `1 ms`."""
    return [(tick, _short(format_seconds(tick))) for tick in _decimal(low, high, most)]


def bytes_scale(low: float, high: float, most: int = 7) -> list[tuple[float, str]]:
    """Sizes at powers of two: `64 KiB`, `1 MiB`."""
    return [(tick, _short(format_bytes(tick, 4))) for tick in _binary(low, high, most)]


def error_scale(low: float, high: float, most: int = 7) -> list[tuple[float, str]]:
    """Errors: `2e-7`."""
    written = []
    for tick in _decimal(low, high, most):
        power = math.floor(math.log10(tick) + 1e-9)
        written.append((tick, f"{round(tick / 10.0**power, 3):g}e{power}"))
    return written


def ratio_scale(low: float, high: float, most: int = 7) -> list[tuple[float, str]]:
    """Speed-ups: powers of two, finer ones where the range is small, decades where it is wide; 1 always."""
    ticks = _decimal(low, high, most) if high / low > 32 else _binary(low, high, most)
    for finer in (_FINER, _FINEST):
        if len(ticks) < 4:
            ticks = [float(tick) for tick in finer if low <= tick <= high]
    return [(tick, _short(format_ratio(tick).removesuffix("×")) + "×") for tick in sorted({1.0, *ticks})]


def fitting(scale: Scale, low: float, high: float, characters: float) -> list[tuple[float, str]]:
    """The most ticks that stand side by side on a logarithmic axis as long as so many characters."""
    per_character = math.log(high / low) / characters
    for most in range(6, 0, -1):
        ticks = scale(low, high, most)
        if all(
            math.log(b / a) >= per_character * ((len(left) + len(right)) / 2 + 1)
            for (a, left), (b, right) in itertools.pairwise(ticks)
        ):
            return ticks
    return scale(low, high, 1)


def thinned(ticks: Sequence[tuple[float, str]], characters: float) -> list[tuple[float, str]]:
    """The last of `ticks`, and those before it that stand clear of their neighbours.

    They are ascending, on a logarithmic axis as long as so many characters.
    """
    per_character = math.log(ticks[-1][0] / ticks[0][0]) / characters
    kept: list[tuple[float, str]] = []
    for value, text in reversed(ticks):
        if kept:
            after, other = kept[-1]
            room = (_width(text) + _width(other)) / 2 + 1
            if math.log(after / value) < per_character * room:
                continue
        kept.append((value, text))
    return kept[::-1]


def _width(text: str) -> int:
    return max(map(len, text.split("\n")))


def limits(values: Iterable[float], least: float = 2.4, margin: float = 0.06) -> tuple[float, float]:
    """A logarithmic axis' limits around positive `values`: a factor of `least` at the least."""
    known = list(values)
    low, high = math.log(min(known)), math.log(max(known))
    missing = max(0.0, math.log(least) - (high - low)) / 2
    pad = margin * (high - low + 2 * missing)
    return math.exp(low - missing - pad), math.exp(high + missing + pad)


def reached(values: Sequence[float], ends: Iterable[float]) -> list[float]:
    """The values and the ends of their intervals, these at most `_REACH` times beyond all values.

    What few processes leave wide, by powers of ten, then runs off the axis and presses nothing together.
    """
    low, high = min(values) / _REACH, max(values) * _REACH
    return [*values, *(min(max(end, low), high) for end in ends)]


def set_ticks(axis: Axis, ticks: Sequence[tuple[float, str]]) -> None:
    """Put exactly these ticks on `axis`."""
    axis.set_ticks([value for value, _ in ticks], labels=[text for _, text in ticks])
    axis.set_ticks([], minor=True)
