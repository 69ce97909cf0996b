from __future__ import annotations

import gc
import weakref

import pytest

from attnbench.bench import clock
from fake_cuda import FakeTime


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime().install(monkeypatch, clock)


@pytest.mark.parametrize(
    ("lasts_ns", "primings", "primed_by"),
    [(1_000, 2, 2), (1_000, 8, 8), (1_500_000, 8, 4), (4_999_999, 2, 2), (5_000_000, 8, 1), (10**9, 2, 1)],
)
def test_a_warm_sample_times_its_calls_together_after_some_that_are_not_timed(
    time: FakeTime, lasts_ns: int, primings: int, primed_by: int
) -> None:
    made: list[int] = []

    def call() -> None:
        made.append(1)
        time.spend(lasts_ns if len(made) <= primed_by else 1_000)

    assert clock.sample(call, 7, primings=primings) == {
        "elapsed_s": pytest.approx(7e-6),
        "cpu_s": pytest.approx(14e-6),
        "launch_s": None,
    }
    assert len(made) == 7 + primed_by


@pytest.mark.parametrize(
    ("data_bytes", "calls"), [(0, 2), (2 << 20, 2), (3 << 20, 8), (63 << 20, 8), (64 << 20, 2)]
)
def test_data_that_fill_a_good_part_of_the_cache_want_more_priming(data_bytes: int, calls: int) -> None:
    assert clock.priming_calls(data_bytes, 32 << 20) == calls


def test_a_cold_sample_flushes_before_each_call_and_does_not_time_it(time: FakeTime) -> None:
    order: list[str] = []

    def call() -> None:
        order.append("call")
        time.spend(1_000)

    def flush() -> None:
        order.append("flush")
        time.spend(1_000_000)

    reply = clock.sample(call, 3, flush)
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
    assert found == [0] * len(found)
    assert len(found) > 5


def test_garbage_is_not_collected_during_a_sample() -> None:
    states: list[bool] = []
    assert gc.isenabled()
    clock.sample(lambda: states.append(gc.isenabled()), 3)
    assert set(states) == {False}
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        clock.sample(lambda: 1 / 0, 3)
    assert gc.isenabled()
