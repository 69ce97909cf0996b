from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnbench import zygote

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux")

#: A parent with a zygote and a bench that is busy in a kernel; prints their ids, and waits to be killed.
PARENT = """
import os, sys, time, threading
from attnbench.driver import ZygoteSource
from attnbench.workload import AttentionShape, Workload

source = ZygoteSource([sys.argv[1]], threads=1)
bench, busy = source.bench(), source.bench()
print(source.hello["pid"], bench.pid, busy.pid, flush=True)
parameters = {
    "case": "c", "implementation": "spin", "options": {}, "device": "cpu", "seed": 0, "threads": None,
    "workload": Workload("attention", AttentionShape(1, 1, 1, 4, 4, 4)).to_json(),
}
busy.request("prepare", parameters, 600)
"""

#: A kernel that starts others, in its own session and in another, before it spins.
SPIN = """
import subprocess
from pathlib import Path

import attnbench

@attnbench.attention("spin")
def spin(q, k, v, *, mask, scale):
    children = [subprocess.Popen(["sleep", "600"], start_new_session=new) for new in (False, True)]
    Path(__file__).with_name("written").write_text(" ".join(str(child.pid) for child in children))
    Path(__file__).with_name("written").rename(Path(__file__).with_name("children"))
    while True:
        pass
"""


def state(pid: int) -> str:
    """The process's state as the kernel gives it; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


@linux
def test_zygote_benches_and_what_kernels_started_end_with_their_parent(tmp_path: Path) -> None:
    plugin = tmp_path / "spin.py"
    plugin.write_text(SPIN)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(plugin)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    with parent.stdout:
        pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 3
    until = time.monotonic() + 30
    while not (tmp_path / "children").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    pids += [int(word) for word in (tmp_path / "children").read_text().split()]
    assert all(state(pid) not in ("", "Z") for pid in pids)
    parent.kill()
    parent.wait(30)
    until = time.monotonic() + 10
    while any(state(pid) not in ("", "Z") for pid in pids):
        assert time.monotonic() < until, [state(pid) for pid in pids]
        time.sleep(0.02)


@linux
def test_fork_is_safe_after_a_clean_import_and_unsafe_with_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = len(os.listdir("/proc/self/task"))
    assert zygote.why_fork_is_unsafe(threads) is None
    reason = zygote.why_fork_is_unsafe(threads - 1)
    assert reason == f"what was loaded started threads ({threads} instead of {threads - 1})"
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    assert "initialised CUDA" in str(zygote.why_fork_is_unsafe(threads))


def test_elsewhere_benches_are_never_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote.sys, "platform", "darwin")
    assert "benches are not forked" in str(zygote.why_fork_is_unsafe(10_000))
