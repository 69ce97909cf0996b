"""A report of modules: the table of where the time should go, and a run of several operations."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from attnbench import report, store, table
from attnbench.cli.cells import rows_of as terminal_rows
from attnbench.cli.results import print_results
from attnbench.compare import compare, rows
from attnbench.export.table import export
from attnbench.plots.rows import rows_of, usual
from attnbench.report.columns import columns_for
from attnbench.report.comparison.tables import to_csv
from attnbench.report.work import table_of_work
from builders import make_header, make_record


def make_run(root: Path, name: str = "mixed") -> Path:
    """Multi-head attention decoding, an encoder layer, a positional encoding and attention alone."""
    of = {
        "mha": {"q_len": 1, "kv_len": 1024},
        "encoder_layer": {"norm_first": True},
        "positional_encoding": {},
        "attention": {},
    }
    with store.create(root, name, make_header()) as writer:
        for operation, axes in of.items():
            for implementation in ("ours", "theirs"):
                writer.append(
                    make_record(
                        implementation, operation=operation, scenario=operation, anchor="ours", **axes
                    )
                )
    return root / name


def written(run: Path, out: Path) -> str:
    """The page of a run's report."""
    return report.write(table.load(run), [store.read(run).header], out).read_text(encoding="utf-8")


def test_a_line_for_each_workload_of_several_parts() -> None:
    frame = table.from_records(
        [
            make_record("ours", operation="encoder_layer", latency_s=1e-3),
            make_record("ours", operation="mha", q_len=1, kv_len=1024, status="oom"),
            make_record("ours", operation="mha", q_len=1, kv_len=4096, accuracy=None),
        ],
        "run",
    )
    found = rows_of(frame)
    headings, lines = table_of_work(found, usual(found))
    assert headings == [
        *("workload", "FLOP", "projections", "attention", "feed-forward", "fastest", "latency", "rate")
    ]
    assert [line[0] for line in lines] == [
        "L512, encoder_layer",
        "Lq1-Lk4096, mha",
        "Lq1-Lk4096, mha, with a cache",
    ]
    assert lines[0][1:6] == ["3.76 G", "29%", "14%", "57%", "ours"]
    assert lines[1][2:] == ["100%", "0%", "–", "–", "–", "–"], "what is unverified is nobody's time"
    assert lines[2][1:4] == ["10.5 M", "20%", "80%"]
    assert table_of_work(rows_of(table.from_records([make_record()], "run")), {}) == ([], [])


def test_a_run_of_several_operations_is_reported_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    page = written(run, tmp_path / "report")
    summary = (tmp_path / "report" / "summary.md").read_text(encoding="utf-8")
    for text in ('<section id="work">', 'href="#work"', 'id="figure-work"', "B1-L512-E512-H8-F2048-prenorm"):
        assert text in page, text
    assert "## Where the time should go" in summary
    assert "| encoder_layer |" in summary
    for text in (page, summary, *((p.read_text()) for p in (tmp_path / "report" / "figures").glob("*.svg"))):
        assert "None" not in text
        assert "&lt;NA&gt;" not in text


def test_attention_alone_has_no_such_section(tmp_path: Path) -> None:
    with store.create(tmp_path, "run", make_header()) as writer:
        writer.append(make_record())
    page = written(tmp_path / "run", tmp_path / "report")
    assert 'id="work"' not in page
    assert "Where the time should go" not in page
    assert "Of modules" not in page


def test_the_operation_is_a_column_where_there_are_several(tmp_path: Path) -> None:
    several = rows_of(table.load(make_run(tmp_path)))
    assert "operation" in [column.key for column in columns_for(several)]
    assert "Of modules" in next(column.meaning for column in columns_for(several) if column.key == "shape")
    one = [row for row in several if row["operation"] == "attention"]
    assert "operation" not in [column.key for column in columns_for(one)]


def test_exports_and_comparisons_carry_the_shapes_columns(tmp_path: Path) -> None:
    runs = [store.read(make_run(tmp_path, name)) for name in ("before", "after")]
    (first, *_) = csv.DictReader(io.StringIO(export(table.from_runs(runs[:1]), "csv").decode()))
    assert (first["embed_dim"], first["attention"], first["flops_feed_forward"]) == ("512", "self", "")
    found = rows(compare(runs))
    assert [row["embed_dim"] for row in found] == [512] * 6 + [None] * 2
    assert [row["norm_first"] for row in found[2:4]] == [True, True]
    (line, *_) = csv.DictReader(io.StringIO(to_csv(compare(runs))))
    assert (line["operation"], line["rotary"], line["ff_dim"]) == ("mha", "False", "")


def test_a_terminal_tells_modules_and_attention_beside_one_another(tmp_path: Path) -> None:
    from rich.console import Console

    frame = table.load(make_run(tmp_path))
    drawn = io.StringIO()
    print_results(terminal_rows(frame), Console(file=drawn, width=100, highlight=False))
    text = drawn.getvalue()
    for expected in (
        "Lq1-Lk1024-E512-H8",
        "L512-E512-H8-F2048-prenorm",
        "H8-L512-D64",
        "positional_encoding",
    ):
        assert expected in text, expected
    assert "None" not in text
    assert "nobias" not in text
