"""The documents of a comparison: page, summary, JSON, CSV, figures; and what they say."""

from __future__ import annotations

import csv
import hashlib
import html.parser
import io
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from attnbench import report
from attnbench.compare import COLUMNS, Comparison, compare, rows
from attnbench.errors import UsageError
from attnbench.plots.against import before_after
from attnbench.plots.ratios import ratios
from attnbench.record import Record
from attnbench.report import comparison as documents
from attnbench.report.comparison.columns import in_a_line, line_state, places
from attnbench.store import Run
from builders import make_accuracy, make_block, make_header, make_memory, make_record, make_records
from frames import HEADER, frame, row

HOSTILE = "</script><script>alert(1)</script>\"'`|\n\x1b[31mred\u202e"
MACHINE = {
    "cpu": "AMD EPYC",
    "cores_physical": 2,
    "threads": 2,
    "malloc": "pinned",
    "inherited_variables": {},
}


def run_of(
    records: Sequence[Record], name: str, header: dict[str, Any] | None = None, **environment: Any
) -> Run:
    made = make_header(environment={**MACHINE, **environment})
    return Run(Path("results") / name, name, {"run_id": name, **made, **(header or {})}, tuple(records))


def times(record: Record, factor: float) -> Record:
    return replace(
        record,
        processes=tuple(
            replace(each, elapsed_s=tuple(factor * x for x in each.elapsed_s)) for each in record.processes
        ),
    )


def changed() -> list[Record]:
    """`make_records` with every kind of change in it."""
    made = []
    for record in make_records():
        length, name = record.workload.shape.q_len, record.implementation
        if name == "slow":
            continue
        if name == "sdpa" and length == 2048:
            record = make_record("sdpa", status="crashed", seq_len=length, mask=record.workload.mask)
        elif name == "sdpa" and record.status == "ok":
            record = times(record, 1.4)
        elif name == "chunked":
            record = replace(times(record, 0.7), memory=make_memory(1 << 20))
            if length == 512:
                record = replace(record, accuracy=make_accuracy("fail", 12.0))
        made.append(record)
    return [*made, make_record("brandnew")]


def findings_text(comparison: Comparison) -> str:
    return " ".join(each.text for each in documents.findings(comparison.against[0]))


def cautions_of(before: Run, after: Run) -> list[str]:
    found = documents.cautions(compare([before, after]).against[0])
    assert all(each.serious for each in found)
    return [each.text for each in found]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    two = run_of(changed(), "tuesday", threads=4, libraries={"torch": "2.13"})
    return compare([run_of(make_records(), "monday"), two, run_of(make_records(), "wednesday")])


@pytest.fixture(scope="module")
def written(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return documents.write(comparison, tmp_path_factory.mktemp("comparison") / "made")


class Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_the_folder_holds_page_summary_figures_and_tables(written: Path) -> None:
    figures = {"latency-ratios", "memory-ratios", "error-ratios", "before-after"}
    found = {str(path.relative_to(written.parent)) for path in written.parent.rglob("*") if path.is_file()}
    expected = {f"figures/{name}.{ending}" for name in figures for ending in ("svg", "png")}
    assert found == expected | {"index.html", "summary.md", "comparison.csv", "comparison.json"}


def test_two_comparisons_of_the_same_runs_are_byte_identical(tmp_path: Path) -> None:
    small = compare([run_of(make_block(), "one"), run_of(make_block(), "two", threads=1)])
    one, two = (documents.write(small, tmp_path / name).parent for name in ("one", "two"))
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)


def test_the_page_asks_nothing_of_anybody(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    page = Page(text)
    links = [
        value for _, each in page.tags for name, value in each.items() if name in ("src", "href", "action")
    ]
    assert links
    assert all(str(value).startswith(("#", "data:")) for value in links)
    assert "http:" not in text
    assert "https:" not in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    ids = [str(each["id"]) for _, each in page.tags if "id" in each]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    assert not re.findall(r"(?:fill|stroke): #", "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL)))


def test_the_page_says_what_differs_before_it_says_what_came_of_it(written: Path) -> None:
    text = Page(written.read_text(encoding="utf-8")).text
    order = [
        "Different threads: 2 → 4",
        "libraries.torch",
        "not measured side by side",
        "Slower: sdpa",
        "latency-",
    ]
    assert [text.index(each) for each in order[:4]] == sorted(text.index(each) for each in order[:4])


def test_the_pages_table_can_be_sorted_and_strikes_out_what_is_wrong(written: Path) -> None:
    page = Page(written.read_text(encoding="utf-8"))
    keys = [each.get("data-key") for tag, each in page.tags if tag == "th" and each.get("data-key")]
    shown = [
        "run",
        "implementation",
        "shape",
        "device",
        "mask",
        "before",
        "after",
        "latency",
        "memory",
        "error",
    ]
    assert keys[:11] == [*shown, "status"]
    more = [each.get("data-key") for tag, each in page.tags if tag == "th" and each.get("class") == "more"]
    assert more == keys[11:] == ["speedups", "speedup", "resident", "largest", "changes"]
    states = [word for tag, each in page.tags if tag == "tr" for word in str(each.get("class")).split()]
    lines = rows(compare([run_of(make_records(), "monday"), run_of(changed(), "tuesday")]))
    assert states.count("slower") == sum(each["verdict"] == "slower" for each in lines) > 0
    assert states.count("wrong") == 4  # chunked at 512 under two masks, and sloppy in two runs
    assert states.count("absent") == 2
    values = [each["data-v"] for tag, each in page.tags if tag == "td" and "data-v" in each]
    assert all(value == "" or float(str(value)) >= 0 for value in values)


def test_findings_say_what_became_of_the_cases(comparison: Comparison) -> None:
    text = findings_text(comparison)
    assert "Of 45 cases in both runs: 6 slower, 6 faster," in text
    assert "if nothing had changed about" in text
    assert "Slower: sdpa at L" in text
    assert "Less peak memory in 8 cases: chunked(block=256)" in text
    assert "Status: ok → crashed: sdpa at L2048, no mask and sdpa at L2048, causal." in text
    assert "Accuracy: pass → fail: chunked(block=256)" in text
    assert "1 case disappeared, in monday alone: slow at L512, no mask." in text
    assert "1 case appeared, in tuesday alone: brandnew at L512, no mask." in text
    assert "attnbench check" in text
    serious = [each.text for each in documents.findings(comparison.against[0]) if each.serious]
    assert len(serious) == 2  # ok → crashed, pass → fail
    # Each interval alone is at its level, and the same is said of runs in which nothing changed.
    assert "no difference seen" in findings_text(
        compare([run_of(make_block(), "a"), run_of(make_block(), "b")])
    )


def test_cases_that_move_together_are_laid_to_the_machine() -> None:
    records = [each for n in (64, 128) for each in make_block(seq_len=n)]
    slower = compare([run_of(records, "a"), run_of([times(each, 1.1) for each in records], "b")])
    (shift,) = [each for each in documents.findings(slower.against[0]) if each.kind == "shift"]
    assert shift.serious
    assert "6 of 6 cases are slower, by 1.10× in the median" in shift.text
    assert "changed by 1.00× in the median" in shift.text
    same = compare([run_of(records, "a"), run_of([times(each, 1.001) for each in records], "b")])
    assert not [each for each in documents.findings(same.against[0]) if each.kind == "shift"]


def test_what_changes_the_quantity_is_said_first() -> None:
    block = make_block()
    one = run_of(block, "one")
    assert cautions_of(one, run_of(block, "two")) == []
    (text,) = cautions_of(one, run_of(block, "two", malloc="default"))
    assert text.startswith("Different malloc: pinned → default: ")
    (text,) = cautions_of(one, run_of(make_block(seed=1), "two"))
    assert text.startswith("Different seed: 0 → 1: errors are of other inputs")
    (text,) = cautions_of(one, run_of([block[0], *make_block(cache="cold")[1:]], "two"))
    assert text.startswith("Different cache: warm → cold (2 of 3 cases): ")
    (text,) = cautions_of(one, run_of(block, "two", inherited_variables={"OPENBLAS_CORETYPE": "Haswell"}))
    assert text == "Variables that change how fast kernels are differ: OPENBLAS_CORETYPE: – → Haswell."
    earlier = {key: value for key, value in MACHINE.items() if key != "inherited_variables"}
    (text,) = cautions_of(one, run_of(block, "two", {"environment": earlier}))
    assert text.startswith("Of two it is not known which variables reached the kernels")
    (text,) = cautions_of(one, run_of(block, "two", cpu=None))
    assert "does not say on what machine" in text
    resumed = {"resumed": [{"at": "later", "environment": {**MACHINE, "cpu": "Xeon"}}, {"at": "x"}, 7]}
    (text,) = cautions_of(one, run_of(block, "two", resumed))
    assert text == "two was gone on with in another environment: cpu."


def test_other_machines_are_said_first_and_compared_by_speedup() -> None:
    found = compare([run_of(make_records(), "here"), run_of(changed(), "there", cpu="Xeon")])
    (text,) = cautions_of(run_of(make_records(), "here"), run_of(changed(), "there", cpu="Xeon"))
    assert text.startswith(
        "Measured on different machines (cpu: AMD EPYC → Xeon). All cases are compared by the"
    )
    assert "cases are without it in one run or both" in text
    assert "Slower by speed-up over the anchor: sdpa" in findings_text(found)
    keys = [column.key for column in documents.columns_for(rows(found)) if not column.more]
    assert "speedup" in keys
    assert "latency" not in keys
    assert [plot.id for plot in ratios(found)] == ["speedup-ratios", "memory-ratios", "error-ratios"]
    assert [plot.id for plot in before_after(found)] == ["before-after-speedup"]


def test_the_document_is_json_and_complete(comparison: Comparison, written: Path) -> None:
    found = documents.document(comparison)
    assert json.loads((written.parent / "comparison.json").read_text(encoding="utf-8")) == found
    assert [run["run_id"] for run in found["runs"]] == ["monday", "tuesday", "wednesday"]
    first, second = found["comparisons"]
    assert (first["before"], first["after"]) == ("monday", "tuesday")
    assert first["cautions"]
    assert not second["cautions"]
    assert {"key": "threads", "before": 2, "after": 4} in first["environment"]
    assert first["verdicts"]["slower"] == 6
    assert len(first["cases"]) == 47
    assert tuple(first["cases"][0]) == COLUMNS


def test_the_csv_has_a_line_a_case(comparison: Comparison, written: Path) -> None:
    lines = list(csv.DictReader(io.StringIO((written.parent / "comparison.csv").read_text(encoding="utf-8"))))
    assert len(lines) == len(rows(comparison))
    assert tuple(lines[0]) == COLUMNS
    (gone,) = [each for each in lines if each["verdict"] == "disappeared"]
    assert gone["implementation"] == "slow"
    assert gone["latency_ratio"] == ""


def test_the_summary_holds_together(comparison: Comparison) -> None:
    summary = documents.summary(comparison)
    assert summary.startswith("# attnbench compare: monday → tuesday → wednesday\n")
    assert (
        summary.index("Different threads") < summary.index("libraries.torch") < summary.index("Of 45 cases")
    )
    lines = [line for line in summary.splitlines() if line.startswith("|") and "B1-H8" in line]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {11}
    struck = [line for line in lines if "~~" in line]
    assert struck
    assert all("not comparable" in line for line in struck)
    assert "<details><summary>45 cases</summary>" in summary


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    records = [make_record("naive"), make_record(HOSTILE), make_record("b", status="error", reason=HOSTILE)]
    records = [replace(each, scenario=HOSTILE) for each in records]
    header = {"run_id": HOSTILE, "command": HOSTILE, "started_at": HOSTILE}
    runs = [
        run_of(records, HOSTILE.replace("/", "") + str(index), header, **{HOSTILE: index, "malloc": HOSTILE})
        for index in range(3)
    ]
    index = documents.write(compare(runs), tmp_path / "out")
    for path in index.parent.rglob("*"):
        if path.suffix in (".html", ".md", ".svg"):
            data = path.read_text(encoding="utf-8")
            assert "\x1b" not in data
            assert "\u202e" not in data
            assert "<script>alert" not in data
        if path.suffix == ".svg":
            ElementTree.parse(path)
    page = Page(index.read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "alert(1)" in page.text


def test_a_report_is_not_overwritten_by_a_comparison(tmp_path: Path) -> None:
    small = compare([run_of(make_block(), "one"), run_of(make_block(), "two")])
    report.write(frame(row(status="oom", reason="x")), [HEADER], tmp_path / "report")
    with pytest.raises(UsageError, match="something else than an attnbench comparison"):
        documents.write(small, tmp_path / "report")
    documents.write(small, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    documents.write(small, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="something else than an attnbench report"):
        report.write(frame(row(status="oom", reason="x")), [HEADER], tmp_path / "out")


def test_ratios_are_read_as_people_write_them() -> None:
    def line(before: float | None, after: float | None) -> dict[str, Any]:
        records = [[make_record("a", accuracy=make_accuracy(error_rel_l2=each))] for each in (before, after)]
        (found,) = rows(compare([run_of(records[0], "one"), run_of(records[1], "two")]))
        return found

    def text(before: float, after: float) -> str:
        found = line(before, after)
        (column,) = [each for each in documents.columns_for([found]) if each.key == "error"]
        return in_a_line(column, found)

    assert text(1e-7, 2e-7) == "2.00× (1.0e-07 → 2.0e-07)"
    assert text(1e-7, 1e-7) == "1×"
    assert text(0.0, 1e-7) == "from 0 (0 → 1.0e-07)"
    assert text(1e-7, 0.0) == "to 0 (1.0e-07 → 0)"
    assert text(1e-9, 1.0) == "1.0e+09× (1.0e-09 → 1.0e+00)"
    assert line_state(line(1e-7, 1e-7)) == ""
    assert places([line(1e-7, 1e-7)]) == "B1-H8-L512-D64"


# Figures


def many(factor: float, names: int = 5) -> list[Record]:
    latencies = {"naive": 2e-3} | {f"kernel_{index}": 1e-3 for index in range(names - 1)}
    return [
        times(record, factor)
        for mask in ("none", "causal")
        for n in (64, 128, 256, 512, 1024, 2048)
        for record in make_block(latencies, seq_len=n, mask=mask, processes=2, rounds=6)
    ]


def test_many_cases_are_paged_on_one_axis() -> None:
    found = compare([run_of(many(1.0), "a"), run_of(many(1.1), "b")])
    plots = [plot for plot in ratios(found) if plot.id.startswith("latency")]
    assert [plot.id for plot in plots] == ["latency-ratios", "latency-ratios-2"]
    assert [len(plot.data) for plot in plots] == [30, 30]
    spans = [plot.draw().axes[0].get_xlim() for plot in plots]
    assert spans[0] == spans[1]
    assert spans[0][0] * spans[0][1] == pytest.approx(1)  # symmetric around 1


def test_dots_are_sorted_the_worst_first() -> None:
    before = make_block({"naive": 1e-3, "a": 1e-3, "b": 1e-3})
    after = [times(record, factor) for record, factor in zip(before, (1.0, 0.5, 2.0), strict=True)]
    (plot,) = ratios(compare([run_of(before, "one"), run_of(after, "two")]))
    assert plot.data["ratio"].tolist() == pytest.approx([2, 1, 0.5])
    assert plot.data["case_id"].str.rpartition("/")[2].tolist() == ["b", "naive", "a"]
    assert "From b · L512: 2.00× to a · L512: 0.500×" in plot.alt
    (axes,) = plot.draw().axes
    heights = [tick.get_position()[1] for tick in axes.get_yticklabels()]
    assert heights == sorted(heights, reverse=True)


def test_several_runs_have_colours_of_their_own_and_a_legend(comparison: Comparison) -> None:
    plot = ratios(comparison)[0]
    assert plot.data["after"].unique().tolist() == ["tuesday", "wednesday"]
    (legend,) = plot.draw().legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "tuesday",
        "wednesday",
        "fails the accuracy check",
    ]


def test_what_did_not_change_is_not_drawn_where_it_has_no_interval() -> None:
    found = compare([run_of(make_block(), "a"), run_of(make_block(), "b")])
    assert [plot.id for plot in ratios(found)] == ["latency-ratios"]


def test_figures_are_files_with_words_beside_them(comparison: Comparison, written: Path) -> None:
    for plot in (*ratios(comparison), *before_after(comparison)):
        assert ElementTree.parse(written.parent / "figures" / f"{plot.id}.svg").getroot().tag.endswith("svg")
        assert (written.parent / "figures" / f"{plot.id}.png").read_bytes().startswith(b"\x89PNG")
        assert plot.caption.endswith(".")
        assert len(plot.alt) > 40
        assert len(plot.data) > 0
    points = before_after(comparison)[0].data
    assert list(points) == ["after", "implementation", "shape", "latency_before_s", "latency_after_s"]


def test_runs_of_the_same_and_of_another_machine_side_by_side() -> None:
    found = compare(
        [
            run_of(make_records(), "monday"),
            run_of(changed(), "tuesday"),
            run_of(changed(), "elsewhere", cpu="Xeon"),
        ]
    )
    shown = [column.key for column in documents.columns_for(rows(found)) if not column.more]
    assert [key for key in shown if key in ("latency", "speedups", "speedup")] == ["latency", "speedup"]
    latency, speedup = ratios(found)[:2]
    assert latency.data["after"].unique().tolist() == ["tuesday"]
    assert speedup.data["after"].unique().tolist() == ["elsewhere"]
    assert not speedup.data["case_id"].str.endswith("naive").any()  # the anchor is 1 on every machine
    (legend,) = speedup.draw().legends
    assert [text.get_text() for text in legend.get_texts()] == ["elsewhere", "fails the accuracy check"]
