from __future__ import annotations

import gc
from contextlib import nullcontext
from typing import Any

import pytest

from attnbench.bench import clock, cuda_clock
from attnbench.bench.cuda_clock import LATE_TRIES, RETRIES, CudaClock, NotWaitedFor
from fake_cuda import FakeCuda, FakeTime


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime().install(monkeypatch, clock, cuda_clock)


@pytest.fixture
def cuda(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(time).install(monkeypatch)


@pytest.mark.parametrize("device_us", [2, 12, 50, 3_000])
@pytest.mark.parametrize("calls", [1, 7, 100, 600])
def test_a_kernel_shorter_than_its_launch_is_timed_on_the_device(
    cuda: FakeCuda, device_us: float, calls: int
) -> None:
    reply = CudaClock("cuda:0").sample(cuda.kernel(12_000, device_us * 1e3), calls)
    assert reply["elapsed_s"] == pytest.approx(calls * device_us * 1e-6, rel=1e-9)
    assert reply["launch_s"] == pytest.approx(calls * 12e-6, rel=1e-9)
    assert reply["launch_bound"] is False


def test_process_time_is_that_of_launching_not_of_waiting(cuda: FakeCuda) -> None:
    reply = CudaClock("cuda").sample(cuda.kernel(10_000, 5e6), 10)
    assert reply["elapsed_s"] == pytest.approx(50e-3)
    assert reply["cpu_s"] == pytest.approx(2 * 100e-6, rel=0.02)


def test_a_call_of_several_launches_is_timed_on_the_device(cuda: FakeCuda) -> None:
    reply = CudaClock("cuda").sample(cuda.kernel(4_000, 2_000, launches=9), 80)
    assert reply["elapsed_s"] == pytest.approx(80 * 18e-6)
    assert reply["launch_s"] == pytest.approx(80 * 36e-6)
    assert not reply["launch_bound"]


def test_one_priming_call_precedes_each_batch_untimed(cuda: FakeCuda) -> None:
    made: list[int] = []

    def call() -> None:
        made.append(1)
        cuda.launch(10_000, 1e6 if len(made) == 1 else 5_000)

    reply = CudaClock("cuda").sample(call, 20)
    assert reply["elapsed_s"] == pytest.approx(20 * 5e-6)
    assert len(made) == 21


def test_more_calls_than_the_queue_holds_are_enqueued_in_batches(cuda: FakeCuda) -> None:
    reply = CudaClock("cuda").sample(cuda.kernel(2_000, 1_500), 5_000)
    assert not reply["launch_bound"]
    assert reply["elapsed_s"] == pytest.approx(5_000 * 1.5e-6)
    assert len(cuda.sleeps) >= 5
    assert len(cuda.pending) <= cuda.queue


@pytest.mark.parametrize("queue", [32, 100])
def test_a_smaller_queue_than_expected_is_found_out_once(time: FakeTime, queue: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        cuda = FakeCuda(time, queue=queue).install(patch)
        found = CudaClock("cuda")
        kernel = cuda.kernel(6_000, 2_000)
        first = found.sample(kernel, 250)
        assert not first["launch_bound"]
        assert first["elapsed_s"] == pytest.approx(250 * 2e-6)
        slept = len(cuda.sleeps)
        again = found.sample(kernel, 250)
        assert again["elapsed_s"] == pytest.approx(250 * 2e-6)
        batches = -(-250 // (queue // 4))
        assert len(cuda.sleeps) - slept <= 4 * batches, "what fits is remembered"


def test_a_head_start_that_is_too_short_is_lengthened(
    time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A GPU that runs at five times the clock that is reckoned with sleeps for a fifth of the time.
    cuda = FakeCuda(time, ghz=10.0).install(monkeypatch)
    reply = CudaClock("cuda").sample(cuda.kernel(20_000, 3_000), 50)
    assert not reply["launch_bound"]
    assert reply["elapsed_s"] == pytest.approx(50 * 3e-6)
    assert len(cuda.sleeps) == 3
    assert cuda.sleeps[2] == pytest.approx(2 * cuda.sleeps[1], rel=0.01)


def waiting(cuda: FakeCuda, host_ns: float, device_ns: float) -> Any:
    def call() -> None:
        cuda.launch(host_ns, device_ns)
        cuda.synchronize()

    return call


@pytest.mark.parametrize("device_us", [5, 400, 20_000, 2_000_000])
def test_a_kernel_that_waits_for_the_device_itself_is_launch_bound(cuda: FakeCuda, device_us: float) -> None:
    bound = CudaClock("cuda")
    call = waiting(cuda, 10_000, device_us * 1e3)
    for _ in range(3):
        reply = bound.sample(call, 4)
        assert reply["launch_bound"] is True
        assert reply["elapsed_s"] >= 4 * device_us * 1e-6
        assert reply["launch_s"] >= 4 * device_us * 1e-6
    assert cuda.time.now_ns < 1e9 + 60 * device_us * 1e3, "nobody tries for ever"


def test_finding_out_that_a_kernel_is_launch_bound_ends(cuda: FakeCuda) -> None:
    bound = CudaClock("cuda")
    call = waiting(cuda, 10_000, 1_000)
    bound.sample(call, 500)
    assert len(cuda.sleeps) <= RETRIES + 1
    slept = len(cuda.sleeps)
    bound.sample(call, 500)
    assert len(cuda.sleeps) == slept + 1, "once known, it is tried once a sample"


def test_a_disturbance_does_not_leave_a_kernel_launch_bound(cuda: FakeCuda) -> None:
    disturbed = True

    def call() -> None:
        cuda.launch(10_000, 4_000)
        if disturbed:
            cuda.time.spend(200e6)  # the host is taken away for longer than any head start

    clock_ = CudaClock("cuda")
    assert clock_.sample(call, 10)["launch_bound"] is True
    disturbed = False
    reply = clock_.sample(call, 10)
    assert reply["launch_bound"] is False
    assert reply["elapsed_s"] == pytest.approx(10 * 4e-6)


def test_a_single_hiccup_is_retried_and_forgotten(cuda: FakeCuda) -> None:
    made: list[int] = []

    def call() -> None:
        made.append(1)
        cuda.launch(10_000, 4_000)
        if len(made) == 5:
            cuda.time.spend(30e6)

    clock_ = CudaClock("cuda")
    for _ in range(40):
        reply = clock_.sample(call, 10)
        assert reply["launch_bound"] is False
        assert reply["elapsed_s"] == pytest.approx(10 * 4e-6)
    usual = int(1.5 * 11 * 10e-6 * 2e9)
    assert cuda.sleeps[-1] == pytest.approx(usual, rel=0.01), "the head start has shrunk again"


def test_the_flush_lies_before_the_first_event_and_the_launch_not_behind_it(cuda: FakeCuda) -> None:
    order: list[str] = []

    def flush() -> None:
        order.append("flush")
        cuda.launch(3_000, 90_000)

    def call() -> None:
        order.append("call")
        cuda.launch(15_000, 6_000)

    clock_ = CudaClock("cuda")
    reply = clock_.sample(call, 3, flush)
    assert order == ["flush", "call"] * 3
    assert reply["elapsed_s"] == pytest.approx(3 * 6e-6), "neither flush nor launch is in it"
    assert reply["launch_s"] == pytest.approx(3 * 15e-6)
    assert not reply["launch_bound"]


def test_nobody_waits_between_flush_and_call(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    synchronize = cuda.synchronize

    def watched(device: object = None) -> None:
        order.append("wait")
        synchronize(device)

    monkeypatch.setattr(cuda, "synchronize", watched)

    def flush() -> None:
        order.append("flush")
        cuda.launch(3_000, 90_000)

    def call() -> None:
        order.append("call")
        cuda.launch(15_000, 6_000)

    CudaClock("cuda").sample(call, 2, flush)
    assert " ".join(order).count("flush call wait") == 2


def test_a_cold_kernel_that_waits_is_launch_bound(cuda: FakeCuda) -> None:
    reply = CudaClock("cuda").sample(waiting(cuda, 10_000, 50_000), 2, lambda: cuda.launch(3_000, 90_000))
    assert reply["launch_bound"] is True
    assert reply["elapsed_s"] >= 100e-6


def test_what_the_kernel_raises_comes_out_and_collecting_goes_on(cuda: FakeCuda) -> None:
    def call() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        CudaClock("cuda").sample(call, 3)
    assert gc.isenabled()
    with pytest.raises(ValueError, match="at least one call"):
        CudaClock("cuda").sample(call, 0)


def test_a_hiccup_late_in_a_long_sample_costs_one_batch(cuda: FakeCuda) -> None:
    made: list[int] = []

    def call() -> None:
        made.append(1)
        cuda.launch(10_000, 5e6)
        if len(made) == 300:
            cuda.time.spend(0.2e9)

    reply = CudaClock("cuda").sample(call, 400)
    assert reply["launch_bound"] is False
    assert reply["elapsed_s"] == pytest.approx(400 * 5e-3)
    assert 403 < len(made) < 600


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize(("device_us", "calls"), [(300, 1), (30, 40), (5_000, 20)])
def test_work_in_a_stream_that_nobody_waits_for_is_found_out(
    cuda: FakeCuda, device_us: float, calls: int, cold: bool
) -> None:
    flush = (lambda: cuda.launch(3_000, 90_000)) if cold else None
    hides = not cold or device_us > 100
    with pytest.raises(NotWaitedFor, match="wait_stream") if hides else nullcontext():
        CudaClock("cuda").sample(cuda.beside(10_000, device_us * 1e3), calls, flush)


def test_a_host_that_is_disturbed_while_it_waits_accuses_nobody(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = 0
    synchronize = cuda.synchronize

    def disturbed(device: object = None) -> None:
        nonlocal waits
        waits += 1
        synchronize(device)
        if waits <= 2 * (LATE_TRIES - 1):  # each batch waits before it and after it
            cuda.time.spend(5e6)

    monkeypatch.setattr(cuda, "synchronize", disturbed)
    reply = CudaClock("cuda").sample(cuda.kernel(10_000, 4_000), 10)
    assert reply["elapsed_s"] == pytest.approx(10 * 4e-6)
    assert waits == 2 * LATE_TRIES
