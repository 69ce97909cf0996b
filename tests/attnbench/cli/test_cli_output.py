"""Texts from outside are made harmless; JSON documents hold no NaN."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.cli.output import clean, jsonable, print_json


@given(st.text())
def test_cleaned_text_is_one_printable_line(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned.splitlines()) <= 1
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in cleaned)


def test_cleaning_keeps_what_people_write() -> None:
    assert clean("softmax(QKᵀ/√d)·V [bold]") == "softmax(QKᵀ/√d)·V [bold]"
    assert clean("a\nb\t c\x1b[2J\u202e") == "a b c[2J"
    assert clean("a\r\nb\x1b", keep_lines=True) == "a\nb"


def test_what_is_not_known_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    document = {
        "nan": math.nan,
        "inf": math.inf,
        "na": pd.NA,
        "nat": pd.NaT,
        "int64": np.int64(3),
        "float32": np.float32(0.5),
        "bool": np.bool_(True),
        "nested": [(1, "×")],
        3: None,
    }
    assert jsonable(document) == {
        "nan": None,
        "inf": None,
        "na": None,
        "nat": None,
        "int64": 3,
        "float32": 0.5,
        "bool": True,
        "nested": [[1, "×"]],
        "3": None,
    }
    print_json(document)
    assert json.loads(capsys.readouterr().out) == jsonable(document)
