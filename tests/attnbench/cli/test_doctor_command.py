"""`attnbench doctor`: what it shows and answers of diagnoses made by hand, and once as users start it."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner, Result

from attnbench import ceilings, driver
from attnbench.ceilings import Bandwidth, Ceilings, MatrixRate
from attnbench.cli import diagnosis as shown
from attnbench.cli import main
from attnbench.doctor import ceilings as measuring
from attnbench.doctor import machine, selftest
from attnbench.doctor.check import FAIL, Check, compared, impossible
from attnbench.doctor.readings import BenchReading, Noise, Others, Processor, Readings
from attnbench.doctor.readings.others import Process
from attnbench.doctor.spin import Spin
from attnbench.errors import MeasuringError
from scripted import Script, ScriptedSource

CHECKS = [
    compared("latency of a kernel that lasts 200 µs", "cpu", 201e-6, 200e-6, "s", 0.01),
    compared("peak of the allocator: torch", "cpu", 64 * 2**20, 64 * 2**20, "B", 0.01),
    compared("memory is told", "cpu", 1, 1, "flag", 0),
    impossible("energy", "cpu", "there is no meter here"),
]
WRONG = Check("ratio of a kernel to itself", "cpu", 1.2, 1.0, "×", 0.2, 0.05, FAIL, "its interval excludes 1")

QUIET = Readings(
    noise=Noise(alone=Spin(0, 1.0, 0.0001, 0.0001, 2, 10**7)),
    others=Others(busy_cpus=0.01),
    processor=Processor(usable=(0, 1), logical=2),
    bench=BenchReading(2, 2, numpy_threads=2, matmul_precision="highest"),
)
BUSY = replace(
    QUIET, others=Others(busy_cpus=1.0, busiest=(Process(4711, "\x1b[31mmake", 1.0), Process(12, "cc", 0.2)))
)


def measured(device: str) -> Ceilings:
    dtypes = ("float64", "float32", "bfloat16", "float16")
    counts = (1, 2, 4) if device == "cpu" else (None,)
    return Ceilings(
        device=device,
        device_name="Scripted CPU" if device == "cpu" else "NVIDIA H100",
        cache_bytes=2**25,
        measured_at="2026-01-01T00:00:00Z",
        matrix=tuple(
            MatrixRate(dtype, n, 1.5e11 * (n or 1), "torch matmul") for dtype in dtypes for n in counts
        ),
        bandwidth=tuple(Bandwidth(kind, n, 2e10) for kind in ("read", "copy") for n in counts),
    )


class Stage:
    """What each part of the doctor answers; how often ceilings were measured."""

    def __init__(self) -> None:
        self.readings = QUIET
        self.checks = list(CHECKS)
        self.unmeasurable: str | None = None
        self.interrupted_by: Callable[[], None] = lambda: None
        self.measured: list[str] = []
        self.sources: list[ScriptedSource] = []
        self.gpus = 0

    def open(self, **settings: Any) -> ScriptedSource:
        source = ScriptedSource({"naive": Script()})
        source.hello["devices"]["cuda"] = [
            {"device": f"cuda:{number}", "name": "NVIDIA H100"} for number in range(self.gpus)
        ]
        self.sources.append(source)
        return source

    def examine(self, source: object, devices: object) -> Readings:
        return self.readings

    def run(self, devices: object, *, progressed: Callable[[float], None]) -> list[Check]:
        progressed(0.5)
        self.interrupted_by()
        return self.checks

    def measure(self, source: object, device: str, *, progressed: Callable[[float], None]) -> Ceilings:
        if self.unmeasurable:
            raise MeasuringError(self.unmeasurable)
        progressed(0.5)
        self.measured.append(device)
        return measured(device)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage()
    monkeypatch.setattr(driver, "ZygoteSource", stage.open)
    monkeypatch.setattr(machine, "examine", stage.examine)
    monkeypatch.setattr(selftest, "run", stage.run)
    monkeypatch.setattr(measuring, "measure", stage.measure)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("COLUMNS", raising=False)
    yield stage
    assert all(source.closed for source in stage.sources)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert "Traceback" not in result.output
    assert result.exit_code == code, result.output
    return result


def test_all_three_parts_are_shown_and_fit_80_columns(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run()
    for text in ("Machine ", "Self-test", "201 µs", "+0.5%", "Ceilings of cpu", "150 G", "torch matmul"):
        assert text in result.stdout
    assert "energy: there is no meter here" in result.stdout
    assert max(len(line.rstrip()) for line in result.stdout.splitlines()) <= 80
    assert "\x1b" not in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "no warnings; self-test: 3 of 3 figures true (1 skipped); ceilings of cpu known"
    )
    assert "self-test: about" in result.stderr


def test_a_warning_stands_out_with_effect_and_a_command_that_can_be_copied(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stage.readings = BUSY
    result = run()
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    at = lines.index(" !   other load")
    assert lines[at + 1].startswith("     found  while we slept others used 1.0 CPU")
    assert any(line.startswith("     effect ") for line in lines[at:])
    assert "     remedy kill -STOP 4711 12" in lines[at:]
    assert "\x1b" not in result.stdout  # a process may bear any name
    assert lines[-1].startswith("1 warning; ")


def test_ceilings_are_remembered_until_they_are_to_be_refreshed(stage: Stage) -> None:
    assert "--refresh" not in run().stdout
    again = run()
    assert "--refresh measures anew" in again.stdout
    assert stage.measured == ["cpu"]
    run("--refresh")
    assert stage.measured == ["cpu", "cpu"]


def test_ceilings_measured_beside_others_say_so_and_are_measured_again(stage: Stage) -> None:
    stage.readings = BUSY
    result = run("--json")
    document = json.loads(result.stdout)
    assert "50% of the CPUs" in document["ceilings"]["cpu"]["disturbed"]
    assert document["ceilings_unkept"] == {}
    kept = ceilings.load(document["environment"], "cpu")
    assert kept == Ceilings.from_json(document["ceilings"]["cpu"])
    assert "may be too low" in run().stdout
    assert stage.measured == ["cpu", "cpu"]


def test_ceilings_measured_beside_others_replace_none_that_were_measured_in_peace(stage: Stage) -> None:
    in_peace = Ceilings.from_json(json.loads(run("--json").stdout)["ceilings"]["cpu"])
    assert in_peace.disturbed is None
    stage.readings = BUSY
    document = json.loads(run("--refresh", "--json").stdout)
    assert "50% of the CPUs" in document["ceilings_unkept"]["cpu"]
    assert ceilings.load(document["environment"], "cpu") == in_peace
    result = run("--refresh")
    assert "not kept: those measured before, in peace, hold (" in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[-1].endswith("(not kept: cpu)")


def test_a_cache_that_cannot_be_written_to_loses_nothing_that_was_found_out(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    document = json.loads(run("--json").stdout)
    assert document["ceilings"]["cpu"] == measured("cpu").to_json()
    assert "set XDG_CACHE_HOME" in document["ceilings_unkept"]["cpu"]
    result = run()
    assert "150 G" in result.stdout
    assert "not kept: " in result.stdout
    assert result.stdout.splitlines()[-1].endswith("ceilings of cpu known (not kept: cpu)")


def test_ceilings_that_cannot_be_measured_are_told_and_break_nothing(stage: Stage) -> None:
    stage.unmeasurable = "no bench survives"
    result = run()
    assert "could not be measured: no bench survives" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("no ceilings known")


def test_a_figure_that_is_not_true_exits_with_1(stage: Stage) -> None:
    stage.checks.append(WRONG)
    result = run(code=1)
    assert "FAIL" in result.stdout
    assert "its interval excludes 1" in result.stdout
    assert "3 of 4 figures true" in result.stdout


def test_the_document(stage: Stage) -> None:
    stage.gpus = 1
    stage.checks.append(WRONG)
    document = json.loads(run("--json", code=1).stdout)
    assert document["devices"] == ["cpu", "cuda:0"]
    assert document["exit_code"] == 1
    assert document["environment"]["machine"]
    assert {"check", "level", "text", "effect", "remedy", "command", "device"} == set(document["findings"][0])
    assert document["self_test"][-1]["verdict"] == "fail"
    assert Ceilings.from_json(document["ceilings"]["cuda:0"]) == measured("cuda:0")
    assert document["ceilings_remembered"] == []
    assert document["duration_s"] >= 0


@pytest.mark.parametrize(
    ("arguments", "devices"),
    [
        ([], ["cpu", "cuda:0", "cuda:1"]),
        (["--device", "cuda"], ["cuda:0"]),
        (["--device", "cuda:1", "--device", "cpu", "--device", "cpu"], ["cuda:1", "cpu"]),
    ],
)
def test_devices(stage: Stage, arguments: list[str], devices: list[str]) -> None:
    stage.gpus = 2
    run(*arguments)
    assert stage.measured == devices


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("cuda:3", "there is none here, but cpu"),
        ("mps", "the doctor knows cpu and cuda"),
        ("cup", "expected a device"),
    ],
)
def test_a_device_that_is_none_is_wrong_use(stage: Stage, device: str, told: str) -> None:
    result = run("--device", device, code=2)
    assert told in result.stderr
    assert result.stdout == ""


def test_an_interrupt_keeps_what_is_known(stage: Stage) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    stage.interrupted_by = interrupt
    document = json.loads(run("--json", code=130).stdout)
    assert document["exit_code"] == 130
    assert document["findings"]
    assert document["self_test"] == []
    result = run(code=130)
    assert "Machine" in result.stdout
    assert "interrupted" in result.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_what_is_done_is_told_in_a_line_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with shown.Steps().step("self-test", 12) as step:
        step.share(0.25)
    written = terminal.getvalue()
    assert "self-test: about 12 s, 25% done" in written
    assert written.endswith("\r\x1b[2K")
    assert "\n" not in written


@pytest.mark.slow
def test_sigterm_ends_everything_it_started(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "attnbench", "doctor"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    with process:
        assert process.stderr is not None
        assert any(line.startswith("looking at the machine") for line in process.stderr)
        ours = psutil.Process(process.pid).children(recursive=True)
        assert ours
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
        assert psutil.wait_procs(ours, timeout=60)[1] == []
        assert "interrupted" in process.stderr.read()
