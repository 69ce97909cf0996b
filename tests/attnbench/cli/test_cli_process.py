"""The program as users start it: real processes, real kernels, real signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from attnbench import store

pytestmark = pytest.mark.slow

PATIENCE_S = 120

SCENARIO = """\
name: small
operation: attention
implementations: [naive, numpy]
matrix: {heads: 2, head_dim: 16, seq_len: [16, 32, 64, 96]}
measure: {precision: 0.1, max_seconds: 0.1, processes: 2}
"""


def attnbench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attnbench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_real_sweep_with_its_report(tmp_path: Path) -> None:
    done = attnbench("sweep", "smoke", "--report", "--json", "--strict", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["statuses"] == {"ok": document["cases"]}
    assert {row["accuracy"] for row in document["rows"]} == {"pass"}
    assert (tmp_path / document["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (tmp_path / document["run"] / "table.parquet").exists()


def test_a_cold_sweep_times_single_calls_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SCENARIO.replace("[16, 32, 64, 96]", "64"))
    done = attnbench("sweep", "small.yaml", "--set", "measure.cache=cold", "--name", "cold", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = store.read(tmp_path / "results" / "cold").records
    assert {record.framework for record in records} == {"torch", "numpy"}
    for record in records:
        assert (record.status, record.cache) == ("ok", "cold")
        assert {process.calls for process in record.processes} == {1}
    assert "Timed cold" in done.stdout
    assert "Timed cold" in attnbench("show", "results/cold", cwd=tmp_path).stdout


def interrupted(number: signal.Signals, *arguments: str, cwd: Path) -> str:
    """What a sweep tells that gets a signal after its first case; it ends all that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "attnbench", "sweep", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        # What a shell starts in the background inherits that SIGINT is ignored, and so would the sweep.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        assert process.stderr is not None
        assert any(line.startswith("[1/") for line in process.stderr)
        ours = psutil.Process(process.pid).children(recursive=True)
        assert ours
        process.send_signal(number)
        told = process.stderr.read()
        assert process.wait(PATIENCE_S) == 130
    assert psutil.wait_procs(ours, timeout=PATIENCE_S)[1] == []
    return told


def test_an_interrupted_sweep_ends_everything_and_goes_on(tmp_path: Path) -> None:
    """By Ctrl-C, and then, resumed, as a scheduler does it."""
    (tmp_path / "small.yaml").write_text(SCENARIO)
    told = interrupted(signal.SIGINT, "small.yaml", "--name", "one", cwd=tmp_path)
    assert "kept in results/one; go on with: attnbench sweep --resume results/one" in told
    kept = store.read(tmp_path / "results/one").records
    assert 2 <= len(kept) < 8

    told = interrupted(signal.SIGTERM, "--resume", "results/one", cwd=tmp_path)
    assert "kept in results/one; go on with: attnbench sweep --resume results/one" in told
    more = store.read(tmp_path / "results/one").records
    assert len(kept) < len(more) < 8
    assert more[: len(kept)] == kept

    done = attnbench("sweep", "--resume", "results/one", "--strict", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = store.read(tmp_path / "results/one").records
    assert len(records) == 8
    assert records[: len(more)] == more


def test_a_plug_in_takes_part(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import attnbench\n"
        "@attnbench.attention('mine')\n"
        "def mine(q, k, v, *, mask, scale):\n"
        '    """Scaled wrongly."""\n'
        "    return (q @ k.mT * scale).softmax(-1) @ v * 1.01\n"
    )
    (tmp_path / "small.yaml").write_text(SCENARIO.replace("[16, 32, 64, 96]", "16"))
    arguments = ("small.yaml", "--plugin", "mine.py", "--impl", "mine", "--impl", "naive")
    done = attnbench("sweep", *arguments, "--strict", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "mine: wrong" in done.stdout


def test_a_plug_in_that_raises_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("1 / 0\n")
    done = attnbench("sweep", "smoke", "--plugin", "mine.py", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "mine.py" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()
