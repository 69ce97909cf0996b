from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attnbench import reference
from attnbench.inputs import draw
from attnbench.reference import answer, sampled_rows, yardstick
from attnbench.workload import AttentionShape, Workload

SHAPES = [
    AttentionShape(1, 1, 1, 1, 1, 1),
    AttentionShape(2, 4, 2, 5, 7, 3),
    AttentionShape(1, 3, 1, 6, 2, 4),
    AttentionShape(1, 2, 2, 1, 9, 8),
]


def by_loops(drawn):
    """Attention of one row after another, in Python's own floats."""
    shape = drawn.workload.shape
    start, stop = drawn.mask().key_ranges()
    q, k, v = (tensor.double().numpy() for tensor in (drawn.q, drawn.k, drawn.v))
    o = np.zeros(q.shape)
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


def by_autograd(drawn):
    """The gradients of torch's float64 attention over repeated heads and a boolean mask."""
    shape = drawn.workload.shape
    leaves = [tensor.double().requires_grad_() for tensor in (drawn.q, drawn.k, drawn.v)]
    q, k, v = leaves
    k, v = (tensor.repeat_interleave(shape.heads // shape.kv_heads, dim=1) for tensor in (k, v))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * drawn.scale
    allowed = drawn.mask().to_bool()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -1e300)
    weights = scores.softmax(-1)
    if allowed is not None:
        weights = weights * allowed
    return torch.autograd.grad(torch.einsum("bhij,bhjd->bhid", weights, v), leaves, drawn.grad_out.double())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.label)
@pytest.mark.parametrize("mask", ["none", "causal"])
def test_output_equals_the_definition(shape, mask):
    drawn = draw(Workload("attention", shape, mask=mask), 0)
    torch.testing.assert_close(answer(drawn).results["o"], by_loops(drawn), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.label)
@pytest.mark.parametrize("mask", ["none", "causal"])
def test_gradients_equal_autograd(shape, mask):
    drawn = draw(Workload("attention", shape, mask=mask, pass_="backward"), 0)
    found = answer(drawn).results
    assert list(found) == ["dq", "dk", "dv"]
    for name, expected in zip(found, by_autograd(drawn), strict=True):
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-13)


def test_a_query_without_keys_gives_zero():
    drawn = draw(Workload("attention", SHAPES[2], mask="causal", pass_="forward_backward"), 0)
    found = answer(drawn).results
    assert found["o"][:, :, :4].count_nonzero() == 0
    assert found["dq"][:, :, :4].count_nonzero() == 0
    assert found["o"][:, :, 4:].all()


@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
@pytest.mark.parametrize("mask", ["none", "causal"])
def test_pieces_change_nothing(monkeypatch, mask, pass_):
    drawn = draw(Workload("attention", SHAPES[1], mask=mask, pass_=pass_), 0)
    whole, textbook = answer(drawn), yardstick(drawn, np.arange(5))
    monkeypatch.setattr(reference.tiles, "PIECE_ELEMENTS", 15)  # two rows of seven keys at a time
    pieced, textbook_pieced = answer(drawn), yardstick(drawn, np.arange(5))
    for name in whole.results:
        torch.testing.assert_close(pieced.results[name], whole.results[name], rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(textbook_pieced[name], textbook[name], rtol=1e-5, atol=1e-6)
    assert pieced.max_score == whole.max_score


def test_the_largest_score_is_of_allowed_pairs():
    drawn = draw(Workload("attention", AttentionShape(1, 1, 1, 8, 8, 4), mask="causal"), 2)
    scores = (drawn.q[0, 0].double() @ drawn.k[0, 0].double().T * drawn.scale).abs()
    assert answer(drawn).max_score == pytest.approx(float(scores.tril().max()))
    assert float(scores.tril().max()) < float(scores.max())


def test_sampled_rows_answer_as_all_rows_would():
    drawn = draw(
        Workload("attention", AttentionShape(1, 2, 1, 700, 700, 4), mask="causal", pass_="backward"), 0
    )
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
