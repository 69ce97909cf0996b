from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.units import format_bytes, format_count, format_ratio, format_seconds, significant


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.2345, "1.23 s"),
        (0.0123456, "12.3 ms"),
        (0.0009999, "1.00 ms"),
        (0.00099949, "999 µs"),
        (2.5e-6, "2.50 µs"),
        (3e-9, "3.00 ns"),
        (3e-11, "0.0300 ns"),
        (123456.0, "123456 s"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_seconds(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (3 * 1024**2, "3.00 MiB"),
        (2**40, "1.00 TiB"),
        (None, "–"),
    ],
)
def test_bytes_are_binary(size: int | None, text: str) -> None:
    assert format_bytes(size) == text


def test_counts_and_ratios() -> None:
    assert format_count(2.5e9, "FLOP/s") == "2.50 GFLOP/s"
    assert format_count(12, "FLOP/s") == "12.0 FLOP/s"
    assert format_count(None) == "–"
    assert format_ratio(1.854) == "1.85×"
    assert format_ratio(None) == "–"


@given(st.floats(1e-4, 9.9e5))
def test_three_digits_are_within_half_a_unit_of_the_third(value: float) -> None:
    assert float(significant(value)) == pytest.approx(value, rel=0.0051)
