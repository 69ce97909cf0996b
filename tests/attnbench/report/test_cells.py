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
        q_len=1,
    )
    assert text["implementation"] == "chunked(block=256,fast=true)"
    assert text["shape"] == "B1 H32kv8 Lq1 Lk512 D64"
    assert text["latency"] == "1.23 ms [1.22, 1.25]"
    assert text["speedup"] == "1.85× [1.80, 1.90]"
    assert text["memory"] == "3.00 MiB"
    assert text["error"] == "3.0e-07 (0.21)"
    assert text["status"] == "ok"


def test_the_anchor_and_the_unknown() -> None:
    assert line(speedup=1.0, speedup_ci_low=1.0, speedup_ci_high=1.0)["speedup"] == "1×"
    assert line(latency_ci_low_s=None)["latency"] == "1.00 ms"
    assert line(peak_alloc_bytes=None, peak_rss_bytes=1 << 20)["memory"] == "1.00 MiB (RSS)"
    failed = line(status="oom", reason="too large")
    assert failed["status"] == "oom"
    assert failed["latency"] == failed["memory"] == failed["error"] == failed["speedup"] == "–"


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
