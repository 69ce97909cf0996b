"""How wrong it is acceptable to be: the textbook algorithm in the case's own precision, nothing upcast.

The convention of FlashAttention's tests: a kernel may err about as much as the plain algorithm does in the
same dtype. torch's own unfused backend computes halves in float32, so it is no such yardstick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attnbench.inputs import DrawnAttention
from attnbench.reference.rows import sampled_rows
from attnbench.reference.tiles import Tile, cut

if TYPE_CHECKING:
    import torch

__all__ = ["attention"]


class _Rounded:
    """Numbers of a dtype, held as float32 where it is narrower, so that products of them are exact.

    Halves are computed and summed in float32 and then rounded, as every matrix unit does.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        import torch

        self.dtype = dtype
        self.wide = torch.promote_types(dtype, torch.float32)

    def held(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, of the dtype, as it is held."""
        return tensor.to(self.wide)

    def round_(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor`, as it is held, rounded to the dtype in place."""
        return tensor if self.dtype == self.wide else tensor.copy_(tensor.to(self.dtype))


def attention(drawn: DrawnAttention, rows: npt.NDArray[np.int64] | None = None) -> dict[str, torch.Tensor]:
    """o and its gradients in the workload's dtype, on the query rows `rows` (None: `sampled_rows`)."""
    import torch

    shape, grad_out = drawn.workload.shape, drawn.grad_out
    if rows is None:
        rows = sampled_rows(shape.q_len, drawn.seed)
    group = shape.heads // shape.kv_heads
    rounded = _Rounded(drawn.q.dtype)
    o = torch.zeros(shape.batch, shape.heads, len(rows), drawn.v.shape[-1], dtype=drawn.q.dtype)
    if grad_out is not None:
        dq = torch.zeros(shape.batch, shape.heads, len(rows), drawn.q.shape[-1], dtype=drawn.q.dtype)
        dk, dv = torch.zeros_like(drawn.k), torch.zeros_like(drawn.v)
    starts, stops = (ends[:, rows] for ends in drawn.mask().key_ranges())

    for b in range(shape.batch):
        start, stop = (ends[b if len(ends) > 1 else 0] for ends in (starts, stops))
        pieces = list(cut(start, stop, max(drawn.k.shape[-1], drawn.v.shape[-1])))
        for h in range(shape.heads):
            k, v = drawn.k[b, h // group], drawn.v[b, h // group]
            if grad_out is not None:
                dk_head, dv_head = (torch.zeros(each.shape, dtype=rounded.wide) for each in (k, v))
            for piece, tiles in pieces:
                q = rounded.held(drawn.q[b, h, rows[piece]])
                weights = _weights(q, k, drawn.scale, tiles, rounded)
                o[b, h, piece] = _output(v, tiles, rounded, weights, len(q)).to(o.dtype)
                if grad_out is not None:
                    d_out = rounded.held(grad_out[b, h, rows[piece]])
                    gradients = dk_head, dv_head
                    dq[b, h, piece] = _backward(
                        q, k, v, drawn.scale, tiles, rounded, weights, d_out, *gradients
                    ).to(dq.dtype)
                del weights
            if grad_out is not None:
                dk[b, h // group] += dk_head.to(dk.dtype)
                dv[b, h // group] += dv_head.to(dv.dtype)

    if grad_out is None:
        return {"o": o}
    found = {"o": o, "dq": dq, "dk": dk, "dv": dv}
    return found if drawn.workload.pass_ == "forward_backward" else {n: found[n] for n in ("dq", "dk", "dv")}


def _weights(
    q: torch.Tensor, k: torch.Tensor, scale: float, tiles: list[Tile], rounded: _Rounded
) -> list[torch.Tensor]:
    """softmax(scale·Q·Kᵀ), tile by tile; q `[r, D]` as it is held, k `[Lk, D]`.

    A softmax rounds once, at its end, as torch's does. Where a row sees no key it is 0.
    """
    import torch

    largest = torch.full((len(q), 1), torch.finfo(rounded.wide).min, dtype=rounded.wide)
    totals = torch.zeros_like(largest)
    weights = []
    for tile in tiles:
        scores = rounded.round_(q[tile.rows] @ rounded.held(k[tile.keys]).T)
        rounded.round_(scores.mul_(scale))
        if tile.unseen is not None:
            scores.masked_fill_(tile.unseen, -torch.inf)
        largest[tile.rows] = torch.maximum(largest[tile.rows], scores.amax(dim=-1, keepdim=True))
        weights.append(scores)
    for tile, scores in zip(tiles, weights, strict=True):
        totals[tile.rows] += scores.sub_(largest[tile.rows]).exp_().sum(dim=-1, keepdim=True)
    totals.clamp_(min=torch.finfo(rounded.wide).tiny)
    for tile, exps in zip(tiles, weights, strict=True):
        rounded.round_(exps.div_(totals[tile.rows]))
    return weights


def _output(
    v: torch.Tensor, tiles: list[Tile], rounded: _Rounded, weights: list[torch.Tensor], rows: int
) -> torch.Tensor:
    """O = P·V `[r, Dv]`, not yet rounded."""
    import torch

    output = torch.zeros(rows, v.shape[-1], dtype=rounded.wide)
    for tile, share in zip(tiles, weights, strict=True):
        output[tile.rows] += share @ rounded.held(v[tile.keys])
    return output


def _backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    tiles: list[Tile],
    rounded: _Rounded,
    weights: list[torch.Tensor],
    d_out: torch.Tensor,
    dk: torch.Tensor,
    dv: torch.Tensor,
) -> torch.Tensor:
    """dQ `[r, D]`, not yet rounded; what these rows add to dK and dV is added to `dk` and `dv`.

    dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP − Σⱼ P∘dP), dQ = scale·dS·K, dK = scale·dSᵀ·Q: what autograd makes of
    the forward's steps; the gradient of a softmax rounds once, as torch's does.
    """
    import torch

    dq = torch.zeros_like(q)
    delta = torch.zeros(len(q), 1, dtype=rounded.wide)
    all_d_weights = []
    for tile, share in zip(tiles, weights, strict=True):
        d_weights = rounded.round_(d_out[tile.rows] @ rounded.held(v[tile.keys]).T)
        delta[tile.rows] += (share * d_weights).sum(dim=-1, keepdim=True)
        all_d_weights.append(d_weights)
    for tile, share, d_weights in zip(tiles, weights, all_d_weights, strict=True):
        d_scores = rounded.round_(d_weights.sub_(delta[tile.rows]).mul_(share))
        rounded.round_(d_scores.mul_(scale))
        dq[tile.rows] += d_scores @ rounded.held(k[tile.keys])
        dk[tile.keys].addmm_(d_scores.T, q[tile.rows])
        dv[tile.keys].addmm_(share.T, d_out[tile.rows])
    return dq
