from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench import masks
from attnbench.masks import KINDS, Mask, canonical, parse, why_impossible

LENGTHS = st.integers(1, 40)
SEEDS = st.integers(0, 2**32)

TERMS = {
    "causal": st.just("causal"),
    "sliding_window": st.integers(1, 50).map(lambda w: f"sliding_window({w})"),
    "padding": st.floats(0, 1).map(lambda r: f"padding({r!r})"),
    "document": st.integers(1, 9).map(lambda n: f"document({n})"),
}
SPECIFICATIONS = st.lists(st.sampled_from(sorted(TERMS)), unique=True, max_size=4).flatmap(
    lambda kinds: st.tuples(*(TERMS[kind] for kind in kinds)).map(lambda terms: "+".join(terms) or "none")
)


def allowed_by(term: str, q_len: int, kv_len: int, seed: int, batch: int) -> np.ndarray:
    """`[B, Lq, Lk]`, from the definition of one kind, query by query and key by key."""
    ((kind, values),) = parse(term)
    allowed = np.zeros((batch, q_len, kv_len), dtype=bool)
    if kind in ("padding", "document"):
        # The lengths are drawn; the square mask of the same keys tells them.
        start, stop = Mask(term, batch, kv_len, kv_len, seed).key_ranges()
    for b, i, j in product(range(batch), range(q_len), range(kv_len)):
        position = i + kv_len - q_len
        match kind:
            case "causal":
                allowed[b, i, j] = j <= position
            case "sliding_window":
                allowed[b, i, j] = position - values[0] < j <= position
            case "padding":
                allowed[b, i, j] = j < stop[b, 0]
            case "document":
                allowed[b, i, j] = position >= 0 and start[b, position] <= j < stop[b, position]
    return allowed


@given(SPECIFICATIONS, st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), SEEDS)
def test_every_mask_is_what_its_definition_says(
    specification: str, q_len: int, kv_len: int, batch: int, seed: int
) -> None:
    if why_impossible(specification, kv_len):
        return
    expected = np.ones((batch, q_len, kv_len), dtype=bool)
    for name, values in parse(specification):
        term = canonical(name + (f"({','.join(map(repr, values))})" if values else ""))
        expected &= allowed_by(term, q_len, kv_len, seed, batch)
    mask = Mask(specification, batch, q_len, kv_len, seed, framework="numpy")
    if specification == "none":
        assert mask.to_bool() is None
    else:
        assert np.array_equal(np.broadcast_to(mask.to_bool(), (batch, 1, q_len, kv_len))[:, 0], expected)
        torch_mask = Mask(specification, batch, q_len, kv_len, seed)
        assert np.array_equal(torch_mask.to_bool("cpu").numpy(), mask.to_bool())
    blind = ~expected.any(axis=-1)
    found = mask.blind_queries()
    if found is None:
        assert not blind.any()
    else:
        assert np.array_equal(np.broadcast_to(found[:, 0, :, 0], (batch, q_len)), blind)
    assert mask.pairs() == int(expected.sum())


@given(SPECIFICATIONS, st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), SEEDS)
def test_what_anybody_sees_is_counted_without_the_matrix(
    specification: str, q_len: int, kv_len: int, batch: int, seed: int
) -> None:
    if why_impossible(specification, kv_len):
        return
    mask = Mask(specification, batch, q_len, kv_len, seed, framework="numpy")
    matrix = mask.to_bool()
    whole = (batch, q_len, kv_len)
    allowed = np.ones(whole, dtype=bool) if matrix is None else np.broadcast_to(matrix[:, 0], whole)
    assert mask.keys_seen() == allowed.any(axis=1).sum()
    for least in (1, 2):
        assert mask.queries_that_see(least) == (allowed.sum(axis=2) >= least).sum()


@given(st.integers(1, 200), st.floats(0, 1), SEEDS, st.integers(1, 5))
def test_padding_leaves_a_seeded_share_of_the_keys(kv_len: int, r: float, seed: int, batch: int) -> None:
    start, stop = Mask(f"padding({r!r})", batch, 3, kv_len, seed).key_ranges()
    assert start.shape == stop.shape == (batch, 3)
    assert (start == 0).all()
    assert (stop == stop[:, :1]).all()
    assert (stop >= max(1, r * kv_len - 1e-6)).all()
    assert (stop <= kv_len).all()


@given(st.integers(1, 200), st.integers(1, 200), SEEDS, st.integers(1, 4))
def test_documents_are_a_partition_of_the_keys(kv_len: int, n: int, seed: int, batch: int) -> None:
    n = min(n, kv_len)
    start, stop = Mask(f"document({n})", batch, kv_len, kv_len, seed).key_ranges()
    for row_start, row_stop in zip(start, stop, strict=True):
        firsts = np.unique(row_start)
        assert len(firsts) == n
        assert firsts[0] == 0
        assert sorted(np.unique(row_stop)) == [*firsts[1:], kv_len]


def test_lengths_are_drawn_per_batch_element_and_by_the_seed() -> None:
    for specification in ("padding(0.1)", "document(4)"):
        start, stop = Mask(specification, 4, 500, 500, 0).key_ranges()
        assert len({tuple(row) for row in stop.tolist()}) > 1
        again = Mask(specification, 4, 500, 500, 0).key_ranges()
        assert all(np.array_equal(a, b) for a, b in zip((start, stop), again, strict=True))
        assert not np.array_equal(Mask(specification, 4, 500, 500, 1).key_ranges()[1], stop)
        # A larger batch begins with the same elements.
        assert np.array_equal(Mask(specification, 7, 500, 500, 0).key_ranges()[1][:4], stop)


@pytest.mark.parametrize(
    "specification", ["none", "causal", "sliding_window(5)", "padding(1)", "document(1)"]
)
def test_counting_the_pairs_of_the_longest_case_takes_no_memory(specification: str) -> None:
    longest = 2**31 - 1
    square = longest * longest
    expected = {"causal": (square + longest) // 2, "sliding_window(5)": 5 * longest - 10}
    assert Mask(specification, 1, longest, longest).pairs() == expected.get(specification, square)


def test_pairs_of_an_intersection_are_counted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = Mask("causal+padding(0.3)+document(3)", 2, 57, 64, 3)
    start, stop = mask.key_ranges()
    monkeypatch.setattr("attnbench.masks.COUNTED_AT_A_TIME", 10)
    assert Mask("causal+padding(0.3)+document(3)", 2, 57, 64, 3).pairs() == int((stop - start).sum())


def test_none_has_no_matrix_and_no_parameters() -> None:
    mask = Mask("none", 2, 3, 4)
    assert mask.to_bool("cpu") is None
    assert mask.pairs() == 24
    assert mask.kind == "none"
    assert mask.kinds == ()
    assert mask.parameters == {}


def test_kinds_and_parameters() -> None:
    mask = Mask(canonical("document(3)+padding(0.5)+sliding_window(128)+causal"), 2, 300, 300)
    assert mask.kind == "causal+sliding_window+padding+document"
    assert mask.parameters == {"w": 128, "r": 0.5, "n": 3}
    assert isinstance(mask.parameters["w"], int)


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
    [
        ("none", "none"),
        (" causal ", "causal"),
        ("padding( 0.50 ) + causal", "causal+padding(0.5)"),
        ("sliding_window(1048577)", "sliding_window(1048577)"),
        ("sliding_window(1e3)", "sliding_window(1000)"),
        ("padding(1)", "padding(1)"),
        ("padding(0.1)", "padding(0.1)"),
        ("document(4)+sliding_window(7)", "sliding_window(7)+document(4)"),
    ],
)
def test_one_spelling(specification: str, expected: str) -> None:
    assert canonical(specification) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("", "is no mask"),
        ("casual", "the masks are none, causal, sliding_window\\(w\\), padding\\(r\\), document\\(n\\)"),
        ("causal(3)", "expected causal, got"),
        ("causal+causal", "given twice"),
        ("causal+", "a mask is missing beside a \\+, got 'causal\\+'"),
        ("causal;none", "is no mask"),
        ("none+causal", "no room for none"),
        ("sliding_window", "expected sliding_window\\(w\\)"),
        ("sliding_window(1,2)", "expected sliding_window\\(w\\)"),
        ("sliding_window(0)", "a whole number w from 1 to 2147483647, got '0'"),
        ("sliding_window(2.5)", "a whole number w"),
        ("sliding_window(nan)", "a whole number w"),
        ("padding(1.5)", "a number r from 0 to 1, got '1.5'"),
        ("padding(-0.1)", "a number r"),
        ("padding(half)", "a number r"),
        ("document(0)", "a whole number n"),
        ("document(inf)", "a whole number n"),
    ],
)
def test_what_is_no_mask_is_refused(specification: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(specification)


def test_more_documents_than_keys_are_impossible() -> None:
    assert why_impossible("causal+document(4)", 4) is None
    assert why_impossible("causal+document(5)", 4) == "document(5) needs at least 5 keys, got kv_len 4"
    assert all(why_impossible(name, 1) is None for name in ("none", "causal", "padding(0)"))


def test_every_kind_says_what_it_is() -> None:
    assert list(KINDS) == ["causal", "sliding_window", "padding", "document"]
    assert all(kind.summary for kind in KINDS.values())


def test_what_a_kernel_makes_of_a_mask_is_built_once_and_its_time_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(masks, "perf_counter", lambda: clock[0])
    mask = Mask("causal", 1, 3, 3, framework="numpy")

    def build(seconds: float, inner: str | None = None) -> float:
        if inner is not None:
            mask.kept(inner, lambda: build(10))
        clock[0] += seconds
        return clock[0]

    assert mask.kept("outer", lambda: build(1, "inner")) == mask.kept("outer", lambda: build(1)) == 11
    assert mask.kept("another", lambda: build(100)) == 111
    assert mask.build_s == 111


def test_the_shortest_padding_is_what_it_says() -> None:
    _, stop = Mask("padding(0.07)", 2000, 1, 100).key_ranges()
    assert stop.min() == 7  # though 0.07 * 100 > 7
