"""What a workload costs: floating-point operations and bytes, counted exactly by the field's convention.

Attention's FLOPs count the (query, key) pairs that the mask allows: forward 2·pairs·heads·(d_qk + d_v);
backward 2·pairs·heads·(3·d_qk + 2·d_v), five matrix products against two, one of them (the scores) a
recomputation (Dao, FlashAttention-2, 2023, §4.1): 2.5 times a forward where d_qk = d_v, both 3.5 times. A
backward that keeps the weights needs four. Bytes count each operand once. Cost models are registered per
operation in `COSTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attnbench.masks import Mask
from attnbench.workload import Workload

__all__ = ["COSTS", "Costs", "costs"]


@dataclass(frozen=True, slots=True)
class Costs:
    """`flops` operations by the field's convention, and `bytes` moved (each operand once)."""

    flops: int
    bytes: int


def _attention(workload: Workload, seed: int) -> Costs:
    shape = workload.shape
    mask = Mask(workload.mask, shape.batch, shape.q_len, shape.kv_len, seed)
    pairs = mask.pairs() * shape.heads
    forward = 2 * pairs * (shape.head_dim + shape.v_head_dim)
    backward = 2 * pairs * (3 * shape.head_dim + 2 * shape.v_head_dim)
    flops = {"forward": forward, "backward": backward, "forward_backward": forward + backward}
    both = shape.head_dim + shape.v_head_dim
    queries = shape.batch * shape.heads * shape.q_len * both  # q and o
    keys = shape.batch * shape.kv_heads * shape.kv_len * both  # k and v
    # A forward reads q, k, v and writes o. A backward reads q, k, v, o, do and writes dq, dk, dv.
    gradients = 2 * (queries + keys)
    elements = {"forward": queries + keys, "backward": gradients, "forward_backward": gradients}
    return Costs(flops[workload.pass_], elements[workload.pass_] * workload.itemsize)


#: The cost model of each operation: `(workload, seed) -> Costs`.
COSTS: dict[str, Callable[[Workload, int], Costs]] = {"attention": _attention}


def costs(workload: Workload, seed: int = 0) -> Costs:
    """The costs of `workload`; `seed` draws the lengths of masks that have random ones."""
    return COSTS[workload.operation](workload, seed)
