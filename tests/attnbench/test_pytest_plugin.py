"""`pytest --attnbench`, in runs of pytest of its own: most of them on scripted benches."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from attnbench import store, table
from attnbench.ceilings import Ceilings, MatrixRate
from attnbench.export.pytest_benchmark import document
from attnbench.protocol import BenchFailed
from attnbench.pytest_plugin.cases import CaseFailed, Measuring, Replay, measured
from attnbench.pytest_plugin.session import ScenarioTests
from attnbench.scenario import parse
from builders import make_header, make_record
from scripted import Script, ScriptedSource, steady

BLOCK = "attention/B1-H2-L16-D16/float32/none/forward/cpu"

SCENARIO = """\
name: staged
description: Scripted kernels.
operation: attention
implementations: [swift, steady, remembering, careless, crashing, picky]
anchor: swift
matrix: {heads: 2, head_dim: 16, seq_len: [16]}
measure: {precision: 0.1, max_seconds: 1, processes: 2}
"""

#: Benches that need no torch and take no time, on a clock of their own.
STAGE = f"""\
import os
import sys

sys.path.insert(0, {str(Path(__file__).parents[1])!r})

from attnbench import driver
from attnbench.errors import MeasuringError
from attnbench.protocol import BenchFailed, BenchLost
from scripted import Script, ScriptedSource, failing, steady

SCRIPTS = {{
    "swift": Script(time_s=lambda bench, sample: 1e-4 * (1 + sample % 3 / 100)),
    "steady": Script(time_s=steady(2e-3)),
    "remembering": Script(replays="o does not follow its inputs"),
    "careless": Script(poisoned="left memory unwritten"),
    "crashing": Script(fails=failing("sample", BenchLost("crashed", "SIGSEGV"))),
    "picky": Script(fails=failing("prepare", BenchFailed("unsupported", "not at this length"))),
    "interrupted": Script(fails=failing("prepare", KeyboardInterrupt())),
    "without_benches": Script(fails=failing("prepare", MeasuringError("no benches can be had"))),
}}


def source(**_):
    made = ScriptedSource(SCRIPTS)
    made.hello["problems"] = [text for text in [os.environ.get("STAGED_PROBLEM")] if text]
    return made


driver.ZygoteSource = source


def pytest_benchmark_generate_commit_info():
    return {{"id": "unversioned"}}
"""


def run_pytest(folder: Path, *arguments: str, autoload: bool = False) -> subprocess.CompletedProcess[str]:
    """Run pytest with all plug-ins that it finds, or with few, which takes half the time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    few = () if autoload else ("-p", "attnbench", "-p", "benchmark")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *few, *arguments],
        cwd=folder,
        env={
            **environment,
            "COLUMNS": "200",
            **({} if autoload else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def furnished(folder: Path) -> Path:
    """A folder with a scenario of scripted kernels, and a test file that only a search would find."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(STAGE)
    (folder / "staged.yaml").write_text(SCENARIO)
    (folder / "test_other.py").write_text("def test_other():\n    pass\n")
    return folder


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return furnished(tmp_path)


def test_every_run_of_pytest_loads_it_and_so_it_is_light() -> None:
    (point,) = (point for point in distribution("attnbench").entry_points if point.group == "pytest11")
    assert (point.name, point.value) == ("attnbench", "attnbench.pytest_plugin")
    heavy = (
        "torch",
        "numpy",
        "pandas",
        "pydantic",
        "scipy",
        "pyarrow",
        "matplotlib",
        "ruamel",
        "rich",
        "click",
    )
    code = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        f"import {point.value}\n"
        "print(*sorted({name for name in set(sys.modules) - before if not name.startswith('attnbench')}))\n"
        f"assert not set({heavy!r}) & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """What a run of all cases says, and the benchmarks in its document."""
    folder = furnished(tmp_path_factory.mktemp("whole"))
    done = run_pytest(folder, "--attnbench", "staged.yaml", "-rfs", "--benchmark-json=out.json", "-Werror")
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout, json.loads((folder / "out.json").read_text())["benchmarks"]


def test_each_case_is_a_test_and_what_is_wrong_fails_with_its_reason(
    whole: tuple[str, list[dict[str, Any]]],
) -> None:
    text, benchmarks = whole
    assert "3 failed, 2 passed, 1 skipped" in text
    assert "test_other" not in text
    assert "not interleaved" in text
    assert "the answer is wrong: o does not follow its inputs" in text
    assert "the answer is wrong: left memory unwritten" in text
    assert "error_rel_l2 1e-07" in text
    assert "crashed: SIGSEGV" in text
    assert "unsupported: not at this length" in text
    assert "Traceback" not in text
    assert f"benchmark '{BLOCK}': 2 tests" in text
    # What failed has no place among times.
    assert [each["param"] for each in benchmarks] == ["swift", "steady"]


def test_the_figures_are_those_of_the_bench(whole: tuple[str, list[dict[str, Any]]]) -> None:
    swift, steady = whole[1]
    assert steady["stats"]["data"] == [2e-3] * steady["stats"]["rounds"]
    calls = swift["stats"]["iterations"]
    assert calls > 1 == steady["stats"]["iterations"]
    # To the last digit.
    assert set(swift["stats"]["data"]) == {1e-4 * (1 + third / 100) * calls / calls for third in range(3)}
    assert swift["fullname"] == f"attnbench:staged::{BLOCK}/swift"
    assert swift["name"] == f"{BLOCK}/swift"
    assert swift["group"] == BLOCK
    assert swift["params"]["kv_len"] == 16
    assert swift["options"]["timer"] == "attnbench"
    told = swift["extra_info"]
    expected = {
        "case_id": f"{BLOCK}/swift",
        "implementation": "swift",
        "dtype": "float32",
        "device": "cpu",
        "peak_alloc_bytes": 1 << 20,
        "peak_rss_bytes": (1 << 20) + 4096,
        "error_rel_l2": 1e-7,
        "accuracy": "pass",
        "first_call_s": 0.01,
        "resolved_backend": None,
        "processes": 2,
        "calls_per_sample": calls,
        "flops": 2 * 16 * 16 * 2 * 32,
        "bytes": 4 * 2 * 16 * 16 * 4,
        "interleaved": False,
    }
    assert {name: told[name] for name in expected} == expected


def test_a_run_is_compared_with_the_same_scenarios_tests(stage: Path) -> None:
    shape: dict[str, Any] = {"seq_len": 16, "heads": 2, "head_dim": 16}
    records = [
        make_record(name, scenario="staged", latency_s=latency_s, anchor="swift", **shape)
        for name, latency_s in {"swift": 1e-4, "steady": 1e-3}.items()
    ]
    writer = store.create(stage, "run", make_header())
    for record in records:
        writer.append(record)
    writer.close()
    (stage / "run.json").write_bytes(document(store.read(stage / "run")).to_json())
    done = run_pytest(
        stage,
        *("--attnbench", "staged.yaml", "-k", "swift or steady", "--benchmark-compare=run.json"),
        "--benchmark-compare-fail=mean:50%",
    )
    assert "Comparing against benchmarks from: run.json" in done.stdout + done.stderr
    # Twice as slow as in the run, and so it is told; the other one is as fast.
    assert f"{BLOCK}/steady (run" in done.stdout
    assert f"{BLOCK}/swift (NOW)" in done.stdout
    assert "Performance has regressed" in done.stdout + done.stderr
    regressed = [
        line for line in (done.stdout + done.stderr).splitlines() if "Field 'mean' has failed" in line
    ]
    assert len(regressed) == 1
    assert "steady" in regressed[0]
    assert len(table.load(stage / "run")) == 2


def test_without_timing_it_still_says_what_is_wrong(stage: Path) -> None:
    done = run_pytest(
        stage,
        *("--attnbench", "staged.yaml", "test_other.py", "-v"),
        *("--benchmark-disable", "--attnbench-impl=careless", "--attnbench-impl=swift"),
    )
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "test_other.py::test_other PASSED" in done.stdout
    assert f"attnbench:staged::{BLOCK}/careless FAILED" in done.stdout
    assert "left memory unwritten" in done.stdout


#: More options of a run of the staged scenario, how it ends, and what it tells.
OPTIONS = (
    ("--collect-only -q -k steady -p xdist -n0", 0, f"attnbench:staged::{BLOCK}/steady\n"),
    ("--benchmark-skip", 0, "6 skipped"),
    (f"attnbench:staged::{BLOCK}/swift", 0, "1 passed"),
    ("attnbench:staged::nothing", 4, "not found: attnbench:staged::nothing"),
    ("-p xdist -n2", 4, "pytest-xdist would have tests run side by side"),
    ("-p no:benchmark", 4, "switch it on again with: -p benchmark"),
    ("--attnbench-impl swft", 4, "--attnbench-impl swft: 'swft' is no implementation of attention"),
    ("--attnbench-set matrix.heads=[]", 4, "ERROR: --attnbench-set matrix.heads=[]: expected"),
    ("--attnbench ./staged.yaml", 4, "several scenarios are called 'staged'"),
    ("--attnbench staged", 4, "no scenario 'staged'"),
)

#: Runs of pytest one after another in one process, which imports everything once: code and output of each.
RUNS = """\
import contextlib, io, json, sys

import pytest

always = "-p no:cacheprovider -p attnbench -p benchmark --attnbench staged.yaml".split()
ran = []
for text in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = pytest.main([*always, *text.split()])
    ran.append((int(code), out.getvalue()))
print(json.dumps(ran))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output by options."""
    texts = [text for text, *_ in OPTIONS]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(texts)],
        cwd=furnished(tmp_path_factory.mktemp("options")),
        env={**environment, "COLUMNS": "200", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {text: (code, output) for text, (code, output) in zip(texts, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize(("text", "code", "told"), OPTIONS)
def test_options(ran: dict[str, tuple[int, str]], text: str, code: int, told: str) -> None:
    ended, output = ran[text]
    assert ended == code, output
    assert told in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("kernel", "code", "told"),
    [("interrupted", 2, "KeyboardInterrupt !!"), ("without_benches", 1, "no benches can be had\n")],
)
def test_what_ends_the_measuring_is_told_where_warnings_are_errors(
    stage: Path, kernel: str, code: int, told: str
) -> None:
    done = run_pytest(stage, "--attnbench", "staged.yaml", "--attnbench-impl", kernel, "-W", "error")
    assert done.returncode == code, done.stdout + done.stderr
    assert told in done.stdout
    assert "not used at all" not in done.stdout + done.stderr


def test_what_an_installed_package_cannot_contribute_is_told(
    stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGED_PROBLEM", "the entry point theirs cannot be loaded")
    done = run_pytest(stage, "--attnbench", "staged.yaml", "-k", "steady", "--benchmark-disable")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PytestWarning: attnbench: the entry point theirs cannot be loaded" in done.stdout


def test_options_that_change_a_scenario_need_one(stage: Path) -> None:
    done = run_pytest(stage, "--attnbench-set", "measure.seed=1")
    assert done.returncode == 4
    assert "--attnbench-set changes scenarios, and none is given; add --attnbench SCENARIO" in done.stderr


def test_without_pytest_benchmark_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without: Any = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugins=lambda: {pytest}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pytest.UsageError, match="get it with: python -m pip install pytest-benchmark"):
        ScenarioTests.of(without)


def test_a_real_bench_behind_it(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = run_pytest(
        tmp_path,
        *("--attnbench", "smoke", "--attnbench-impl", "numpy", "-W", "error"),
        *("--attnbench-set", "matrix.seq_len=[16]", "--attnbench-set", "measure.processes=1"),
        *("--benchmark-json=out.json", "--benchmark-autosave"),
        autoload=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert [each["extra_info"]["mask"] for each in written["benchmarks"]] == ["none", "causal"]
    for each in written["benchmarks"]:
        assert 1e-7 < each["stats"]["median"] < 0.1
        assert each["extra_info"]["accuracy"] == "pass"
        assert each["extra_info"]["peak_alloc_bytes"] > 0
    assert "numpy" in written["machine_info"]["libraries"]
    assert len(list(tmp_path.glob(".benchmarks/*/0001_*.json"))) == 1


class Fixture:
    """What pytest-benchmark's fixture does with what it is given."""

    def __init__(self, replay: Replay, *, enabled: bool = True) -> None:
        self.replay, self.enabled = replay, enabled
        self.param: str | None = None
        self.params: dict[str, Any] | None = None
        self.extra_info: dict[str, Any] = {}
        self.stats = SimpleNamespace(iterations=1)
        self.data: list[float] = []

    def pedantic(self, target: Any, *, setup: Any, rounds: int, iterations: int) -> None:
        for _ in range(rounds if self.enabled else iterations):
            setup()
            began = self.replay()
            target()
            self.data.append(self.replay() - began)


def measured_on(source: ScriptedSource, *, ceilings: Any = MappingProxyType({})) -> tuple[Fixture, list[str]]:
    """The fixture after the only case of a scenario was measured, and the warnings there were."""
    text = SCENARIO.replace("[swift, steady, remembering, careless, crashing, picky]", "[swift]")
    staged = parse(text.replace("processes: 2", "processes: 2, threads: 1"), "staged.yaml")
    (block,) = staged.expand(source.hello["catalogue"])
    fixture, warned = Fixture(replay := Replay()), list[str]()
    test: Any = SimpleNamespace(warn=lambda warning: warned.append(str(warning)))
    measured(fixture, test, Measuring(staged, source, ceilings), block.cases[0], replay)
    return fixture, warned


def test_what_nobody_could_judge_passes_and_is_told() -> None:
    source = ScriptedSource({"swift": Script()})
    assert measured_on(source)[1] == []
    source.reference_failure = BenchFailed("oom", "not enough for the reference")
    fixture, (warning,) = measured_on(source)
    assert "accuracy is unchecked: the reference failed: oom" in warning
    assert fixture.extra_info["accuracy"] == "unchecked"
    assert len(fixture.data) >= 6


def test_what_is_faster_than_the_machine_fails() -> None:
    source = ScriptedSource({"swift": Script(time_s=steady(1e-3))})

    def reaching(flops_per_s: float) -> dict[tuple[str, str], Ceilings]:
        rate = MatrixRate("float32", 1, flops_per_s, "torch matmul")
        return {("cpu", "Scripted CPU"): Ceilings("cpu", "Scripted CPU", None, "2026-01-01", (rate,), ())}

    needed = 2 * 16 * 16 * 2 * 32 / 1e-3
    assert measured_on(source, ceilings=reaching(needed * 1.1))[0].extra_info["flagged"] is False
    with pytest.raises(CaseFailed, match="flagged as measured wrong: "):
        measured_on(source, ceilings=reaching(needed / 1.1))


def test_a_replay_is_exact_and_ends_quietly() -> None:
    replay = Replay()
    replay.load([0.1, 1e-9])
    spans = []
    for _ in range(3):
        replay.rewind()
        began = replay()
        replay.play()
        spans.append(replay() - began)
    assert spans == [0.1, 1e-9, 0.0]
