"""What a workload costs: floating-point operations and bytes, counted exactly by the field's convention.

Attention's FLOPs count the (query, key) pairs that the mask allows: forward 2·pairs·heads·(d_qk + d_v);
backward 2.5 times that (five matrix products against two, one of them a recomputation; Dao, FlashAttention-2,
2023, §4.1); both 3.5 times. A backward that keeps the weights needs four: 2 times a forward is the least.
Bytes count each operand once. Cost models are registered per operation in `COSTS`.
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
    forward = 2 * mask.pairs() * shape.heads * (shape.head_dim + shape.head_dim)
    queries = shape.batch * shape.heads * shape.q_len * shape.head_dim  # q, and o alike
    keys = shape.batch * shape.kv_heads * shape.kv_len * shape.head_dim  # k, and v alike
    # A forward reads q, k, v and writes o. A backward reads q, k, v, o, do and writes dq, dk, dv.
    elements = {
        "forward": 2 * queries + 2 * keys,
        "backward": 4 * queries + 4 * keys,
        "forward_backward": 4 * queries + 4 * keys,
    }
    # In halves, so that 2.5 and 3.5 times an integer stay exact.
    halves = {"forward": 2, "backward": 5, "forward_backward": 7}
    return Costs(forward * halves[workload.pass_] // 2, elements[workload.pass_] * workload.itemsize)


#: The cost model of each operation: `(workload, seed) -> Costs`.
COSTS: dict[str, Callable[[Workload, int], Costs]] = {"attention": _attention}


def costs(workload: Workload, seed: int = 0) -> Costs:
    """The costs of `workload`; `seed` draws the lengths of masks that have random ones."""
    return COSTS[workload.operation](workload, seed)
