from __future__ import annotations

import json
import sys

import pynvml
import pytest

from attnbench.nvml import REASONS, SLOWING, Gpu, GpuState, driver_version
from fake_nvml import UUID, FakeGpu, FakeNvml, process


def opened(fake: FakeNvml, uuid: str | None = UUID) -> Gpu:
    gpu = Gpu.open(uuid)
    assert gpu is not None
    return gpu


@pytest.mark.parametrize("kind", ["Event", "Throttle"])
def test_the_reasons_have_nvmls_numbers_under_either_of_their_names(kind: str) -> None:
    names = {
        "idle": "GpuIdle",
        "clocks_setting": "ApplicationsClocksSetting",
        "power_cap": "SwPowerCap",
        "hw_slowdown": "HwSlowdown",
        "sync_boost": "SyncBoost",
        "sw_thermal_slowdown": "SwThermalSlowdown",
        "hw_thermal_slowdown": "HwThermalSlowdown",
        "hw_power_brake": "HwPowerBrakeSlowdown",
        "display_clocks": "DisplayClockSetting",
        "board_limit": "BoardLimit",
        "reliability": "Reliability",
    }
    assert set(names) == set(REASONS.values())
    known = 0
    for bit, name in REASONS.items():
        constant = getattr(pynvml, f"nvmlClocks{kind}Reason{names[name]}", None)
        known += constant is not None
        assert constant in (bit, None)
    assert known >= 9
    assert set(REASONS.values()) > SLOWING


def test_a_state_is_in_hertz_degrees_and_watts(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(FakeGpu(reasons=0x04 | 0x20)).install(monkeypatch)
    with opened(fake) as gpu:
        state = gpu.state()
    assert state == GpuState(1.755e9, 61, 412, ("power_cap", "sw_thermal_slowdown"))
    assert state.slowed_by == ("sw_thermal_slowdown",), "a power cap is normal"
    assert json.loads(json.dumps(state.to_reply())) == {
        "sm_clock_hz": 1.755e9,
        "temperature_c": 61,
        "power_w": 412,
        "reasons": ["power_cap", "sw_thermal_slowdown"],
    }
    assert fake.users == 0


def test_no_reason_is_not_the_same_as_an_unknown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(FakeGpu(reasons=0), FakeGpu("GPU-2", reasons=None)).install(monkeypatch)
    assert opened(fake).state().reasons == ()
    unknown = opened(fake, "GPU-2").state()
    assert (unknown.reasons, unknown.slowed_by) == (None, ())


@pytest.mark.parametrize("missing", ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTemperature"])
def test_a_function_that_only_other_versions_have_is_replaced_by_its_namesake(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    fake = FakeNvml(FakeGpu(reasons=0x40)).install(monkeypatch)
    fake.missing.add(missing)
    state = opened(fake).state()
    assert (state.reasons, state.temperature_c) == (("hw_thermal_slowdown",), 61)


def test_what_a_gpu_does_not_tell_is_none_and_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = FakeGpu(sm_clock_mhz=None, temperature_c=None, power_mw=None, energy_mj=None)
    gpu = opened(FakeNvml(silent).install(monkeypatch))
    assert gpu.state() == GpuState(None, None, None, ())
    assert gpu.energy_j() is None


@pytest.mark.parametrize("uuid", [UUID, f"GPU-{UUID}"])
def test_a_gpu_is_found_by_its_uuid_wherever_it_is_in_the_list(
    monkeypatch: pytest.MonkeyPatch, uuid: str
) -> None:
    fake = FakeNvml(FakeGpu("GPU-other", name="other"), FakeGpu(name="wanted")).install(monkeypatch)
    assert opened(fake, uuid).describe()["name"] == "wanted"
    assert Gpu.open(None) is None, "which of the two it is, nobody knows"
    del fake.gpus[0]
    assert opened(fake, None).describe()["name"] == "wanted"


def test_a_part_of_a_gpu_has_the_boards_clock_and_heat_but_no_power_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = FakeGpu("GPU-board", sm_clock_mhz=1100, energy_mj=lambda: 1)
    part = FakeGpu(f"MIG-{UUID}", name="H100 MIG 1g.10gb", board=board, sm_clock_mhz=None, power_mw=1)
    gpu = opened(FakeNvml(board, part).install(monkeypatch))
    assert gpu.is_part
    assert gpu.state() == GpuState(1.1e9, 61, None, ())
    assert gpu.energy_j() is None
    assert gpu.uuid == f"MIG-{UUID}"


def test_energy_is_in_joules(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(FakeGpu(energy_mj=lambda: 123_456)).install(monkeypatch)
    assert opened(fake).energy_j() == pytest.approx(123.456)


def test_a_description_says_how_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(FakeGpu(processes=[process(17, 2**30), process(18, None)])).install(monkeypatch)
    found = opened(fake).describe()
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "name": "NVIDIA H100 80GB HBM3",
        "uuid": f"GPU-{UUID}",
        "driver": "570.86.15",
        "vbios": "96.00.89.00.01",
        "sm_clock_max_hz": 1.98e9,
        "sm_clock_default_hz": 1.98e9,
        "sm_clock_set_hz": 1.5e9,
        "memory_clock_max_hz": 2.619e9,
        "power_limit_w": 700,
        "power_limit_default_w": 700,
        "persistence": True,
        "ecc": True,
        "mig": False,
        "processes": [{"pid": 17, "memory_bytes": 2**30}, {"pid": 18, "memory_bytes": None}],
    }


def test_without_a_driver_the_gpu_or_the_module_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Gpu.open("GPU-none") is None, "whether this machine has a driver or not"
    FakeNvml(driver=False).install(monkeypatch)
    assert (Gpu.open(UUID), driver_version()) == (None, None)
    fake = FakeNvml(FakeGpu("GPU-other")).install(monkeypatch)
    assert (Gpu.open(UUID), fake.users) == (None, 0)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert (Gpu.open(UUID), driver_version()) == (None, None)


def test_nvml_is_let_go_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(FakeGpu()).install(monkeypatch)
    first, second = opened(fake), opened(fake)
    first.close()
    first.close()
    assert second.state().temperature_c == 61
    second.close()
    assert fake.users == 0
