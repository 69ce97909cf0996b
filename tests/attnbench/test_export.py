from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest

from attnbench.errors import RunError, UsageError
from attnbench.export import FORMATS, export
from attnbench.table import from_records
from builders import make_record, make_records


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return from_records(make_records(), "run")


def test_csv_has_a_line_a_case_and_nothing_for_null(frame: pd.DataFrame) -> None:
    text = export(frame, "csv").decode()
    assert "\r" not in text
    again = pd.read_csv(BytesIO(text.encode()))
    assert list(again.columns) == list(frame.columns)
    assert again["latency_median_s"].tolist() == pytest.approx(
        frame["latency_median_s"].tolist(), nan_ok=True, rel=0
    )
    assert again["roofline_fraction"].isna().all()
    assert "nan" not in text.lower()


def test_csv_quotes_what_needs_it() -> None:
    reason = 'said "no",\nand went'
    text = export(from_records([make_record(status="error", reason=reason)], "run"), "csv")
    assert pd.read_csv(BytesIO(text))["reason"].iloc[0] == reason


def test_json_is_a_list_of_rows_with_nulls(frame: pd.DataFrame) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    rows = json.loads(export(frame, "json"), parse_constant=refuse)
    assert len(rows) == len(frame)
    assert all(list(row) == list(frame.columns) for row in rows)
    for row, (_, of_frame) in zip(rows, frame.iterrows(), strict=True):
        for name, value in row.items():
            assert (value is None and pd.isna(of_frame[name])) or value == of_frame[name], name
    kinds = {name: type(rows[0][name]) for name in ("case_id", "samples", "converged", "speedup")}
    assert kinds == {"case_id": str, "samples": int, "converged": bool, "speedup": float}


def test_json_has_no_infinity() -> None:
    frame = from_records([make_record()], "run").assign(speedup=math.inf)
    assert json.loads(export(frame, "json"))[0]["speedup"] is None


def test_json_of_no_rows_is_an_empty_list() -> None:
    assert json.loads(export(from_records([], "run"), "json")) == []


def test_parquet_keeps_the_types(frame: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(BytesIO(export(frame, "parquet"))), frame)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_holds_what_is_returned_and_equal_tables_are_equal_bytes(
    tmp_path: Path, frame: pd.DataFrame, file_format: str
) -> None:
    file = tmp_path / f"table.{file_format}"
    data = export(frame, file_format, file)
    assert file.read_bytes() == data
    assert export(from_records(make_records(), "run"), file_format) == data
    assert list(tmp_path.iterdir()) == [file]


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path, frame: pd.DataFrame) -> None:
    file = tmp_path / "table.csv"
    file.write_text("mine")
    with pytest.raises(
        UsageError, match=r"table\.csv: exists; name another file, or overwrite it with --force"
    ):
        export(frame, "csv", file)
    assert file.read_text() == "mine"
    export(frame, "csv", file, overwrite=True)
    assert file.read_text().startswith("run_id,")


@pytest.mark.parametrize(
    ("target", "expected"), [(".", "is a folder"), ("missing/table.csv", "there is no such folder")]
)
def test_a_place_that_takes_no_file_is_refused(
    tmp_path: Path, frame: pd.DataFrame, target: str, expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        export(frame, "csv", tmp_path / target, overwrite=True)


def test_a_file_that_cannot_be_written_is_a_run_error(tmp_path: Path, frame: pd.DataFrame) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        export(frame, "csv", tmp_path / ("x" * 300))


def test_an_unknown_format_is_refused_with_the_known_ones(frame: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="expected one of csv, parquet, json, got 'xlsx'"):
        export(frame, "xlsx")
