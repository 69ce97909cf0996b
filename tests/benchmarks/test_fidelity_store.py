"""The data of `benchmarks/fidelity.py`: kept at once, resumed, refused where they are of something else."""

from __future__ import annotations

from pathlib import Path

import pytest

import fidelity
from fidelity_parts import DataError, Store, machine, markdown_table, proportion_interval


def test_what_was_measured_is_there_when_resumed(tmp_path: Path) -> None:
    first = Store.open(tmp_path, "durations", {"aims": (0.01, 0.05)})
    first.append("a", {"deviation": 0.25})
    again = Store.open(tmp_path, "durations", {"aims": (0.01, 0.05)})
    assert "a" in again
    assert "b" not in again
    again.append("b", {"deviation": 0.5})
    assert dict(Store.read(tmp_path, "durations").items()) == {
        "a": {"deviation": 0.25},
        "b": {"deviation": 0.5},
    }


def test_a_torn_line_is_cut_off_and_measured_again(tmp_path: Path) -> None:
    store = Store.open(tmp_path, "durations", {})
    store.append("a", {"value": 1})
    with store.path.open("a") as file:
        file.write('{"key":"b","val')
    resumed = Store.open(tmp_path, "durations", {})
    assert "b" not in resumed
    resumed.append("b", {"value": 2})
    assert [entry["value"] for entry in Store.read(tmp_path, "durations").values()] == [1, 2]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    Store.open(tmp_path, "durations", {"rounds": 3})
    with pytest.raises(DataError, match="settings"):
        Store.open(tmp_path, "durations", {"rounds": 4})


def test_data_of_another_machine_are_refused(tmp_path: Path) -> None:
    path = Store.open(tmp_path, "durations", {}).path
    path.write_text(path.read_text().replace(f'"machine":"{machine()["machine"]}"', '"machine":"abacus-1c"'))
    with pytest.raises(DataError, match="abacus-1c"):
        Store.open(tmp_path, "durations", {})


@pytest.mark.parametrize(
    "text", ["", "{}\n", "[]\n", '{"part":"ratios","settings":{},"machine":{}}\n', "x\n"]
)
def test_what_is_no_data_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "durations.jsonl").write_text(text)
    with pytest.raises(DataError, match="corrupted"):
        Store.read(tmp_path, "durations")


def test_what_was_not_measured_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fidelity\.py durations"):
        Store.read(tmp_path, "durations")


def test_no_entry_overwrites_another(tmp_path: Path) -> None:
    store = Store.open(tmp_path, "durations", {})
    store.append("a", {})
    with pytest.raises(ValueError, match="'a'"):
        store.append("a", {})


def test_a_rehearsal_needs_a_folder_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        fidelity.main(["durations", "--quick"])
    assert "--out" in capsys.readouterr().err


def test_the_interval_of_a_proportion_contains_it() -> None:
    low, high = proportion_interval(95, 100)
    assert low == pytest.approx(0.888, abs=1e-3)  # Wilson (1927), as any table has it
    assert high == pytest.approx(0.978, abs=1e-3)


def test_a_table_aligns_figures_right() -> None:
    assert markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
