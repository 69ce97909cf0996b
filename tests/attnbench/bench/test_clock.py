from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attnbench.bench import clock
from attnbench.units import MIB


class FakeTime:
    """Both of the host's clocks; the CPU's runs at twice the wall's pace, as with two busy threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 1_000
        monkeypatch.setattr(clock, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(clock, "process_time_ns", lambda: 2 * self.now_ns)

    def spend(self, ns: int) -> None:
        self.now_ns += ns


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime(monkeypatch)


def test_a_warm_sample_times_its_calls_together_after_one_that_is_not_timed(time: FakeTime) -> None:
    made: list[int] = []

    def call() -> None:
        made.append(1)
        time.spend(5_000_000 if len(made) == 1 else 1_000)

    assert clock.sample(call, 7) == {
        "elapsed_s": pytest.approx(7e-6),
        "cpu_s": pytest.approx(14e-6),
        "launch_s": None,
    }
    assert len(made) == 8


def test_a_cold_sample_flushes_before_each_call_and_does_not_time_it(time: FakeTime) -> None:
    order: list[str] = []

    def call() -> None:
        order.append("call")
        time.spend(1_000)

    class Flush(clock.Flush):
        def __init__(self) -> None:
            pass

        def __call__(self) -> None:
            order.append("flush")
            time.spend(1_000_000)

    reply = clock.sample(call, 3, flush=Flush())
    assert order == ["flush", "call"] * 3
    assert reply["elapsed_s"] == pytest.approx(3e-6)
    assert reply["cpu_s"] == pytest.approx(6e-6)


@pytest.mark.parametrize("calls", [0, -1])
def test_a_sample_has_at_least_one_call(calls: int) -> None:
    with pytest.raises(ValueError, match="at least one call"):
        clock.sample(lambda: None, calls)


def test_no_call_finds_an_earlier_output_alive() -> None:
    class Output:
        pass

    alive: weakref.WeakSet[Output] = weakref.WeakSet()
    found: list[int] = []

    def call() -> Output:
        found.append(len(alive))
        output = Output()
        alive.add(output)
        return output

    clock.sample(call, 5)
    assert found == [0] * 6


def test_garbage_is_not_collected_during_a_sample() -> None:
    states: list[bool] = []
    assert gc.isenabled()
    clock.sample(lambda: states.append(gc.isenabled()), 3)
    assert states == [False] * 4
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        clock.sample(lambda: 1 / 0, 3)
    assert gc.isenabled()


class FakeCuda:
    """A device that works off what was launched only when somebody waits for it."""

    def __init__(self, time: FakeTime) -> None:
        self.time = time
        self.device_ns = 0  # when the device will have done all that was launched
        self.waits = 0

    def launch(self, host_ns: int, device_ns: int) -> None:
        self.time.spend(host_ns)
        self.device_ns = max(self.device_ns, self.time.now_ns) + device_ns

    def synchronize(self, device: str) -> None:
        assert device == "cuda:0"
        self.waits += 1
        self.time.now_ns = max(self.time.now_ns, self.device_ns)

    @contextmanager
    def device(self, device: str) -> Any:
        assert device == "cuda:0"
        yield

    def Event(self, *, enable_timing: bool) -> Any:  # noqa: N802  # torch's name
        assert enable_timing
        event = SimpleNamespace(at=0)
        event.record = lambda: setattr(event, "at", max(self.device_ns, self.time.now_ns))
        event.elapsed_time = lambda last: (last.at - event.at) / 1e6
        return event


@pytest.fixture
def cuda(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda(time)
    monkeypatch.setattr(torch, "cuda", fake)
    return fake


def test_on_cuda_events_time_the_device_and_the_hosts_launch_time_stands_beside(cuda: FakeCuda) -> None:
    reply = clock.sample(lambda: cuda.launch(1_000, 50_000), 4, device="cuda:0")
    # The device starts as soon as the first call is launched, and then never waits for the host.
    assert reply["elapsed_s"] == pytest.approx(201e-6)
    assert reply["launch_s"] == pytest.approx(4e-6)
    assert cuda.waits == 2


def test_cold_calls_on_cuda_are_timed_singly_after_the_flush_has_ended(cuda: FakeCuda) -> None:
    class Flush(clock.Flush):
        def __init__(self) -> None:
            pass

        def __call__(self) -> None:
            cuda.launch(2_000, 900_000)

    reply = clock.sample(lambda: cuda.launch(1_000, 50_000), 2, device="cuda:0", flush=Flush())
    assert reply["elapsed_s"] == pytest.approx(2 * 51e-6)
    assert reply["launch_s"] == pytest.approx(2e-6)


def test_the_flush_is_twice_the_cache() -> None:
    flush = clock.Flush("cpu", cache_bytes=3 * MIB)
    flush()
    assert flush.buffer_bytes == 6 * MIB


def write_cache(folder: Path, level: int, size: str, sharers: str) -> None:
    folder.mkdir(parents=True)
    (folder / "level").write_text(f"{level}\n")
    (folder / "size").write_text(f"{size}\n")
    (folder / "shared_cpu_list").write_text(f"{sharers}\n")


def test_last_level_caches_of_several_dies_are_added_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    for cpu, die in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        write_cache(tmp_path / f"cpu{cpu}/cache/index0", 1, "32K", str(cpu))
        write_cache(tmp_path / f"cpu{cpu}/cache/index3", 3, "16M", die)
    assert clock.last_level_cache_bytes(tmp_path) == 32 * MIB


def test_an_unknown_cache_is_taken_to_be_a_large_one(tmp_path: Path) -> None:
    assert clock.last_level_cache_bytes(tmp_path / "nothing") == clock.FALLBACK_CACHE_BYTES
