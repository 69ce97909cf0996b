"""The table of a sweep at every width, and the displays of its progress."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from attnbench.cli import cells, terminal
from attnbench.cli.results import print_results
from attnbench.report.cells import PARTIAL_MEANING


def row(**overrides: Any) -> dict[str, Any]:
    """A row of the table, as `cells.rows_of` makes it."""
    plain = {
        "scenario": "quick",
        "block_id": "attention/B1-H8-L512-D64/float32/none/forward/cpu",
        "implementation": "naive",
        "options": None,
        "device": "cpu",
        "dtype": "float32",
        "mask": "none",
        "pass": "forward",
        "inputs": "normal",
        "batch": 1,
        "heads": 8,
        "kv_heads": 8,
        "q_len": 512,
        "kv_len": 512,
        "head_dim": 64,
        "status": "ok",
        "reason": None,
        "accuracy": "pass",
        "flagged": None,
        "latency_median_s": 1.234e-3,
        "latency_ci_low_s": 1.21e-3,
        "latency_ci_high_s": 1.26e-3,
        "speedup": 1.85,
        "peak_alloc_bytes": 3 << 20,
        "error_rel_l2": 1.2e-6,
        "error_ratio": 0.31,
    }
    return {**plain, **overrides}


UNMEASURED = dict.fromkeys(
    (
        "latency_median_s",
        "latency_ci_low_s",
        "latency_ci_high_s",
        "speedup",
        "peak_alloc_bytes",
        "error_rel_l2",
        "error_ratio",
        "accuracy",
    )
)

ROWS = [
    row(),
    row(implementation="chunked", options="block=256", block_id="2", mask="causal", q_len=2048, kv_len=2048),
    row(
        implementation="sdpa_flash",
        status="unsupported",
        reason="float64 [red]is\x1b not taken",
        **UNMEASURED,
    ),
    row(implementation="mine", accuracy="fail", reason="o: 12 times its bound", error_ratio=24.0),
]


def drawn(rows: list[dict[str, Any]], width: int, *, color: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
    )
    print_results(rows, console)
    return stream.getvalue()


def test_wide_table_says_all_of_a_case_in_one_line() -> None:
    text = drawn(ROWS, 200)
    line = next(line for line in text.splitlines() if "naive" in line)
    for part in ("B1-H8-L512-D64", "none", "1.23 ms", "[1.21, 1.26]", "1.85×", "3.00 MiB", "1.2e-06"):
        assert part in line
    assert re.search(r"0\.31\s+ok", line)
    assert "all cases: B1-H8-D64 · quick · cpu · float32 · forward · normal" in text


@pytest.mark.parametrize("width", [40, 60, 72, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(len(line) for line in drawn(ROWS, width).splitlines()) <= width


@pytest.mark.parametrize("width", [64, 72, 80, 100, 120])
def test_every_case_stays_one_line_with_its_workload(width: int) -> None:
    lines = drawn(ROWS, width).splitlines()
    index = next(number for number, line in enumerate(lines) if "chunked(block=256)" in line)
    assert "1.23 ms" in lines[index]
    assert "1.85×" in lines[index]
    assert lines[index].rstrip().endswith("ok")
    # In the line itself, or in the heading above it.
    assert "L2048" in lines[index - 1] + lines[index]
    assert "causal" in lines[index - 1] + lines[index]


def test_narrow_tables_lose_the_least_telling_first() -> None:
    assert "95% interval" in drawn(ROWS, 200)
    assert "1.2e-06" in drawn(ROWS, 100)
    narrow = drawn(ROWS, 80)
    assert "95% interval" not in narrow
    assert "±2.0%" in narrow
    for header in ("implementation", "latency", "speed-up", "memory", "ratio", "status"):
        assert header in narrow
    assert "L2048 · causal" in narrow


def test_intervals_wider_than_asked_are_marked_and_explained() -> None:
    wide = row(converged=False, latency_ci_high_s=1.26)
    assert "≈[1.21 ms, 1.26 s]" in drawn([row(), wide], 200)
    assert drawn([row(), wide], 200).rstrip().endswith("≈ the interval is wider than the precision asked")
    assert "≈" not in drawn([row()], 200)
    assert "≈" not in drawn([row(), wide], 80)  # there the width itself is shown
    assert "±>100%" in drawn([row(), wide], 80)


def test_partial_memory_is_marked_and_explained_where_it_is_shown() -> None:
    partial = row(peak_rss_bytes=1 << 30, reason="peak_alloc_bytes is partial: unseen")
    assert "≥ 3.00 MiB" in drawn([row(), partial], 200)
    assert drawn([row(), partial], 200).rstrip().endswith(PARTIAL_MEANING)
    assert "≥" not in drawn([row(), partial], 40)
    assert "unseen" not in cells.case_line(partial)
    assert "≥ 3.00 MiB" in cells.case_line(partial)
    assert cells.case_line({**partial, "accuracy": "fail"}).endswith(
        "wrong: peak_alloc_bytes is partial: unseen"
    )


def test_sweeps_of_many_axes_fit_eighty_columns() -> None:
    rows = [
        row(
            implementation=name,
            options="block=256" if name == "chunked" else None,
            block_id=f"{mask} {dtype} {pass_}",
            q_len=256,
            kv_len=1024,
            heads=8,
            kv_heads=kv_heads,
            dtype=dtype,
            mask=mask,
            **{"pass": pass_},
        )
        for mask, dtype, pass_, kv_heads in (
            ("none", "float32", "forward", 8),
            ("causal", "bfloat16", "forward_backward", 2),
        )
        for name in ("naive", "chunked", "sdpa")
    ]
    lines = drawn(rows, 80).splitlines()
    assert "H8kv2 · bfloat16 · causal · forward_backward" in [line.strip() for line in lines]
    assert sum("1.23 ms ±2.0%" in line and "0.31" in line and "3.00 MiB" in line for line in lines) == 6


def test_what_is_common_is_said_once_and_only_if_it_is() -> None:
    decoding = [row(block_id=str(length), q_len=1, kv_len=length) for length in (512, 1024)]
    text = drawn(decoding, 80)
    assert text.startswith("all cases: B1-H8-D64 · quick")
    assert "Lq1-Lk1024" in text


def test_another_size_of_values_is_told_of_the_shape() -> None:
    text = drawn([row(head_dim=192, v_head_dim=128), row(block_id="2", head_dim=192, v_head_dim=192)], 80)
    assert text.startswith("all cases: B1-H8-L512 · quick")
    assert "D192v128" in text
    assert "all cases: B1-H8-L512-D192v128 " in drawn([row(head_dim=192, v_head_dim=128)], 80)


def test_reasons_stand_below_and_cannot_steer_the_terminal() -> None:
    text = drawn(ROWS, 120)
    assert "sdpa_flash: unsupported: float64 [red]is not taken" in text
    assert "mine: wrong: o: 12 times its bound" in text
    assert "\x1b" not in text


def test_equal_reasons_are_told_once() -> None:
    rows = [row(status="oom", reason="no memory", **UNMEASURED) for _ in range(3)]
    assert drawn(rows, 120).count("naive: oom (3 cases): no memory") == 1


def test_wrong_answers_that_differ_by_their_figures_alone_are_told_once() -> None:
    reasons = (
        "o: the error at [0, 3] is 6.3e+03 times its bound",
        "o: the error at [1, 2] is 12 times its bound",
    )
    rows = [row(accuracy="fail", reason=reason) for reason in (*reasons, "o has 3 non-finite values")]
    text = drawn(rows, 120)
    assert f"naive: wrong (2 cases): {reasons[0]}" in text
    assert reasons[1] not in text
    assert "naive: wrong: o has 3 non-finite values" in text


def test_wrong_answers_are_struck_out() -> None:
    coloured = drawn([row(), row(implementation="mine", accuracy="fail")], 120, color=True)
    struck = [line for line in coloured.splitlines() if "\x1b[9m" in line]
    assert len(struck) == 1
    assert "mine" in struck[0]
    assert "wrong" in struck[0]


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in drawn([row(status="error", reason="x", **UNMEASURED)], 120, color=True)


def test_columns_bound_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.console(io.StringIO()).width == terminal.UNBOUNDED_WIDTH
    monkeypatch.setenv("COLUMNS", "91")
    assert terminal.console(io.StringIO()).width == 91


def test_no_rows_are_said() -> None:
    assert drawn([], 80) == "No case was measured.\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min"), (80, "1 min 20 s"), (7500, "2 h 5 min"), (3599.7, "1 h"), (7200, "2 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert cells.duration(seconds) == text


@pytest.mark.parametrize(
    ("overrides", "is_failed"),
    [
        ({}, False),
        ({"accuracy": "fail"}, True),
        ({"accuracy": "unchecked"}, False),
        ({"status": "oom"}, True),
        ({"status": "timeout"}, True),
        ({"status": "crashed"}, True),
        ({"status": "error"}, True),
        ({"status": "unsupported"}, False),
        ({"status": "unavailable"}, False),
    ],
)
def test_what_strict_counts_as_failed(overrides: dict[str, Any], is_failed: bool) -> None:
    assert cells.failed(row(**overrides)) is is_failed


class Seconds:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_follows_the_pace() -> None:
    clock = Seconds()
    progress = terminal.PlainProgress(clock)
    progress.sweep_started(2, 4, 100.0)
    assert progress.left_s == 100.0
    clock.now = 10.0
    progress.progress(50.0, 100.0)  # half of the budget in a tenth of it
    assert progress.left_s == pytest.approx(10.0)
    progress.progress(100.0, 100.0)
    assert progress.left_s == 0.0


def test_plain_progress_is_a_line_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    progress = terminal.PlainProgress()
    progress.sweep_started(1, 12, 75.0)
    progress.show_rows(ROWS)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "12 cases in 1 block, at most about 1 min 15 s"
    assert len(lines) == 1 + len(ROWS)
    assert "sdpa_flash" in lines[3]
    assert lines[3].endswith("unsupported: float64 [red]is not taken")
    assert lines[4].endswith("wrong: o: 12 times its bound")


def test_live_progress_draws_on_a_terminal_and_clears_itself() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, height=20, force_terminal=True)
    with terminal.LiveProgress(console, Seconds()) as progress:
        progress.sweep_started(1, 40, 60.0)
        progress.show_rows(ROWS * 10)
        progress.progress(30.0, 60.0)
    text = stream.getvalue()
    assert "about 1 min left" in text
    assert "chunked(block=256)" in text
    assert text.endswith("\x1b[2K")


def test_live_progress_keeps_the_bar_in_sight() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=60, height=14, force_terminal=True)
    with terminal.LiveProgress(console, Seconds()) as progress:
        progress.sweep_started(20, 40, 60.0)
        before = len(stream.getvalue())
        progress.show_rows(
            [row(block_id=f"block {number // 2}", options="block=256") for number in range(40)]
        )
        drawn = stream.getvalue()[before:]
    assert "about 1 min left" in drawn
    assert len(drawn.splitlines()) <= 14


def test_plain_is_chosen_where_there_is_no_terminal() -> None:
    assert isinstance(terminal.progress_display(), terminal.PlainProgress)
