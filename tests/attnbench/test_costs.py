from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.costs import costs
from attnbench.masks import Mask
from attnbench.workload import AttentionShape, Workload

SHAPE = AttentionShape(batch=2, heads=8, kv_heads=2, q_len=5, kv_len=7, head_dim=4)


def brute_force(workload: Workload, seed: int) -> int:
    """Multiply-adds of the matrix products, counted pair by pair."""
    shape = workload.shape
    mask = Mask(workload.mask, shape.batch, shape.q_len, shape.kv_len, seed, framework="numpy").to_bool()
    whole = (shape.batch, 1, shape.q_len, shape.kv_len)
    pairs = shape.heads * int(np.broadcast_to(True if mask is None else mask, whole).sum())
    forward = [shape.head_dim, shape.v_head_dim]  # S = QKᵀ, O = PV
    # S again, dQ = dS·K and dK = dSᵀ·Q; dP = dO·Vᵀ and dV = Pᵀ·dO
    backward = [shape.head_dim] * 3 + [shape.v_head_dim] * 2
    products = {"forward": forward, "backward": backward, "forward_backward": forward + backward}
    return sum(2 * pairs * features for features in products[workload.pass_])


@given(
    st.integers(1, 8),
    st.integers(3, 8),
    st.integers(1, 5),
    st.sampled_from(
        ["none", "causal", "sliding_window(3)", "padding(0.2)", "document(3)", "causal+padding(0.5)"]
    ),
    st.sampled_from(["forward", "backward", "forward_backward"]),
    st.integers(0, 100),
)
def test_flops_count_the_allowed_pairs(
    q_len: int, kv_len: int, v_head_dim: int, mask: str, pass_: str, seed: int
) -> None:
    shape = AttentionShape(2, 3, 1, q_len, kv_len, 4, v_head_dim)
    workload = Workload("attention", shape, mask, pass_=pass_)
    assert costs(workload, seed).flops == brute_force(workload, seed)


@pytest.mark.parametrize(("pass_", "factor"), [("forward", 1), ("backward", 2.5), ("forward_backward", 3.5)])
def test_a_backward_is_two_and_a_half_forwards(pass_: str, factor: float) -> None:
    forward = costs(Workload("attention", SHAPE)).flops
    assert costs(Workload("attention", SHAPE, pass_=pass_)).flops == factor * forward


def test_bytes_of_values_with_features_of_their_own() -> None:
    shape = AttentionShape(batch=2, heads=8, kv_heads=2, q_len=5, kv_len=7, head_dim=4, v_head_dim=3)
    assert costs(Workload("attention", shape)).bytes == 4 * 2 * (8 * 5 * (4 + 3) + 2 * 7 * (4 + 3))


def test_bytes_count_each_operand_once() -> None:
    q = o = 2 * 8 * 5 * 4
    k = v = 2 * 2 * 7 * 4
    assert costs(Workload("attention", SHAPE, dtype="bfloat16")).bytes == 2 * (q + k + v + o)
    assert costs(Workload("attention", SHAPE, pass_="backward")).bytes == 4 * 2 * (q + k + v + o)


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
    assert costs(Workload("attention", shape, mask="causal")).least_bytes == 4 * (2 * 3 * 4 + 9 * 4)


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
