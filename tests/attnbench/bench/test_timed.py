from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attnbench.bench import clock, cuda_clock, energy, timed
from attnbench.bench.devices import cuda_uuid, probe, use
from attnbench.bench.timed import Instruments, Timed
from fake_cuda import FakeCuda, FakeTime
from fake_nvml import UUID, FakeGpu, FakeNvml


class FakeCase:
    """What is asked of a `LoadedCase` to time it."""

    data_bytes = 0

    def __init__(self, device: str, call: Callable[[], Any]) -> None:
        self.device = device
        self.prepared = 0
        self._call = call

    def prepare_call(self) -> Callable[[], Any]:
        self.prepared += 1
        return self._call

    def grad_mode(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    return FakeTime().install(monkeypatch, clock, cuda_clock, energy)


@pytest.fixture
def cuda(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda(time).install(monkeypatch)
    properties = SimpleNamespace(uuid=UUID, L2_cache_size=1 << 20)
    monkeypatch.setattr(fake, "get_device_properties", lambda device: properties, raising=False)
    return fake


def timed_on(device: str, call: Callable[[], Any], instruments: Instruments | None = None) -> Timed:
    case: Any = FakeCase(device, call)
    return Timed(case, instruments or Instruments())


def test_on_a_gpu_each_sample_says_how_the_gpu_was(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(FakeGpu("GPU-other"), FakeGpu(reasons=0x4)).install(monkeypatch)
    instruments = Instruments()
    for _ in range(2):
        reply = timed_on("cuda:0", cuda.kernel(10_000, 4_000), instruments).sample(25)
        assert reply["elapsed_s"] == pytest.approx(25 * 4e-6)
        assert reply["gpu"] == {
            "sm_clock_hz": 1.755e9,
            "temperature_c": 61,
            "power_w": 412,
            "reasons": ["power_cap"],
        }
    assert nvml.asked.count("nvmlDeviceGetHandleByUUID") == 1, "found once for all cases of the bench"


def test_without_nvml_a_gpu_is_timed_all_the_same(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(driver=False).install(monkeypatch)
    on_gpu = timed_on("cuda", cuda.kernel(10_000, 4_000))
    reply = on_gpu.sample(3)
    assert reply["elapsed_s"] == pytest.approx(3 * 4e-6)
    assert "gpu" not in reply
    assert on_gpu.energy_j() is None


def test_energy_is_measured_of_the_call_that_was_timed(
    cuda: FakeCuda, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted_mj() -> int:
        return time.now_ns // 20_000_000 * 20 * 300  # 300 W, a tick every 20 ms

    FakeNvml(FakeGpu(energy_mj=counted_mj)).install(monkeypatch)
    on_gpu = timed_on("cuda", cuda.kernel(10_000, 100_000))
    on_gpu.sample(3)
    assert on_gpu.energy_j() == pytest.approx(300 * 100e-6, rel=0.02)
    assert on_gpu._case.prepared == 1  # type: ignore[attr-defined]  # a FakeCase


def test_a_graph_is_captured_once_and_is_the_call_from_then_on(cuda: FakeCuda) -> None:
    on_gpu = timed_on("cuda", cuda.kernel(10_000, 4_000, launches=5))
    first = on_gpu.sample(10, cuda_graph=True)
    assert first["elapsed_s"] == pytest.approx(10 * 20e-6)
    assert first["launch_s"] == pytest.approx(10 * 5e-6), "one launch a replay"
    replay = on_gpu.call()
    assert on_gpu.call(cuda_graph=True) is replay
    on_gpu.forget()
    assert on_gpu.call() is not replay


def test_on_a_cpu_there_are_neither_graphs_nor_meters(time: FakeTime) -> None:
    def call() -> None:
        time.spend(1_000)

    on_cpu = timed_on("cpu", call)
    assert on_cpu.sample(5, cuda_graph=True) == {
        "elapsed_s": pytest.approx(5e-6),
        "cpu_s": pytest.approx(10e-6),
        "launch_s": None,
    }
    assert on_cpu.energy_j() is None


def test_cold_samples_flush_the_devices_cache(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    order: list[str] = []

    class Counted:
        def __init__(self, device: str) -> None:
            made.append(device)

        def __call__(self) -> None:
            order.append("flush")

    monkeypatch.setattr(timed, "Flush", Counted)
    instruments = Instruments()
    for _ in range(2):
        timed_on("cpu", lambda: order.append("call"), instruments).sample(2, cold=True)
    assert made == ["cpu"], "one buffer a device"
    assert order == ["flush", "call"] * 4


def test_a_gpu_is_known_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(name="NVIDIA H100", total_memory=80 << 30, major=9, minor=0, uuid=UUID)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: known)
    assert probe()["cuda"] == [
        {
            "device": "cuda:0",
            "name": "NVIDIA H100",
            "uuid": f"GPU-{UUID}",
            "memory_bytes": 80 << 30,
            "capability": "9.0",
        }
    ]
    monkeypatch.delattr(known, "uuid")
    assert cuda_uuid("cuda:0") is None


@pytest.mark.parametrize(("device", "chosen"), [("cuda:1", [1]), ("cuda", [0]), ("cpu", [])])
def test_a_benchs_gpu_is_the_one_that_kernels_are_launched_on(
    device: str, chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    use(device)
    assert found == chosen


@pytest.mark.parametrize("device", ["mps", "xpu:1"])
def test_other_accelerators_are_waited_for(
    device: str, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched_ns = 0

    def wait(*_: str) -> None:
        nonlocal launched_ns
        time.spend(launched_ns)
        launched_ns = 0

    def call() -> str:
        nonlocal launched_ns
        time.spend(5_000)
        launched_ns += 2_000_000
        return "result"

    monkeypatch.setattr(getattr(torch, device[:3]), "synchronize", wait)
    on_device = timed_on(device, call)
    assert on_device.sample(3)["elapsed_s"] == pytest.approx(3 * 2.005e-3)
    assert on_device.call()() == "result"
    assert on_device.energy_j() is None


@pytest.mark.parametrize(("data_bytes", "calls"), [(1 << 20, 2), (16 << 20, 8)])
def test_a_case_of_much_data_is_primed_by_more_calls(
    data_bytes: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timed, "last_level_cache_bytes", lambda: 32 << 20)
    made: list[int] = []
    case: Any = FakeCase("cpu", lambda: made.append(1))
    case.data_bytes = data_bytes
    Timed(case, Instruments()).sample(5)
    assert len(made) == calls + 5
