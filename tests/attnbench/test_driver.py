from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attnbench.bench.compiled import CACHE_VARIABLES, FOLDER_VARIABLE, keep_by_case
from attnbench.driver import ZygoteSource, bench_environment, memory_limit, thread_count
from attnbench.driver import memory as driver_memory
from attnbench.driver.compiled import PREFIX, CompilerCache
from attnbench.driver.death import Death, explain, last_words
from attnbench.driver.memory import OomCounter, cgroup_folders
from attnbench.driver.output import TAIL_BYTES, Output
from attnbench.driver.pinned import process_environment
from attnbench.errors import MeasuringError, PluginError
from attnbench.protocol import PROTOCOL_VERSION, BenchFailed, BenchLost
from attnbench.workload import AttentionShape, Workload

linux = pytest.mark.skipif(sys.platform != "linux", reason="benches are forked on Linux only")

KERNEL = """
import attnbench
{more}
@attnbench.attention("mine")
def mine(q, k, v, *, mask, scale):
    {body}
"""


def plugin(folder: Path, more: str = "", body: str = "return q") -> Path:
    path = folder / "plugin.py"
    path.write_text(KERNEL.format(more=more, body=body))
    return path


def prepare_parameters(**changes: Any) -> dict[str, Any]:
    return {
        "case": "c",
        "implementation": "mine",
        "options": {},
        "workload": Workload("attention", AttentionShape(1, 1, 1, 4, 4, 4)).to_json(),
        "device": "cpu",
        "seed": 0,
        "threads": None,
        **changes,
    }


# The environment of benches


def test_the_pinned_environment_is_told_exactly() -> None:
    assert bench_environment(3, "pinned") == {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "4294967296",
        "GOMP_SPINCOUNT": "5000",
        "OPENBLAS_THREAD_TIMEOUT": "18",
        "KMP_BLOCKTIME": "1",
        "OMP_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "PYTHONHASHSEED": "0",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    }


def test_mallocs_defaults_mean_that_nothing_inherited_pins_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    environment = process_environment(1, "default")
    assert "MALLOC_MMAP_MAX_" not in environment
    assert "MALLOC_TRIM_THRESHOLD_" not in environment
    assert environment["SOMETHING_ELSE"] == "kept"


def test_what_compilers_kept_of_earlier_runs_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {FOLDER_VARIABLE, *CACHE_VARIABLES}
    for variable in variables:
        monkeypatch.setenv(variable, "/somewhere")
    assert not variables & set(process_environment(1, "pinned"))


def test_threads_are_a_number_or_all() -> None:
    assert thread_count("all") >= 1
    assert thread_count(5) == 5
    for wrong in (0, -1, True, "some", 1.5):
        with pytest.raises(ValueError, match="threads must be 'all' or a whole number"):
            thread_count(wrong)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="malloc must be one of pinned, default"):
        bench_environment(1, "jemalloc")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_compilers_have_a_folder_of_their_own_while_it_is_open(temporary: Path) -> None:
    first, second = CompilerCache(), CompilerCache()
    assert first.folder is not None
    assert set(first.environment) == {FOLDER_VARIABLE, *CACHE_VARIABLES}
    for variable in CACHE_VARIABLES:
        folder = Path(first.environment[variable])
        folder.mkdir()
        assert folder.parent == first.folder == Path(first.environment[FOLDER_VARIABLE])
        assert second.environment[variable] != str(folder)
    for cache in (first, first, second):
        cache.close()
    assert list(temporary.iterdir()) == []
    assert first.environment == {}


def test_measuring_processes_are_led_there_and_it_ends_with_their_source(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ZygoteSource, "_launched", lambda source: None)
    source = ZygoteSource(wait=False)
    (folder,) = temporary.iterdir()
    for variable in CACHE_VARIABLES:
        assert Path(source._environment[variable]).parent == folder
    source.close()
    assert list(temporary.iterdir()) == []


def test_each_case_of_each_scope_has_a_part_of_it(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(temporary))
    led: dict[tuple[str, str], list[str]] = {}
    cases = (("one", "a/b"), ("one", "b"), ("two", "b"), ("one", "a/b"))
    for case in cases:
        for variable in CACHE_VARIABLES:
            monkeypatch.setenv(variable, "/mine")  # to be set back after the test
        keep_by_case(*case)
        folders = [os.environ[variable] for variable in CACHE_VARIABLES]
        assert all(Path(folder).is_relative_to(temporary) for folder in folders)
        assert led.setdefault(case, folders) == folders
    assert len({folder for folders in led.values() for folder in folders}) == 3 * len(CACHE_VARIABLES)


def test_who_was_given_no_folder_is_led_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    keep_by_case("one", "a")
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"


@linux
def test_what_a_killed_process_left_is_removed_by_the_next_and_what_is_held_is_not(temporary: Path) -> None:
    held, young = CompilerCache(), temporary / f"{PREFIX}young"
    abandoned, foreign = temporary / f"{PREFIX}abandoned", temporary / "foreign"
    for folder in (young, abandoned, foreign):
        (folder / "inductor").mkdir(parents=True)
    assert held.folder is not None
    for folder in (held.folder, abandoned, foreign):
        os.utime(folder, (0, 0))
    CompilerCache().close()
    assert set(temporary.iterdir()) == {held.folder, young, foreign}
    held.close()


def test_without_a_temporary_folder_compilers_are_left_with_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_usable() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    cache = CompilerCache()
    assert cache.environment == {}
    cache.close()


# Memory


def test_the_ceiling_is_a_fraction_of_the_tightest_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(driver_memory, "cgroup_folders", lambda: [tmp_path])
    monkeypatch.setattr(driver_memory.sys, "platform", "linux")
    assert memory_limit(0.5) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    limit = memory_limit(1.0)
    assert limit is not None
    assert limit > 1_000_000
    for wrong in (0, -1, 1.1):
        with pytest.raises(ValueError, match="memory_fraction"):
            memory_limit(wrong)


@pytest.mark.parametrize(
    ("line", "folders"),
    [
        ("0::/user/job", ["user/job", "user", "."]),
        ("4:memory:/user/job", ["memory/user/job", "memory/user", "memory"]),
        ("3:cpu,cpuacct:/user/job", []),
    ],
)
def test_control_groups_of_both_versions_and_all_above_are_found(
    tmp_path: Path, line: str, folders: list[str]
) -> None:
    for folder in ("user/job", "memory/user/job"):
        (tmp_path / folder).mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text(line + "\n")
    assert cgroup_folders(own, tmp_path) == [tmp_path / folder for folder in folders]


@pytest.mark.parametrize("name", ["memory.events", "memory.oom_control"])
def test_the_counter_tells_once_that_it_has_risen(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("oom 7\noom_kill 3\n")
    counter = OomCounter([tmp_path], tmp_path / "vmstat")
    assert not counter.risen()
    file.write_text("oom 8\noom_kill 4\n")
    assert counter.risen()
    assert not counter.risen()


# How a process ended


@pytest.mark.parametrize(
    ("death", "printed", "oom_killed", "expected"),
    [
        (Death(signal=11), "", False, "crashed: killed by SIGSEGV during sample"),
        (Death(exit_code=3), "a\nb\n\n", False, "crashed: exited with status 3 during sample; last words: b"),
        (Death(signal=9), "", False, "crashed: killed by SIGKILL during sample"),
        (Death(signal=9), "", True, "oom: killed by the system during sample, because memory ran out"),
        (Death(orphaned=True), "", True, "oom: killed by the system during sample, because memory ran out"),
        (Death(signal=11), "", True, "crashed: killed by SIGSEGV during sample"),
        (
            Death(signal=6),
            "std::bad_alloc\nx\n",
            False,
            "oom: killed by SIGABRT during sample: std::bad_alloc",
        ),
        (
            Death(exit_code=1),
            "\nlibgomp: Thread creation failed\n",
            False,
            "oom: exited with status 1 during sample: libgomp: Thread creation failed",
        ),
        (Death(signal=40), "", False, "crashed: killed by signal 40 during sample"),
    ],
)
def test_what_a_death_says_of_the_case(death: Death, printed: str, oom_killed: bool, expected: str) -> None:
    assert ": ".join(explain(death, "sample", printed, oom_killed)) == expected


def test_a_crash_is_placed_in_the_innermost_line_that_is_not_pythons_own() -> None:
    report = (
        "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
        '  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at\n'
        '  File "/home/me/kernel.py", line 7 in fast\n'
        '  File "/home/me/caller.py", line 8 in slow\n\nExtension modules: numpy (total: 1)\n'
    )
    assert explain(Death(signal=11), "memory", report, False) == (
        "crashed",
        "killed by SIGSEGV during memory, in fast (kernel.py:7)",
    )


def test_last_words_are_one_printable_line() -> None:
    assert last_words("a\n\x1b[31mred\x00\x1b[0m\n \n") == "red"
    assert len(last_words("x" * 5000)) < 200
    assert last_words("\n\n") == ""


# What processes print


def test_only_the_end_of_what_is_printed_is_kept_and_nobody_waits() -> None:
    output = Output()
    try:
        os.write(output.writer, b"before")
        mark = output.mark()
        for _ in range(100):
            os.write(output.writer, b"x" * 65_536)  # a pipe holds one of these
        os.write(output.writer, b"the end")
        text = output.since(mark)
        assert len(text) == TAIL_BYTES
        assert text.endswith("xthe end")
        mark = output.mark()
        assert output.since(mark) == ""
        os.write(output.writer, b"\xff more")
        assert output.since(mark) == "\ufffd more"
    finally:
        output.close()
    output.close()


# Sources


TELLTALES = """
import gc, os, resource
import attnbench, torch

@attnbench.attention("right")
def right(q, k, v, *, mask, scale):
    "Gives something back."
    return q

@attnbench.attention("garbage")
def garbage(q, k, v, *, mask, scale):
    "Tells whether what was imported is left out of searches for garbage."
    raise ValueError(gc.get_freeze_count() > 10 * len(gc.get_objects()))

@attnbench.attention("descriptors")
def descriptors(q, k, v, *, mask, scale):
    "Tells what this process has open."
    links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    raise ValueError(sorted(os.readlink(link).split(":")[0] for link in links if os.path.lexists(link)))

@attnbench.attention("environment", options={"names": ""})
def environment(q, k, v, *, mask, scale, names):
    "Tells the variables called `names`, the threads, and the limits."
    data, addresses = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_DATA, resource.RLIMIT_AS))
    raise ValueError(os.environ.items() >= dict(n.split("=") for n in names.split()).items(),
                     torch.get_num_threads(), data < 2**33, addresses)
"""


@pytest.fixture(scope="module")
def telltale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteSource]:
    folder = tmp_path_factory.mktemp("telltale")
    path = folder / "telltale.py"
    path.write_text(TELLTALES)
    with (folder / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        with ZygoteSource([path], threads=1, memory_limit_bytes=2**32) as source:
            yield source


def told(source: ZygoteSource, implementation: str, **options: Any) -> str:
    bench = source.bench()
    with pytest.raises(BenchFailed) as failed:
        bench.request("prepare", prepare_parameters(implementation=implementation, options=options), 30)
    return failed.value.reason


def test_hello_tells_what_is_here(telltale: ZygoteSource) -> None:
    hello = telltale.hello
    assert hello["protocol_version"] == PROTOCOL_VERSION
    assert {"torch", "numpy"} <= hello["libraries"].keys()
    assert [device["device"] for device in hello["devices"]["cpu"]] == ["cpu"]
    origins = {entry["name"]: Path(entry["origin"]).name for entry in hello["catalogue"]}
    assert origins["descriptors"] == "telltale.py"
    assert hello["problems"] == []


@linux
def test_benches_inherit_nothing_but_their_socket(telltale: ZygoteSource) -> None:
    telltale.bench()  # of an earlier one nothing is inherited either
    assert told(telltale, "descriptors") == "ValueError: ['/dev/null', 'pipe', 'pipe', 'socket']"


@linux
def test_benches_run_under_the_pinned_environment_and_their_ceiling(telltale: ZygoteSource) -> None:
    pinned = bench_environment(1, "pinned")
    names = " ".join(f"{name}={value}" for name, value in pinned.items())
    assert told(telltale, "environment", names=names) == "ValueError: (True, 1, True, -1)"


def test_where_forking_is_not_safe_benches_are_spawned(tmp_path: Path) -> None:
    more = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    body = "import os; return q if os.getpgid(0) == os.getpid() else None"
    with ZygoteSource([plugin(tmp_path, more, body)], threads=1, memory_limit_bytes=2**32) as source:
        assert source.hello["fork_unsafe"] is not None
        assert "started threads" in source.hello["fork_unsafe"]
        bench = source.bench()
        assert bench.start == "spawned"
        assert bench.request("prepare", prepare_parameters(), 30)["framework"] == "torch"
        os.kill(bench.pid, signal.SIGSEGV)
        with pytest.raises(BenchLost) as lost:
            bench.request("release", {"case": "c"}, 30)
        assert (lost.value.status, lost.value.reason[:24]) == ("crashed", "killed by SIGSEGV during")


def test_imports_of_benches_are_no_garbage(telltale: ZygoteSource) -> None:
    """Else every sample would begin with a search of all that was imported, which sweeps the caches."""
    assert telltale.hello["fork_unsafe"] is None
    assert telltale.bench().start == "forked"
    assert told(telltale, "garbage") == "ValueError: True"


def test_fresh_interpreters_can_be_asked_for_and_their_imports_are_no_garbage(tmp_path: Path) -> None:
    path = tmp_path / "telltale.py"
    path.write_text(TELLTALES)
    with ZygoteSource([path], threads=1, spawn=True) as source:
        assert source.hello["fork_unsafe"] is None
        assert source.bench().start == "spawned"
        assert told(source, "garbage") == "ValueError: True"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("raise RuntimeError('not today')", ":3 cannot be imported: RuntimeError: not today"),
        (
            "import os; os.write(2, b'so long\\n'); os._exit(5)",
            "ended the interpreter: exited with status 5; last words: so long",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named(tmp_path: Path, more: str, message: str) -> None:
    path = plugin(tmp_path, more)
    with pytest.raises(PluginError) as caught:
        ZygoteSource([path], threads=1)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_plugin_that_hangs_at_import_is_named_and_killed(tmp_path: Path) -> None:
    ready = tmp_path / "pid"
    more = f"import os, time; open({str(ready)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    path = plugin(tmp_path, more)
    with pytest.raises(PluginError, match=r"plugin\.py was not loaded within 0.5 s"):
        ZygoteSource([path], threads=1, plugin_deadline_s=0.5)
    assert not Path(f"/proc/{ready.read_text()}").exists()


def test_an_interpreter_that_cannot_be_started_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(MeasuringError, match="/nowhere/python cannot be started"):
        ZygoteSource(threads=1)


def test_several_sources_import_at_the_same_time_and_errors_say_whose_they_are(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    good = ZygoteSource([plugin(tmp_path / "good")], threads=1, wait=False)
    bad = ZygoteSource([plugin(tmp_path, "1 / 0")], threads=1, wait=False, role="--base old.py")
    with good, bad:
        with pytest.raises(PluginError, match=r"^--base old\.py: the plug-in .* ZeroDivisionError"):
            bad.bench()
        with pytest.raises(MeasuringError, match=r"^--base old\.py: the source of benches is closed"):
            _ = bad.hello
        assert good.bench().request("prepare", prepare_parameters(), 30)["framework"] == "torch"


ANOTHER_VERSION = """
import socket, sys
endpoint = socket.socket(fileno=int(sys.argv[sys.argv.index("--socket-fd") + 1]))
endpoint.recv(100)
endpoint.sendall(b'{"id": 0, "ok": true, "protocol_version": 999}\\n')
endpoint.recv(1)
"""


def test_another_version_of_the_protocol_names_the_interpreter(tmp_path: Path) -> None:
    (tmp_path / "attnbench").mkdir()
    (tmp_path / "attnbench" / "__init__.py").touch()
    (tmp_path / "attnbench" / "zygote.py").write_text(ANOTHER_VERSION)
    with pytest.raises(MeasuringError) as caught:
        ZygoteSource(threads=1, path=[tmp_path], python=Path(sys.executable))
    expected = f"the attnbench that {sys.executable} imports speaks protocol 999, this one {PROTOCOL_VERSION}"
    assert expected in str(caught.value)


@linux
def test_a_zygote_that_died_is_started_again(telltale: ZygoteSource) -> None:
    first, bench = telltale.hello["pid"], telltale.bench()
    os.kill(first, signal.SIGKILL)
    until = time.monotonic() + 10
    while Path(f"/proc/{bench.pid}").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(BenchLost, match="its zygote with it"):
        bench.request("release", {"case": "c"}, 30)
    prepared = telltale.bench().request("prepare", prepare_parameters(implementation="right"), 30)
    assert prepared["framework"] == "torch"
    assert telltale.hello["pid"] != first
