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
