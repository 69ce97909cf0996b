from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.masks import Mask, canonical, parse

LENGTHS = st.integers(1, 40)


def brute_force_causal(q_len: int, kv_len: int) -> np.ndarray:
    allowed = np.zeros((q_len, kv_len), dtype=bool)
    for query in range(q_len):
        for key in range(kv_len):
            allowed[query, key] = key - (kv_len - 1) <= query - (q_len - 1)
    return allowed


@given(LENGTHS, LENGTHS, st.integers(1, 3))
def test_causal_is_aligned_bottom_right(q_len: int, kv_len: int, batch: int) -> None:
    expected = brute_force_causal(q_len, kv_len)
    mask = Mask("causal", batch, q_len, kv_len, framework="numpy")
    assert np.array_equal(mask.to_bool(), expected[None, None])
    assert np.array_equal(Mask("causal", batch, q_len, kv_len).to_bool("cpu").numpy(), expected[None, None])
    assert mask.pairs() == batch * int(expected.sum())


@given(LENGTHS, LENGTHS, st.integers(1, 3))
def test_the_formula_counts_what_the_ranges_hold(q_len: int, kv_len: int, batch: int) -> None:
    mask = Mask("causal", batch, q_len, kv_len)
    start, stop = mask.key_ranges()
    assert mask.pairs() == batch * int((stop - start).sum())


@pytest.mark.parametrize("specification", ["none", "causal"])
def test_counting_the_pairs_of_the_longest_case_takes_no_memory(specification: str) -> None:
    longest = 2**31 - 1
    square = longest * longest
    expected = {"none": square, "causal": (square + longest) // 2}
    assert Mask(specification, 1, longest, longest).pairs() == expected[specification]


@given(LENGTHS, LENGTHS, st.integers(1, 3))
def test_none_allows_every_pair_and_has_no_matrix(q_len: int, kv_len: int, batch: int) -> None:
    mask = Mask("none", batch, q_len, kv_len)
    assert mask.to_bool("cpu") is None
    assert mask.pairs() == batch * q_len * kv_len
    assert mask.kind == "none"
    assert mask.parameters == {}


def test_the_matrix_is_built_once_and_its_time_is_kept_apart() -> None:
    mask = Mask("causal", 1, 64, 64)
    assert mask.build_s == 0
    first = mask.to_bool("cpu")
    spent = mask.build_s
    assert spent > 0
    assert mask.to_bool("cpu") is first
    assert mask.build_s == spent


@pytest.mark.parametrize(
    ("specification", "expected"),
    [("none", "none"), (" causal ", "causal")],
)
def test_one_spelling(specification: str, expected: str) -> None:
    assert canonical(specification) == expected


@pytest.mark.parametrize(
    "specification", ["", "casual", "causal(3)", "causal+causal", "causal+", "causal;none", "none+causal"]
)
def test_what_is_no_mask_is_refused(specification: str) -> None:
    with pytest.raises(ValueError, match=r"mask|expected"):
        parse(specification)
