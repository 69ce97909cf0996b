"""Kernels that misbehave, in real processes: each gets its status and reason, and harms nobody else."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attnbench.driver import ZygoteSource
from attnbench.protocol import Bench, BenchFailed, BenchLost
from attnbench.workload import AttentionShape, Workload

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="benches are forked on Linux only")

HOSTILE = Path(__file__).parents[1] / "plugins" / "hostile.py"
WORKLOAD = Workload("attention", AttentionShape(1, 2, 2, 16, 16, 8))
ALLOWANCE_BYTES = 256 << 20
PATIENCE_S = 60


@pytest.fixture(scope="module")
def children_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "children"


@pytest.fixture(scope="module")
def source(children_file: Path) -> Iterator[ZygoteSource]:
    os.environ["ATTNBENCH_TEST_CHILDREN"] = str(children_file)
    try:
        with ZygoteSource([HOSTILE], threads=1, memory_limit_bytes=ALLOWANCE_BYTES) as zygote:
            assert zygote.hello["fork_unsafe"] is None
            yield zygote
    finally:
        del os.environ["ATTNBENCH_TEST_CHILDREN"]


def prepare(bench: Bench, name: str, deadline_s: float = PATIENCE_S, **more: Any) -> dict[str, Any]:
    parameters = {
        "case": name,
        "implementation": name,
        "options": {},
        "workload": WORKLOAD.to_json(),
        "device": "cpu",
        "seed": 0,
        "threads": None,
        **more,
    }
    return bench.request("prepare", parameters, deadline_s)


def assert_fine(bench: Bench, name: str = "fine") -> None:
    prepare(bench, name)
    sample = bench.request("sample", {"case": name, "calls": 2, "cache": "warm"}, PATIENCE_S)
    assert sample["elapsed_s"] > 0
    assert bench.request("accuracy", {"case": name}, PATIENCE_S)["accuracy"] == "pass"


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("segfault", "crashed", "killed by SIGSEGV during prepare, in segfault (hostile.py:"),
        ("forks_and_dies", "crashed", "killed by SIGSEGV during prepare, in forks_and_dies (hostile.py:"),
        ("abort", "crashed", "killed by SIGABRT during prepare, in abort (hostile.py:"),
        ("exit_now", "crashed", "exited with status 3 during prepare; last words: the sky is falling"),
        (
            "prints_and_dies",
            "crashed",
            "killed by SIGTERM during prepare; last words: these are my last words",
        ),
        ("kills_parent", "crashed", "ended, and its zygote with it during prepare"),
        ("closes_everything", "crashed", "closed its connection during prepare"),
    ],
)
def test_what_ends_its_bench(source: ZygoteSource, name: str, status: str, reason: str) -> None:
    bench = source.bench()
    assert_fine(bench)
    with pytest.raises(BenchLost) as lost:
        prepare(bench, name)
    assert lost.value.status == status
    assert lost.value.reason.startswith(reason)
    with pytest.raises(BenchLost, match="a bench that has ended"):
        assert_fine(bench)
    assert_fine(source.bench())


@pytest.mark.parametrize("name", ["hang", "spin"])
def test_what_never_ends_is_killed_at_its_deadline(source: ZygoteSource, name: str) -> None:
    bench = source.bench()
    with pytest.raises(BenchLost) as lost:
        prepare(bench, name, deadline_s=0.5)
    assert (lost.value.status, lost.value.reason) == (
        "timeout",
        "prepare took longer than 0.5 s (limits.seconds_per_case)",
    )
    assert not alive(bench.pid)
    assert_fine(source.bench())


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("system_exit", "error", "SystemExit: 3"),
        ("raises", "error", "ValueError: the shape was not to my liking"),
        ("interrupts", "error", "KeyboardInterrupt"),
        ("needs_package", "unavailable", "needs the module surely_not_installed"),
        ("allocates_tensors", "oom", "RuntimeError: DefaultCPUAllocator: can't allocate memory"),
        ("allocates_arrays", "oom", "MemoryError: Unable to allocate"),
        ("allocates_objects", "oom", "MemoryError"),
        ("returns_none", "error", "OutputError: o of returns_none must be a torch tensor, got None"),
        (
            "returns_sparse",
            "error",
            "OutputError: o of returns_sparse must have layout strided, got sparse_coo",
        ),
        (
            "wrong_shape",
            "error",
            "OutputError: o of wrong_shape must have shape (1, 2, 16, 8), got (1, 2, 15",
        ),
    ],
)
def test_what_its_bench_survives(source: ZygoteSource, name: str, status: str, reason: str) -> None:
    bench = source.bench()
    with pytest.raises(BenchFailed) as failed:
        prepare(bench, name)
    assert not isinstance(failed.value, BenchLost)
    assert failed.value.status == status
    assert failed.value.reason.startswith(reason)
    assert "\n" not in failed.value.reason
    assert_fine(bench)  # the same bench goes on
    assert_fine(bench, "fine_numpy")
    bench.close()


def test_megabytes_on_both_streams_disturb_nothing(source: ZygoteSource) -> None:
    assert_fine(source.bench(), "prints")


def test_a_kernel_that_forks_leaves_one_bench(source: ZygoteSource) -> None:
    assert_fine(source.bench(), "forks")


def test_overwritten_inputs_fail_and_stay_the_kernels_own_affair(source: ZygoteSource) -> None:
    bench = source.bench()
    prepare(bench, "overwrites_inputs")
    reply = bench.request("accuracy", {"case": "overwrites_inputs"}, PATIENCE_S)
    assert reply["accuracy"] == "fail"
    assert "changed its input k" in reply["reason"]
    assert_fine(bench)


def test_an_unwritten_row_shows_where_memory_is_poisoned(source: ZygoteSource) -> None:
    bench = source.bench()
    for name, verdict in (("last_row_unwritten", "fail"), ("fine", "pass"), ("fine_numpy", "pass")):
        prepare(bench, name, poisoned=True)
        assert bench.request("accuracy", {"case": name}, PATIENCE_S)["accuracy"] == verdict


@pytest.mark.parametrize(
    ("name", "follows"), [("fine", True), ("fine_numpy", True), ("replays", False), ("replays_numpy", False)]
)
def test_what_is_replayed_once_it_is_timed_shows(source: ZygoteSource, name: str, follows: bool) -> None:
    bench = source.bench()
    prepare(bench, name)
    assert bench.request("accuracy", {"case": name}, PATIENCE_S)["accuracy"] == "pass"
    bench.request("sample", {"case": name, "calls": 9, "cache": "warm"}, PATIENCE_S)
    reason = bench.request("verify", {"case": name}, PATIENCE_S)["reason"]
    assert (reason is None) == follows, reason
    bench.close()


def test_what_a_kernel_starts_ends_with_its_bench(source: ZygoteSource, children_file: Path) -> None:
    bench = source.bench()
    assert_fine(bench, "leaves_children")
    children = [int(line) for line in children_file.read_text().split()]
    assert children
    assert all(alive(child) for child in children)
    bench.close()
    assert_soon(lambda: not any(alive(child) for child in children))


def test_after_all_that_nothing_is_left(source: ZygoteSource) -> None:
    assert_fine(source.bench())
    zygote = source.hello["pid"]
    source.close()
    assert not alive(zygote)
    assert not [pid for pid in started_by(os.getpid()) if alive(pid)]


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie waiting to be reaped by somebody else."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def started_by(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def assert_soon(holds: Any) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_signal_to_the_whole_terminal_reaches_no_bench() -> None:
    with ZygoteSource([HOSTILE], threads=1) as fresh:
        bench = fresh.bench()
        assert_fine(bench)
        own = os.getpgid(0)
        assert os.getpgid(bench.pid) == bench.pid != own
        assert os.getpgid(fresh.hello["pid"]) != own
        os.kill(bench.pid, signal.SIGSTOP)
        with pytest.raises(BenchLost, match="timeout"):
            prepare(bench, "fine", deadline_s=0.3)  # a stopped bench is killed like any other
        assert_fine(fresh.bench())
