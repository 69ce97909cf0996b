"""Numbers with units, as people read them. All SI formatting is here; 1 GB is 10⁹ bytes, 1 GiB is 2³⁰."""

from __future__ import annotations

import math

__all__ = [
    "KIB",
    "MIB",
    "counted",
    "format_bytes",
    "format_count",
    "format_ratio",
    "format_seconds",
    "significant",
]

KIB = 1024
MIB = 1024 * 1024

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZES = ((1024**4, "TiB"), (1024**3, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
_COUNTS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def counted(number: int, what: str) -> str:
    """`1 case`, `3 cases`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def significant(value: float, digits: int = 3) -> str:
    """`value` with at least `digits` significant digits and no exponent between 1e-4 and 1e6."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    if not -4 <= magnitude < 6:
        return f"{value:.{digits - 1}e}"
    rounded = round(value, digits - 1 - magnitude)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:.{decimals}f}"


def format_seconds(seconds: float | None, digits: int = 3) -> str:
    """Seconds in the unit that reads best: `1.23 ms`; an en dash when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    for scale, unit in _TIMES:
        if abs(seconds) >= scale * 0.9995:
            return f"{significant(seconds / scale, digits)} {unit}"
    return f"{significant(seconds / 1e-9, digits)} ns"


def format_bytes(size: float | None, digits: int = 3) -> str:
    """Bytes in binary units: `1.50 MiB`; an en dash when unknown."""
    if size is None or not math.isfinite(size):
        return "–"
    for scale, unit in _SIZES:
        if abs(size) >= scale:
            return f"{significant(size / scale, digits)} {unit}"
    return f"{size:.0f} B"


def format_count(count: float | None, unit: str = "", digits: int = 3) -> str:
    """A rate or count with an SI prefix: `12.3 GFLOP/s`; an en dash when unknown."""
    if count is None or not math.isfinite(count):
        return "–"
    for scale, prefix in _COUNTS:
        if abs(count) >= scale:
            return f"{significant(count / scale, digits)} {prefix}{unit}"
    return f"{significant(count, digits)} {unit}".rstrip()


def format_ratio(ratio: float | None, digits: int = 3) -> str:
    """A ratio: `1.85×`; an en dash when unknown."""
    if ratio is None or not math.isfinite(ratio):
        return "–"
    return f"{significant(ratio, digits)}×"
