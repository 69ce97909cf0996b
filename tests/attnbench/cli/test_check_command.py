"""`attnbench check` on scripted benches: outcomes, exit codes, documents, and everything that is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from attnbench import driver, environment, gate
from attnbench.case import Case, Variant
from attnbench.cli import main
from attnbench.cli.gating import LiveDisplay
from attnbench.cli.publication import Publication
from attnbench.errors import UsageError
from attnbench.gate.verdict import Outcome
from attnbench.protocol import BenchFailed
from attnbench.workload import AttentionShape, Workload
from scripted import Script, ScriptedSource, failing, steady

SCENARIO = """\
name: tiny
operation: attention
implementations: [naive, sdpa]
devices: [cpu]
matrix: {heads: 2, head_dim: 32, seq_len: [64]}
measure: {precision: 0.1, max_seconds: 0.5, processes: 2, threads: 3}
check: {alpha: 0.4, beta: 0.4, pairs: [4, 6]}
"""


@dataclass
class FakeArm:
    """An arm whose benches follow scripts."""

    title: str
    scripts: dict[str, Script]
    opened: list[ScriptedSource] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    entered: int = 0
    notes: tuple[str, ...] = ()

    def open(self, **settings: Any) -> ScriptedSource:
        self.asked.append(settings)
        self.opened.append(ScriptedSource(self.scripts))
        return self.opened[-1]


class Stage:
    """Two arms; `base` is what `--base old` names, `head` the present environment."""

    def __init__(self) -> None:
        self.base = FakeArm("old (1234567)", self.scripts())
        self.head = FakeArm("this environment", self.scripts())
        self.resolved: list[str] = []
        self.built: list[str | None] = []
        self.refusal: Exception | None = None

    @staticmethod
    def scripts(**changed: Script) -> dict[str, Script]:
        return {"naive": Script(steady(2e-3)), "sdpa": Script(steady(1e-3)), **changed}

    def resolve(self, text: str | None, *, option: str, plugins: Any) -> SimpleNamespace:
        self.resolved.append(option)
        if text == "nowhere":
            raise UsageError("--base nowhere: no such revision")
        arm = self.head if text is None else self.base
        return SimpleNamespace(option=option, title=arm.title, arm=arm)

    @contextmanager
    def prepared(self, request: SimpleNamespace, *, build: str | None) -> Iterator[FakeArm]:
        self.built.append(build)
        arm: FakeArm = request.arm
        arm.entered += 1
        try:
            yield arm
        finally:
            arm.entered -= 1

    def require_same_cases(self, *_: Any) -> None:
        if self.refusal:
            raise self.refusal

    def require_own(self, arm: FakeArm, hello: Any, names: Any) -> list[str]:
        assert list(names) == ["naive", "sdpa"]
        return ["naive of the base is the present one"] if arm is self.base else []


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage()
    names = ("resolve", "prepared", "require_same_cases", "require_own")
    monkeypatch.setattr(
        gate, "arms", SimpleNamespace(**{name: getattr(stage, name) for name in names}), raising=False
    )
    monkeypatch.setattr(driver, "ZygoteSource", lambda **_: ScriptedSource(stage.head.scripts))
    monkeypatch.setattr(environment, "fingerprint", lambda *_: {"cpu": "Scripted CPU"})
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    Path("tiny.yaml").write_text(SCENARIO)
    yield stage
    for arm in (stage.base, stage.head):
        assert arm.entered == 0, "an arm was left behind"
        assert all(source.closed for source in arm.opened), "a source was left open"


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["check", *arguments])
    assert "Traceback" not in result.output
    return result


def refused(result: Result, *parts: str) -> None:
    """One message, nothing on stdout, exit 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr


# Outcomes


def test_what_is_the_same_passes(stage: Stage) -> None:
    result = run("tiny.yaml", "--base", "old")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "PASS  tiny: 2 of 2 cases passed"
    assert lines[1:3] == ["  base  old (1234567)", "  head  this environment"]
    assert [line.split()[:2] for line in lines if line.startswith("PASS  ")][1:] == [
        ["PASS", "naive"],
        ["PASS", "sdpa"],
    ]
    assert " · naive of the base is the present one" in lines
    assert stage.resolved == ["--base", "--head"]
    assert stage.head.asked[0]["threads"] == stage.base.asked[0]["threads"] == 1, "check.threads"
    assert stage.head.asked[0]["malloc"] == "pinned"
    assert len(stage.head.opened) == 1, "the source that was asked is the one that measures"


def test_a_log_has_a_line_a_phase_and_a_line_a_case(stage: Stage) -> None:
    lines = run("tiny.yaml", "--base", "old").stderr.splitlines()
    assert lines[:2] == ["preparing --base: old (1234567)", "preparing --head: this environment"]
    assert sum(line.startswith("PASS          ") for line in lines) == 2
    assert len(lines) <= 8


def test_a_slow_down_fails(stage: Stage) -> None:
    stage.head.scripts["sdpa"] = Script(steady(1.5e-3))
    result = run("tiny.yaml", "--base", "old")
    assert result.exit_code == 1, result.output
    assert result.stdout.startswith("FAIL  tiny: 1 of 2 cases failed, 1 passed\n")
    assert "FAIL  sdpa B1 H2 L64: 50.0% slower" in result.stdout
    assert len(stage.head.opened) == 2, "a failure is repeated with fresh sources"


def test_what_cannot_be_decided_is_inconclusive(stage: Stage) -> None:
    result = run("tiny.yaml", "--base", "old", "--set", "check.budget=0.001")
    assert result.exit_code == 3, result.output
    assert result.stdout.startswith("INCONCLUSIVE  tiny: 2 of 2 cases inconclusive\n")


def test_what_breaks_fails_without_a_time(stage: Stage) -> None:
    stage.head.scripts["sdpa"] = Script(fails=failing("memory", BenchFailed("crashed", "SIGSEGV")))
    result = run("tiny.yaml", "--base", "old", "--set", "check.latency=false")
    assert result.exit_code == 1
    assert "status ok → crashed: SIGSEGV" in result.stdout
    assert not [verb for _, verb, _ in stage.head.opened[0].log if verb == "sample"]


def test_what_differs_between_the_environments_is_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = stage.base.open

    def older(**settings: Any) -> ScriptedSource:
        source = honest(**settings)
        source.hello["libraries"]["torch"] = "2.12.0"
        return source

    monkeypatch.setattr(stage.base, "open", older)
    result = run("tiny.yaml", "--base", "old", "--json")
    assert json.loads(result.stdout)["environment"] == [
        {"what": "libraries.torch", "base": "2.12.0", "head": "2.13.0"}
    ]
    assert "libraries.torch: 2.12.0 → 2.13.0" in run("tiny.yaml", "--base", "old").stdout


def test_the_build_command_reaches_both_arms(stage: Stage) -> None:
    assert run("tiny.yaml", "--base", "old", "--set", "check.build=make").exit_code == 0
    assert stage.built == ["make", "make"]


# A stored run


def stored() -> None:
    done = CliRunner().invoke(main, ["sweep", "tiny.yaml", "--name", "old"])
    assert done.exit_code == 0, done.output


def test_a_stored_run_judges_what_needs_no_clock(stage: Stage) -> None:
    stored()
    stage.head.scripts["sdpa"] = Script(steady(5e-3))
    result = run("tiny.yaml", "--baseline", "results/old")
    assert result.exit_code == 0, result.output
    assert stage.head.asked[0]["threads"] == 3, "as many as the run was measured with"
    assert not stage.base.opened
    assert "sdpa B1 H2 L64" in result.stdout
    assert "; 5.00 ms, 1.00 ms in the baseline" in result.stdout
    assert "Times are told for information and block nothing" in result.stdout
    assert run("tiny.yaml", "--baseline", "results/old", "--head", "old").exit_code == 0
    assert stage.base.opened, "the head is what --head names"
    stage.head.scripts["sdpa"] = Script(poisoned="o: unwritten")
    result = run("tiny.yaml", "--baseline", "results/old")
    assert result.exit_code == 1, result.output
    assert "accuracy pass → fail: o: unwritten" in result.stdout


def test_a_part_can_be_checked_against_a_stored_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate.arms, "require_own", lambda *_: [])
    stored()
    assert run("tiny.yaml", "--baseline", "results/old", "--impl", "sdpa").exit_code == 0
    refused(run("tiny.yaml", "--baseline", "results/old", "--set", "matrix.seq_len=128"), "lacks 2 of the 2")
    refused(run("tiny.yaml", "--baseline", "results/old", "--set", "measure.seed=1"), "other inputs")
    Path("tiny.yaml").write_text(SCENARIO.replace("[naive, sdpa]", "[naive]"))
    refused(run("tiny.yaml", "--baseline", "results/old"), "'tiny' lacks 1 of the 2 cases", "--impl")


def test_what_is_no_run_is_no_baseline(stage: Stage) -> None:
    refused(run("tiny.yaml", "--baseline", "results/none"), "results/none: there is no such run")


# Documents


def test_json_is_all_of_stdout(stage: Stage) -> None:
    stage.head.scripts["sdpa"] = Script(steady(1.5e-3))
    result = run("tiny.yaml", "--base", "old", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == document["exit_code"] == 1
    assert (document["outcome"], document["message"]) == ("FAIL", "1 of 2 cases failed, 1 passed")
    sdpa = document["cases"][1]
    assert sdpa["latency"]["ratio"] == pytest.approx(1.5)
    assert sdpa["latency"]["again"]["verdict"] == "FAIL"
    assert document["settings"]["threads"] == 1
    assert document["settings"]["margin"] == pytest.approx(0.05)


def test_both_documents_go_into_the_folder_and_replace_older_ones(stage: Stage) -> None:
    Path("gate").mkdir()
    Path("gate/notes.txt").write_text("mine")
    assert run("tiny.yaml", "--base", "old", "-o", "gate").exit_code == 0
    assert json.loads(Path("gate/check.json").read_text())["outcome"] == "PASS"
    assert Path("gate/check.md").read_text(encoding="utf-8").startswith("# attnbench check: PASS")
    refused(run("tiny.yaml", "--base", "nowhere", "-o", "gate"), "--base nowhere: no such revision")
    failed = json.loads(Path("gate/check.json").read_text())
    assert (failed["outcome"], failed["exit_code"]) == ("ERROR", 2)
    assert failed["message"] == "--base nowhere: no such revision"
    assert Path("gate/check.md").read_text(encoding="utf-8").startswith("# attnbench check: ERROR")
    assert sorted(path.name for path in Path("gate").iterdir()) == ["check.json", "check.md", "notes.txt"]


def test_a_folder_that_takes_nothing_is_found_before_anything_is_measured(stage: Stage) -> None:
    Path("taken").write_text("a file")
    refused(run("tiny.yaml", "--base", "old", "-o", "taken"), "-o: ", "taken", "choose another folder")
    refused(run("tiny.yaml", "--base", "old", "-o", "taken/below"), "-o: ", "choose another folder")
    assert not stage.head.opened


@pytest.mark.parametrize("name", ["check.md", "check.json"])
def test_what_somebody_else_wrote_is_kept(stage: Stage, name: str) -> None:
    assert run("tiny.yaml", "--base", "old", "-o", "docs").exit_code == 0
    Path("docs", name).write_text("# How we check\n")
    refused(
        run("tiny.yaml", "--base", "old", "-o", "docs"), f"docs/{name} was not written by attnbench check"
    )
    refused(run("tiny.yaml", "-o", "docs"), "check needs something to compare with")
    assert Path("docs", name).read_text() == "# How we check\n"
    assert len(list(Path("docs").iterdir())) == 2, "nothing was removed before all was looked at"


def test_a_verdict_is_printed_even_if_it_cannot_be_written(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Publication, "require_writable", lambda self: None)
    result = run("tiny.yaml", "--base", "old", "-o", "missing")
    assert result.exit_code == 2
    assert result.stdout.startswith("PASS  tiny")
    assert "missing/check.json: cannot be written" in result.stderr


def test_a_fault_of_ours_is_no_verdict_either(stage: Stage) -> None:
    stage.refusal = RuntimeError("impossible")
    result = run("tiny.yaml", "--base", "old", "-o", "gate")
    assert result.exit_code == 70
    assert result.stdout == ""
    failed = json.loads(Path("gate/check.json").read_text())
    assert (failed["outcome"], failed["exit_code"]) == ("ERROR", 70)
    assert failed["message"] == "attnbench itself failed: RuntimeError: impossible"


def test_the_jobs_page_is_appended_to(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "summary.md"
    page.write_text("before, without an end of line", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    assert run("tiny.yaml", "--base", "old").exit_code == 0
    refused(run("tiny.yaml", "--base", "nowhere"))
    refused(run("--no-such-option"))
    refused(run("tiny.yaml", "--plugin", "missing.py"))
    assert run("--help").exit_code == 0
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before, without an end of line"
    headings = [line for line in lines if line.startswith("# ")]
    assert headings == ["# attnbench check: PASS", *["# attnbench check: ERROR"] * 3]
    assert "    --base nowhere: no such revision" in lines


def test_a_page_that_takes_nothing_changes_no_verdict(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    result = run("tiny.yaml", "--base", "old")
    assert result.exit_code == 0
    assert "Warning: $GITHUB_STEP_SUMMARY" in result.stderr


# What is refused


def test_one_base_and_a_scenario_are_needed(stage: Stage) -> None:
    refused(run(), "Missing argument 'SCENARIO", "attnbench list scenarios")
    refused(run("tiny.yaml"), "check needs something to compare with", "--baseline")
    refused(run("tiny.yaml", "--head", "old"), "check needs something to compare with")
    refused(run("tiny.yaml", "--base", "old", "--baseline", "results/old"), "exclude one another")
    refused(run("none.yaml", "--base", "old"), "none.yaml")
    refused(run("tiny.yaml", "--base", ""), "--base is empty", "fetch-depth: 0")


def test_mistakes_in_the_scenario_are_told_together(stage: Stage) -> None:
    Path("tiny.yaml").write_text(SCENARIO.replace("gate", "gates").replace("sdpa", "spda") + "measur: {}\n")
    result = run("tiny.yaml", "--base", "old")
    refused(result, "tiny.yaml:3:26", "spda", "measur", "did you mean")
    refused(run("tiny.yaml", "--base", "old", "--head", "new"), "measur")


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (("--base", "main"), "--base: 'main' is no Python file and no interpreter, and cannot be a git"),
        (("--base", "missing.py"), "--base: 'missing.py' is no Python file"),
        (
            ("--base", "old.py", "--head", "venv"),
            "--head: 'venv' is no Python file and no interpreter (it is",
        ),
    ],
)
def test_what_names_no_arm_is_refused_before_anything_runs(
    arms: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(SCENARIO)
    Path("old.py").write_text("")
    Path("venv").mkdir()
    monkeypatch.setattr(driver, "ZygoteSource", None)
    refused(run("tiny.yaml", *arms), message)


def test_arms_of_different_cases_are_refused(stage: Stage) -> None:
    stage.refusal = UsageError("--base: old lacks sdpa")
    refused(run("tiny.yaml", "--base", "old"), "--base: old lacks sdpa")


def test_where_nothing_can_be_measured_nothing_passes(stage: Stage) -> None:
    no = Script(fails=failing("prepare", BenchFailed("unsupported", "not this mask")))
    for arm in (stage.base, stage.head):
        arm.scripts |= {"naive": no, "sdpa": no}
    refused(run("tiny.yaml", "--base", "old"), "nothing was checked", "not this mask")


def test_an_interruption_is_neither_a_verdict_nor_an_error(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))

    def interrupt(number: int, sample: int) -> float:
        raise KeyboardInterrupt

    stage.head.scripts["sdpa"] = Script(interrupt)
    result = run("tiny.yaml", "--base", "old", "-o", "gate")
    assert result.exit_code == 130
    assert result.stdout == ""
    assert not page.exists()
    assert list(Path("gate").iterdir()) == []


# On a terminal


def test_a_terminal_has_a_bar_that_is_gone_at_the_end() -> None:
    stream = io.StringIO()
    workload = Workload("attention", AttentionShape.from_axes({"heads": 2, "seq_len": 64, "head_dim": 32}))
    with LiveDisplay(Console(file=stream, width=100, force_terminal=True, color_system=None)) as shown:
        shown.phase("timing 1 case in pairs of processes")
        shown.progress(3, 40)
        shown.decided(Case(Variant.of("sdpa"), workload), Outcome.PASS, "sdpa: as before")
        shown.progress(4, 40)
    text = stream.getvalue()
    assert "3 of at most 40 pairs" in text
    assert "4 of at most 40 pairs; 1 PASS" in text
    assert "timing 1 case in pairs of processes" in text
    assert "sdpa: as before" not in text
    assert text.endswith("\x1b[2K")
