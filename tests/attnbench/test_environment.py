from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

import attnbench
from attnbench import environment
from attnbench.environment import (
    FIELDS,
    boost,
    cache_bytes,
    cgroup_cpus,
    cgroup_memory_bytes,
    cpu_model,
    differences,
    fingerprint,
    huge_pages,
    hypervisor,
    machine_label,
)
from attnbench.protocol import HelloReply
from fake_nvml import FakeGpu, FakeNvml, process

HELLO: HelloReply = {
    "protocol_version": 1,
    "pid": 4711,
    "python": "3.12.1",
    "libraries": {"torch": "2.13.0", "numpy": "2.4.0"},
    "devices": {"cpu": [{"name": "cpu"}], "cuda": [{"name": "NVIDIA H100", "uuid": "GPU-1"}]},
    "catalogue": [],
    "problems": [],
    "fork_unsafe": None,
}


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_a_fingerprint_has_every_field_and_is_json() -> None:
    found = fingerprint(HELLO, {"GOMP_SPINCOUNT": "5000"}, 2, "pinned")
    assert list(found) == list(FIELDS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["python"] == "3.12.1"
    assert found["libraries"] == HELLO["libraries"]
    assert found["devices"] == HELLO["devices"]
    assert found["bench_environment"] == {"GOMP_SPINCOUNT": "5000"}
    assert (found["threads"], found["malloc"]) == (2, "pinned")
    assert found["attnbench"] == attnbench.__version__
    assert 1 <= found["cores_usable"] <= found["cores_logical"]
    assert found["memory_bytes"] > 2**20


def test_variables_that_benches_inherit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("UNRELATED", "1")
    found = fingerprint()["inherited_variables"]
    assert found["OPENBLAS_CORETYPE"] == "Haswell"
    assert "UNRELATED" not in found


def test_without_a_zygote_it_is_this_interpreters() -> None:
    found = fingerprint()
    assert list(found) == list(FIELDS)
    assert found["python"] == platform.python_version()
    assert (found["libraries"], found["devices"], found["threads"]) == ({}, {}, None)


def test_gpus_are_described_by_their_driver_in_the_order_of_the_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = [FakeGpu("GPU-0", name="NVIDIA A100"), FakeGpu("GPU-1", processes=[process(7, 1)])]
    nvml = FakeNvml(*known).install(monkeypatch)
    cuda = [{"device": f"cuda:{i}", "uuid": uuid} for i, uuid in enumerate(["GPU-1", "GPU-none", None])]
    hello: Any = {**HELLO, "devices": {"cpu": [], "cuda": cuda}}
    (gpu,) = fingerprint(hello)["gpus"]
    assert (gpu["device"], gpu["uuid"], gpu["driver"]) == ("cuda:0", "GPU-1", "570.86.15")
    assert (gpu["power_limit_w"], gpu["persistence"], gpu["ecc"]) == (700, True, True)
    assert "processes" not in gpu, "who else is there now explains no difference between runs"
    assert nvml.users == 0
    assert fingerprint()["gpus"] == []
    set_lower = [{**gpu, "power_limit_w": 500}]
    assert differences({"gpus": [gpu]}, {"gpus": set_lower}) == [("gpus.0.power_limit_w", 700, 500)]


def test_the_machines_name_is_not_recorded() -> None:
    assert socket.gethostname() not in json.dumps(fingerprint()).split('"')


def test_a_probe_that_fails_leaves_null(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such thing here")

    for name in ("_text", "_cores", "_cores_usable", "_memory_bytes", "_os_name", "_git", "cgroup_cpus"):
        monkeypatch.setattr(environment, name, broken)
    monkeypatch.setattr(os, "getloadavg", broken)
    monkeypatch.setattr(platform, "release", broken)
    found = fingerprint(HELLO)
    assert list(found) == list(FIELDS)
    assert found["machine"] == "unknown"
    for name in ("cpu", "cores_logical", "memory_bytes", "kernel", "git_commit", "git_dirty", "load_average"):
        assert found[name] is None, name


@pytest.mark.parametrize(
    ("cpu", "cores", "label"),
    [
        ("AMD EPYC", 2, "amd-epyc-2c"),
        ("AMD EPYC 7B13 64-Core Processor", 16, "amd-epyc-7b13-16c"),
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", 4, "intel-xeon-platinum-8481c-4c"),
        ("12th Gen Intel(R) Core(TM) i7-12700K", 20, "12th-gen-intel-core-i7-12700k-20c"),
        ("aarch64", None, "aarch64"),
        (None, 2, "unknown-2c"),
        ("../../etc", 1, "etc-1c"),
    ],
)
def test_a_machines_label_is_a_plain_folder_name(cpu: str | None, cores: int | None, label: str) -> None:
    assert machine_label(cpu, cores) == label


def test_the_processor_is_read_from_what_the_kernel_lists(tmp_path: Path) -> None:
    cpuinfo = "processor\t: 0\nmodel name\t: AMD  EPYC 9B14\nflags\t\t: fpu hypervisor avx2\n"
    root = put(tmp_path, {"proc/cpuinfo": cpuinfo})
    assert cpu_model(root) == "AMD EPYC 9B14"
    assert hypervisor(root) is True
    put(tmp_path, {"proc/cpuinfo": "model name\t: Xeon\nflags\t\t: fpu avx2\n"})
    assert hypervisor(root) is False
    put(tmp_path, {"proc/cpuinfo": "CPU implementer\t: 0x41\n"})
    assert hypervisor(root) is None
    assert cpu_model(root) == (platform.processor() or platform.machine())
    assert cpu_model(tmp_path / "elsewhere") == (platform.processor() or platform.machine())


def test_caches_are_data_or_unified_ones(tmp_path: Path) -> None:
    folder = "sys/devices/system/cpu/cpu0/cache"
    caches = [(1, "Instruction", "64K"), (1, "Data", "48K"), (2, "Unified", "2M"), (3, "Unified", "32768K")]
    for index, (level, kind, size) in enumerate(caches):
        put(
            tmp_path,
            {
                f"{folder}/index{index}/{name}": f"{value}\n"
                for name, value in (("level", level), ("type", kind), ("size", size))
            },
        )
    assert [cache_bytes(level, tmp_path) for level in (1, 2, 3, 4)] == [
        48 * 2**10,
        2 * 2**20,
        32 * 2**20,
        None,
    ]


def test_boost_is_told_by_either_driver(tmp_path: Path) -> None:
    assert boost(tmp_path) is None
    put(tmp_path, {"sys/devices/system/cpu/intel_pstate/no_turbo": "1\n"})
    assert boost(tmp_path) is False
    put(tmp_path, {"sys/devices/system/cpu/cpufreq/boost": "1\n"})
    assert boost(tmp_path) is True


def test_huge_pages_are_what_is_in_brackets(tmp_path: Path) -> None:
    file = "sys/kernel/mm/transparent_hugepage/enabled"
    assert huge_pages(put(tmp_path, {file: "always [madvise] never\n"})) == "madvise"
    assert huge_pages(put(tmp_path, {file: "weird\n"})) is None


def test_the_tightest_limit_of_nested_control_groups_holds(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner\n",
            "sys/fs/cgroup/outer/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
            "sys/fs/cgroup/outer/memory.max": "8589934592\n",
            "sys/fs/cgroup/outer/inner/memory.max": "4294967296\n",
        },
    )
    assert cgroup_cpus(root) == 1.5
    assert cgroup_memory_bytes(root) == 4 * 2**30


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/box\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1073741824\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert cgroup_cpus(root) == 2.0
    assert cgroup_memory_bytes(root) == 2**30


def test_without_limits_there_are_none(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
            "sys/fs/cgroup/memory.max": "max\n",
        },
    )
    assert (cgroup_cpus(root), cgroup_memory_bytes(root)) == (None, None)


def test_the_commit_is_that_of_the_checkout_one_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    found = fingerprint()
    assert (found["git_commit"], found["git_dirty"]) == (None, None)
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "first")
    (tmp_path / "untracked").touch()
    found = fingerprint()
    assert (found["git_commit"], found["git_dirty"]) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "file").write_text("two")
    assert fingerprint()["git_dirty"] is True


def test_differences_are_named_by_their_path() -> None:
    a = fingerprint(HELLO, {"A": "1", "B": "2"}, 2, "pinned")
    b = json.loads(json.dumps(a))
    b |= {"malloc": "default", "load_average": 99.0, "time": "later"}
    b["libraries"] = {"torch": "2.14.0", "numpy": "2.4.0"}
    b["devices"]["cuda"][0]["name"] = "NVIDIA A100"
    b["bench_environment"] = {"A": "1"}
    assert differences(a, b) == [
        ("libraries.torch", "2.13.0", "2.14.0"),
        ("devices.cuda.0.name", "NVIDIA H100", "NVIDIA A100"),
        ("malloc", "pinned", "default"),
        ("bench_environment.B", "2", None),
    ]
    assert differences(a, a) == []
