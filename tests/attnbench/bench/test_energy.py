from __future__ import annotations

from collections.abc import Callable

import pytest

from attnbench.bench import energy
from attnbench.bench.energy import energy_per_call_j
from attnbench.nvml import Gpu
from fake_cuda import FakeTime
from fake_nvml import UUID, FakeGpu, FakeNvml

WATTS = 400.0
IDLE_WATTS = 80.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime().install(monkeypatch, energy)


class Board:
    """Draws `WATTS` while a call runs and `IDLE_WATTS` otherwise; its counter moves once a tick."""

    def __init__(self, time: FakeTime, tick_s: float = 0.1) -> None:
        self.time = time
        self.tick_ns = tick_s * 1e9
        self.joules = 0.0
        self.shown_mj = 5_000_000
        self.ticked_ns = 0.0
        self.calls = 0

    def spend(self, ns: float, watts: float) -> None:
        """Time that passes in steps fine enough for the counter to move when it should."""
        left = ns
        while left > 0:
            step = min(left, 1e6)
            self.time.spend(step)
            self.joules += watts * step / 1e9
            if self.time.now_ns - self.ticked_ns >= self.tick_ns:
                self.ticked_ns = self.time.now_ns
                self.shown_mj = 5_000_000 + round(self.joules * 1e3)
            left -= step

    def call(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.calls += 1
            self.spend(seconds * 1e9, WATTS)

        return call

    def wait(self) -> None:
        self.spend(10_000, IDLE_WATTS)


def opened(monkeypatch: pytest.MonkeyPatch, fake: FakeGpu) -> Gpu:
    FakeNvml(fake).install(monkeypatch)
    gpu = Gpu.open(UUID)
    assert gpu is not None
    return gpu


@pytest.mark.parametrize("tick_s", [0.02, 0.1])
@pytest.mark.parametrize("call_s", [20e-6, 1e-3, 30e-3, 0.3])
def test_energy_is_that_of_the_calls_between_two_ticks(
    time: FakeTime, monkeypatch: pytest.MonkeyPatch, call_s: float, tick_s: float
) -> None:
    board = Board(time, tick_s)
    gpu = opened(monkeypatch, FakeGpu(energy_mj=lambda: board.shown_mj))
    found = energy_per_call_j(board.call(call_s), board.wait, gpu)
    assert found == pytest.approx(WATTS * call_s, rel=0.02)
    assert time.now_ns < 2.5e9, "a second or so"


def test_a_long_call_is_made_twice_and_no_more(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(time)
    gpu = opened(monkeypatch, FakeGpu(energy_mj=lambda: board.shown_mj))
    assert energy_per_call_j(board.call(20.0), board.wait, gpu) == pytest.approx(WATTS * 20, rel=0.01)
    assert board.calls == 2


@pytest.mark.parametrize("call_s", [1e-3, 20.0])
@pytest.mark.parametrize("counter", [None, lambda: 17])
def test_without_a_counter_that_moves_it_is_power_times_time(
    time: FakeTime,
    monkeypatch: pytest.MonkeyPatch,
    counter: Callable[[], int] | None,
    call_s: float,
) -> None:
    board = Board(time)
    gpu = opened(monkeypatch, FakeGpu(energy_mj=counter, power_mw=round(WATTS * 1e3)))
    found = energy_per_call_j(board.call(call_s), board.wait, gpu)
    assert found == pytest.approx(WATTS * call_s, rel=0.02)


def test_without_any_meter_nothing_is_called(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(time)
    gpu = opened(monkeypatch, FakeGpu(energy_mj=None, power_mw=None))
    assert energy_per_call_j(board.call(1e-3), board.wait, gpu) is None
    assert board.calls == 0


def test_a_counter_that_stands_still_and_no_power_is_no_energy(
    time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(time)
    gpu = opened(monkeypatch, FakeGpu(energy_mj=lambda: 17, power_mw=None))
    assert energy_per_call_j(board.call(1e-3), board.wait, gpu) is None
    assert energy_per_call_j(board.call(2.0), board.wait, gpu) is None
