"""`attnbench compare` from end to end, on runs made up and written as sweeps write them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attnbench import store
from attnbench.cli import main
from attnbench.record import Record
from builders import make_block, make_header, make_record


def times(record: Record, factor: float) -> Record:
    return replace(
        record,
        processes=tuple(
            replace(each, elapsed_s=tuple(factor * x for x in each.elapsed_s)) for each in record.processes
        ),
    )


def write(name: str, records: Sequence[Record], **environment: object) -> None:
    header = make_header()
    header["environment"] |= environment
    with store.create(Path(), name, header) as writer:
        for record in records:
            writer.append(record)


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    block = make_block()
    write("monday", [*block, make_record("\x1b[31mold")])
    write("tuesday", [times(record, 2.0 if record.implementation == "sdpa" else 1.0) for record in block])
    write("elsewhere", block, cpu="Xeon", threads=8)
    write("other", make_block(seq_len=64))
    write("empty", [])


def invoke(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["compare", *arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_it_prints_environment_cases_and_findings() -> None:
    out = invoke("monday", "elsewhere", "tuesday").stdout
    first, second = out.split("before: monday\n")[1:]
    order = ["after:  elsewhere", "Measured on different machines", "environment  ", "speed-ups", "Findings"]
    assert [first.index(each) for each in order] == sorted(first.index(each) for each in order)
    assert "after:  tuesday" in second
    assert "Different" not in second
    (line,) = [line for line in second.splitlines() if line.startswith("sdpa ")]
    assert line.split()[-1] == "slower"
    assert "2.00×" in line
    assert "1 case disappeared, in monday alone: ␛[31mold" in second
    assert "\x1b" not in out


def test_what_is_said_of_some_cases_says_of_which() -> None:
    short, long = make_block(), make_block(seq_len=64)
    failed = [replace(each, processes=(), status="oom", reason="too much", accuracy=None) for each in long]
    write("whole", [*short, *long])
    write("half", [*short, *failed])
    out = invoke("whole", "half").stdout
    (line,) = [line for line in out.splitlines() if line.startswith("sdpa at ")]
    assert line.startswith("sdpa at B1-H8-L64-D64: not comparable: after: oom: too much")
    write("nothing", failed)
    assert "\nsdpa: not comparable: in both runs: oom: too much" in invoke("nothing", "half").stdout


def test_a_narrow_terminal_keeps_ratio_and_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = invoke("monday", "tuesday").stdout
    table = out[out.index("implementation") : out.index("Findings")]
    assert max(map(len, table.splitlines())) <= 60
    assert "latency" in table.splitlines()[0]
    (line,) = [line for line in table.splitlines() if line.startswith("sdpa ")]
    assert "2.00× [" in line
    assert line.split()[-1] == "slower"


def test_the_table_is_sorted_on_request() -> None:
    out = invoke("tuesday", "monday", "--sort", "latency").stdout
    table = out[out.index("implementation") : out.index("Findings")]
    assert table.splitlines()[-2].startswith("sdpa")
    out = invoke("monday", "tuesday", "--sort", "latency").stdout
    assert out[out.index("implementation") :].splitlines()[2].startswith("sdpa")


def test_implementations_are_chosen() -> None:
    document = json.loads(invoke("monday", "tuesday", "--impl", "sdpa", "--json").stdout)
    assert [case["implementation"] for case in document["comparisons"][0]["cases"]] == ["sdpa"]
    assert "did you mean 'sdpa'" in invoke("monday", "tuesday", "--impl", "spda", code=2).stderr


@pytest.mark.parametrize("arguments", [["--json"], ["--format", "json"], ["--json", "--format", "json"]])
def test_json_is_one_document(arguments: list[str]) -> None:
    document = json.loads(invoke("monday", "tuesday", *arguments).stdout)
    (found,) = document["comparisons"]
    assert found["verdicts"] == {
        "slower": 1,
        "faster": 0,
        "no difference seen": 2,
        "not comparable": 0,
        "disappeared": 1,
        "appeared": 0,
    }


def test_csv_and_markdown_go_to_stdout() -> None:
    lines = list(csv.DictReader(io.StringIO(invoke("monday", "tuesday", "--format", "csv").stdout)))
    assert [line["verdict"] for line in lines].count("slower") == 1
    summary = invoke("monday", "tuesday", "--format", "markdown").stdout
    assert summary.startswith("# attnbench compare: monday → tuesday")


def test_a_folder_is_written_beside_what_is_printed() -> None:
    assert invoke("monday", "tuesday", "-o", "out").stdout.endswith("/out/index.html\n")
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"index.html", "summary.md", "comparison.csv", "comparison.json", "figures"}
    result = invoke("monday", "tuesday", "-o", "out", "--json")
    assert json.loads(result.stdout) == json.loads(Path("out/comparison.json").read_text(encoding="utf-8"))
    assert result.stderr.endswith("/out/index.html\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        (["monday"], "two runs or more, got monday alone"),
        (["monday", "./monday"], "given twice"),
        (["monday", "nowhere"], "nowhere: there is no such run"),
        (["monday", "."], "is no run"),
        (["monday", "empty"], "holds no records yet"),
        (
            ["monday", "other"],
            "other has no case in common with monday:\n  monday holds 4 cases of example on cpu",
        ),
        (["monday", "tuesday", "--json", "--format", "csv"], "contradict each other"),
        (["monday", "tuesday", "-o", "monday"], "is not overwritten"),
    ],
)
def test_wrong_use_is_told_and_ends_with_2(arguments: list[str], said: str) -> None:
    result = invoke(*arguments, code=2)
    assert said in result.stderr
    assert result.stdout == ""


def test_a_run_of_a_newer_version_is_told() -> None:
    header = Path("tuesday/run.json")
    header.write_text(
        header.read_text(encoding="utf-8").replace('"schema": 1', '"schema": 99'), encoding="utf-8"
    )
    assert "newer attnbench" in invoke("monday", "tuesday", code=2).stderr


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the kernel does not tell of locks")
def test_a_run_that_is_being_written_is_compared_and_told() -> None:
    assert invoke("monday", "tuesday", "--json").stderr == ""
    with store.resume(Path("tuesday"), {}):
        result = invoke("monday", "tuesday", "--json")
    assert result.stderr == "tuesday is being written: what it lacks may yet come\n"
    assert json.loads(result.stdout)["runs"][1]["cases"] == 3
