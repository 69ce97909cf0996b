from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from attnbench.costs import costs
from attnbench.masks import Mask
from attnbench.workload import DTYPES, PASSES, AttentionShape, Workload

SHAPE = AttentionShape(batch=2, heads=8, kv_heads=2, q_len=5, kv_len=7, head_dim=4)


#: The matrix products of each pass, and how many numbers each pair of a query and a key multiplies in one.
PRODUCTS = {
    "forward": {"S = Q·Kᵀ": "head_dim", "O = P·V": "v_head_dim"},
    "backward": {
        "S = Q·Kᵀ, again": "head_dim",
        "dP = dO·Vᵀ": "v_head_dim",
        "dV = Pᵀ·dO": "v_head_dim",
        "dQ = dS·K": "head_dim",
        "dK = dSᵀ·Q": "head_dim",
    },
}
PRODUCTS["forward_backward"] = PRODUCTS["forward"] | PRODUCTS["backward"]

TERMS = {
    "causal": st.just("causal"),
    "sliding_window": st.integers(1, 7).map(lambda w: f"sliding_window({w})"),
    "padding": st.floats(0, 1).map(lambda r: f"padding({r!r})"),
    "document": st.integers(1, 3).map(lambda n: f"document({n})"),
}
MASKS = st.lists(st.sampled_from(sorted(TERMS)), unique=True, max_size=4).flatmap(
    lambda kinds: st.tuples(*(TERMS[kind] for kind in kinds)).map(lambda terms: "+".join(terms) or "none")
)
SIZES = st.integers(1, 7)
SHAPES = st.builds(
    lambda group, kv_heads, **sizes: AttentionShape(heads=group * kv_heads, kv_heads=kv_heads, **sizes),
    group=st.integers(1, 3),
    kv_heads=st.integers(1, 2),
    batch=st.integers(1, 3),
    q_len=SIZES,
    kv_len=st.integers(3, 7),
    head_dim=SIZES,
    v_head_dim=SIZES,
)
WORKLOADS = st.builds(
    Workload, st.just("attention"), SHAPES, MASKS, st.sampled_from(sorted(DTYPES)), st.sampled_from(PASSES)
)


def counted_one_by_one(workload: Workload, seed: int) -> int:
    """The operations of every product, for every batch element, head, query and key that it may see."""
    shape = workload.shape
    mask = Mask(workload.mask, shape.batch, shape.q_len, shape.kv_len, seed, framework="numpy").to_bool()
    whole = (shape.batch, shape.heads, shape.q_len, shape.kv_len)
    allowed = np.broadcast_to(True if mask is None else mask, whole)
    operations = 0
    for at in np.ndindex(whole):
        if allowed[at]:
            for features in PRODUCTS[workload.pass_].values():
                operations += 2 * getattr(shape, features)  # a multiplication and an addition each
    return operations


@given(WORKLOADS, st.integers(0, 2**32 - 1))
def test_flops_count_the_allowed_pairs(workload: Workload, seed: int) -> None:
    assert costs(workload, seed).flops == counted_one_by_one(workload, seed)


@given(WORKLOADS)
def test_bytes_are_those_of_every_operand(workload: Workload) -> None:
    shape = workload.shape
    dtype = getattr(torch, workload.dtype)
    q = torch.empty(shape.batch, shape.heads, shape.q_len, shape.head_dim, dtype=dtype)
    k = torch.empty(shape.batch, shape.kv_heads, shape.kv_len, shape.head_dim, dtype=dtype)
    v = torch.empty(shape.batch, shape.kv_heads, shape.kv_len, shape.v_head_dim, dtype=dtype)
    o = torch.empty(shape.batch, shape.heads, shape.q_len, shape.v_head_dim, dtype=dtype)
    do, dq, dk, dv = o, q, k, v  # of the same shapes
    operands = [q, k, v, o] if workload.pass_ == "forward" else [q, k, v, o, do, dq, dk, dv]
    assert costs(workload).bytes == sum(each.nbytes for each in operands)


def of_torch(count: Callable[[], Any]) -> tuple[int, Any]:
    """What torch counts while `count` runs, and what that returns."""
    with FlopCounterMode(display=False) as counter:
        returned = count()
    return counter.get_total_flops(), returned


@settings(max_examples=30)
@given(SHAPES)
def test_torch_counts_as_many_for_the_textbook(shape: AttentionShape) -> None:
    """Its own backward has four products: autograd keeps the weights, which the convention computes anew."""
    q = torch.empty(shape.batch, shape.heads, shape.q_len, shape.head_dim, requires_grad=True)
    # With every head written out, as the textbook has it: torch's counter knows no grouped queries here.
    k = torch.empty(shape.batch, shape.heads, shape.kv_len, shape.head_dim, requires_grad=True)
    v = torch.empty(shape.batch, shape.heads, shape.kv_len, shape.v_head_dim, requires_grad=True)
    forward, o = of_torch(lambda: torch.softmax(q @ k.transpose(-2, -1), dim=-1) @ v)
    assert costs(Workload("attention", shape)).flops == forward
    kept, _ = of_torch(lambda: torch.autograd.grad(o, (q, k, v), torch.empty_like(o)))
    backward = costs(Workload("attention", shape, pass_="backward"))
    assert backward.least_flops == kept
    scores = 2 * q.numel() * shape.kv_len
    assert backward.flops == kept + scores


@given(SHAPES)
def test_torch_counts_as_many_for_a_fused_kernel(shape: AttentionShape) -> None:
    """Five products in the backward. Its formulas know of no mask, so that none is in the workloads."""
    q, k, v = (
        (shape.batch, shape.heads, length, features)
        for length, features in (
            (shape.q_len, shape.head_dim),
            (shape.kv_len, shape.head_dim),
            (shape.kv_len, shape.v_head_dim),
        )
    )
    o = (*q[:3], shape.v_head_dim)
    forward, backward = sdpa_flop_count(q, k, v), sdpa_backward_flop_count(o, q, k, v)
    counted = {"forward": forward, "backward": backward, "forward_backward": forward + backward}
    for pass_ in PASSES:
        assert costs(Workload("attention", shape, pass_=pass_)).flops == counted[pass_]


def test_torch_counts_as_many_when_flash_attention_is_called() -> None:
    """On the meta device, where the call computes nothing: torch has no formula for the CPU's own kernel."""
    aten = torch.ops.aten
    q = torch.empty(2, 8, 5, 16, device="meta", dtype=torch.float16)
    k = v = torch.empty(2, 8, 7, 16, device="meta", dtype=torch.float16)
    shape = AttentionShape(batch=2, heads=8, kv_heads=8, q_len=5, kv_len=7, head_dim=16)
    forward, out = of_torch(lambda: aten._scaled_dot_product_flash_attention(q, k, v))
    o, saved, seeds = out[0], out[1:6], out[6:8]
    backward, _ = of_torch(
        lambda: aten._scaled_dot_product_flash_attention_backward(q, q, k, v, o, *saved, 0.0, False, *seeds)
    )
    assert costs(Workload("attention", shape)).flops == forward
    assert costs(Workload("attention", shape, pass_="backward")).flops == backward


@pytest.mark.parametrize(("pass_", "factor"), [("forward", 1), ("backward", 2.5), ("forward_backward", 3.5)])
def test_a_backward_is_two_and_a_half_forwards(pass_: str, factor: float) -> None:
    forward = costs(Workload("attention", SHAPE)).flops
    assert costs(Workload("attention", SHAPE, pass_=pass_)).flops == factor * forward


def test_the_least_of_a_backward_keeps_the_weights_and_reads_no_output() -> None:
    both = Workload("attention", SHAPE, pass_="forward_backward")
    forward, backward = Workload("attention", SHAPE), Workload("attention", SHAPE, pass_="backward")
    products = costs(forward).least_flops
    assert products == costs(forward).flops
    assert costs(backward).least_flops == 2 * products
    assert costs(both).least_flops == 3 * products
    o = 4 * 2 * 8 * 5 * 4
    assert costs(backward).least_bytes == costs(backward).bytes - o
    assert costs(forward).least_bytes == costs(forward).bytes
    assert costs(both).least_bytes == costs(both).bytes


def test_the_least_bytes_are_those_of_keys_that_somebody_sees() -> None:
    shape = AttentionShape(batch=2, heads=8, kv_heads=2, q_len=1, kv_len=1000, head_dim=4)
    q = o = 2 * 8 * 1 * 4
    window = costs(Workload("attention", shape, mask="sliding_window(10)"))
    assert window.least_bytes == 4 * (q + 2 * 2 * 2 * 10 * 4 + o)
    backward = costs(Workload("attention", shape, mask="sliding_window(10)", pass_="backward"))
    # Gradients are written whole: those of keys that nobody sees are zeros.
    assert backward.least_bytes == 4 * (q + 2 * 2 * 2 * 10 * 4 + o + q + 2 * 2 * 2 * 1000 * 4)


def test_queries_that_see_no_key_need_not_be_read() -> None:
    shape = AttentionShape(batch=1, heads=1, kv_heads=1, q_len=9, kv_len=3, head_dim=4)
    # Six queries see no key and one a single one, so that two are read; as may be but two of the keys.
    q, k, v, o = 2 * 4, 2 * 4, 3 * 4, 9 * 4
    assert costs(Workload("attention", shape, mask="causal")).least_bytes == 4 * (q + k + v + o)
    backward = costs(Workload("attention", shape, mask="causal", pass_="backward"))
    do, written = 3 * 4, (9 + 3 + 3) * 4
    assert backward.least_bytes == 4 * (q + k + 2 * 4 + do + written)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize(("kv_len", "mask"), [(1, "none"), (6, "sliding_window(1)")])
def test_a_single_key_takes_no_product(kv_len: int, mask: str, pass_: str) -> None:
    """The weights are 1 whatever the scores are: an honest kernel copies v, and is beyond no matrix rate."""
    workload = Workload("attention", AttentionShape(1, 2, 2, 6, kv_len, 4), mask, pass_=pass_)
    assert costs(workload).flops > 0
    assert costs(workload).least_flops == 0


def test_only_queries_that_choose_among_keys_take_products() -> None:
    shape = AttentionShape(batch=2, heads=3, kv_heads=3, q_len=4, kv_len=4, head_dim=5)
    causal = costs(Workload("attention", shape, mask="causal"))
    assert causal.least_flops == causal.flops * 9 // 10  # 1 of 1 + 2 + 3 + 4 pairs is a query's only one


@given(
    st.integers(1, 8),
    st.integers(3, 8),
    st.sampled_from(["none", "causal", "sliding_window(3)", "padding(0.2)", "document(3)+padding(0.1)"]),
    st.sampled_from(["forward", "backward", "forward_backward"]),
    st.integers(0, 100),
)
def test_the_least_is_never_more_than_the_convention(
    q_len: int, kv_len: int, mask: str, pass_: str, seed: int
) -> None:
    workload = Workload("attention", AttentionShape(2, 3, 1, q_len, kv_len, 4, 5), mask, pass_=pass_)
    counted = costs(workload, seed)
    assert 0 <= counted.least_flops <= counted.flops
    assert 0 < counted.least_bytes <= counted.bytes
