"""Both NumPy implementations, gradients included, against naive in float64; the chunked one's memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.bench.kernel import load_case, why_unsupported
from attnbench.bench.memory import peak_alloc_bytes
from attnbench.implementation import AttentionInputs
from attnbench.masks import Mask, canonical
from attnbench.workload import AttentionShape, Workload
from attnbench_impls import NAIVE, NUMPY, NUMPY_CHUNKED, blocks

TERMS = ("causal", "sliding_window(4)", "padding(0.3)", "document(3)")
MASKS = st.sets(st.sampled_from(TERMS), max_size=3).map(lambda terms: canonical("+".join(terms) or "none"))
ANY = Workload("attention", AttentionShape(1, 1, 1, 1, 1, 1))


def drawn(*size: int, factor: float = 1.0) -> np.ndarray:
    return factor * np.random.default_rng(sum(size)).standard_normal(size)


def results(implementation, x: AttentionInputs, grad_out: np.ndarray, options) -> list[np.ndarray]:
    """o, dq, dk, dv of a NumPy implementation."""
    chosen = implementation.with_defaults(options)
    output = implementation.load(ANY, chosen)(x)
    return [output, *implementation.load_backward(ANY, chosen)(x, output, grad_out)]


def expected(x: AttentionInputs, grad_out: np.ndarray) -> list[np.ndarray]:
    """The same of naive."""
    leaves = [torch.from_numpy(each.astype(np.float64)).requires_grad_() for each in (x.q, x.k, x.v)]
    mask = Mask(x.mask.specification, x.mask.batch, x.mask.q_len, x.mask.kv_len, x.mask.seed)
    output = NAIVE.load(ANY, {})(AttentionInputs(*leaves, mask, x.scale))
    grads = torch.autograd.grad(output, leaves, torch.from_numpy(grad_out.astype(np.float64)))
    return [each.detach().numpy() for each in (output, *grads)]


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
def test_as_naive_whatever_the_blocks(
    specification, batch, heads, q_len, kv_len, dims, block, q_block, scores_at_once, kept_bytes, factor
):
    (h, kv), (d, dv) = heads, dims
    mask = Mask(specification, batch, q_len, kv_len, seed=1, framework="numpy")
    q, k, v = (
        drawn(batch, h, q_len, d, factor=factor),
        drawn(batch, kv, kv_len, d),
        drawn(batch, kv, kv_len, dv),
    )
    x, grad_out = AttentionInputs(q, k, v, mask, d**-0.5), drawn(batch, h, q_len, dv)
    kept = [each.copy() for each in (q, k, v, grad_out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "SCORES_AT_ONCE", scores_at_once)
        patch.setattr(blocks, "KEPT_BYTES", kept_bytes)
        chunked = results(NUMPY_CHUNKED, x, grad_out, {"block": block, "q_block": q_block})
    for mine, textbook, its in zip(
        chunked, results(NUMPY, x, grad_out, {}), expected(x, grad_out), strict=True
    ):
        np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(textbook, its, rtol=1e-9, atol=1e-9)
    for before, after in zip(kept, (q, k, v, grad_out), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("implementation", [NUMPY, NUMPY_CHUNKED], ids=lambda each: each.name)
def test_scores_beyond_what_exp_can_take(implementation):
    q, k = np.full((1, 1, 4, 2), 300, np.float32), np.full((1, 1, 600, 2), 100, np.float32)
    k[:, :, 300:] = 101  # the largest score, 60600, moves within the second block
    v = drawn(1, 1, 600, 3).astype(np.float32)
    x = AttentionInputs(q, k, v, Mask("none", 1, 4, 600, framework="numpy"), 1.0)
    output = implementation.load(ANY, implementation.options)(x)
    np.testing.assert_allclose(
        output, np.broadcast_to(v[:, :, 300:].mean(axis=2, keepdims=True), output.shape), rtol=1e-4
    )


@pytest.mark.parametrize("implementation", [NUMPY, NUMPY_CHUNKED], ids=lambda each: each.name)
def test_float16_is_computed_in_float32(implementation):
    q, k, v, grad_out = (drawn(1, 2, length, 16).astype(np.float16) for length in (40, 300, 300, 40))
    mask = Mask("causal", 1, 40, 300, framework="numpy")
    half = results(implementation, AttentionInputs(q, k, v, mask, 0.25), grad_out, {})
    wide = [each.astype(np.float32) for each in (q, k, v)]
    output = implementation.load(ANY, implementation.options)(AttentionInputs(*wide, mask, 0.25))
    np.testing.assert_array_equal(half[0], output.astype(np.float16))  # rounded once, at the end
    assert [each.dtype for each in half] == [np.float16] * 4


@pytest.mark.parametrize("size", [0, True, "all"])
def test_a_block_is_a_whole_number(size):
    why = why_unsupported(NUMPY_CHUNKED, {"block": size}, ANY, "cpu")
    assert why.startswith("block must be a whole number, at least 1")


def peak(implementation, length: int, pass_: str, **options: int) -> int:
    """Peak memory beyond what the call returns."""
    workload = Workload("attention", AttentionShape(1, 2, 2, length, length, 8), pass_=pass_)
    case = load_case(implementation, options, workload, "cpu", 0)
    call = case.prepare_call()
    call()  # what is kept with the mask (blocks, masks of tiles) is not the call's
    return peak_alloc_bytes(call, "numpy") - case.output_bytes


@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
def test_memory_grows_linearly(pass_):
    blocks_of = {"block": 32, "q_block": 32}
    one, two, four = (peak(NUMPY_CHUNKED, length, pass_, **blocks_of) for length in (256, 512, 1024))
    assert four - two <= 2.2 * max(two - one, 0) + 64 * 1024
    assert four < 2 * 1024 * 1024 * 4 / 8  # an eighth of the scores
    naive_one, naive_two, naive_four = (peak(NUMPY, length, pass_) for length in (256, 512, 1024))
    assert naive_four - naive_two > 3.5 * (naive_two - naive_one)
