from __future__ import annotations

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench import reference
from attnbench.inputs import draw
from attnbench.reference import answer, sampled_rows, yardstick
from attnbench.reference.tiles import cut
from attnbench.workload import AttentionShape, Workload

SHAPES = [
    AttentionShape(1, 1, 1, 1, 2, 1),
    AttentionShape(2, 4, 2, 5, 7, 3),
    AttentionShape(1, 3, 1, 6, 2, 4),
    AttentionShape(1, 2, 2, 1, 9, 8),
    AttentionShape(2, 2, 1, 9, 8, 3, 5),
]

MASKS = [
    "none",
    "causal",
    "sliding_window(3)",
    "padding(0.3)",
    "document(2)",
    "causal+padding(0.3)",
    "sliding_window(2)+padding(0.3)+document(2)",
]


@st.composite
def workloads(draw_from, dtypes=("float64", "float32", "bfloat16", "float16")):
    """Small workloads of every mask, with grouped queries, unequal lengths and head dimensions."""
    kv_heads, length = draw_from(st.integers(1, 2)), st.integers(1, 40)
    return Workload(
        "attention",
        AttentionShape(
            batch=draw_from(st.integers(1, 2)),
            heads=kv_heads * draw_from(st.integers(1, 3)),
            kv_heads=kv_heads,
            q_len=draw_from(length),
            kv_len=2 + draw_from(length),
            head_dim=draw_from(st.integers(1, 9)),
            v_head_dim=draw_from(st.integers(1, 9)),
        ),
        mask=draw_from(st.sampled_from(MASKS)),
        dtype=draw_from(st.sampled_from(dtypes)),
        pass_="forward_backward",
        inputs=draw_from(st.sampled_from(["normal", "large_logits", "outliers"])),
    )


def by_loops(drawn):
    """Attention of one row after another, in Python's own floats."""
    shape = drawn.workload.shape
    start, stop = drawn.mask().key_ranges()
    q, k, v = (tensor.double().numpy() for tensor in (drawn.q, drawn.k, drawn.v))
    o = np.zeros((*q.shape[:-1], v.shape[-1]))
    for b in range(shape.batch):
        ends = b if start.shape[0] > 1 else 0
        for h in range(shape.heads):
            g = h // (shape.heads // shape.kv_heads)
            for i in range(shape.q_len):
                seen = range(start[ends, i], stop[ends, i])
                scores = [sum(map(float.__mul__, q[b, h, i], k[b, g, j])) * drawn.scale for j in seen]
                weights = [math.exp(score) for score in scores]
                for j, weight in zip(seen, weights, strict=True):
                    o[b, h, i] += weight / sum(weights) * v[b, g, j]
    return torch.from_numpy(o)


def dense(drawn, dtype):
    """o, dq, dk, dv of plain attention in `dtype`: repeated heads, a boolean mask, torch's own gradients."""
    shape = drawn.workload.shape
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (drawn.q, drawn.k, drawn.v)]
    q, k, v = leaves
    k, v = (tensor.repeat_interleave(shape.heads // shape.kv_heads, dim=1) for tensor in (k, v))

    def product(a, b):  # of halves: summed in float32, then rounded
        wide = torch.promote_types(dtype, torch.float32)
        return (a.to(wide) @ b.to(wide)).to(dtype)

    scores = product(q, k.mT) * drawn.scale
    allowed = drawn.mask().to_bool()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, torch.finfo(dtype).min)
    weights = scores.softmax(-1)
    if allowed is not None:
        weights = weights * allowed
    o = product(weights, v)
    return dict(
        zip(
            ("o", "dq", "dk", "dv"),
            (o.detach(), *torch.autograd.grad(o, leaves, drawn.grad_out.to(dtype))),
            strict=True,
        )
    )


def by_autograd(drawn):
    """The gradients in float64."""
    return list(dense(drawn, torch.float64).values())[1:]


@contextmanager
def small_tiles(piece, tile):
    """Pieces and tiles of so few elements that short sequences are cut, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference.tiles, "PIECE_ELEMENTS", piece)
        patch.setattr(reference.tiles, "TILE_ELEMENTS", tile)
        yield


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.label)
@pytest.mark.parametrize("mask", MASKS)
def test_output_equals_the_definition(shape, mask):
    drawn = draw(Workload("attention", shape, mask=mask), 0)
    torch.testing.assert_close(answer(drawn).results["o"], by_loops(drawn), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.label)
@pytest.mark.parametrize("mask", MASKS)
def test_gradients_equal_autograd(shape, mask):
    drawn = draw(Workload("attention", shape, mask=mask, pass_="backward"), 0)
    found = answer(drawn).results
    assert list(found) == ["dq", "dk", "dv"]
    for name, expected in zip(found, by_autograd(drawn), strict=True):
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-13)


@settings(max_examples=40)
@given(workload=workloads(), tile=st.integers(1, 300), piece=st.integers(1, 600))
def test_it_is_plain_attention_however_it_is_cut(workload, tile, piece):
    drawn = draw(workload, 0)
    with small_tiles(piece, tile):
        found = answer(drawn).results
    for name, expected in dense(drawn, torch.float64).items():
        close = {"rtol": 1e-11, "atol": 1e-12 * (1 + float(expected.abs().max()))}
        torch.testing.assert_close(found[name], expected, **close)


@settings(max_examples=40)
@given(workload=workloads(dtypes=("float64",)), tile=st.integers(1, 300), piece=st.integers(1, 600))
def test_the_yardstick_is_plain_attention_however_it_is_cut(workload, tile, piece):
    drawn = draw(workload, 0)
    with small_tiles(piece, tile):
        found = yardstick(drawn, np.arange(workload.shape.q_len))
    for name, expected in dense(drawn, torch.float64).items():
        close = {"rtol": 1e-11, "atol": 1e-12 * (1 + float(expected.abs().max()))}
        torch.testing.assert_close(found[name], expected, **close)


@pytest.mark.parametrize("mask", ["none", "causal", "sliding_window(9)+padding(0.5)"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_yardstick_rounds_what_plain_attention_in_halves_rounds(dtype, mask):
    shape = AttentionShape(2, 4, 2, 48, 64, 12, 8)  # multiplying by 1/√12 rounds, unlike by 1/√16
    drawn = draw(Workload("attention", shape, mask=mask, dtype=dtype, pass_="forward_backward"), 0)
    with small_tiles(2000, 400):
        exact, found = answer(drawn), yardstick(drawn, np.arange(48))
    for name, plain in dense(drawn, getattr(torch, dtype)).items():
        # Were a rounding left out or added, they would differ by about as much as either errs.
        apart = (found[name].double() - plain.double()).norm()
        assert apart < 0.25 * (plain.double() - exact.results[name]).norm()


@given(
    ends=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20),
    tile=st.integers(1, 100),
    piece=st.integers(1, 200),
)
def test_tiles_hold_every_seen_pair_once(ends, tile, piece):
    start = np.array([low for low, _ in ends])
    stop = np.array([max(pair) for pair in ends])
    found = np.zeros((len(ends), 50), dtype=int)
    with small_tiles(piece, tile):
        for rows, tiles in cut(start, stop, width=3):
            for each in tiles:
                seen = 1 if each.unseen is None else (~each.unseen).numpy().astype(int)
                found[rows][each.rows, each.keys] += seen
    keys = np.arange(50)
    assert np.array_equal(found, (keys >= start[:, None]) & (keys < stop[:, None]))


def test_unseen_tiles_are_left_out():
    rows = np.arange(100)
    with small_tiles(10_000, 100 * 10):
        ((_, tiles),) = cut(np.maximum(rows - 4, 0), rows + 1, width=1)  # a window of five keys
    assert sum((each.rows.stop - each.rows.start) * 10 for each in tiles) < 2000
    with small_tiles(10_000, 100 * 10):
        ((_, tiles),) = cut(0 * rows, rows + 1, width=1)  # causal
    assert sum((each.rows.stop - each.rows.start) * 10 for each in tiles) < 5600


def test_tiles_that_every_row_sees_need_no_mask():
    with small_tiles(10_000, 40):
        ((_, tiles),) = cut(np.zeros(4, dtype=int), np.array([20, 25, 30, 35]), width=1)
    assert [each.unseen is None for each in tiles] == [True, True, False, True]


def test_a_query_without_keys_gives_zero():
    drawn = draw(Workload("attention", SHAPES[2], mask="causal", pass_="forward_backward"), 0)
    found = answer(drawn).results
    assert found["o"][:, :, :4].count_nonzero() == 0
    assert found["dq"][:, :, :4].count_nonzero() == 0
    assert found["o"][:, :, 4:].all()


def test_the_largest_score_is_of_allowed_pairs():
    drawn = draw(Workload("attention", AttentionShape(1, 1, 1, 8, 8, 4), mask="causal"), 2)
    scores = (drawn.q[0, 0].double() @ drawn.k[0, 0].double().T * drawn.scale).abs()
    assert answer(drawn).max_score == pytest.approx(float(scores.tril().max()))
    assert float(scores.tril().max()) < float(scores.max())


@pytest.mark.parametrize("mask", ["causal", "sliding_window(70)+padding(0.5)"])
def test_sampled_rows_answer_as_all_rows_would(mask):
    shape = AttentionShape(1, 2, 1, 700, 700, 4)
    drawn = draw(Workload("attention", shape, mask=mask, pass_="backward"), 0)
    found = answer(drawn)
    rest = np.setdiff1d(np.arange(700), found.rows)
    kept = reference.grad_out_on(found.rows, drawn.grad_out)
    assert kept[:, :, rest].count_nonzero() == 0
    assert torch.equal(kept[:, :, found.rows], drawn.grad_out[:, :, found.rows])
    object.__setattr__(drawn, "grad_out", kept)
    dq, dk, dv = by_autograd(drawn)
    torch.testing.assert_close(found.results["dq"], dq[:, :, found.rows], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.results["dk"], dk, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.results["dv"], dv, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("q_len", [1, 2, 255, 256])
def test_short_sequences_are_checked_whole(q_len):
    assert sampled_rows(q_len, 0).tolist() == list(range(q_len))


@pytest.mark.parametrize("q_len", [257, 320, 1000, 4096, 131072])
def test_long_sequences_are_sampled(q_len):
    rows = sampled_rows(q_len, seed=1)
    assert len(rows) == 256
    assert (np.diff(rows) > 0).all()
    assert (rows[0], rows[-1]) == (0, q_len - 1)
    beside = np.isin(rows % 64, (0, 63)).sum()
    available = 2 * ((q_len - 1) // 64)
    assert beside >= min(64, available - 1)
    assert np.array_equal(rows, sampled_rows(q_len, seed=1))
    if q_len > 320:
        assert not np.array_equal(rows, sampled_rows(q_len, seed=2))


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("float64", 1e-17, 1e-15), ("float32", 1e-8, 1e-6), ("float16", 1e-4, 2e-3), ("bfloat16", 1e-3, 2e-2)],
)
def test_the_yardstick_errs_as_its_dtype_does(dtype, low, high):
    drawn = draw(Workload("attention", AttentionShape(1, 4, 2, 64, 64, 32), dtype=dtype, pass_="backward"), 0)
    exact = answer(drawn)
    for name, found in yardstick(drawn, exact.rows).items():
        assert str(found.dtype) == f"torch.{dtype}"
        expected = exact.results[name]
        assert low < float((found.double() - expected).norm() / expected.norm()) < high


def test_the_yardstick_rounds_more_than_the_floor():
    drawn = draw(Workload("attention", AttentionShape(1, 4, 4, 64, 64, 32), dtype="bfloat16"), 0)
    exact = answer(drawn)
    expected = exact.results["o"]
    floor = float((expected.bfloat16().double() - expected).norm())
    assert float((yardstick(drawn, exact.rows)["o"].double() - expected).norm()) > 1.2 * floor


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_through_the_maximum_are_in_the_spread_of_its_key(dtype):
    """The rounding of all dS of a row goes to the key of its largest score, and to no other."""
    workload = Workload("attention", AttentionShape(1, 1, 1, 1, 9, 4), dtype=dtype, pass_="forward_backward")
    drawn = draw(workload, 3)
    scores = drawn.q[0, 0].double() @ drawn.k[0, 0].double().T * drawn.scale
    weights = torch.softmax(scores, dim=-1)[0]
    d_out, v = drawn.grad_out[0, 0, 0].double(), drawn.v[0, 0].double()
    of_delta = float((d_out * (weights @ v)).square().sum())
    of_sum = of_delta + float((2 * weights.square() * (d_out * v).square().sum(dim=-1)).sum())
    least = (of_sum**0.5 * drawn.scale * drawn.q[0, 0, 0].double().abs()).float()
    spread = answer(drawn).spreads["dk"][0, 0]
    assert (spread[scores.argmax()] >= 0.999 * least).all()
    if dtype == "float32":
        assert (spread[scores.argmin()] < 0.5 * least).all()


def test_the_spread_of_halves_holds_what_moved_scores_do():
    """By the derivative of o with respect to the scores, moved each by √(scale²·‖q∘k‖² + score²)."""
    shape = AttentionShape(1, 1, 1, 5, 7, 3)
    drawn = {d: draw(Workload("attention", shape, dtype=d), 1) for d in ("float32", "bfloat16")}
    half = drawn["bfloat16"]
    q, k, v = (each[0, 0].double() for each in (half.q, half.k, half.v))
    scores = (q @ k.T * half.scale).requires_grad_()
    moved = (half.scale**2 * q.square() @ k.square().T + scores.square()).detach()
    weights = torch.softmax(scores, dim=-1)
    o = weights @ v
    expected = weights.detach().square() @ v.square()
    for row, column in np.ndindex(*o.shape):
        (slope,) = torch.autograd.grad(o[row, column], scores, retain_graph=True)
        expected[row, column] += (slope.square() * moved).sum()
    spreads = {d: answer(each).spreads["o"][0, 0] for d, each in drawn.items()}
    torch.testing.assert_close(spreads["bfloat16"].double().square(), expected, rtol=1e-4, atol=1e-9)
    assert (spreads["float32"] < 0.99 * spreads["bfloat16"]).any()
