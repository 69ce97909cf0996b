"""Tiles cover all that the masks let through, once, and as little else as whole tiles allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.masks import Mask, canonical
from attnbench_impls.blocks import query_blocks

TERMS = ("causal", "sliding_window(3)", "padding(0.4)", "document(3)")
MASKS = st.sets(st.sampled_from(TERMS), max_size=3).map(lambda terms: canonical("+".join(terms) or "none"))


def counted(mask: Mask, q_size: int, size: int) -> np.ndarray:
    """How often the tiles compute each score that counts, `[B, Lq, Lk]`, −1 where one is hidden."""
    times = np.zeros((mask.batch, mask.q_len, mask.kv_len), int)
    for block in query_blocks(mask, q_size):
        assert block.queries.stop - block.queries.start <= q_size
        for tile in block.tiles(size):
            assert 0 < tile.keys.stop - tile.keys.start <= size
            first = block.queries.start
            rows = slice(first + tile.rows.start, first + tile.rows.stop)
            assert rows.stop <= block.queries.stop
            times[block.batch, rows, tile.keys] += 1 if tile.hidden is None else np.where(tile.hidden, 0, 1)
            # A tile has work in it, from its first row to its last.
            assert tile.hidden is None or (~tile.hidden[[0, -1]]).any(axis=1).all()
    return times


@given(
    specification=MASKS,
    batch=st.integers(1, 2),
    q_len=st.integers(1, 12),
    kv_len=st.integers(3, 14),
    q_size=st.integers(1, 15),
    size=st.integers(1, 15),
    seed=st.integers(0, 3),
)
def test_each_score_that_counts_once(specification, batch, q_len, kv_len, q_size, size, seed):
    mask = Mask(specification, batch, q_len, kv_len, seed=seed, framework="numpy")
    allowed = mask.to_bool()
    allowed = np.ones((1, 1, 1, 1), bool) if allowed is None else allowed
    expected = np.broadcast_to(allowed[:, 0], (batch, q_len, kv_len))
    np.testing.assert_array_equal(counted(mask, q_size, size), expected.astype(int))


def computed(specification: str, length: int, q_size: int, size: int) -> int:
    """Scores in tiles, those that are hidden included."""
    return sum(
        (tile.rows.stop - tile.rows.start) * (tile.keys.stop - tile.keys.start)
        for block in query_blocks(Mask(specification, 1, length, length), q_size)
        for tile in block.tiles(size)
    )


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
    tiles = [t for block in query_blocks(Mask("causal", 1, 512, 512), 64) for t in block.tiles(64)]
    assert len(tiles) == 8 * 9 // 2
    assert sum(tile.hidden is not None for tile in tiles) == 8  # the diagonal
    whole = [t for block in query_blocks(Mask("none", 1, 100, 100), 64) for t in block.tiles(64)]
    assert all(tile.hidden is None for tile in whole)


def test_tiles_along_a_diagonal_share_what_hides_them():
    blocks = query_blocks(Mask("causal", 1, 512, 512), 64)
    hidden = [tile.hidden for block in blocks for tile in block.tiles(64) if tile.hidden is not None]
    assert all(each is hidden[0] for each in hidden)


def test_a_block_that_sees_nothing_has_no_tiles():
    first, *_ = query_blocks(Mask("causal", 1, 40, 10), 16)
    assert list(first.tiles(4)) == []
