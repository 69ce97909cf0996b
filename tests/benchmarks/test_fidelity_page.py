"""The page of the proof: made of the data alone, and the committed one is what the committed data give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fidelity_parts import Aim, DataError, Section, page

CHECKOUT = Path(page.__file__).parents[2]
DATA = sorted((CHECKOUT / "results" / "reference").glob("*/fidelity"))


class Made:
    """Parts with sections made up here, whose files hold nothing but headers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.sections: dict[str, Section] = {}
        monkeypatch.setattr(page, "_section", lambda part, folder: self.sections[part])

    def add(self, part: str, section: Section) -> None:
        page.Store.open(self.folder, part, {})
        self.sections[part] = section


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(tmp_path / "data", monkeypatch)


def figure(label: str) -> Any:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(2, 1))
    drawn.subplots().set_xlabel(label)
    return drawn


def test_sections_and_aims_come_in_the_order_of_the_parts(made: Made) -> None:
    made.add("ratios", Section("Second", "later", aims=(Aim("to be fast", "slow", False),)))
    made.add("durations", Section("First", "sooner", aims=(Aim("to be right", "0.1%", True),)))
    markdown, figures = page.assembled(made.folder)
    assert markdown.index("## First\n\nsooner") < markdown.index("## Second\n\nlater")
    assert markdown.index("| to be right | 0.1% | yes |") < markdown.index("| to be fast | slow | **no** |")
    assert "Not measured yet: coverage, precision." in markdown
    assert not figures


def test_figures_are_written_beside_the_page_and_stale_ones_go(made: Made, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "fidelity-old.png").write_bytes(b"")
    (docs / "report.png").write_bytes(b"")
    made.add("ratios", Section("Ratios", "![r](fidelity-r.png)", {"r": figure("µs")}))
    page.write(made.folder, docs)
    assert {path.name for path in docs.iterdir()} == {"fidelity.md", "fidelity-r.png", "report.png"}
    first = (docs / "fidelity-r.png").read_bytes()
    made.sections["ratios"] = Section("Ratios", "![r](fidelity-r.png)", {"r": figure("µs")})
    page.write(made.folder, docs)
    assert (docs / "fidelity-r.png").read_bytes() == first


def test_two_figures_of_one_name_are_refused(made: Made) -> None:
    made.add("ratios", Section("A", "", {"same": figure("a")}))
    made.add("durations", Section("B", "", {"same": figure("b")}))
    with pytest.raises(DataError, match="same"):
        page.assembled(made.folder)


def test_without_data_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data"):
        page.write(tmp_path / "nowhere", tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_the_committed_page_is_what_the_committed_data_give() -> None:
    committed = CHECKOUT / "docs" / f"{page.NAME}.md"
    if not DATA:
        assert not committed.exists(), "a page without the data that it is made of"
        return
    (data,) = DATA  # one machine's: whose page would it be else?
    markdown, figures = page.assembled(data)
    assert committed.read_text() == markdown, "run `python benchmarks/fidelity.py page`"
    shown = set(re.findall(r"\]\((fidelity-[\w-]+\.png)\)", markdown))
    assert shown == {f"fidelity-{name}.png" for name in figures}
    assert shown == {path.name for path in (CHECKOUT / "docs").glob("fidelity-*.png")}
