"""Reading a machine: from files written by hand, from fakes, and once for real."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from attnbench.doctor.findings.gpu import gpu_findings
from attnbench.doctor.machine import examine
from attnbench.doctor.readings import BenchReading, GpuReading, noise, others
from attnbench.doctor.readings.bench import read_bench
from attnbench.doctor.readings.clock import read_clock
from attnbench.doctor.readings.files import cpu_list
from attnbench.doctor.readings.gpu import GpuProcess, read_gpu
from attnbench.doctor.readings.memory import read_memory
from attnbench.doctor.readings.noise import read_noise
from attnbench.doctor.readings.others import read_others
from attnbench.doctor.readings.processor import read_processor, usable_cpus
from attnbench.doctor.readings.stat import busy_s, stolen_s
from attnbench.doctor.readings.variables import read_variables
from attnbench.doctor.spin import spin
from attnbench.nvml import Gpu
from attnbench.protocol import BenchLost
from fake_nvml import UUID, FakeGpu, FakeNvml, process
from scripted import Script, ScriptedBench, ScriptedSource

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def put(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_lists_of_cpus() -> None:
    assert cpu_list("0-2,8") == (0, 1, 2, 8)
    assert cpu_list("5") == (5,)
    assert cpu_list("") == cpu_list(None) == cpu_list("0-x") == ()


def test_the_clock_is_measured(tmp_path: Path) -> None:
    folder = "sys/devices/system/clocksource/clocksource0"
    files = {f"{folder}/current_clocksource": "hpet\n", f"{folder}/available_clocksource": "tsc hpet \n"}
    reading = read_clock(put(tmp_path, files))
    assert reading.resolution_s is not None
    assert reading.cost_s is not None
    assert 0 < reading.resolution_s < 1e-3
    assert 0 < reading.cost_s < 1e-3
    assert reading.monotonic is True
    assert (reading.source, reading.sources) == ("hpet", ("tsc", "hpet"))


def ticking(*gaps_ns: int) -> Iterator[int]:
    """A clock whose readings lie so far apart, then 100 ns each."""
    now = 0
    yield now
    for gap in gaps_ns:
        now += gap
        yield now
    while True:
        now += 100
        yield now


def test_a_spin_counts_what_it_missed() -> None:
    readings = ticking(100, 7_000, 100, 4_000, 20_000)
    found = spin(100e-6, lambda: next(readings), cpu=3)
    assert found.cpu == 3
    assert found.gaps == 2
    assert found.lost_s == pytest.approx(27e-6)
    assert found.longest_s == pytest.approx(20e-6)
    assert found.elapsed_s == pytest.approx(100e-6)
    assert found.turns == 5 + (100_000 - 31_200) // 100


@linux
def test_noise_is_read_on_every_cpu_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "ALONE_S", 0.02)
    monkeypatch.setattr(noise, "TOGETHER_S", 0.05)
    cpus = usable_cpus()
    assert cpus
    before = psutil.Process().children()
    found = read_noise(cpus[:2])
    assert found.alone is not None
    assert found.alone.cpu == cpus[:2][-1]
    assert [each.cpu for each in found.together] == list(cpus[:2])
    for each in found.together:
        assert each.elapsed_s == pytest.approx(0.05, rel=0.5)
        assert each.turns
        assert each.lost_s is not None
        assert 0 <= each.lost_s <= (each.elapsed_s or 0)
    assert psutil.Process().children() == before


@linux
def test_an_interrupt_while_spinning_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(root: Path) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(noise, "ALONE_S", 0.01)
    monkeypatch.setattr(noise, "_throttled", interrupt)
    before = psutil.Process().children()
    with pytest.raises(KeyboardInterrupt):
        read_noise([None])
    assert psutil.Process().children() == before


@linux
def test_a_process_that_cannot_spin_is_told() -> None:
    with pytest.raises(ChildProcessError):
        read_noise([100_000])  # no such CPU


def test_counters_of_the_system(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/stat": "cpu  100 0 50 1000 7 3 2 250 0 0\n"
            "cpu0 60 1 2 3 4 5 6 50 0 0\ncpu1 1 0 0 0 0 0 0 9\n",
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/job/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 4\n",
            "sys/fs/cgroup/cpu.stat": "nr_throttled 1\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "2\n",
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "odd\n",
        },
    )
    ticks = os.sysconf("SC_CLK_TCK")
    assert stolen_s(root, [0]) == 50 / ticks
    assert stolen_s(root, [0, 1]) == 59 / ticks
    assert stolen_s(root, [None, None]) == 250 / ticks
    assert busy_s(root, [0]) == pytest.approx((60 + 1 + 2 + 5 + 6) / ticks)
    assert noise._throttled(root) == 5
    assert noise.heat_events(root) == 5
    nothing = tmp_path / "nothing"
    assert noise._throttled(nothing) is noise.heat_events(nothing) is None
    for read in (stolen_s, busy_s):
        with pytest.raises(ValueError, match="proc/stat"):
            read(nothing, [0])


def test_others_are_watched_while_we_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    counted = iter(
        [{(7, "make"): 1.0, (8, "idle"): 5.0}, {(7, "make"): 1.5, (8, "idle"): 5.0, (9, "new"): 1.0}]
    )
    monkeypatch.setattr(others, "_processes", lambda: next(counted))
    now = iter([10.0, 11.0])
    monkeypatch.setattr(others.time, "perf_counter", lambda: next(now))

    def state(busy: int, pages: int) -> None:
        put(
            tmp_path,
            {
                "proc/stat": f"cpu  900 0 0 0 0 0 0 0\ncpu1 {busy} 0 0 1000 0 0 0 0 0 0\n",
                "proc/vmstat": f"pswpin {pages}\npswpout 2\n",
            },
        )

    state(100, 0)
    found = read_others([1], tmp_path, sleep=lambda seconds: state(100 + ticks // 2, 5))
    assert found.busy_cpus == pytest.approx(0.5)
    assert [(each.pid, each.name, each.cpus) for each in found.busiest] == [(7, "make", 0.5)]
    assert found.swapped_pages == 5


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["/usr/bin/python3", "/home/me/train.py", "--token=secret"], "python3 train.py"),
        (["python3", "-m", "http.server", "80"], "python3 -m http.server"),
        (["python3", "-c", "import time"], None),
        (["python3"], None),
    ],
)
def test_scripts_are_named_without_their_arguments(
    words: list[str], name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil.Process, "cmdline", lambda process: words)
    assert others._script(others.Process(os.getpid(), "python3", 1.0)) == name
    assert others._script(others.Process(os.getpid(), "make", 1.0)) is None


def test_kernel_threads_and_what_we_descend_from_are_not_to_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not others._is_stoppable(os.getppid())
    assert others._is_stoppable(os.getpid())
    monkeypatch.setattr(psutil.Process, "cmdline", lambda process: [])
    assert not others._is_stoppable(os.getpid())


@linux
def test_our_own_processes_are_not_others() -> None:
    assert os.getpid() not in {pid for pid, _ in others._processes()}


def test_a_processor_is_read_from_files(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = put(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Fast CPU\nflags\t\t: fpu hypervisor\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            f"{cpu}/smt/active": "1\n",
            f"{cpu}/cpu0/cpufreq/scaling_governor": "schedutil\n",
            f"{cpu}/cpu0/cpufreq/scaling_driver": "acpi-cpufreq\n",
            f"{cpu}/cpu1/cpufreq/scaling_governor": "performance\n",
            f"{cpu}/intel_pstate/no_turbo": "0\n",
            **{f"{cpu}/cpu{n}/topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}\n" for n in range(4)},
            "sys/devices/system/node/node0/cpulist": "0-1\n",
            "sys/devices/system/node/node1/cpulist": "2-3\n",
            "sys/class/hwmon/hwmon0/name": "k10temp\n",
            "sys/class/hwmon/hwmon0/temp1_input": "61500\n",
            "sys/class/hwmon/hwmon1/name": "nvme\n",
            "sys/class/hwmon/hwmon1/temp1_input": "99000\n",
            "sys/class/power_supply/AC/type": "Mains\n",
            "sys/class/power_supply/AC/online": "0\n",
            ".dockerenv": "",
        },
    )
    found = read_processor(root, usable=(0, 1, 2))
    assert found.cores == ((0, 2), (1,))
    assert found.nodes == {0: (0, 1), 1: (2,)}
    assert found.governors == ("performance", "schedutil")
    assert (found.driver, found.smt, found.boost) == ("acpi-cpufreq", True, True)
    assert found.boost_switch == "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
    assert (found.quota_cpus, found.quota_known) == (1.5, True)
    assert (found.hypervisor, found.container, found.on_battery) == (True, True, True)
    assert found.temperature_c == 61.5


def test_of_an_empty_system_nothing_is_known(tmp_path: Path) -> None:
    found = read_processor(tmp_path, usable=(0,))
    assert (found.cores, found.nodes, found.governors) == ((), {}, ())
    for figure in (found.smt, found.boost, found.quota_cpus, found.hypervisor, found.temperature_c):
        assert figure is None
    assert found.on_battery is None
    memory = read_memory(tmp_path)
    assert (memory.total_bytes, memory.swap_used_bytes, memory.huge_pages, memory.defrag) == (None,) * 4


def test_memory_is_read_from_files(tmp_path: Path) -> None:
    huge = "sys/kernel/mm/transparent_hugepage"
    root = put(
        tmp_path,
        {
            "proc/meminfo": "MemTotal:  1000 kB\nMemAvailable:  600 kB\nSwapTotal:  50 kB\nSwapFree: 20 kB\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "500000\n",
            f"{huge}/enabled": "always [madvise] never\n",
            f"{huge}/defrag": "always defer [defer+madvise] madvise never\n",
        },
    )
    found = read_memory(root)
    assert (found.total_bytes, found.available_bytes) == (1000 * 1024, 600 * 1024)
    assert (found.granted_bytes, found.swap_used_bytes) == (500_000, 30 * 1024)
    assert (found.huge_pages, found.defrag) == ("madvise", "defer+madvise")


def test_variables_that_do_not_reach_benches_and_those_that_do() -> None:
    here = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "active", "OMP_PROC_BIND": "true", "HOME": "/root"}
    benches = {"OMP_NUM_THREADS": "4", "OMP_PROC_BIND": "true", "HOME": "/root", "GOMP_SPINCOUNT": "5000"}
    found = read_variables(here, benches)
    assert found.overruled == {"OMP_NUM_THREADS": ("1", "4"), "OMP_WAIT_POLICY": ("active", None)}
    assert found.kept == {"OMP_PROC_BIND": "true"}


def test_a_gpu_is_read_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = FakeGpu(temperature_c=91, reasons=0x20 | 0x04, processes=[process(12, None)])
    fake = FakeNvml(FakeGpu("GPU-other"), hot).install(monkeypatch)
    found = read_gpu({"device": "cuda:0", "name": "H100", "uuid": UUID})
    assert fake.users == 0
    assert found.seen
    assert (found.device, found.uuid, found.driver) == ("cuda:0", f"GPU-{UUID}", "570.86.15")
    assert (found.clock_hz, found.max_clock_hz, found.set_clock_hz) == (1755e6, 1980e6, 1500e6)
    assert (found.power_limit_w, found.default_power_limit_w, found.temperature_c) == (700, 700, 91)
    assert (found.persistence, found.ecc, found.mig) == (True, True, False)
    assert found.slowed_by == ("sw_thermal_slowdown",)
    assert found.processes == (GpuProcess(12, None),)
    warned = {each.check for each in gpu_findings(found) if each.level == "warning"}
    assert warned == {"GPU clock", "GPU heat", "GPU load"}


def test_a_gpu_that_nvml_does_not_know_or_loses_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    device = {"device": "cuda:0", "name": "H100", "uuid": UUID}
    unseen = GpuReading(name="H100", uuid=UUID)
    FakeNvml(FakeGpu("GPU-other")).install(monkeypatch)
    assert read_gpu(device) == unseen

    def lost(gpu: Gpu) -> dict[str, Any]:
        raise RuntimeError("NVML is lost")

    fake = FakeNvml(FakeGpu()).install(monkeypatch)
    monkeypatch.setattr(Gpu, "describe", lost)
    assert read_gpu(device) == unseen
    assert fake.users == 0


class Describing(ScriptedBench):
    """A scripted bench that says of itself what it is told to."""

    answer: ClassVar[dict[str, Any] | BenchLost] = {
        "threads": 2,
        "thread_libraries": ["libgomp.so.1"],
        "kept_share": 1.0,
    }

    def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        assert verb == "describe"
        if isinstance(self.answer, BenchLost):
            raise self.answer
        return self.answer


class DescribingSource(ScriptedSource):
    def bench(self) -> ScriptedBench:
        self.benches.append(Describing(self, len(self.benches)))
        return self.benches[-1]


def test_a_bench_is_asked_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = DescribingSource({"naive": Script()})
    found = read_bench(source, 2)
    assert found == BenchReading(2, 2, thread_libraries=("libgomp.so.1",), kept_share=1.0)
    monkeypatch.setattr(Describing, "answer", BenchLost("crashed", "killed by SIGSEGV"))
    lost = read_bench(source, 2)
    assert lost == BenchReading(2, failure="crashed: killed by SIGSEGV")
    assert all(bench.closed for bench in source.benches)


def test_the_whole_machine_is_read_where_nothing_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "ALONE_S", 0.01)
    monkeypatch.setattr(noise, "TOGETHER_S", 0.01)
    monkeypatch.setattr(others, "QUIET_S", 0.0)
    source = DescribingSource({"naive": Script()})
    source.hello["devices"]["cuda"] = [{"device": f"cuda:{n}", "name": "H100"} for n in range(2)]
    found = examine(source, ["cpu", "cuda:1"], tmp_path)
    assert [each.device for each in found.gpus] == ["cuda:1"]
    assert found.bench.threads == 2
    assert found.clock.cost_s
    assert found.others.busy_cpus is None
