"""`attnbench check` as users start it: real processes, real kernels, each exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

PATIENCE_S = 120

#: A gate so wide that no noise reaches it, decided by six pairs.
SCENARIO = """\
name: small
operation: attention
implementations: [mine]
matrix: {heads: 4, head_dim: 32, seq_len: 64}
measure: {precision: 0.1, max_seconds: 0.1, processes: 2}
check: {gate: 0.9, alpha: 0.4, beta: 0.4, pairs: [6]}
"""

KERNEL = """\
import attnbench

@attnbench.attention("mine")
def mine(q, k, v, *, mask, scale):
    "The textbook algorithm, TIMES times."
    for _ in range(TIMES):
        out = (q @ k.mT * scale).softmax(-1) @ v
    return out
"""


def kernel(times: int) -> str:
    return KERNEL.replace("TIMES", str(times))


def attnbench(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "attnbench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SCENARIO)
    (tmp_path / "once.py").write_text(kernel(1))
    (tmp_path / "often.py").write_text(kernel(8))
    return tmp_path


def test_a_slow_down_fails_with_its_documents(place: Path) -> None:
    page = place / "summary.md"
    done = attnbench(
        *("check", "small.yaml", "--base", "once.py", "--head", "often.py", "-o", "gate"),
        cwd=place,
        GITHUB_STEP_SUMMARY=str(page),
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("FAIL  small: 1 of 1 case failed\n")
    document = json.loads((place / "gate/check.json").read_text(encoding="utf-8"))
    assert (document["outcome"], document["exit_code"]) == ("FAIL", 1)
    assert document["cases"][0]["latency"]["ratio"] > 2
    assert page.read_text(encoding="utf-8") == "\n" + (place / "gate/check.md").read_text(encoding="utf-8")


def test_the_same_passes(place: Path) -> None:
    """Exit code 3, of what cannot be told, is `tests/test_ci_documents.py`'s."""
    arms = ("--base", "once.py", "--head", "once.py")
    done = attnbench("check", "small.yaml", *arms, "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cases"][0]["outcome"] == "PASS"


def test_a_base_that_cannot_be_imported_is_an_error_on_the_page(place: Path) -> None:
    (place / "broken.py").write_text("import no_such_kernel\n")
    page = place / "summary.md"
    done = attnbench(
        *("check", "small.yaml", "--base", "broken.py", "--head", "once.py"),
        cwd=place,
        GITHUB_STEP_SUMMARY=str(page),
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "--base broken.py" in done.stderr
    assert "no_such_kernel" in done.stderr
    assert "Traceback" not in done.stderr
    assert page.read_text(encoding="utf-8").lstrip().startswith("# attnbench check: ERROR\n")


def test_a_stored_run_judges_by_its_memory(place: Path) -> None:
    done = attnbench("sweep", "small.yaml", "--plugin", "once.py", "--name", "old", cwd=place)
    assert done.returncode == 0, done.stderr
    (place / "hungry.py").write_text(
        kernel(1).replace("    return", "    import torch\n    torch.empty(10**6)\n    return")
    )
    done = attnbench(
        *("check", "small.yaml", "--baseline", "results/old", "--plugin", "hungry.py"),
        *("--set", "check.latency=false"),
        cwd=place,
    )
    assert done.returncode == 1, done.stderr
    assert "peak_alloc_bytes" in done.stdout


def test_a_cancelled_check_leaves_nothing_behind(place: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "attnbench", "check", "small.yaml"),
            *("--base", "once.py", "--head", "often.py", "--set", "check.pairs=[1000]"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(line.startswith("timing 1 case") for line in process.stderr)
        ours = psutil.Process(process.pid).children(recursive=True)
        assert len(ours) >= 2
        process.send_signal(signal.SIGTERM)
        assert "interrupted" in process.stderr.read()
        assert process.stdout.read() == ""
        assert process.wait(PATIENCE_S) == 130
    assert psutil.wait_procs(ours, timeout=PATIENCE_S)[1] == []
