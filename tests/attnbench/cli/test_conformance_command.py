"""`attnbench conformance`: on scripted benches what it answers, and once as users start it."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from attnbench import driver
from attnbench.case import Case, Variant
from attnbench.cli import main, verdicts
from attnbench.conformance import check
from attnbench.conformance.grid import pairwise_grid
from attnbench.protocol import BenchFailed, BenchLost
from scripted import Script, ScriptedBench, ScriptedSource, failing

UNSUPPORTED = failing("prepare", BenchFailed("unsupported", "not my shape"))
UNAVAILABLE = failing("prepare", BenchFailed("unavailable", "needs an NVIDIA GPU"))
CRASHES = failing("accuracy", BenchLost("crashed", "killed by SIGSEGV in \x1b[31mmine\x1b[0m"))


class Erring(ScriptedBench):
    """A scripted bench in which `wrong` answers wrongly, by another figure at every workload."""

    def _accuracy(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
        reply = super()._accuracy(script, parameters, sample)
        if script is not self.source.scripts.get("wrong"):
            return reply
        error = 3.0 + len(self.source.log)
        return {**reply, "accuracy": "fail", "reason": f"o: {error:g} times its bound", "error_ratio": error}


class Source(ScriptedSource):
    def bench(self) -> ScriptedBench:
        self.benches.append(Erring(self, len(self.benches)))
        return self.benches[-1]


class Stage:
    """The implementations that there are; `mine` comes from the plug-in mine.py."""

    def __init__(self) -> None:
        self.scripts = {"naive": Script(), "chunked": Script()}
        self.sources: list[Source] = []
        self.asked: list[dict[str, Any]] = []
        self.interrupt_after = 10**9

    def open(self, **settings: Any) -> Source:
        source = Source(self.scripts)
        for info in source.hello["catalogue"]:
            if info["name"] in ("mine", "wrong"):
                info["origin"] = str(Path("mine.py").resolve())
        self.asked.append(settings)
        self.sources.append(source)
        return source


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage()
    monkeypatch.setattr(driver, "ZygoteSource", stage.open)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    Path("mine.py").write_text("# a plug-in\n")
    yield stage
    assert all(source.closed for source in stage.sources)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["conformance", *arguments])
    assert "Traceback" not in result.output
    assert result.exit_code == code, result.output
    return result


def line_of(result: Result, name: str) -> list[str]:
    return next(line.split() for line in result.stdout.splitlines() if line.startswith(f"{name} "))


def test_all_there_is_is_checked_where_nothing_is_asked_for(stage: Stage) -> None:
    result = run()
    count = len(pairwise_grid())
    assert line_of(result, "naive")[1:5] == line_of(result, "chunked")[1:5] == [str(count), "0", "0", "0"]
    assert result.stdout.splitlines()[-1] == "every case that is supported passed"
    assert result.stderr.splitlines()[-1] == f"{2 * count}/{2 * count} cases"
    assert len(result.stderr.splitlines()) <= verdicts.PARTS + 1
    (settings,) = stage.asked
    assert (settings["threads"], settings["plugins"]) == ("all", [])
    assert settings["memory_limit_bytes"] > 0


def test_what_is_compiled_for_each_workload_is_checked_where_it_is_asked_for(stage: Stage) -> None:
    stage.scripts["slow"] = Script(compiles=True)
    result = run()
    assert "slow" not in result.stdout
    assert "Left out, as it is compiled for each workload: slow (--impl checks it)" in result.stderr
    assert line_of(run("--impl", "slow"), "slow")[1:5] == [str(len(pairwise_grid())), "0", "0", "0"]


def test_what_computes_in_less_than_its_dtype_is_judged_by_that_and_told_apart(stage: Stage) -> None:
    stage.scripts["coarse"] = Script(precision="int8")
    result = run("--impl", "coarse", "--impl", "naive")
    told = [line for line in result.stdout.splitlines() if "judged by" in line]
    assert told == ["coarse computes in int8 and is judged by that, not by its inputs' dtype"]
    document = json.loads(run("--impl", "coarse", "--impl", "naive", "--json").stdout)
    assert [each["precision"] for each in document["implementations"]] == ["int8", None]


def test_what_fails_is_told_once_with_the_way_to_see_it_again(stage: Stage) -> None:
    stage.scripts |= {"mine": Script(fails=CRASHES), "wrong": Script()}
    result = run("--plugin", "mine.py", "--seed", "3", code=1)
    count = len(pairwise_grid())
    assert line_of(result, "wrong")[1:5] == ["0", str(count), "0", "0"]
    assert "naive" not in result.stdout, "with a plug-in, its implementations alone are checked"
    first = pairwise_grid()[0].label
    told = result.stdout.split("\n\n")
    assert told[1].splitlines() == [
        f"mine  {first} (and {count - 1} more workloads)",
        "  crashed: killed by SIGSEGV in [31mmine[0m",
        f"  attnbench conformance --plugin mine.py --seed 3 --impl mine --only {first}",
    ]
    assert told[2].splitlines()[0] == f"wrong  {first} (and {count - 1} more workloads)"
    assert told[-1].strip() == "not right: mine, wrong"
    assert sum("mine on " in line for line in result.stderr.splitlines()) == verdicts.MOST_TOLD
    again = run(*shlex.split(told[1].splitlines()[2])[2:], code=1)
    assert line_of(again, "mine")[1:5] == ["0", "1", "0", "0"]


def test_many_distinct_failures_are_cut(stage: Stage) -> None:
    reasons = iter("abcdefghijklmnopqrstuvwxyz" * 10)

    def fails(verb: str, bench: int, sample: int) -> BenchFailed | None:
        return BenchFailed("error", f"ValueError: {next(reasons)}") if verb == "accuracy" else None

    stage.scripts["mine"] = Script(fails=fails)
    result = run("--impl", "mine", "--plugin", "mine.py", code=1)
    told = [line for line in result.stdout.splitlines() if line.startswith("mine  ")]
    assert len(told) == 1 + verdicts.MOST_FAILURES  # the table's row is one
    assert f"mine: … and {26 - verdicts.MOST_FAILURES} more (--json)" in result.stdout


def test_a_narrow_terminal_gets_the_table_without_its_last_column(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = run("--impl", "naive").stdout
    where = pairwise_grid()[0].label
    assert line_of(run("--impl", "naive"), "naive")[-1] == where
    monkeypatch.setenv("COLUMNS", "80")
    narrow = run("--impl", "naive").stdout
    assert f"worst of naive: {where}" in narrow.splitlines()
    assert "where" in wide
    assert "where" not in narrow
    assert max(len(line) for line in narrow.splitlines() if "worst of" not in line) <= 80


def test_an_implementation_with_options_is_written_as_in_scenarios(stage: Stage) -> None:
    result = run("--impl", "chunked(block=32)", "--impl", "naive", "--only", "float64")
    assert line_of(result, "chunked(block=32)")[1] == line_of(result, "naive")[1]
    chosen = sum("float64" in workload.label for workload in pairwise_grid())
    assert line_of(result, "naive")[1] == str(chosen)


def test_a_whole_label_chooses_that_workload_alone(stage: Stage) -> None:
    labels = [workload.label for workload in pairwise_grid()]
    label = next(each for each in labels if any(each in other for other in labels if other != each))
    assert line_of(run("--impl", "naive", "--only", label), "naive")[1] == "1"


@pytest.mark.parametrize(
    ("scripts", "arguments", "code", "told"),
    [
        # Of what is installed, something may be missing here.
        ({"mine": Script(fails=UNAVAILABLE)}, [], 0, "every case that is supported passed"),
        ({"mine": Script(fails=UNSUPPORTED)}, [], 0, "every case that is supported passed"),
        (
            {"mine": Script(fails=UNAVAILABLE)},
            ["--impl", "mine"],
            1,
            "nothing could be checked of mine (unavailable: needs an NVIDIA GPU)",
        ),
        (
            {"mine": Script(fails=UNSUPPORTED)},
            ["--plugin", "mine.py"],
            1,
            "nothing could be checked of mine (unsupported: not my shape)",
        ),
        (
            {"naive": Script(fails=UNAVAILABLE), "chunked": Script(fails=UNAVAILABLE)},
            [],
            1,
            "nothing could be checked of naive (unavailable: needs an NVIDIA GPU); chunked (",
        ),
    ],
)
def test_what_could_not_be_checked_is_a_failure_only_if_it_was_asked_for(
    stage: Stage, scripts: dict[str, Script], arguments: list[str], code: int, told: str
) -> None:
    stage.scripts |= scripts
    result = run(*arguments, code=code)
    assert told in result.stdout


def test_the_document(stage: Stage) -> None:
    stage.scripts |= {"wrong": Script(), "mine": Script(fails=UNAVAILABLE)}
    document = json.loads(run("--json", code=1).stdout)
    assert document["exit_code"] == 1
    assert document["exit_reason"] == "not right: wrong"
    assert (document["device"], document["seed"], document["grid"]) == ("cpu", 0, "pairwise")
    assert len(document["rows"]) == 4 * len(pairwise_grid())
    by_name = {each["implementation"]: each for each in document["implementations"]}
    assert by_name["naive"]["statuses"] == {"pass": len(pairwise_grid())}
    assert by_name["naive"]["worst_error_ratio"] == 0.1
    assert by_name["wrong"]["failed"] == len(pairwise_grid())
    worst = max((row for row in document["rows"] if row["error_ratio"]), key=lambda row: row["error_ratio"])
    assert by_name["wrong"]["worst_error_ratio"] == worst["error_ratio"]
    assert by_name["wrong"]["worst_workload"] == worst["label"]
    assert by_name["mine"]["worst_workload"] is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--impl", "naife"], "did you mean 'naive'?"),
        (["--impl", "chunked(blok=32)"], "did you mean 'block'?"),
        (["--impl", "chunked(block=half)"], "expected a whole number"),
        (["--impl", "chunked("], "expected a name such as sdpa"),
        (["--device", "gpu"], "did you mean 'cuda'?"),
        (["--only", "bfloat61"], "no workload of this grid has this in its label"),
        (["--seed", "-1"], "--seed"),
        (["--plugin", "none.py"], "none.py"),
    ],
)
def test_wrong_use_is_told(stage: Stage, arguments: list[str], told: str) -> None:
    result = run(*arguments, code=2)
    assert told in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("as_json", [True, False])
def test_an_interrupted_check_shows_what_it_found(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    def interrupted(*arguments: Any, **settings: Any) -> Iterator[check.Result]:
        case = Case(Variant.of("naive"), pairwise_grid()[0])
        yield check.Result(case, "fail", "o: wrong", None)
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "check", interrupted)
    result = run("--impl", "naive", *["--json"] * as_json, code=130)
    assert f"interrupted: 1 of {len(pairwise_grid())} cases checked" in result.stderr
    if as_json:
        document = json.loads(result.stdout)
        assert (document["exit_code"], document["exit_reason"], len(document["rows"])) == (
            130,
            "interrupted",
            1,
        )
    else:
        assert line_of(result, "naive")[1:7] == ["0", "1", "0", "0", "inf", "of"]


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end() -> None:
    stream = io.StringIO()
    display = verdicts.LiveDisplay(Console(file=stream, width=80, force_terminal=True, color_system=None))
    case = Case(Variant.of("naive"), pairwise_grid()[0])
    with display:
        display.begin(2)
        display.add(check.Result(case, "fail", "o: wrong", 3.0))
        assert "1/2 cases, 1 failed" in stream.getvalue()
    assert "o: wrong" not in stream.getvalue()


PLUGIN = """\
import ctypes

import attnbench


@attnbench.attention("right")
def right(q, k, v, *, mask, scale):
    return (q @ k.mT * scale).softmax(-1) @ v


@attnbench.attention("wrong")
def wrong(q, k, v, *, mask, scale):
    return right(q, k, v, mask=mask, scale=scale) * 1.01


@attnbench.attention("crashing")
def crashing(q, k, v, *, mask, scale):
    if q.shape[2] == 2:
        ctypes.string_at(0)
    return right(q, k, v, mask=mask, scale=scale)
"""


@pytest.fixture
def attnbench(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    (tmp_path / "mine.py").write_text(PLUGIN)

    def started(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "attnbench", "conformance", "--plugin", "mine.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)

    return started


@pytest.mark.slow
def test_a_plug_in_in_processes_of_its_own(
    attnbench: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = attnbench("--json", "--only", "float64")
    assert done.returncode == 1, done.stderr
    statuses = {
        each["implementation"]: each["statuses"] for each in json.loads(done.stdout)["implementations"]
    }
    judged = {name: {key for key in found if key != "unsupported"} for name, found in statuses.items()}
    assert judged == {"right": {"pass"}, "wrong": {"fail"}, "crashing": {"pass", "crashed"}}
    assert statuses["right"]["pass"] == statuses["wrong"]["fail"] >= 10
    rows = json.loads(done.stdout)["rows"]
    crashed = [row for row in rows if row["status"] == "crashed"]
    assert {row["workload"]["shape"]["q_len"] for row in crashed} == {2}
    assert crashed[0]["reason"] == "killed by SIGSEGV during prepare, in crashing (mine.py:19)"
