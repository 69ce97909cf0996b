"""The right answer: attention in float64, as its definition reads, a few query rows at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attnbench.inputs import DrawnAttention
from attnbench.reference import spread
from attnbench.reference.answer import Answer
from attnbench.reference.rows import sampled_rows
from attnbench.reference.tiles import Operands, Softmax, cut

if TYPE_CHECKING:
    import torch

__all__ = ["attention", "grad_out_on"]


def grad_out_on(rows: npt.NDArray[np.int64], grad_out: torch.Tensor) -> torch.Tensor:
    """`grad_out` `[B, H, Lq, D]` with zeros in all other rows, so that dk and dv need no other row."""
    import torch

    kept = torch.zeros_like(grad_out)
    kept[:, :, rows] = grad_out[:, :, rows]
    return kept


def attention(drawn: DrawnAttention, rows: npt.NDArray[np.int64] | None = None) -> Answer:
    """o = softmax(scale·q·kᵀ)·v and its gradients, head by head, some rows at a time.

    On the query rows `rows`, ascending; None: `sampled_rows`.
    """
    import torch

    shape, grad_out = drawn.workload.shape, drawn.grad_out
    if rows is None:
        rows = sampled_rows(shape.q_len, drawn.seed)
    group = shape.heads // shape.kv_heads  # query heads that share one key head
    o = torch.zeros(shape.batch, shape.heads, len(rows), drawn.v.shape[-1], dtype=torch.float64)
    if grad_out is not None:
        dq = torch.zeros(shape.batch, shape.heads, len(rows), drawn.q.shape[-1], dtype=torch.float64)
        dk, dv = (torch.zeros(each.shape, dtype=torch.float64) for each in (drawn.k, drawn.v))
    starts, stops = (ends[:, rows] for ends in drawn.mask().key_ranges())
    max_score = 0.0
    results = {"o": o} if grad_out is None else {"o": o, "dq": dq, "dk": dk, "dv": dv}
    if drawn.workload.pass_ == "backward":
        del results["o"]  # what is asked for; o itself is needed all the same
    squares = {name: torch.zeros(each.shape, dtype=torch.float32) for name, each in results.items()}

    for b in range(shape.batch):
        start, stop = (ends[b if len(ends) > 1 else 0] for ends in (starts, stops))  # [R]
        pieces = list(cut(start, stop, max(drawn.k.shape[-1], drawn.v.shape[-1])))
        for g in range(shape.kv_heads):
            k, v = drawn.k[b, g], drawn.v[b, g]
            for h in range(g * group, (g + 1) * group):
                for piece, tiles in pieces:
                    q = drawn.q[b, h, rows[piece]].double()
                    x = Operands(q, k, v, drawn.scale, tiles)
                    output, softmax, largest = _forward(x)
                    o[b, h, piece] = output
                    max_score = max(max_score, largest)
                    if "o" in squares:
                        squares["o"][b, h, piece] = spread.forward(x, softmax, output, drawn.q.dtype)
                    if grad_out is not None:
                        d_out = grad_out[b, h, rows[piece]].double()
                        dq[b, h, piece] = _backward(x, softmax, output, d_out, dk[b, g], dv[b, g])
                        of_keys = squares["dk"][b, g], squares["dv"][b, g]
                        squares["dq"][b, h, piece] = spread.add_backward(
                            x, softmax, output, d_out, drawn.q.dtype, *of_keys
                        )
                    del softmax  # before the next piece makes its own
    return Answer(
        rows=rows,
        results=results,
        max_score=max_score,
        spreads={name: each.sqrt_() for name, each in squares.items()},
        summed={name: shape.kv_len if name in ("o", "dq") else len(rows) * group for name in results},
    )


def _forward(x: Operands) -> tuple[torch.Tensor, Softmax, float]:
    """O = P·V `[r, Dv]` with P = softmax(scale·Q·Kᵀ), P, and the largest |score|; q in float64."""
    import torch

    # A row that sees no key has no largest score and no weights: these stand for both.
    largest = torch.full((len(x.q), 1), torch.finfo(torch.float64).min, dtype=torch.float64)
    totals = torch.zeros_like(largest)
    output = torch.zeros(len(x.q), x.v.shape[-1], dtype=torch.float64)
    max_score = 0.0

    all_scores = []
    for tile in x.tiles:
        scores = (x.scale * x.q[tile.rows]) @ x.k[tile.keys].double().T
        if tile.unseen is not None:
            scores.masked_fill_(tile.unseen, 0)
        lowest, highest = torch.aminmax(scores)
        max_score = max(max_score, -float(lowest), float(highest))
        if tile.unseen is not None:
            scores.masked_fill_(tile.unseen, -torch.inf)
        largest[tile.rows] = torch.maximum(largest[tile.rows], scores.amax(dim=-1, keepdim=True))
        all_scores.append(scores)
    for tile, scores in zip(x.tiles, all_scores, strict=True):
        exps = scores.sub_(largest[tile.rows]).exp_()
        totals[tile.rows] += exps.sum(dim=-1, keepdim=True)
        output[tile.rows] += exps @ x.v[tile.keys].double()
    totals.clamp_(min=torch.finfo(torch.float64).tiny)
    return output.div_(totals), Softmax(all_scores, totals, largest), max_score


def _backward(
    x: Operands,
    softmax: Softmax,
    output: torch.Tensor,
    d_out: torch.Tensor,
    dk: torch.Tensor,
    dv: torch.Tensor,
) -> torch.Tensor:
    """dQ `[r, D]`; what these rows add to dK `[Lk, D]` and dV `[Lk, Dv]` is added to `dk` and `dv`.

    With Δ = Σⱼ P∘dP = dO·O per row (Dao et al., FlashAttention, 2022, appendix B.2): dV = Pᵀ·dO, dP = dO·Vᵀ,
    dS = P∘(dP − Δ), dQ = scale·dS·K, dK = scale·dSᵀ·Q. What P is divided by, and the scale, go with dO and Δ.
    """
    import torch

    dq = torch.zeros_like(x.q)
    delta = (d_out * output).sum(dim=-1, keepdim=True) * x.scale / softmax.totals
    d_out = d_out / softmax.totals
    for tile, exps in zip(x.tiles, softmax.exps, strict=True):
        dv[tile.keys].addmm_(exps.T, d_out[tile.rows])
        d_scores = (x.scale * d_out[tile.rows]) @ x.v[tile.keys].double().T
        d_scores.sub_(delta[tile.rows]).mul_(exps)
        dq[tile.rows] += d_scores @ x.k[tile.keys].double()
        dk[tile.keys].addmm_(d_scores.T, x.q[tile.rows])
    return dq
