"""The commands from end to end, on scripted benches: no torch, no processes."""

from __future__ import annotations

import errno
import io
import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from attnbench import ceilings, driver, environment, report, store, table
from attnbench.ceilings import Ceilings, MatrixRate
from attnbench.cli import main, show
from attnbench.errors import PluginError, RunError, UsageError
from attnbench.protocol import BenchFailed, BenchLost
from fake_nvml import UUID, FakeGpu, FakeNvml
from scripted import Script, ScriptedSource, failing, steady

SCENARIO = """\
name: tiny
description: A scenario for tests
operation: attention
implementations: [naive, {chunked: {block: 64}}, sdpa]
anchor: naive
devices: [cpu]
matrix:
  heads: [2]
  head_dim: [32]
  seq_len: [64, 128]
  mask: [none, causal]
measure: {precision: 0.1, max_seconds: 0.5, processes: 2}
"""


def ceilings_of(flops_per_s: float) -> Ceilings:
    """Of the scripted CPU: nothing scripted is faster than 10¹⁵ FLOP/s."""
    rates = tuple(MatrixRate("float32", threads, flops_per_s, "scripted") for threads in (1, 1024))
    return Ceilings("cpu", "Scripted CPU", 1 << 25, "2026-01-02T03:04:05Z", rates, ())


class Stage:
    """What benches there are: the scripts that they follow, and every source that was opened."""

    def __init__(self) -> None:
        self.scripts = {
            "naive": Script(time_s=steady(2e-3)),
            "chunked": Script(time_s=steady(3e-3)),
            "sdpa": Script(time_s=steady(1e-3)),
        }
        self.sources: list[ScriptedSource] = []
        self.asked: list[dict[str, Any]] = []
        self.refusal: Exception | None = None
        self.ceilings = {"cpu": ceilings_of(1e15)}

    def open(self, **settings: Any) -> ScriptedSource:
        if self.refusal:
            raise self.refusal
        self.asked.append(settings)
        self.sources.append(ScriptedSource(self.scripts))
        return self.sources[-1]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage()
    monkeypatch.setattr(driver, "ZygoteSource", stage.open)
    monkeypatch.setattr(environment, "fingerprint", lambda *_: {"cpu": "Scripted CPU"})
    monkeypatch.setattr(ceilings, "load", lambda _, device: stage.ceilings.get(device))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    Path("tiny.yaml").write_text(SCENARIO)
    yield stage
    assert all(source.closed for source in stage.sources), "a source was left open"


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert "Traceback" not in result.output
    return result


def swept(*arguments: str) -> Result:
    result = run("sweep", "tiny.yaml", "--name", "one", *arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(result: Result, *parts: str) -> None:
    """One message, nothing on stdout, exit 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr


# sweep


def test_a_sweep_prints_a_line_a_case_and_writes_a_run(stage: Stage) -> None:
    result = swept()
    lines = result.stdout.splitlines()
    for name in ("naive", "chunked(block=64)", "sdpa"):
        assert sum(line.startswith(name) for line in lines) >= 4
    assert "2.00×" in next(line for line in lines if line.startswith("sdpa"))
    assert "Findings" in lines
    assert lines[-1] == "run     results/one"
    assert len(result.stderr.splitlines()) == 1 + 12
    read = store.read(Path("results/one"))
    assert len(read.records) == 12
    assert len(pd.read_parquet("results/one/table.parquet")) == 12


def test_the_header_says_what_was_asked_for(stage: Stage) -> None:
    Path("mine.py").write_text("# a plug-in\n")
    swept("--set", "measure.seed=7", "--impl", "sdpa", "--impl", "naive", "--plugin", "mine.py")
    header = store.read(Path("results/one")).header
    assert header["command"][:3] == ["attnbench", "sweep", "tiny.yaml"]
    assert header["seed"] == 7
    assert header["environment"] == {"cpu": "Scripted CPU"}
    assert header["plugins"][0]["path"] == str(Path("mine.py").resolve())
    assert len(header["plugins"][0]["sha256"]) == 64
    (scenario,) = header["scenarios"]
    assert scenario["text"] == SCENARIO
    assert scenario["sets"] == ["measure.seed=7"]
    assert scenario["implementations"] == ["sdpa", "naive"]
    assert stage.asked[0]["plugins"] == (Path("mine.py").resolve(),)


def test_ceilings_that_are_known_are_in_the_header_and_rows_stand_against_them(stage: Stage) -> None:
    swept()
    assert store.read(Path("results/one")).header["ceilings"] == {"cpu": ceilings_of(1e15).to_json()}
    frame = pd.read_parquet("results/one/table.parquet")
    assert (frame["roofline_fraction"] > 0).all()
    assert not frame["flagged"].any()


def test_where_no_ceilings_are_known_a_line_says_how_to_know_them(stage: Stage) -> None:
    stage.ceilings.clear()
    for result in (swept(), run("plan", "tiny.yaml", "--json")):
        note, *others = [line for line in result.stderr.splitlines() if "ceilings" in line]
        assert note.startswith("Note: no ceilings are known of cpu: run `attnbench doctor` once")
        assert not others
    assert store.read(Path("results/one")).header["ceilings"] == {}
    assert table.load("results/one")["roofline_fraction"].isna().all()


def test_of_ceilings_that_may_be_too_low_a_line_says_so(stage: Stage) -> None:
    assert "too low" not in run("plan", "tiny.yaml").stderr
    stage.ceilings["cpu"] = replace(ceilings_of(1e15), disturbed="others used 50% of the CPUs")
    (note,) = [line for line in run("plan", "tiny.yaml").stderr.splitlines() if "ceilings" in line]
    assert "may be too low (others used 50% of the CPUs when they were measured)" in note


def test_of_devices_that_nobody_can_measure_nothing_is_said(stage: Stage) -> None:
    Path("elsewhere.yaml").write_text(SCENARIO.replace("devices: [cpu]", "devices: [cpu, cuda, mps]"))
    result = run("plan", "elsewhere.yaml")
    assert result.exit_code == 0
    assert "ceilings" not in result.stderr


def test_a_run_that_is_gone_on_with_keeps_the_ceilings_known_by_then(stage: Stage) -> None:
    stage.ceilings.clear()
    swept()
    stage.ceilings["cpu"] = ceilings_of(1e15)
    assert run("sweep", "--resume", "results/one").exit_code == 0
    (continuation,) = store.read(Path("results/one")).header["resumed"]
    assert continuation["ceilings"] == {"cpu": ceilings_of(1e15).to_json()}
    assert table.load("results/one")["roofline_fraction"].notna().all()


def test_what_is_faster_than_the_machine_can_be_says_so_and_wins_nothing(stage: Stage) -> None:
    stage.scripts["sdpa"] = Script(time_s=steady(1e-9))
    stage.ceilings["cpu"] = ceilings_of(1e14)
    result = swept()
    why = "faster than this machine can be: at least"
    lines = [line for line in result.stderr.splitlines() if "sdpa " in line]
    assert len(lines) == 4
    assert all(f"flagged: {why}" in line for line in lines)
    assert f"sdpa: flagged (4 cases): {why}" in result.stdout
    assert "sdpa is the fastest" not in result.stdout
    assert "4 measurements flagged" in result.stdout
    shown = run("show", "results/one", "--status", "flagged")
    assert sum(line.startswith("sdpa ") for line in shown.stdout.splitlines()) == 4
    assert not any(line.startswith("naive") for line in shown.stdout.splitlines())


def test_what_is_wrong_and_flagged_is_shown_as_either() -> None:
    assert show._states({"status": "ok", "accuracy": "fail", "flagged": True}) == {"wrong", "flagged"}
    assert show._states({"status": "ok", "accuracy": "pass", "flagged": True}) == {"flagged"}
    assert show._states({"status": "ok", "accuracy": "pass", "flagged": False}) == {"ok"}
    assert show._states({"status": "oom", "accuracy": "unchecked", "flagged": None}) == {"oom"}


def test_the_default_name_is_the_scenarios_and_the_time(stage: Stage) -> None:
    Path("other.yaml").write_text(SCENARIO.replace("name: tiny", "name: other"))
    assert run("sweep", "tiny.yaml", "other.yaml", "--out", "runs").exit_code == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("tiny+other-2")
    assert {record.scenario for record in store.read(folder).records} == {"tiny", "other"}


def test_scenarios_of_equal_settings_share_a_source(stage: Stage) -> None:
    Path("same.yaml").write_text(SCENARIO.replace("name: tiny", "name: same"))
    Path("default.yaml").write_text(
        SCENARIO.replace("name: tiny", "name: default").replace("{precision", "{malloc: default, precision")
    )
    assert run("sweep", "tiny.yaml", "same.yaml", "default.yaml").exit_code == 0
    assert [settings["malloc"] for settings in stage.asked] == ["pinned", "default"]


def test_json_is_one_document(stage: Stage) -> None:
    stage.scripts["sdpa"] = Script(fails=failing("prepare", BenchFailed("unsupported", "not for you")))
    document = json.loads(swept("--json").stdout)
    assert document["run"] == "results/one"
    assert document["report"] is None
    assert document["exit_code"] == 0
    assert document["cases"] == 12
    assert document["statuses"] == {"ok": 8, "unsupported": 4}
    assert document["failed"] == 0
    assert len(document["rows"]) == 12
    assert {row["reason"] for row in document["rows"] if row["status"] == "unsupported"} == {"not for you"}
    assert all({"kind", "text", "serious"} == set(finding) for finding in document["findings"])


@pytest.mark.parametrize(
    ("status", "code"), [("oom", 1), ("crashed", 1), ("unsupported", 0), ("unavailable", 0)]
)
def test_strict(stage: Stage, status: str, code: int) -> None:
    failure = BenchLost if status == "crashed" else BenchFailed
    stage.scripts["sdpa"] = Script(fails=failing("memory", failure(status, "so it is")))
    assert run("sweep", "tiny.yaml", "--strict").exit_code == code
    assert run("sweep", "tiny.yaml", "--name", "lax").exit_code == 0


def test_a_wrong_answer_fails_strictly_and_is_marked(stage: Stage) -> None:
    stage.scripts["sdpa"] = Script(poisoned="the last row is not written")
    result = run("sweep", "tiny.yaml", "--strict")
    assert result.exit_code == 1
    assert "sdpa: wrong (4 cases): the last row is not written" in result.stdout


def test_settings_of_the_command_line_are_heard(stage: Stage) -> None:
    document = json.loads(swept("--impl", "sdpa", "--json").stdout)
    assert {row["implementation"] for row in document["rows"]} == {"sdpa"}


def test_an_interrupted_sweep_keeps_its_blocks_and_goes_on(stage: Stage) -> None:
    def interrupting(process: int, sample: int) -> float:
        if store.read(Path("results/one")).records:  # in the second block
            raise KeyboardInterrupt
        return 1e-3

    stage.scripts["sdpa"] = Script(time_s=interrupting)
    result = run("sweep", "tiny.yaml", "--name", "one")
    assert result.exit_code == 130
    assert (
        "interrupted: 3 cases kept in results/one; go on with: attnbench sweep --resume results/one"
        in result.stderr
    )
    assert "run     results/one" in result.stdout

    stage.scripts["sdpa"] = Script()
    result = run("sweep", "--resume", "results/one")
    assert result.exit_code == 0, result.output
    read = store.read(Path("results/one"))
    assert len(read.records) == 12
    assert {record.attempt for record in read.records} == {1}
    assert "9 cases in 3 blocks" in result.stderr


def test_resume_goes_on_with_the_stored_scenario(stage: Stage) -> None:
    swept("--set", "matrix.seq_len=[64]")
    Path("tiny.yaml").write_text(SCENARIO.replace("[64, 128]", "[4096]"))
    refused(run("sweep", "tiny.yaml", "--resume", "results/one"), "tiny.yaml", "was started with")
    Path("tiny.yaml").unlink()
    assert run("sweep", "--resume", "results/one").exit_code == 0
    assert {record.workload.shape.q_len for record in store.read(Path("results/one")).records} == {64}


def test_resume_refuses_what_would_change_the_run(stage: Stage) -> None:
    swept()
    for option in (("--set", "measure.seed=1"), ("--impl", "sdpa"), ("--device", "cpu"), ("--name", "x")):
        refused(run("sweep", "--resume", "results/one", *option), option[0], "leave out")


def test_resume_refuses_a_plug_in_that_changed(stage: Stage) -> None:
    Path("mine.py").write_text("# a plug-in\n")
    swept("--plugin", "mine.py")
    result = run("sweep", "--resume", "results/one")
    assert result.exit_code == 0
    assert result.stderr == "nothing is left to measure\n"
    Path("mine.py").rename("moved.py")
    assert run("sweep", "--resume", "results/one", "--plugin", "moved.py").exit_code == 0
    Path("mine.py").write_text("# another\n")
    refused(run("sweep", "--resume", "results/one"), "mine.py", "is not what it was")
    Path("mine.py").unlink()
    refused(run("sweep", "--resume", "results/one"), "mine.py", "cannot be read")


def test_a_full_disk_is_told_with_what_was_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    swept()
    size = Path("results/one/records-main.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        result = run("sweep", "tiny.yaml", "--name", "two")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    refused(result, "results/two", "kept in results/two", "--resume results/two")
    kept = len(store.read(Path("results/two")).records)
    assert 0 < kept < 12
    assert f"{kept} cases kept" in result.stderr
    assert run("sweep", "--resume", "results/two").exit_code == 0
    assert len(store.read(Path("results/two")).records) == 12


def test_a_report_without_a_place_is_told_before_anything_is_measured(stage: Stage) -> None:
    Path("reports").write_text("in the way")
    refused(run("sweep", "tiny.yaml", "--name", "one", "--report"), "reports/one", "another folder with -o")
    Path("notes").mkdir()
    Path("notes/mine.txt").write_text("not a report")
    refused(run("sweep", "tiny.yaml", "--name", "one", "--report", "-o", "notes"), "notes", "-o")
    assert not Path("results").exists()


def test_a_report_that_cannot_be_written_tells_where_the_run_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> Path:
        raise UsageError("the report cannot be written to reports/one: No space left on device")

    monkeypatch.setattr(report, "write", full)
    result = run("sweep", "tiny.yaml", "--name", "one", "--report")
    refused(result, "reports/one", "kept in results/one; report it with", "attnbench report results/one")
    assert len(store.read(Path("results/one")).records) == 12


def test_a_table_that_cannot_be_written_tells_where_the_run_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Path) -> Path:
        raise RunError(f"{run}/table.parquet: cannot be written: No space left on device")

    monkeypatch.setattr(table, "write_parquet", full)
    refused(
        run("sweep", "tiny.yaml", "--name", "one"), "No space left", "kept in results/one; report it with"
    )


def test_a_plug_in_given_twice_is_noted_once(stage: Stage) -> None:
    Path("mine.py").write_text("# mine\n")
    swept("--plugin", "mine.py", "--plugin", "./mine.py")
    assert len(store.read(Path("results/one")).header["plugins"]) == 1


# Bad input


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("}}, sdpa]", "}}, sdpaa]", ("tiny.yaml:4:", "sdpaa", "sdpa")),
        ("devices: [cpu]", "devices: [cpuu]", ("tiny.yaml:6:", "cpuu", "cpu")),
        ("head_dim:", "head_dims:", ("tiny.yaml:9:", "head_dims", "head_dim")),
        ("seq_len: [64, 128]", "seq_len: []", ("tiny.yaml:10:", "seq_len")),
        ("seq_len: [64, 128]", "seq_len: [64]\n  dtype: [float23]", ("tiny.yaml:11:", "float23", "float32")),
        ("measure:", "exclude: [{seq_len: 999}]\nmeasure:", ("tiny.yaml:12:", "exclude")),
        ("name: tiny", "name: tiny\nname: again", ("tiny.yaml:2:", "name")),
        ("name: tiny", "name: !!python/object:os.system tiny", ("tiny.yaml:1:",)),
        ("name: tiny", "a: &a [x, x]\nb: &b [*a, *a]\nname: tiny", ("tiny.yaml:1:",)),
    ],
)
@pytest.mark.parametrize("command", ["sweep", "plan"])
def test_mistakes_in_a_scenario(
    stage: Stage, command: str, old: str, new: str, parts: tuple[str, ...]
) -> None:
    Path("tiny.yaml").write_text(SCENARIO.replace(old, new))
    refused(run(command, "tiny.yaml"), *parts)
    assert not Path("results").exists()


def test_the_mistakes_of_all_scenarios_are_told_at_once(stage: Stage) -> None:
    Path("a.yaml").write_text(SCENARIO.replace("heads: [2]", "heads: [0]"))
    Path("b.yaml").write_text(SCENARIO.replace("mask: [none", "mask: [nun"))
    refused(run("sweep", "a.yaml", "b.yaml", "nowhere.yaml"), "a.yaml:8:", "b.yaml:11:", "nowhere.yaml")


BROKEN = (
    SCENARIO.replace("[naive, {chunked: {block: 64}}, sdpa]", "[naive, {chunked: {blok: 64}}, spda]")
    .replace("anchor: naive", "anchor: nave")
    .replace("[64, 128]", "[12, 1.5]")
    .replace("[none, causal]", "casual")
)


def test_unknown_implementations_are_told_with_the_other_mistakes(stage: Stage) -> None:
    Path("tiny.yaml").write_text(BROKEN)
    result = run("plan", "tiny.yaml", "--set", "measure.foo=1", "--set", "x", "--impl", "foo")
    refused(result)
    expected = (
        "tiny.yaml:4:37: implementations[1].chunked.blok: chunked has no option",
        "tiny.yaml:4:49: implementations[2]: 'spda' is no implementation",
        "tiny.yaml:5:9: anchor: expected one of",
        "tiny.yaml:10:17: matrix.seq_len[1]: expected a whole number",
        "tiny.yaml:11:9: matrix.mask: expected a mask",
        "--impl foo: 'foo' is no implementation",
        "--set measure.foo=1: measure has no key 'foo'",
        "--set x: expected PATH=VALUE",
    )
    lines = result.stderr.splitlines()
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_includes_of_unsound_lists_are_looked_up(stage: Stage) -> None:
    text = SCENARIO.replace("sdpa]", "naive]") + (
        "include: [{heads: 2, head_dim: 4, seq_len: 8, implementation: [sdpa, nmpy]}]\n"
    )
    Path("tiny.yaml").write_text(text)
    result = run("plan", "tiny.yaml")
    refused(result, "tiny.yaml:4:50: implementations[2]: naive is listed twice")
    assert "tiny.yaml:13:70: include[0].implementation: 'nmpy' is no implementation" in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_all_wrong_options_are_told_at_once(stage: Stage) -> None:
    wrong = ("--set measure.foo=1", "--set x", "--set measure.precision=abc", "--device gpux", "--impl foo")
    result = run("plan", "tiny.yaml", *(part for option in wrong for part in option.split()))
    refused(result)
    told = [line.removeprefix("Error: ").split(": ")[0] for line in result.stderr.splitlines()]
    assert sorted(told) == sorted(wrong)


def test_options_are_checked_beside_an_unreadable_file(stage: Stage) -> None:
    Path("tiny.yaml").write_text("name: [\n")
    result = run("plan", "tiny.yaml", "--set", "matrix.heads=0", "--impl", "foo", "--device", "gpux")
    refused(result)
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "tiny.yaml",
        "--device gpux",
        "--impl foo",
        "--set matrix.heads=0",
    ]


def test_mistakes_are_told_without_a_catalogue(stage: Stage) -> None:
    Path("tiny.yaml").write_text(BROKEN)
    stage.refusal = PluginError("mine.py: raised ZeroDivisionError: at line 1")
    result = run("plan", "tiny.yaml")
    refused(result, "tiny.yaml:5:9: anchor", "\nError: mine.py: raised ZeroDivisionError")
    assert "spda' is no" not in result.stderr


def test_sound_scenarios_are_looked_up_beside_unsound_ones(stage: Stage) -> None:
    Path("other.yaml").write_text(SCENARIO.replace("tiny", "other").replace("sdpa]", "spda]"))
    Path("tiny.yaml").write_text(SCENARIO.replace("cpu", "cpuu"))
    refused(run("plan", "tiny.yaml", "other.yaml"), "tiny.yaml:6:", "\nother.yaml:4:50: implementations[2]")


@pytest.mark.parametrize("change", [("sdpa]", "sdpaa]"), ("cpu", "cpuu")])
def test_every_line_about_a_file_starts_with_its_place(stage: Stage, change: tuple[str, str]) -> None:
    Path("tiny.yaml").write_text(SCENARIO.replace(*change))
    result = run("plan", "tiny.yaml", "nowhere.yaml")
    refused(result, "\nError: no scenario 'nowhere.yaml'")
    assert result.stderr.startswith("tiny.yaml:")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sweep", "nowhere"], ("nowhere",)),
        (["sweep", "."], (".",)),
        (["plan", "tiny.yaml", "--device", "gpu9"], ("gpu9",)),
        (["plan", "tiny.yaml", "--impl", "sdpaa"], ("sdpaa", "sdpa")),
        (["plan", "tiny.yaml", "--set", "measure.precison=1"], ("precison", "precision")),
        (["plan", "tiny.yaml", "--set", "nonsense"], ("nonsense",)),
        (["plan", "tiny.yaml", "--plugin", "nowhere.py"], ("nowhere.py",)),
        (["sweep", "tiny.yaml", "--name", "../escape"], ("../escape", "plain folder name")),
        (["sweep", "tiny.yaml", "--out", "tiny.yaml"], ("tiny.yaml",)),
        (["sweep", "tiny.yaml", "tiny.yaml"], ("two scenarios are called 'tiny'",)),
        (["sweep", "--resume", "nowhere"], ("nowhere",)),
        (["sweep", "--resume", "."], ("is no run",)),
        (["report", "nowhere"], ("nowhere",)),
        (["report", "."], ("is no run",)),
        (["report", "tiny.yaml"], ("tiny.yaml",)),
        (["export", ".", "--format", "csv"], ("is no run",)),
        (["export", "x"], ("csv, parquet, json",)),
        (["export", "x", "--json", "--format", "csv"], ("--json and --format csv contradict",)),
        (["plan"], ("attnbench list scenarios",)),
        (["show", "nowhere"], ("nowhere",)),
        (["show", "."], ("is no run",)),
    ],
)
def test_wrong_names_and_paths(stage: Stage, arguments: list[str], parts: tuple[str, ...]) -> None:
    refused(run(*arguments), *parts)
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.yaml"]


def test_a_full_standard_output_after_a_sweep_is_told_with_where_the_run_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("attnbench.cli.results.print_results", full)
    result = run("sweep", "tiny.yaml", "--name", "one")
    assert result.exit_code == 2
    assert "Error: standard output: No space left on device\n" in result.stderr
    assert "kept in results/one; show it with: attnbench show results/one" in result.stderr


def test_an_existing_run_is_not_overwritten(stage: Stage) -> None:
    swept()
    before = {path: path.read_bytes() for path in Path("results/one").iterdir()}
    refused(run("sweep", "tiny.yaml", "--name", "one"), "exists", "--resume")
    assert {path: path.read_bytes() for path in Path("results/one").iterdir()} == before


def test_a_plug_in_that_cannot_be_loaded(stage: Stage) -> None:
    stage.refusal = PluginError("mine.py: raised ZeroDivisionError: at line 1")
    refused(run("sweep", "tiny.yaml"), "Error: mine.py: raised ZeroDivisionError")
    assert not Path("results").exists()


@pytest.mark.parametrize("command", [["report"], ["export", "--format", "json"], ["sweep", "--resume"]])
def test_records_corrupted_in_the_middle(stage: Stage, command: list[str]) -> None:
    swept()
    records = Path("results/one/records-main.jsonl")
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join([*lines[:3], lines[3][:40] + b"\n", *lines[4:]]))
    before = records.read_bytes()
    refused(run(*command, "results/one"), "records-main.jsonl:4")
    assert records.read_bytes() == before
    assert not Path("reports").exists()


# plan


def test_plan_says_what_would_be_skipped_and_measures_nothing(stage: Stage) -> None:
    stage.scripts["sdpa"] = Script(fails=failing("prepare", BenchLost("crashed", "SIGSEGV")))
    stage.scripts["chunked"] = Script(fails=failing("prepare", BenchFailed("unsupported", "no causal")))
    result = run("plan", "tiny.yaml")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("  to be measured: naive\n") == 4
    assert result.stdout.count("  unsupported: chunked(block=64): no causal\n") == 4
    assert result.stdout.count("  crashed: sdpa: SIGSEGV\n") == 4
    assert "4 of 12 cases in 4 blocks would be measured" in result.stdout
    assert {verb for _, verb, _ in stage.sources[0].log} == {"prepare"}
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.yaml"]


def test_plan_in_json_with_memory_and_time(stage: Stage) -> None:
    document = json.loads(run("plan", "tiny.yaml", "--json").stdout)
    assert document["cases"] == document["to_measure"] == 12
    assert document["budget_s"] >= 12 * 0.5
    assert len(document["blocks"]) == 4
    first = document["blocks"][0]
    assert first["operand_bytes"] == 4 * 2 * 64 * 32 * 4
    assert first["score_bytes"] == 2 * 64 * 64 * 4
    assert [case["implementation"] for case in first["cases"]] == ["naive", "chunked", "sdpa"]
    assert {case["skipped"] for case in first["cases"]} == {None}


def test_plan_of_sizes_beyond_any_memory(stage: Stage) -> None:
    Path("tiny.yaml").write_text(SCENARIO.replace("[64, 128]", "[2147483647]"))
    result = run("plan", "tiny.yaml")
    assert result.exit_code == 0, result.output
    assert "TiB" in result.stdout


def test_plan_takes_the_options_of_a_sweep(stage: Stage) -> None:
    options = ("--report", "--strict", "--executor", "local", "--out", "x", "--name", "y", "-o", "z")
    assert run("plan", "tiny.yaml", *options).stdout == run("plan", "tiny.yaml").stdout
    assert sorted(path.name for path in Path().iterdir()) == ["tiny.yaml"]


def test_plan_of_a_run_shows_what_is_left_to_measure(stage: Stage) -> None:
    swept()
    assert run("plan", "--resume", "results/one").stdout == "Nothing is left to measure.\n"
    records = Path("results/one/records-main.jsonl")
    before = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(before[:4]))  # a block and a third
    document = json.loads(run("plan", "--resume", "results/one", "--json").stdout)
    assert document["cases"] == 9
    finished = {record.block_id for record in store.read(Path("results/one")).records[:3]}
    assert len(finished) == 1
    assert not finished & {block["block_id"] for block in document["blocks"]}
    assert records.read_bytes() == b"".join(before[:4])
    refused(run("plan", "--resume", "results/one", "--impl", "sdpa"), "--impl", "leave out")


# report, list, export


@pytest.fixture
def one(stage: Stage) -> Path:
    swept()
    return Path("results/one")


def test_export(one: Path) -> None:
    csv = run("export", str(one), "--format", "csv")
    frame = pd.read_csv(io.StringIO(csv.stdout))
    assert len(frame) == 12
    rows = json.loads(run("export", str(one), "--format", "json").stdout)
    assert [row["case_id"] for row in rows] == list(frame["case_id"])
    assert run("export", str(one), "--format", "parquet", "-o", "x.parquet").stdout == ""
    assert list(pd.read_parquet("x.parquet")["case_id"]) == list(frame["case_id"])
    refused(run("export", str(one), "--format", "csv", "-o", "x.parquet"), "x.parquet", "exists")
    assert run("export", str(one), "--format", "csv", "-o", "x.parquet", "--force").exit_code == 0
    assert Path("x.parquet").read_text() == csv.stdout


def test_export_json_is_the_same_as_format_json(one: Path) -> None:
    asked = [["--json"], ["--format", "json"], ["--json", "--format", "json"]]
    assert len({run("export", str(one), *options).stdout for options in asked}) == 1


def test_export_of_parquet_goes_to_a_pipe_but_to_no_terminal(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("export", str(one), "--format", "parquet")
    assert len(pd.read_parquet(io.BytesIO(result.stdout_bytes))) == 12
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True)
    refused(run("export", str(one), "--format", "parquet"), "does not go to a terminal", "-o one.parquet")


# show


def test_show_is_what_the_sweep_printed(stage: Stage) -> None:
    shown = swept().stdout.split("\nrun ")[0]
    assert run("show", "results/one").stdout == shown


def test_show_filters_and_sorts(one: Path) -> None:
    document = json.loads(
        run(
            "show",
            str(one),
            "--impl",
            "sdpa",
            "--impl",
            "chunked(block=64)",
            "--sort",
            "implementation",
            "--json",
        ).stdout
    )
    assert [row["implementation"] for row in document["rows"]] == ["chunked"] * 4 + ["sdpa"] * 4
    assert document["cases"] == 8
    assert document["findings"]
    by_length = json.loads(run("show", str(one), "--sort", "mask", "--json").stdout)["rows"]
    assert [row["mask"] for row in by_length] == ["causal"] * 6 + ["none"] * 6
    assert [row["kv_len"] for row in by_length] == ([64] * 3 + [128] * 3) * 2
    text = run("show", str(one), "--impl", "sdpa").stdout
    assert "naive" not in text.split("Findings")[0]
    assert "Findings" in text


def test_show_by_status(stage: Stage) -> None:
    stage.scripts["sdpa"] = Script(poisoned="the last row is not written")
    stage.scripts["chunked"] = Script(fails=failing("prepare", BenchFailed("unsupported", "not for you")))
    swept()

    def shown(*statuses: str) -> set[str]:
        options = [part for status in statuses for part in ("--status", status)]
        rows = json.loads(run("show", "results/one", "--json", *options).stdout)["rows"]
        return {row["implementation"] for row in rows}

    assert shown() == {"naive", "chunked", "sdpa"}
    assert shown("ok") == {"naive"}
    assert shown("wrong") == {"sdpa"}
    assert shown("wrong", "unsupported") == {"sdpa", "chunked"}
    assert shown("oom") == set()
    assert run("show", "results/one", "--status", "oom").stdout == "No case of the run is like that.\n"


def test_show_tells_the_nearest_right_names(one: Path) -> None:
    refused(run("show", str(one), "--impl", "sdpaa"), "no implementation 'sdpaa'; did you mean 'sdpa'?")
    refused(run("show", str(one), "--sort", "latency"), "no column 'latency'")


def test_list_implementations(stage: Stage) -> None:
    stage.scripts["sdpa"] = Script(fails=failing("prepare", BenchFailed("unavailable", "pip install it")))
    result = run("list", "implementations")
    assert result.exit_code == 0, result.output
    assert "unavailable: pip install it" in result.stdout
    rows = json.loads(run("list", "implementations", "--json").stdout)
    assert [(row["name"], row["devices"]["cpu"]) for row in rows] == [
        ("naive", "available"),
        ("chunked", "available"),
        ("sdpa", "unavailable: pip install it"),
    ]
    assert rows[1]["options"] == {"block": 128}


def test_list_devices_says_what_is_missing(stage: Stage) -> None:
    result = run("list", "devices")
    assert "missing: needs an NVIDIA GPU" in result.stdout
    rows = json.loads(run("list", "devices", "--json").stdout)
    assert [(row["device"], row["status"].split(":")[0]) for row in rows] == [
        ("cpu", "available"),
        ("cuda", "missing"),
    ]


def test_list_devices_names_a_gpus_driver_and_uuid(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(FakeGpu()).install(monkeypatch)
    gpu = {"device": "cuda:0", "name": "NVIDIA H100", "memory_bytes": 80 << 30, "uuid": f"GPU-{UUID}"}
    open_source: Callable[..., ScriptedSource] = stage.open

    def with_gpu(**settings: Any) -> ScriptedSource:
        source = open_source(**settings)
        source.hello["devices"]["cuda"].append(gpu)
        return source

    driver.ZygoteSource = with_gpu  # type: ignore[assignment,misc]  # undone by the fixture's monkeypatch
    cpu, cuda = json.loads(run("list", "devices", "--json").stdout)
    assert cuda == {**gpu, "status": "available", "driver": "570.86.15"}
    assert (cpu["uuid"], cpu["driver"]) == (None, None)


def test_list_scenarios_needs_no_bench(stage: Stage) -> None:
    Path("scenarios").mkdir()
    Path("scenarios/mine.yaml").write_text(SCENARIO)
    Path("scenarios/broken.yaml").write_text("name: [")
    rows = {row["name"]: row for row in json.loads(run("list", "scenarios", "--json").stdout)}
    assert rows["mine"]["description"] == "A scenario for tests"
    assert rows["broken"]["description"].startswith("has mistakes: ")
    assert stage.sources == []


def test_problems_of_installed_plug_ins_are_warned_of(stage: Stage) -> None:
    open_source: Callable[..., ScriptedSource] = stage.open

    def with_problem(**settings: Any) -> ScriptedSource:
        source = open_source(**settings)
        source.hello["problems"].append("the entry point x cannot be loaded\x1b")
        return source

    driver.ZygoteSource = with_problem  # type: ignore[assignment,misc]  # undone by the fixture's monkeypatch
    result = run("list", "devices", "--json")
    assert result.stderr == "Warning: the entry point x cannot be loaded\n"
    json.loads(result.stdout)
