from __future__ import annotations

import hashlib
import html.parser
import os
import re
import shutil
import subprocess
from base64 import b64encode
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from attnbench import report, table
from attnbench.ceilings import Bandwidth, Ceilings, MatrixRate
from attnbench.errors import UsageError
from attnbench.plots.rows import rows_of
from attnbench.report import cells, facts, folder
from builders import make_header, make_records
from frames import HEADER, frame, realistic, row

HOSTILE = "</script><script>alert('1')</script>\"'`|\n\x1b[31mred\u202e" + "long" * 60


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(realistic(), [HEADER], tmp_path_factory.mktemp("report") / "made")


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written.read_text(encoding="utf-8"))


def small(path: Path, **header: Any) -> Path:
    rows = [row(name, n, n * us) for n in (128, 256) for name, us in (("naive", 4e-6), ("b", 2e-6))]
    return report.write(frame(*rows), [{**HEADER, **header}], path)


def bare(path: Path, **header: Any) -> Path:
    """A report without figures, which takes no time."""
    return report.write(frame(row(status="oom", reason="x")), [{**HEADER, **header}], path)


def test_the_folder_holds_page_summary_figures_and_tables(written: Path) -> None:
    names = ["latency", "speedup", "memory", "error", "tradeoff", "singles"]
    figures = {f"figures/{name}.{ending}" for name in names for ending in ("svg", "png")}
    found = set(contents(written.parent))
    assert found == figures | {"index.html", "summary.md", "table.csv", "table.parquet"}
    assert pd.read_parquet(written.parent / "table.parquet").shape == realistic().shape
    assert len(pd.read_csv(written.parent / "table.csv")) == len(realistic())


def test_two_reports_of_one_run_are_byte_identical(tmp_path: Path) -> None:
    small(tmp_path / "one")
    small(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_page_asks_nothing_of_anybody(written: Path, page: Page) -> None:
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data")
    ]
    assert links
    assert all(value is None or value.startswith(("#", "data:")) for value in links)
    text = written.read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert all(url.startswith("url(#") for url in re.findall(r"url\([^)]*\)", text))


def test_the_policy_allows_exactly_the_script_of_the_page(written: Path, page: Page) -> None:
    text = written.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_ids_are_unique_and_references_resolve(written: Path, page: Page) -> None:
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = written.read_text(encoding="utf-8")
    targets = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets <= set(ids)
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert set(str(svg["aria-labelledby"]).split()) <= set(ids)


def test_inline_figures_follow_the_theme_and_files_do_not(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--series-0)" in drawn
    assert "var(--font)" in drawn
    assert not re.findall(r"(?:fill|stroke): #", drawn)
    variables = set(re.findall(r"var\((--[a-z0-9-]+)\)", text)) - {"--width"}
    dark = text[text.index("prefers-color-scheme: dark") : text.index("box-sizing")]
    assert all(f"{name}:" in dark for name in variables - {"--font"})
    on_disk = (written.parent / "figures" / "latency.svg").read_text(encoding="utf-8")
    assert "var(" not in on_disk
    assert "fill: #ffffff" in on_disk


def test_the_table_can_be_sorted_and_filtered(page: Page) -> None:
    keys = [head.get("data-key") for head in page.all("th") if head.get("data-key")]
    assert keys[:5] == ["implementation", "shape", "mask", "dtype", "pass"]
    assert keys[5:11] == ["latency", "speedup", "memory", "error", "ratio", "status"]
    more = [head.get("data-key") for head in page.all("th") if head.get("class") == "more"]
    assert more == keys[11:] == ["resident", "rate", "first", "samples"]
    values = [cell["data-v"] for cell in page.all("td") if "data-v" in cell]
    assert len(values) > 500
    assert all(value == "" or float(str(value)) >= 0 for value in values)
    assert {select["data-filter"] for select in page.all("select")} >= {"implementation", "mask", "status"}
    assert "84 of 84 cases" not in page.text  # the count is the script's; without it all rows are there
    assert sum(1 for tag, _ in page.tags if tag == "tr") > 84


def test_every_failure_is_there_with_its_reason(page: Page) -> None:
    for reason in ("can't allocate 512 MiB", "SIGSEGV", "max|err| 0.31", "does not declare bfloat16"):
        assert reason in page.text
    states = [state for line in page.all("tr") for state in str(line.get("class")).split()]
    assert states.count("wrong") == 1
    assert states.count("flagged") == 1
    assert states.count("failed") == 4


def test_every_section_is_there(page: Page) -> None:
    ids = {section["id"] for section in page.all("section")}
    assert ids == {"findings", "results", "figures", "failures", "environment", "method", "scenario"}
    assert page.text.count("Data behind this figure") == 6
    assert "Imaginary 9000" in page.text
    assert "libraries.torch" in page.text


def test_the_machine_is_told_from_the_header(written: Path, page: Page) -> None:
    machine = "Imaginary 9000, 2 cores, 4 hardware threads to use, 8.00 GiB; 2 × G1"
    software = "Python 3.12.1, torch 2.13.0, numpy 2.4.0, 2 threads"
    assert machine in page.text
    assert software in page.text
    assert f"{machine}; {software}; started" in (written.parent / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("environment", [{}, {"cpu": None, "devices": {"cuda": None}, "libraries": None}])
def test_a_header_that_knows_no_machine_leaves_it_to_the_rows(environment: dict[str, Any]) -> None:
    header = {**HEADER, "environment": environment}
    (run,) = facts.runs_of(rows_of(frame(row())), [header])
    assert (run.machine, run.software) == ("Imaginary 9000", "")
    (run,) = facts.runs_of([], [header])
    assert run.machine == "unknown"


def test_ceilings_are_told_in_short_and_not_as_they_are_kept() -> None:
    rates = (MatrixRate("float32", 1, 1e11, "oneDNN"), MatrixRate("float32", 2, 2e11, "torch matmul"))
    found = Ceilings("cpu", "EPYC", 1 << 25, "2026-01-02T03:04:05Z", rates, (Bandwidth("read", 2, 4e10),))

    def told(ceilings: object) -> dict[str, str]:
        resumed = [{"at": "later", "ceilings": ceilings}, 7]
        known = facts.environment([{"ceilings": {"cpu": found.to_json()}, "resumed": resumed}])
        return {fact.name: fact.values[0] for fact in known}

    assert told({"cpu": 3}) == {"resumed.0.at": "later"}  # what is corrupted is the table's affair
    assert told({}) == {
        "resumed.0.at": "later",
        "ceilings of cpu (EPYC): float32": "200 GFLOP/s by 2 threads (torch matmul)",
        "ceilings of cpu (EPYC): bandwidth": "40.0 GB/s by 2 threads",
        "ceilings of cpu (EPYC): measured at": "2026-01-02T03:04:05Z",
    }
    beside_others = replace(found, disturbed="others used 43% of the CPUs")
    told_so = told({"cpu": beside_others.to_json()})
    assert told_so["ceilings of cpu (EPYC): may be too low"] == "others used 43% of the CPUs"


def test_how_near_rows_come_to_the_limits_is_a_column_where_it_is_known(tmp_path: Path) -> None:
    why = (
        "faster than this machine can be: at least 9.00 TFLOP/s in float32, where EPYC was measured to reach"
    )
    rows = [row("a", roofline_fraction=0.456), row("b", roofline_fraction=40.0, flagged=True, reason=why)]
    report.write(frame(*rows), [HEADER], tmp_path / "out")
    parsed = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert "roofline" in {head.get("data-key") for head in parsed.all("th")}
    assert "46%" in parsed.text
    assert why in parsed.text
    assert f"flagged: {why}" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")


def test_the_precision_asked_is_read_from_the_scenarios() -> None:
    text = (
        "name: made\noperation: attention\nimplementations: [naive]\nanchor: naive\n"
        "matrix: {heads: 1, head_dim: 8, seq_len: 8}\nmeasure: {precision: 0.05}\n"
    )
    plain = {"name": "made", "text": text, "sets": [], "implementations": [], "devices": []}
    finer = {**plain, "sets": ["measure.precision=0.01"]}
    assert facts.precisions([{"scenarios": [plain]}]) == {"made": 0.05}
    assert facts.precisions([{"scenarios": [finer]}]) == {"made": 0.01}
    assert facts.precisions([{"scenarios": [plain]}, {"scenarios": [finer]}]) == {}
    assert facts.precisions([HEADER, {}]) == {}


def test_what_does_not_vary_is_told_once(tmp_path: Path) -> None:
    parsed = Page(small(tmp_path / "out").read_text(encoding="utf-8"))
    assert "All cases: cpu, attention, no mask, float32, forward, normal inputs." in parsed.text
    assert not {"mask", "dtype", "pass", "device"} & {head.get("data-key") for head in parsed.all("th")}


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    rows = [row(HOSTILE, n, options=HOSTILE) for n in (128, 256)]
    rows += [row("b", status="error", reason=HOSTILE), row(HOSTILE, 128, mask=HOSTILE, device=HOSTILE)]
    rows += [row("c", 128, accuracy="fail", reason=HOSTILE, dtype=HOSTILE, device_name=HOSTILE)]
    header = {
        "run_id": HOSTILE,
        "command": ["attnbench", HOSTILE],
        "started_at": HOSTILE,
        "scenarios": [{"name": HOSTILE, "text": f"{HOSTILE}\n  indented: {HOSTILE}"}],
        "environment": {HOSTILE: {HOSTILE: [HOSTILE, None, {"a": HOSTILE}]}},
    }
    index = report.write(frame(*rows), [header], tmp_path / "out")
    text = index.read_text(encoding="utf-8")
    parsed = Page(text)
    assert len(parsed.all("script")) == 1
    assert "alert('1')" in parsed.text
    assert "<script>alert" not in text
    for name, data in contents(index.parent).items():
        if name.endswith((".html", ".md", ".svg")):
            assert b"\x1b" not in data
            assert "\u202e".encode() not in data
    summary = (index.parent / "summary.md").read_text(encoding="utf-8")
    assert "<script" not in summary
    assert "  indented: " in text


def test_the_summarys_tables_hold_together(tmp_path: Path) -> None:
    rows = [row("a|b`c*", 128), row("@someone", 128, accuracy="fail", reason="see https://x | #1 <b>")]
    index = report.write(frame(*rows), [HEADER], tmp_path / "out")
    summary = (index.parent / "summary.md").read_text(encoding="utf-8")
    results = summary[summary.index("## Results") : summary.index("## Failures")]
    lines = [line for line in results.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {9}
    assert "~~" in lines[-1]
    assert "**wrong**" in lines[-1]
    assert "@someone" not in summary
    assert "https://x" not in summary
    assert "<b>" not in summary
    assert "<details><summary>Environment</summary>" in summary


def test_a_run_without_a_single_success_is_a_report(tmp_path: Path) -> None:
    rows = [row(name, status="crashed", reason="killed by signal 11") for name in ("a", "b")]
    index = report.write(frame(*rows), [HEADER], tmp_path / "out")
    parsed = Page(index.read_text(encoding="utf-8"))
    assert "No case was measured" in parsed.text
    assert "0 of 2 cases were measured" in parsed.text
    assert not parsed.all("svg")
    assert list((index.parent / "figures").iterdir()) == []


def test_one_row_is_a_report(tmp_path: Path) -> None:
    index = report.write(frame(row()), [HEADER], tmp_path / "out")
    assert len(Page(index.read_text(encoding="utf-8")).all("svg")) == 1


def test_what_differs_between_runs_comes_first(tmp_path: Path) -> None:
    rows = [row(length=n, run_id=run) for run in ("one", "two") for n in (128, 256)]
    environment = {"cpu": "same", "libraries": {"torch": "2.13.0"}, "malloc": "pinned"}
    headers = [
        {**HEADER, "environment": environment},
        {**HEADER, "environment": {**environment, "malloc": "default"}},
    ]
    index = report.write(frame(*rows), headers, tmp_path / "out")
    text = index.read_text(encoding="utf-8")
    section = text[text.index('id="environment"') :]
    assert section.index("malloc") < section.index("libraries.torch")
    assert 'class="differs"' in section
    assert {"run", "implementation"} <= {head.get("data-key") for head in Page(text).all("th")}


def test_records_become_a_report(tmp_path: Path) -> None:
    header = {"run_id": "example", **make_header()}
    index = report.write(table.from_records(make_records(), "example"), [header], tmp_path / "out")
    parsed = Page(index.read_text(encoding="utf-8"))
    assert "the largest error is 12 times its bound" in parsed.text
    assert "made to be oom" in parsed.text
    assert len(parsed.all("svg")) >= 5


def test_partial_memory_is_marked_and_explained(tmp_path: Path) -> None:
    partial = row(peak_alloc_bytes=1 << 20, peak_rss_bytes=1 << 30, reason="peak_alloc_bytes is partial: x")
    index = report.write(frame(partial, row("b")), [HEADER], tmp_path / "out")
    parsed = Page(index.read_text(encoding="utf-8"))
    assert "≥ 1.00 MiB" in parsed.text
    assert cells.PARTIAL_MEANING in parsed.text
    summary = (index.parent / "summary.md").read_text(encoding="utf-8")
    assert "≥ 1.00 MiB" in summary
    assert "≥ the framework's allocator" in summary
    assert "Failures and doubts" not in summary


def test_an_older_report_is_replaced_and_strangers_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bare(out, started_at="the first")
    (out / "notes.txt").write_text("mine")
    (out / "figures" / "stale.svg").write_text("old")
    index = bare(out, started_at="the second")
    assert "the second" in index.read_text(encoding="utf-8")
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "figures" / "stale.svg").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_filled_and_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert bare(tmp_path / "empty").is_file()
    assert bare(tmp_path / "a" / "b" / "c").is_file()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert bare(tmp_path / "link").is_file()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["data.txt", "index.html"])
def test_a_strangers_folder_is_not_touched(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("<html>precious</html>")
    with pytest.raises(UsageError, match="something else than an attnbench report"):
        bare(out)
    assert contents(out) == {name: b"<html>precious</html>"}


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(UsageError, match="is a file"):
        bare(tmp_path / "out")
    with pytest.raises(UsageError, match="cannot be written"):
        bare(tmp_path / "out" / "below")
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UsageError, match="Permission denied"):
            bare(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug")])
def test_a_failure_leaves_the_older_report_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    out = tmp_path / "out"
    bare(out)
    before = contents(out)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(folder, "_fill", fail)
    with pytest.raises(UsageError if isinstance(error, OSError) else RuntimeError):
        bare(out)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_swap_puts_the_older_report_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    bare(out)
    before = contents(out)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(UsageError, match="Input/output error"):
        bare(out)
    assert contents(out) == before


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_parses() -> None:
    script = files("attnbench.report") / "template" / "report.js"
    done = subprocess.run(["node", "--check", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
