from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from attnbench.bench import blas, cuda_clock, rates
from attnbench.bench.failures import Refusal
from attnbench.bench.rates import Rate, Way, fastest
from attnbench.ceilings import BANDWIDTHS
from fake_cuda import FakeCuda, FakeTime


class Machine:
    """Calls take the time that a rate says, on a clock that only they move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.calls: list[tuple[str, int]] = []
        self.prepared: list[tuple[str, int]] = []

    def clock(self) -> float:
        return self.now_s

    def way(self, name: str, rate: Callable[[int], float], sizes: tuple[int, ...] = (10, 100, 1000)) -> Way:
        """Multiplies n × n matrices at `rate(n)`."""

        def work(size: int) -> float:
            return 2.0 * size**3

        def prepare(size: int) -> Callable[[], None]:
            self.prepared.append((name, size))

            def call() -> None:
                self.calls.append((name, size))
                self.now_s += work(size) / rate(size)

            return call

        return Way(name, sizes, work, prepare)

    def measure(self, call: Callable[[], object], calls: int) -> float:
        began = self.now_s
        for _ in range(calls):
            call()
        return self.now_s - began

    def fastest(self, *ways: Way, seconds: float = 1.0) -> Rate:
        return fastest(ways, seconds, measure=self.measure, clock=self.clock)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_the_best_way_at_its_best_size_counts(machine: Machine) -> None:
    slow = machine.way("slow", lambda size: 1e9)
    quick = machine.way("quick", lambda size: {10: 1e8, 100: 5e9, 1000: 3e9}[size])
    found = machine.fastest(slow, quick)
    assert found == Rate(pytest.approx(5e9), "quick")


def test_it_takes_the_time_it_is_given(machine: Machine) -> None:
    machine.fastest(machine.way("one", lambda size: 1e10))
    assert 1.0 <= machine.now_s < 1.1


def test_calls_that_would_take_too_long_are_not_made(machine: Machine) -> None:
    machine.fastest(machine.way("slow", lambda size: 1e8))
    assert {size for _, size in machine.calls} == {10, 100}  # a call at 1000 would take 20 s


def test_a_slow_way_does_not_keep_others_from_growing(machine: Machine) -> None:
    found = machine.fastest(
        machine.way("slow", lambda size: 1e8), machine.way("large", lambda size: 1e9 * size)
    )
    assert found == Rate(pytest.approx(1e12), "large")


def test_a_disturbed_moment_lowers_nothing(machine: Machine) -> None:
    # At first somebody else has the machine; the way is near enough the best to be tried again.
    disturbed = machine.way("one", lambda size: 0.9e9 if machine.now_s < 0.7 else 1e9, sizes=(100,))
    assert machine.fastest(disturbed).per_s == pytest.approx(1e9)


def test_a_way_that_is_not_there_is_passed_over(machine: Machine) -> None:
    def missing(size: int) -> Callable[[], None]:
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")

    absent = Way("absent", (10, 100), lambda size: 1.0, missing)
    assert machine.fastest(absent, machine.way("one", lambda size: 1e9)).way == "one"
    with pytest.raises(Refusal, match=r"nothing can be measured here: absent: RuntimeError: .*addmm_impl"):
        machine.fastest(absent)


def test_a_size_too_large_for_the_memory_ends_a_way_and_keeps_what_it_reached(machine: Machine) -> None:
    way = machine.way("one", lambda size: 1e11, sizes=(100, 1000))

    def prepare(size: int) -> Callable[[], object]:
        if size == 1000:
            raise MemoryError
        return way.prepare(size)

    found = machine.fastest(Way("one", way.sizes, way.work, prepare))
    assert found == Rate(pytest.approx(1e11), "one")


def test_finalists_that_do_not_fit_beside_one_another_are_not_repeated(machine: Machine) -> None:
    way = machine.way("one", lambda size: 1e11, sizes=(100, 200))

    def prepare(size: int) -> Callable[[], object]:
        if len(machine.prepared) == 3:  # each fitted alone, and one of them does again
            raise MemoryError
        return way.prepare(size)

    found = machine.fastest(Way("one", way.sizes, way.work, prepare))
    assert found == Rate(pytest.approx(1e11), "one")
    assert machine.now_s >= 1.0


def test_what_breaks_the_device_is_not_passed_over(machine: Machine) -> None:
    def broken(size: int) -> Callable[[], None]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="CUDA error"):
        machine.fastest(Way("broken", (10,), lambda size: 1.0, broken))


def test_samples_of_short_calls_have_many(machine: Machine) -> None:
    machine.fastest(machine.way("one", lambda size: 2e9, sizes=(10,)), seconds=0.01)  # 1 µs a call
    assert len(machine.calls) >= 0.5 * 0.01 / 1e-6


# What is measured, really


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads(), blas.numpy_threads()
    yield
    torch.set_num_threads(before[0])
    if before[1] is not None:
        blas.set_numpy_threads(before[1])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_matrix_rate_is_one_that_a_real_product_does_not_beat(dtype: str) -> None:
    reply = rates.ceiling("matrix", "cpu", dtype, 1, 0.15)
    assert reply["cache_bytes"] is None
    assert reply["way"] in {"torch matmul", "torch bmm", "oneDNN", "numpy matmul"}
    a, b = (torch.randn(256, 256, dtype=getattr(torch, dtype)) for _ in range(2))
    call = lambda: torch.mm(a, b)  # noqa: E731 - as a kernel would be called
    call()
    best_s = min(rates._time_on_cpu(rates.perf_counter, call, 3) / 3 for _ in range(20))
    assert 2 * 256**3 / best_s < 1.3 * reply["per_s"]  # on a busy machine; 1.05 on a quiet one


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kind", BANDWIDTHS)
def test_a_real_bandwidth_is_that_of_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "cache_bytes_of", lambda device: 1 << 20)
    reply = rates.ceiling(kind, "cpu", "float32", 1, 0.05)
    assert reply["cache_bytes"] == 1 << 20
    assert 1e8 < reply["per_s"] < 1e13


@pytest.mark.usefixtures("threads")
def test_the_threads_are_those_that_were_asked_for() -> None:
    for count in (1, 2):
        rates.ceiling("matrix", "cpu", "float64", count, 0.01)
        assert torch.get_num_threads() == count
        assert blas.numpy_threads() in (count, None)


@pytest.mark.parametrize(
    ("kind", "device", "dtype", "error", "message"),
    [
        ("write", "cpu", "float32", ValueError, "kind must be one of matrix, read, copy"),
        ("matrix", "cpu", "int8", ValueError, "dtype must be one of float64"),
        ("matrix", "cuda:9", "float32", Refusal, "there is no device cuda:9"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    kind: str, device: str, dtype: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rates.ceiling(kind, device, dtype, 1, 0.01)


def test_a_copy_reads_and_writes_every_byte_and_a_reduction_reads_them() -> None:
    size = 1 << 20
    for way in rates._copying("cpu", size):
        assert way.work(size) == size
        assert way.prepare(size)() is not None or way.name == "numpy copy"
    for way in rates._reading("cpu", size):
        assert way.work(size) == size
        assert math.isfinite(float(way.prepare(size)()))  # type: ignore[arg-type]  # a tensor of one number


@pytest.mark.parametrize(
    ("held_mib", "available_mib", "expected_mib"), [(32, 16_000, 128), (1, 16_000, 64), (32, 700, 87)]
)
def test_the_buffer_is_four_times_the_caches_where_the_memory_allows(
    held_mib: int, available_mib: int, expected_mib: int
) -> None:
    assert rates._buffer_bytes(held_mib << 20, available_mib << 20) == expected_mib << 20


def test_a_buffer_that_caches_would_hold_is_none() -> None:
    with pytest.raises(Refusal, match="500 MiB of memory are too few"):
        rates._buffer_bytes(32 << 20, 500 << 20)


# A GPU, played


def test_on_a_gpu_the_devices_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime().install(monkeypatch, cuda_clock)
    gpu = FakeCuda(time).install(monkeypatch)
    measure = rates._on_gpus_clock("cuda:1")
    # Each takes the host 5 µs and the device 2 µs: calls that nobody runs ahead of would seem to take 5.
    assert measure(gpu.kernel(5_000, 2_000), 20) == pytest.approx(20 * 2e-6, rel=0.01)


def test_on_a_gpu_float32_may_go_by_tf32_and_the_setting_is_put_back() -> None:
    seen = []
    before = torch.get_float32_matmul_precision()
    rates._with_tf32(lambda: seen.append(torch.get_float32_matmul_precision()))
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == before
    names: dict[str, set[str]] = {
        dtype: {way.name for way in rates._on_gpu(dtype, "cuda:0")} for dtype in ("float32", "float16")
    }
    assert names == {"float32": {"torch matmul", "torch matmul with TF32"}, "float16": {"torch matmul"}}


def test_a_bench_knows_its_memory_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench's Python has NumPy and torch, nothing more."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert 0 < rates._available_bytes("cpu") <= total

    def absent(file: Path) -> str:
        raise FileNotFoundError(file)

    monkeypatch.setattr(Path, "read_text", absent)
    assert rates._available_bytes("cpu") == total


def test_all_ways_to_move_bytes_go_over_one_buffer() -> None:
    """On a server with caches of hundreds of MiB, a buffer for each would take minutes to touch."""
    rates._buffer.cache_clear()
    size = 1 << 20
    for way in (*rates._reading("cpu", size), *rates._copying("cpu", size)):
        way.prepare(size)()
    assert rates._buffer.cache_info().misses == 1
    rates._buffer.cache_clear()
