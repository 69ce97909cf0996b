"""What the doctor concludes: each finding from readings made by hand, and from any readings at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.doctor.finding import Finding
from attnbench.doctor.findings import conclude
from attnbench.doctor.findings.words import ranges
from attnbench.doctor.readings import (
    BenchReading,
    ClockReading,
    GpuReading,
    Memory,
    Noise,
    Others,
    Processor,
    Readings,
    Variables,
)
from attnbench.doctor.readings.gpu import GpuProcess
from attnbench.doctor.readings.others import Process
from attnbench.doctor.spin import Spin
from attnbench.units import MIB


def spun(cpu: int, lost_s: float = 0.001, turns: int = 10_000_000) -> Spin:
    return Spin(cpu, 1.0, lost_s, lost_s / 2, 2 if lost_s else 0, turns)


#: A machine of four CPUs without a fault.
GPU = GpuReading(
    seen=True,
    name="NVIDIA H100",
    uuid="GPU-1",
    driver="570.86.15",
    clock_hz=345e6,
    max_clock_hz=1980e6,
    default_clock_hz=1980e6,
    set_clock_hz=1980e6,
    power_limit_w=700.0,
    default_power_limit_w=700.0,
    temperature_c=31.0,
    persistence=True,
    ecc=True,
    mig=False,
    reasons=("idle",),
    processes=(),
)
SOUND = Readings(
    clock=ClockReading(1e-9, 40e-9, True, "tsc", ("tsc", "hpet")),
    noise=Noise(spun(3), tuple(spun(cpu, turns=9_000_000) for cpu in range(4)), 0.0, 0, 0),
    others=Others(0.01, (), 0.1, 0),
    processor=Processor(
        usable=(0, 1, 2, 3),
        logical=4,
        cores=((0,), (1,), (2,), (3,)),
        smt=False,
        nodes={0: (0, 1, 2, 3)},
        governors=("performance",),
        driver="acpi-cpufreq",
        boost=False,
        boost_switch="echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost",
        quota_known=True,
        hypervisor=False,
        container=False,
        temperature_c=45.0,
        heat_events=0,
        on_battery=False,
    ),
    memory=Memory(16384 * MIB, 12000 * MIB, None, 0, "madvise", "madvise"),
    bench=BenchReading(
        wanted=4,
        threads=4,
        interop_threads=4,
        matmul_precision="highest",
        torch_blas="mkl 2024.2",
        numpy_blas="scipy-openblas 0.3.31",
        numpy_threads=4,
        thread_libraries=("libgomp.so.1",),
        libc="glibc 2.36",
        allocator="libc.so.6",
        kept_share=1.0,
    ),
    gpus=(GPU,),
)


def with_(part: str, **changes: Any) -> Readings:
    """`SOUND` but for these figures of one part."""
    if part == "gpu":
        return replace(SOUND, gpus=(replace(GPU, **changes),))
    return replace(SOUND, **{part: replace(getattr(SOUND, part), **changes)})


def found(readings: Readings, check: str) -> Finding:
    (finding,) = [each for each in conclude(readings) if each.check == check]
    return finding


def test_a_sound_machine_has_nothing_to_mend() -> None:
    assert {finding.level for finding in conclude(SOUND)} == {"ok"}


FAULTS = [
    ("clock", with_("clock", cost_s=1.1e-6, source="hpet"), "echo tsc |"),
    ("clock", with_("clock", resolution_s=1e-6, sources=()), "none here"),
    ("clock", with_("clock", monotonic=False), "none here"),
    ("one CPU", with_("noise", alone=spun(3, 0.02)), "end what else runs"),
    ("all CPUs", with_("noise", together=(spun(0), spun(1, 0.3))), "end what else runs"),
    ("shared speed", with_("noise", together=(spun(0, turns=5_500_000),) * 4), "none here"),
    ("other load", with_("others", busy_cpus=1.02, busiest=(Process(17, "make", 1.0),)), "kill -STOP 17\n"),
    (
        "other load",
        with_("others", busy_cpus=1.1, busiest=(Process(17, "make", 1.0), Process(9, "kswapd0", 0.1, False))),
        "kill -STOP 17\n",
    ),
    (
        "other load",
        with_("others", busy_cpus=1.0, busiest=(Process(9, "kswapd0", 1.0, False),)),
        "none from here: neither the kernel's threads",
    ),
    ("other load", with_("others", busy_cpus=1.02), "none from here: it runs outside"),
    ("governor", with_("processor", governors=("performance", "schedutil")), "echo performance |"),
    ("heat", with_("processor", temperature_c=97.0), "let it cool"),
    ("heat", with_("noise", slowed_by_heat=3), "let it cool"),
    ("power", with_("processor", on_battery=True), "plug it in"),
    ("SMT", with_("processor", smt=True, cores=((0, 2), (1, 3))), "taskset -c 0-1 attnbench sweep"),
    ("CPU quota", with_("processor", quota_cpus=2.5), "attnbench sweep … --set measure.threads=2"),
    ("NUMA", with_("processor", nodes={0: (0, 1), 1: (2, 3)}), "taskset -c 0-1 attnbench sweep"),
    ("memory", with_("memory", available_bytes=900 * MIB), "end what takes memory"),
    ("memory", with_("memory", granted_bytes=512 * MIB), "end what takes memory"),
    ("swap", with_("others", swapped_pages=12), "sudo swapoff -a"),
    ("huge pages", with_("memory", huge_pages="always", defrag="always"), "echo madvise |"),
    ("malloc", with_("bench", kept_share=0.0), "unset LD_PRELOAD"),
    ("malloc", with_("bench", allocator="libjemalloc.so.2"), "unset LD_PRELOAD"),
    ("malloc", with_("bench", allocator="ld-musl-x86_64.so.1", kept_share=0.2), "use a Python built for"),
    (
        "thread variables",
        with_("variables", overruled={"OMP_NUM_THREADS": ("1", "4")}),
        "attnbench sweep … --set measure.threads=1",
    ),
    ("thread variables", with_("variables", overruled={"MKL_NUM_THREADS": ("x", "4")}), "unset MKL_"),
    ("inherited variables", with_("variables", kept={"OMP_PROC_BIND": "true"}), "unset OMP_PROC_BIND"),
    ("thread pools", with_("bench", numpy_threads=2), "attnbench sweep … --set measure.threads=2"),
    ("thread pools", with_("bench", thread_libraries=("libgomp.so.1", "libiomp5.so")), "reinstall"),
    ("matmul precision", with_("bench", matmul_precision="medium"), "remove torch.set_float32"),
    ("GPU clock", with_("gpu", set_clock_hz=1200e6), "sudo nvidia-smi -i GPU-1 -rac"),
    ("GPU clock", with_("gpu", reasons=("clocks_setting",)), "sudo nvidia-smi -i GPU-1 -rac"),
    ("GPU power", with_("gpu", power_limit_w=500.0), "sudo nvidia-smi -i GPU-1 -pl 700"),
    ("GPU heat", with_("gpu", temperature_c=88.0), "nvidia-smi -i GPU-1 -q"),
    ("GPU heat", with_("gpu", slowed_by=("hw_power_brake",)), "nvidia-smi -i GPU-1 -q"),
    ("GPU load", with_("gpu", processes=(GpuProcess(12, 5 * MIB), GpuProcess(13))), "nvidia-smi -i GPU-1"),
    ("GPU persistence", with_("gpu", persistence=False), "sudo nvidia-smi -i GPU-1 -pm 1"),
    ("GPU MIG", with_("gpu", mig=True), "sudo nvidia-smi -i GPU-1 -mig 0"),
]


@pytest.mark.parametrize(
    ("check", "readings", "remedy"), FAULTS, ids=[f"{each[0]}: {each[2]}" for each in FAULTS]
)
def test_a_fault_is_found_and_its_remedy_named(check: str, readings: Readings, remedy: str) -> None:
    finding = found(readings, check)
    assert finding.level == "warning"
    assert (finding.remedy or "").startswith(remedy)
    others = [each for each in conclude(readings) if each.level == "warning" and each.check != check]
    assert others == []


def test_commands_are_told_from_words() -> None:
    remedies = [found(readings, check) for check, readings, _ in FAULTS]
    commands = [each.command for each in remedies if each.command]
    assert all("\n" not in command and ": " not in command for command in commands)
    words = [each.remedy or "" for each in remedies if each.command is None]
    assert {text.split()[0] for text in words} == {"none", "end", "let", "plug", "use", "reinstall", "remove"}


def test_a_guest_hears_of_stolen_time() -> None:
    guest = replace(SOUND.processor, hypervisor=True)
    assert found(replace(SOUND, processor=guest), "stolen time").level == "ok"
    robbed = replace(SOUND, processor=guest, noise=replace(SOUND.noise, stolen_s=0.08))
    finding = found(robbed, "stolen time")
    assert finding.level == "warning"
    assert "2.0%" in finding.text
    assert not [each for each in conclude(SOUND) if each.check == "stolen time"]


def test_threads_that_a_quota_stopped_are_told_how_many_to_be() -> None:
    throttled = replace(
        SOUND,
        noise=replace(SOUND.noise, together=(spun(0, 0.5), spun(1, 0.5)), throttled=7),
        processor=replace(SOUND.processor, quota_cpus=1.0),
    )
    finding = found(throttled, "all CPUs")
    assert "stopped us 7 times" in finding.text
    assert finding.remedy == "attnbench sweep … --set measure.threads=1"
    assert "100% or more" in (finding.effect or "")  # half the time lost: twice as long


def test_what_the_system_does_not_tell_is_not_taken_for_off() -> None:
    assert found(with_("processor", smt=True, cores=()), "SMT").level == "unknown"
    assert found(with_("processor", smt=False, cores=()), "SMT").level == "ok"
    assert found(with_("gpu", mig=None), "GPU MIG").level == "unknown"


def test_of_one_cpu_there_is_nothing_to_compare() -> None:
    single = with_("noise", together=(spun(0, 0.3),))
    assert not {"all CPUs", "shared speed"} & {each.check for each in conclude(single)}
    throttled = with_("noise", together=(spun(0, 0.3),), throttled=3)
    assert "stopped us 3 times" in found(throttled, "all CPUs").text


def test_siblings_that_share_a_core_are_named_as_why_it_is_slow() -> None:
    siblings = replace(
        SOUND,
        noise=replace(SOUND.noise, together=tuple(spun(cpu, turns=6_000_000) for cpu in range(4))),
        processor=replace(SOUND.processor, smt=True, cores=((0, 1), (2, 3))),
    )
    assert found(siblings, "shared speed").remedy == "taskset -c 0,2 attnbench sweep …"


def test_in_a_container_what_the_host_decides_is_sent_there() -> None:
    finding = found(with_("processor", governors=("powersave",), container=True), "governor")
    assert (finding.remedy or "").endswith("(on the host: this is a container)")


def test_what_is_known_of_no_reading_is_said_in_one_line_each() -> None:
    findings = conclude(replace(Readings(), gpus=(GpuReading(),)))
    assert {each.level for each in findings} <= {"ok", "unknown"}
    unknown = {each.check for each in findings if each.level == "unknown"}
    assert {"clock", "one CPU", "governor", "memory", "malloc", "GPU"} <= unknown


def test_a_gpu_that_nvml_does_not_know_is_one_line() -> None:
    lines = [each for each in conclude(replace(SOUND, gpus=(GpuReading(),))) if each.device == "cuda:0"]
    assert [each.level for each in lines] == ["unknown"]


@pytest.mark.parametrize(
    ("cpus", "text"), [((), ""), ((3,), "3"), ((0, 1, 2, 8), "0-2,8"), ((4, 0, 2), "0,2,4")]
)
def test_lists_of_cpus_are_written_as_the_kernel_does(cpus: tuple[int, ...], text: str) -> None:
    assert ranges(cpus) == text


ANY_READINGS = st.builds(
    Readings,
    clock=st.from_type(ClockReading),
    noise=st.from_type(Noise),
    others=st.from_type(Others),
    processor=st.from_type(Processor),
    memory=st.from_type(Memory),
    variables=st.from_type(Variables),
    bench=st.from_type(BenchReading),
    gpus=st.lists(st.from_type(GpuReading), max_size=2).map(tuple),
)


@given(ANY_READINGS)
def test_no_reading_makes_it_fail_and_every_warning_has_effect_and_remedy(readings: Readings) -> None:
    for finding in conclude(readings):
        assert finding.check
        assert finding.text
        if finding.level == "warning":
            assert finding.effect
            assert finding.remedy
        else:
            assert finding.remedy is None
