"""Tiles cover all that the masks let through, once, and as little else as whole tiles allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.masks import Mask, canonical
from attnbench_impls import blocks
from attnbench_impls.blocks import QueryBlock, Tile, plan

TERMS = ("causal", "sliding_window(3)", "padding(0.4)", "document(3)")
MASKS = st.sets(st.sampled_from(TERMS), max_size=3).map(lambda terms: canonical("+".join(terms) or "none"))


def blocks_of(mask: Mask, q_size: int, size: int) -> list[QueryBlock]:
    """One key head, so each block is worked on once per batch element, or once for all."""
    seen = dict.fromkeys(block for _, block in plan(mask, 1, 1, q_size, size, lambda array: array).work)
    return list(seen)


def tiles_of(mask: Mask, q_size: int, size: int) -> list[Tile]:
    return [tile for block in blocks_of(mask, q_size, size) for tile in block.tiles()]


def counted(mask: Mask, q_size: int, size: int) -> np.ndarray:
    """How often the tiles compute each score that counts, `[B, Lq, Lk]`."""
    times = np.zeros((mask.batch, mask.q_len, mask.kv_len), int)
    for block in blocks_of(mask, q_size, size):
        assert block.queries.stop - block.queries.start <= q_size
        for tile in block.tiles():
            assert 0 < tile.keys.stop - tile.keys.start <= size
            first = block.queries.start
            rows = slice(first + tile.rows.start, first + tile.rows.stop)
            assert rows.stop <= block.queries.stop
            counts = np.ones((rows.stop - rows.start, tile.keys.stop - tile.keys.start), bool)
            if tile.hidden is not None:
                hidden = tile.hidden()[:, 0]
                assert hidden[[0, -1]].any(axis=1).all()  # something is masked in the first row, and the last
                counts[tile.cut] = ~hidden
            times[block.batch, rows, tile.keys] += counts
            assert counts[[0, -1]].any(axis=1).all()  # so is there work
    return times


@given(
    specification=MASKS,
    batch=st.integers(1, 2),
    q_len=st.integers(1, 12),
    kv_len=st.integers(3, 14),
    q_size=st.integers(1, 15),
    size=st.integers(1, 15),
    seed=st.integers(0, 3),
    kept_bytes=st.sampled_from([0, 20, 2**25]),
)
def test_each_score_that_counts_once(specification, batch, q_len, kv_len, q_size, size, seed, kept_bytes):
    mask = Mask(specification, batch, q_len, kv_len, seed=seed, framework="numpy")
    allowed = mask.to_bool()
    allowed = np.ones((1, 1, 1, 1), bool) if allowed is None else allowed
    expected = np.broadcast_to(allowed[:, 0], (batch, q_len, kv_len))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "KEPT_BYTES", kept_bytes)
        np.testing.assert_array_equal(counted(mask, q_size, size), expected.astype(int))


def computed(specification: str, length: int, q_size: int, size: int) -> int:
    """Scores in tiles, those that are hidden included."""
    tiles = tiles_of(Mask(specification, 1, length, length), q_size, size)
    return sum((tile.rows.stop - tile.rows.start) * (tile.keys.stop - tile.keys.start) for tile in tiles)


@pytest.mark.parametrize(
    ("specification", "length", "scores"),
    [
        ("none", 1024, 1024 * 1024),
        (
            "causal",
            1024,
            16 * 64 * 65 // 2 * 64,
        ),  # what causal tiles of 64 × 64 hold, however long the blocks
        ("causal+sliding_window(64)", 1024, (2 * 16 - 1) * 64 * 64),
        ("padding(1)", 1024, 1024 * 1024),
    ],
)
def test_what_the_mask_hides_is_skipped(specification, length, scores):
    assert computed(specification, length, 64, 64) <= scores
    assert computed(specification, length, 256, 64) <= scores * 1.25


def test_only_tiles_that_are_cut_are_masked():
    tiles = tiles_of(Mask("causal", 1, 512, 512), 64, 64)
    assert len(tiles) == 8 * 9 // 2
    assert sum(tile.hidden is not None for tile in tiles) == 8  # the diagonal
    assert all(tile.hidden is None for tile in tiles_of(Mask("none", 1, 100, 100), 64, 64))


def test_tiles_along_a_diagonal_share_what_hides_them():
    hidden = [tile.hidden for tile in tiles_of(Mask("causal", 1, 512, 512), 64, 64) if tile.hidden]
    assert all(each is hidden[0] for each in hidden)
    assert hidden[0]() is hidden[0]()


def test_a_block_that_sees_nothing_has_no_tiles():
    first, *_ = blocks_of(Mask("causal", 1, 40, 10), 16, 4)
    assert list(first.tiles()) == []


@pytest.mark.parametrize("specification", ["none", "causal", "document(40)", "causal+document(40)"])
def test_planned_once_and_counted_as_building(specification):
    mask = Mask(specification, 2, 512, 512, framework="numpy")
    planned = plan(mask, 2, 1, 64, 32, lambda array: array)
    spent = mask.build_s
    assert spent > 0
    assert plan(mask, 2, 1, 64, 32, lambda array: array) is planned
    assert mask.build_s == spent
    # Another's tensors, and other blocks.
    assert plan(mask, 2, 1, 64, 32, lambda array: array, "elsewhere") is not planned
    assert plan(mask, 2, 1, 32, 64, lambda array: array) is not planned
    assert plan(mask, 1, 2, 64, 32, lambda array: array).work != planned.work


def kept_bytes(length: int, specification: str) -> int:
    """Patterns that a plan keeps, all of them told by their being the same at every call."""
    tiles = tiles_of(Mask(specification, 1, length, length), 64, 32)
    hidden = {tile.hidden for tile in tiles if tile.hidden is not None}
    return sum(each().nbytes for each in hidden if each() is each())


def test_few_patterns_are_kept_however_long_the_sequence(monkeypatch):
    assert kept_bytes(4096, "causal") == kept_bytes(512, "causal") < 3 * 64 * 32
    monkeypatch.setattr(blocks, "KEPT_BYTES", 20_000)
    assert 10_000 < kept_bytes(4096, "document(200)") <= 20_000


@pytest.mark.parametrize(
    "specification", ["none", "causal", "sliding_window(500)", "document(8)", "causal+document(8)"]
)
def test_a_plan_grows_linearly(specification):
    def listed(length: int) -> int:
        planned = blocks_of(Mask(specification, 1, length, length), 64, 32)
        return sum(1 + len(block.before) + len(block.after) for block in planned)

    assert listed(8192) < 12 * listed(1024)  # where there are 64 times as many tiles
