from __future__ import annotations

import subprocess
import sys

import pytest

from attnbench.plots.rows import rows_of
from attnbench.report import cells
from frames import frame, row


def line(**changes: object) -> dict[str, str]:
    return cells.cells(rows_of(frame(row(**changes)))[0])  # type: ignore[arg-type]  # columns by name


def test_a_row_reads_with_units_and_intervals() -> None:
    text = line(
        implementation="chunked",
        options="block=256, fast=true",
        latency=1.234e-3,
        speedup=1.85,
        speedup_ci_low=1.8,
        speedup_ci_high=1.9,
        peak_alloc_bytes=3 << 20,
        heads=32,
        kv_heads=8,
        q_len=1,
    )
    assert text["implementation"] == "chunked(block=256,fast=true)"
    assert text["shape"] == "B1-H32kv8-Lq1-Lk512-D64"
    assert text["latency"] == "1.23 ms [1.22, 1.25]"
    assert text["speedup"] == "1.85× [1.80, 1.90]"
    assert text["memory"] == "3.00 MiB"
    assert (text["error"], text["ratio"]) == ("3.0e-07", "0.21")
    assert text["status"] == "ok"


def test_the_anchor_and_the_unknown() -> None:
    assert line(speedup=1.0, speedup_ci_low=1.0, speedup_ci_high=1.0)["speedup"] == "1×"
    assert line(latency_ci_low_s=None)["latency"] == "1.00 ms"
    assert line(peak_alloc_bytes=None, peak_rss_bytes=1 << 20)["memory"] == "1.00 MiB (RSS)"
    failed = line(status="oom", reason="too large")
    assert failed["status"] == "oom"
    assert failed["latency"] == failed["memory"] == failed["error"] == failed["speedup"] == "–"


def test_memory_that_the_allocator_does_not_see_in_full_is_a_lower_bound() -> None:
    def text(peak: int, resident: int | None) -> str:
        return line(peak_alloc_bytes=peak, peak_rss_bytes=resident)["memory"]

    assert text(10 << 20, 20 << 20) == "≥ 10.0 MiB"
    assert text(10 << 20, 19 << 20) == "10.0 MiB"  # a tenth and 8 MiB are what RSS may exceed it by
    assert text(10 << 20, None) == "10.0 MiB"
    assert text(0, 64 << 20) == "≥ 0 B"


def test_marks_are_explained_where_they_stand() -> None:
    plain, wide, partial = rows_of(
        frame(row(), row(converged=False), row(peak_alloc_bytes=1, peak_rss_bytes=1 << 30))
    )
    assert cells.legend([plain]) == []
    assert cells.legend([plain, wide]) == [cells.WIDE_MEANING]
    assert cells.legend([partial, plain, wide]) == [cells.WIDE_MEANING, cells.PARTIAL_MEANING]


@pytest.mark.parametrize(
    ("median", "low", "high", "expected"),
    [
        (1.234e-3, 1.21e-3, 1.26e-3, "[1.21, 1.26]"),
        (1.234e-3, 0.568e-3, 3.73e-3, "[0.568, 3.73]"),
        (605e-6, 385e-6, 1238e-6, "[385 µs, 1.24 ms]"),
        (605e-6, 385e-6, 999.4e-6, "[385, 999]"),
        (783e-6, 282e-6, 19.838e-3, "[282 µs, 19.8 ms]"),
        (1.2, 20e-3, 70.0, "[20.0 ms, 70.0 s]"),
        (605e-6, 46e-12, 1920.0, "±>100%"),
        (1.2, None, None, ""),
    ],
)
def test_intervals_have_three_digits_and_a_unit_that_fits(
    median: float, low: float, high: float, expected: str
) -> None:
    (found,) = rows_of(frame(row(latency_median_s=median, latency_ci_low_s=low, latency_ci_high_s=high)))
    assert cells.latency_interval(found) == expected


def test_wide_intervals_are_marked_but_their_status_is_ok() -> None:
    text = line(converged=False)
    assert text["latency"] == "1.00 ms ≈[0.990, 1.01]"
    assert text["status"] == "ok"


def test_spread_is_half_the_width() -> None:
    (found,) = rows_of(frame(row(spread=0.021)))
    assert cells.latency_spread(found) == "±2.1%"
    assert cells.latency_spread({**found, "latency_ci_high_s": 1.0}) == "±>100%"
    assert cells.latency_spread({**found, "latency_ci_low_s": None}) == ""


def test_shapes_read_as_in_case_ids() -> None:
    (grouped,) = rows_of(frame(row(heads=32, kv_heads=8, q_len=1)))
    assert cells.shape(grouped) == "B1-H32kv8-Lq1-Lk512-D64"
    assert cells.shape(grouped, ["kv_len"]) == "Lq1-Lk512"
    assert cells.shape(grouped, ["batch", "head_dim"]) == "B1-D64"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "ok"),
        ({"accuracy": "fail"}, "wrong"),
        ({"flagged": True}, "flagged"),
        ({"accuracy": "unchecked"}, "ok, unchecked"),
        ({"status": "timeout"}, "timeout"),
    ],
)
def test_the_status_in_words(changes: dict[str, object], expected: str) -> None:
    assert line(**changes)["status"] == expected


@pytest.mark.parametrize(
    ("column", "content", "expected"),
    [
        ("latency_median_s", 2e-6, "2.00 µs"),
        ("peak_rss_bytes", 2048, "2.00 KiB"),
        ("speedup_ci_low", 1.5, "1.50×"),
        ("error_max_abs", 1.25e-7, "1.2e-07"),
        ("error_rel_l2", 0.0, "0"),
        ("tflops_per_s", 0.5, "500 GFLOP/s"),
        ("gb_per_s", 12.0, "12.0 GB/s"),
        ("roofline_fraction", 0.4567, "46%"),
        ("roofline_fraction", 0.00031, "0.031%"),
        ("samples", 40, "40"),
        ("converged", False, "no"),
        ("error_floor", None, "–"),
        ("mask", "cau\x1bsal", "cau␛sal"),
    ],
)
def test_values_take_the_unit_of_their_column(column: str, content: object, expected: str) -> None:
    assert cells.value(column, content) == expected


def test_cells_load_nothing_heavy() -> None:
    code = (
        "import sys, attnbench.report.cells; "
        "print(sorted({'torch', 'matplotlib', 'pandas', 'jinja2', 'pyarrow', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_another_size_of_values_stands_beside_the_head_size() -> None:
    (wide,) = rows_of(frame(row(head_dim=192, v_head_dim=128)))
    assert cells.shape(wide) == "B1-H8-L512-D192v128"
    (plain,) = rows_of(frame(row(head_dim=192)))
    assert cells.shape(plain) == "B1-H8-L512-D192"
