"""A run as pytest-benchmark keeps one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench import store, table
from attnbench.export.pytest_benchmark import document, full_name, machine_info, statistics_of
from attnbench.record import Record
from builders import make_accuracy, make_header, make_record, make_records


def written(folder: Path, records: list[Record], **header: Any) -> store.Run:
    writer = store.create(folder, "run", make_header(**header))
    for record in records:
        writer.append(record)
    writer.close()
    return store.read(folder / "run")


@given(st.lists(st.floats(1e-7, 10.0), min_size=1, max_size=40))
def test_statistics_are_those_of_pytest_benchmark(data: list[float]) -> None:
    stats = pytest.importorskip("pytest_benchmark.stats")
    theirs = stats.Stats()
    theirs.data = list(data)
    ours = statistics_of(data)
    assert list(ours) == list(theirs.fields)
    for name, value in theirs.as_dict().items():
        assert ours[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-12)), name


def test_quartiles_by_hand() -> None:
    assert (statistics_of([1, 2, 3, 4])["q1"], statistics_of([4, 3, 2, 1])["q3"]) == (1.5, 3.5)
    assert (statistics_of([1, 2, 3, 4, 5])["q1"], statistics_of([1, 2, 3, 4, 5])["q3"]) == (1.75, 4.25)
    assert (statistics_of([1, 2, 3])["q1"], statistics_of([1, 2, 3])["q3"]) == (1.25, 2.75)
    far = statistics_of([1.0, 1.0, 1.1, 1.1, 1.2, 1.2, 9.0])
    assert (far["iqr_outliers"], far["hd15iqr"], far["outliers"]) == (1, 1.2, "1;1")


def test_a_benchmark_holds_every_sample_and_the_row(tmp_path: Path) -> None:
    record = make_record("chunked", options={"block": 256}, mask="causal")
    run = written(tmp_path, [record])
    (entry,) = document(run).content["benchmarks"]
    assert entry["fullname"] == full_name("example", record.case_id) == f"attnbench:example::{record.case_id}"
    assert (entry["name"], entry["group"]) == (record.case_id, record.block_id)
    assert entry["param"] == entry["params"]["implementation"] == "chunked(block=256)"
    assert entry["params"]["mask"] == "causal"
    stats = entry["stats"]
    assert stats["data"] == [value for process in record.processes for value in process.per_call_s]
    assert stats["rounds"] == len(stats["data"]) == record.samples
    assert stats["iterations"] == record.processes[0].calls
    row = table.from_runs([run]).iloc[0]
    for name in ("case_id", "peak_alloc_bytes", "error_rel_l2", "accuracy", "flops", "latency_ci_low_s"):
        assert entry["extra_info"][name] == row[name], name
    assert entry["extra_info"]["interleaved"] is True
    assert entry["extra_info"]["resolved_backend"] is None


def test_what_has_no_time_to_compare_is_left_out_and_counted(tmp_path: Path) -> None:
    records = [
        make_record("right"),
        make_record("wrong", accuracy=make_accuracy("fail", 12.0)),
        make_record("broken", status="error"),
        make_record("absent", status="unavailable"),
    ]
    made = document(written(tmp_path, records))
    assert [each["param"] for each in made.content["benchmarks"]] == ["right"]
    assert made.left_out == {"with a wrong answer": 1, "without samples": 2}


def test_the_document_says_where_and_when(tmp_path: Path) -> None:
    environment = {
        "cpu": "AMD EPYC",
        "cores_logical": 2,
        "git_commit": "abc",
        "git_dirty": True,
        "time": "now",
    }
    content = document(written(tmp_path, [make_record()], environment=environment)).content
    assert content["datetime"] == "2026-01-02T03:04:05+00:00"
    assert content["commit_info"] | {"id": "abc", "dirty": True} == content["commit_info"]
    assert content["machine_info"] == machine_info(environment)
    assert content["machine_info"]["cpu"]["brand_raw"] == "AMD EPYC"


def test_a_header_that_somebody_edited_says_nothing_of_where_and_when(tmp_path: Path) -> None:
    content = document(written(tmp_path, [make_record("sdpa")], environment="here", started_at="now")).content
    assert content["datetime"] is None
    assert content["machine_info"]["cpu"]["brand_raw"] is None
    assert len(content["benchmarks"]) == 1


def test_machines_are_equal_whenever_they_are_looked_at() -> None:
    one = {"cpu": "AMD EPYC", "load_average": 1.0, "time": "now", "git_commit": "abc", "threads": 1}
    other = {"cpu": "AMD EPYC", "load_average": 7.0, "time": "then", "git_commit": None, "threads": 2}
    assert machine_info(one) == machine_info(other)
    assert machine_info(one) != machine_info({**one, "libraries": {"torch": "2.0"}})


def test_pytest_benchmark_compares_it(tmp_path: Path) -> None:
    """Only ours is read by its own command line: nothing of attnbench is needed for that."""
    pytest.importorskip("pytest_benchmark")
    made = document(written(tmp_path, make_records()))
    (tmp_path / "run.json").write_bytes(made.to_json())
    table_of_all = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", "run.json", "--csv=out.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert table_of_all.returncode == 0, table_of_all.stderr
    (csv,) = tmp_path.glob("*.csv")
    lines = csv.read_text().splitlines()
    assert len(lines) - 1 == len(made.content["benchmarks"]) > 20
    assert any("chunked(block=256)" in line for line in lines)
    assert sum(made.left_out.values()) + len(lines) - 1 == len(make_records())


def test_the_command_writes_it_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from attnbench.cli import main

    written(tmp_path, [make_record(), make_record("broken", status="error")])
    target = tmp_path / "out.json"
    arguments = ["export", str(tmp_path / "run"), "--format", "pytest-benchmark"]
    done = CliRunner().invoke(main, [*arguments, "-o", str(target)])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "Left out: 1 case (1 without samples)\n"
    assert len(json.loads(target.read_text())["benchmarks"]) == 1
    again = CliRunner().invoke(main, [*arguments, "-o", str(target)])
    assert again.exit_code == 2
    assert "exists; name another file, or overwrite it with --force" in again.stderr
    shown = CliRunner().invoke(main, arguments)
    assert json.loads(shown.stdout) == json.loads(target.read_text())
    both = CliRunner().invoke(main, [*arguments, "--json"])
    assert both.exit_code == 2
    assert "contradict each other" in both.stderr
