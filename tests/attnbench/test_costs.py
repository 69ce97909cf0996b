from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.costs import costs
from attnbench.masks import Mask
from attnbench.workload import AttentionShape, Workload

SHAPE = AttentionShape(batch=2, heads=8, kv_heads=2, q_len=5, kv_len=7, head_dim=4)


def brute_force_forward(workload: Workload) -> int:
    """Multiply-adds of QKᵀ and PV, counted pair by pair."""
    shape = workload.shape
    allowed = Mask(workload.mask, shape.batch, shape.q_len, shape.kv_len, framework="numpy").to_bool()
    operations = 0
    for _ in range(shape.batch * shape.heads):
        for query in range(shape.q_len):
            for key in range(shape.kv_len):
                if allowed is None or allowed[0, 0, query, key]:
                    operations += 2 * shape.head_dim + 2 * shape.head_dim
    return operations


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(["none", "causal"]))
def test_forward_flops_count_the_allowed_pairs(q_len: int, kv_len: int, mask: str) -> None:
    workload = Workload("attention", AttentionShape(2, 3, 1, q_len, kv_len, 4), mask)
    assert costs(workload).flops == brute_force_forward(workload)


@pytest.mark.parametrize(("pass_", "factor"), [("forward", 1), ("backward", 2.5), ("forward_backward", 3.5)])
def test_a_backward_is_two_and_a_half_forwards(pass_: str, factor: float) -> None:
    forward = costs(Workload("attention", SHAPE)).flops
    assert costs(Workload("attention", SHAPE, pass_=pass_)).flops == factor * forward


def test_bytes_count_each_operand_once() -> None:
    q = o = 2 * 8 * 5 * 4
    k = v = 2 * 2 * 7 * 4
    assert costs(Workload("attention", SHAPE, dtype="bfloat16")).bytes == 2 * (q + k + v + o)
    assert costs(Workload("attention", SHAPE, pass_="backward")).bytes == 4 * 2 * (q + k + v + o)
