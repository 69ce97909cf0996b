"""How wrong it is acceptable to be: the textbook algorithm in the case's own precision, nothing upcast.

The convention of FlashAttention's tests: a kernel may err about as much as the plain algorithm does in the
same dtype. torch's own unfused backend computes halves in float32, so it is no such yardstick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attnbench.inputs import DrawnAttention
from attnbench.reference.rows import pieces

if TYPE_CHECKING:
    import torch

__all__ = ["YARDSTICKS", "yardstick"]


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a·b rounded to the operands' dtype; halves are summed in float32, as every matrix unit does."""
    import torch

    if a.dtype in (torch.float16, torch.bfloat16):
        return (a.float() @ b.float()).to(a.dtype)
    return a @ b


def _textbook(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, scale: float
) -> torch.Tensor:
    """softmax(scale·q·kᵀ)·v of one head; q `[r, D]`, k and v `[Lk, D]`, seen `[r, Lk]` -> `[r, D]`."""
    import torch

    scores = _product(q, k.T) * scale
    weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
    # The softmax of a row without keys is 0/0; its output is 0.
    return _product(weights.masked_fill(~seen.any(dim=-1, keepdim=True), 0), v)


def _attention(drawn: DrawnAttention, rows: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
    import torch

    shape = drawn.workload.shape
    group = shape.heads // shape.kv_heads
    grad_out = drawn.grad_out
    o = torch.zeros(shape.batch, shape.heads, len(rows), shape.head_dim, dtype=drawn.q.dtype)
    if grad_out is not None:
        dq = torch.zeros_like(o)
        dk, dv = torch.zeros_like(drawn.k), torch.zeros_like(drawn.v)
        # What one product would sum is summed in pieces as precisely; only whole heads' sums are rounded.
        wide = torch.promote_types(drawn.q.dtype, torch.float32)
    starts, stops = (torch.from_numpy(ends[:, rows]) for ends in drawn.mask().key_ranges())
    keys = torch.arange(shape.kv_len)

    for b in range(shape.batch):
        start, stop = (ends[b if ends.shape[0] > 1 else 0] for ends in (starts, stops))
        for h in range(shape.heads):
            if grad_out is not None:
                dk_head, dv_head = torch.zeros(2, shape.kv_len, shape.head_dim, dtype=wide)
            for piece in pieces(len(rows), shape.kv_len):
                seen = (keys >= start[piece, None]) & (keys < stop[piece, None])  # [r, Lk]
                q, k, v = drawn.q[b, h, rows[piece]], drawn.k[b, h // group], drawn.v[b, h // group]
                if grad_out is None:
                    o[b, h, piece] = _textbook(q, k, v, seen, drawn.scale)
                    continue
                with torch.enable_grad():
                    q, k, v = (operand.detach().requires_grad_() for operand in (q, k, v))
                    output = _textbook(q, k, v, seen, drawn.scale)
                o[b, h, piece] = output.detach()
                d_out = grad_out[b, h, rows[piece]]
                dq[b, h, piece], d_k, d_v = torch.autograd.grad(output, (q, k, v), d_out)
                dk_head += d_k
                dv_head += d_v
            if grad_out is not None:
                dk[b, h // group] += dk_head.to(dk.dtype)
                dv[b, h // group] += dv_head.to(dv.dtype)

    if grad_out is None:
        return {"o": o}
    found = {"o": o, "dq": dq, "dk": dk, "dv": dv}
    return found if drawn.workload.pass_ == "forward_backward" else {n: found[n] for n in ("dq", "dk", "dv")}


#: The yardstick of each operation: `(drawn, rows) -> results`, shaped as `Answer.results`.
YARDSTICKS: dict[str, Callable[[DrawnAttention, npt.NDArray[np.int64]], dict[str, torch.Tensor]]] = {
    "attention": _attention
}


def yardstick(drawn: DrawnAttention, rows: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
    """What the textbook algorithm makes of what was drawn, in the workload's dtype, on the same rows."""
    return YARDSTICKS[drawn.workload.operation](drawn, rows)
