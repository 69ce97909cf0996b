"""Attention over blocks in torch: right whatever the blocks, in memory that grows linearly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.bench.kernel import load_case, why_unsupported
from attnbench.bench.memory import peak_alloc_bytes
from attnbench.implementation import AttentionInputs
from attnbench.masks import Mask, canonical
from attnbench.workload import AttentionShape, Workload
from attnbench_impls import CHUNKED, NAIVE, blocks

TERMS = ("causal", "sliding_window(4)", "padding(0.3)", "document(3)")
MASKS = st.sets(st.sampled_from(TERMS), max_size=3).map(lambda terms: canonical("+".join(terms) or "none"))
ANY = Workload("attention", AttentionShape(1, 1, 1, 1, 1, 1))


def drawn(*size: int, dtype: torch.dtype = torch.float64, factor: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return (factor * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def results(implementation, x: AttentionInputs, options) -> list[torch.Tensor]:
    """o, dq, dk, dv."""
    output = implementation.load(ANY, implementation.with_defaults(options))(x)
    grad_out = drawn(*output.shape, dtype=output.dtype).detach()
    return [output.detach(), *torch.autograd.grad(output, (x.q, x.k, x.v), grad_out)]


@pytest.mark.parametrize("option", ["block", "q_block"])
@pytest.mark.parametrize("size", [0, -1, True, 2.5, "all"])
def test_a_block_is_a_whole_number(option, size):
    why = why_unsupported(CHUNKED, {option: size}, ANY, "cpu")
    assert why.startswith(f"{option} must be a whole number, at least 1")


@settings(max_examples=60)
@given(
    specification=MASKS,
    batch=st.integers(1, 2),
    heads=st.sampled_from([(1, 1), (3, 3), (4, 2), (3, 1)]),
    q_len=st.integers(1, 20),
    kv_len=st.integers(3, 20),
    dims=st.sampled_from([(4, 4), (3, 7), (8, 2)]),
    block=st.integers(1, 24),
    q_block=st.integers(1, 24),
    scores_at_once=st.sampled_from([1, 100, 2**19]),
    kept_bytes=st.sampled_from([0, 2**25]),
    factor=st.sampled_from([1.0, 100.0]),
)
def test_as_naive_in_float64_whatever_the_blocks(
    specification, batch, heads, q_len, kv_len, dims, block, q_block, scores_at_once, kept_bytes, factor
):
    (h, kv), (d, dv) = heads, dims
    mask = Mask(specification, batch, q_len, kv_len, seed=1)
    q, k = drawn(batch, h, q_len, d, factor=factor), drawn(batch, kv, kv_len, d)
    x = AttentionInputs(q, k, drawn(batch, kv, kv_len, dv), mask, d**-0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "SCORES_AT_ONCE", scores_at_once)
        patch.setattr(blocks, "KEPT_BYTES", kept_bytes)
        got = results(CHUNKED, x, {"block": block, "q_block": q_block})
    for mine, its in zip(got, results(NAIVE, x, {}), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-9)


def test_scores_beyond_what_exp_can_take():
    q, k = torch.full((1, 1, 8, 4), 200.0), torch.full((1, 1, 24, 4), 100.0)
    k[:, :, 10] = 101.0  # the largest score, 80800, moves within the second block
    v = drawn(1, 1, 24, 4, dtype=torch.float32).detach()
    for sign in (1, -1):
        x = AttentionInputs(sign * q, k, v, Mask("none", 1, 8, 24), 1.0)
        output = CHUNKED.load(ANY, {"block": 8, "q_block": 8})(x)
        weights = torch.softmax((sign * q).double() @ k.double().mT, dim=-1)
        torch.testing.assert_close(output, (weights @ v.double()).float(), rtol=1e-5, atol=1e-5)


def test_queries_that_see_no_key_give_0_and_get_0():
    mask = Mask("causal", 1, 30, 11)
    x = AttentionInputs(drawn(1, 2, 30, 4), drawn(1, 2, 11, 4), drawn(1, 2, 11, 4), mask, 0.5)
    output, dq, _, _ = results(CHUNKED, x, {"block": 4, "q_block": 8})
    blind = mask.blind_queries()[0, 0, :, 0]
    assert blind.sum() == 19
    assert (output[:, :, blind] == 0).all()
    assert (dq[:, :, blind] == 0).all()
    assert (output[:, :, ~blind] != 0).all()


def test_inputs_that_are_not_contiguous():
    shape = (2, 12, 4, 8)  # [B, L, H, D], seen as [B, H, L, D]
    q, k, v = (drawn(*shape[:3], d).detach().transpose(1, 2).requires_grad_() for d in (8, 8, 6))
    x = AttentionInputs(q, k, v, Mask("causal", 2, 12, 12), 0.3)
    for mine, its in zip(results(CHUNKED, x, {"block": 5}), results(NAIVE, x, {}), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_computed_in_float32(dtype):
    x = AttentionInputs(
        *(drawn(1, 2, n, 16, dtype=getattr(torch, dtype)) for n in (40, 300, 300)),
        Mask("none", 1, 40, 300),
        0.25,
    )
    wide = AttentionInputs(*(t.detach().float().requires_grad_() for t in (x.q, x.k, x.v)), x.mask, x.scale)
    output = CHUNKED.load(ANY, {"block": 32, "q_block": 32})(x)
    # Rounded once, at the end.
    expected = CHUNKED.load(ANY, {"block": 32, "q_block": 32})(wide).to(output.dtype)
    assert torch.equal(output, expected)


def peak(implementation, length: int, pass_: str, **options: int) -> int:
    """Peak memory beyond what the call returns."""
    workload = Workload("attention", AttentionShape(1, 2, 2, length, length, 8), pass_=pass_)
    case = load_case(implementation, options, workload, "cpu", 0)
    with case.grad_mode():
        return peak_alloc_bytes(case.prepare_call(), "torch") - case.output_bytes


@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_never_holds_all_scores(pass_):
    scores_bytes = 2 * 512 * 512 * 4
    assert peak(NAIVE, 512, pass_) >= scores_bytes
    assert peak(CHUNKED, 512, pass_, block=16, q_block=32) < scores_bytes / 4


@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
def test_memory_grows_linearly(pass_):
    one, two, four = (peak(CHUNKED, length, pass_, block=32, q_block=32) for length in (256, 512, 1024))
    assert four - two <= 2.1 * (two - one)
    naive_one, naive_two, naive_four = (peak(NAIVE, length, pass_) for length in (256, 512, 1024))
    assert naive_four - naive_two > 3.5 * (naive_two - naive_one)


def test_only_a_backward_pass_is_remembered_for():
    x = AttentionInputs(*(drawn(1, 1, 4, 2) for _ in range(3)), Mask("none", 1, 4, 4), 1.0)
    kernel = CHUNKED.load(ANY, CHUNKED.options)
    with torch.no_grad():
        assert kernel(x).grad_fn is None
    assert kernel(x).requires_grad
