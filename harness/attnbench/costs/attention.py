"""Attention's costs.

A forward takes 2·pairs·heads·(d_qk + d_v) operations, pairs being those that the mask allows; a backward
2·pairs·heads·(3·d_qk + 2·d_v), five matrix products against two, one of them (the scores) a recomputation
(Dao, FlashAttention-2, 2023, §4.1): 2.5 times a forward where d_qk = d_v, both 3.5 times. A backward that
keeps the weights needs four.

The least is four products in a backward, and of the operands what the mask lets anybody see. A backward need
not read the output, nor need anybody read queries that see no key. A query that sees a single key gives it
the weight 1 whatever its score is: its output is that value, its gradient 0, so it takes no product, and
neither it nor that key has to be read.
"""

from __future__ import annotations

from attnbench.costs.counted import Costs
from attnbench.masks import Mask
from attnbench.workload import Workload

__all__ = ["attention"]


def attention(workload: Workload, seed: int) -> Costs:
    """The costs of attention alone; it is not divided into parts."""
    shape = workload.shape
    mask = Mask(workload.mask, shape.batch, shape.q_len, shape.kv_len, seed)
    pairs = mask.pairs() * shape.heads
    forward = 2 * pairs * (shape.head_dim + shape.v_head_dim)
    backward = 2 * pairs * (3 * shape.head_dim + 2 * shape.v_head_dim)
    flops = {"forward": forward, "backward": backward, "forward_backward": forward + backward}
    seeing, choosing = (mask.queries_that_see(least) for least in (1, 2))  # any key; more than one
    alone = seeing - choosing
    products = forward - 2 * alone * shape.heads * (shape.head_dim + shape.v_head_dim)
    least_flops = {"forward": products, "backward": 2 * products, "forward_backward": 3 * products}
    both = shape.head_dim + shape.v_head_dim
    queries = shape.batch * shape.heads * shape.q_len * both  # q and o, as much as dq and do
    keys = shape.batch * shape.kv_heads * shape.kv_len * both  # k and v, as much as dk and dv
    # A forward reads q, k, v and writes o. A backward reads q, k, v, o, do and writes dq, dk, dv.
    gradients = 2 * (queries + keys)
    elements = {"forward": queries + keys, "backward": gradients, "forward_backward": gradients}
    dq = shape.batch * shape.heads * shape.q_len * shape.head_dim
    o = shape.batch * shape.heads * shape.q_len * shape.v_head_dim
    # At most one key is seen by each of those that see no other, and perhaps by nobody else.
    chosen = max(0, mask.keys_seen() - alone) * shape.kv_heads
    k = chosen * shape.head_dim
    v = mask.keys_seen() * shape.kv_heads * shape.v_head_dim
    q = choosing * shape.heads * shape.head_dim
    do = seeing * shape.heads * shape.v_head_dim
    least_elements = {
        "forward": q + k + v + o,
        "backward": q + k + chosen * shape.v_head_dim + do + dq + keys,
        "forward_backward": q + k + v + o + do + dq + keys,
    }
    return Costs(
        flops=flops[workload.pass_],
        bytes=elements[workload.pass_] * workload.itemsize,
        least_flops=least_flops[workload.pass_],
        least_bytes=least_elements[workload.pass_] * workload.itemsize,
    )
