"""The right answer: attention in float64, as its definition reads, a few query rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attnbench.inputs import DrawnAttention
from attnbench.reference.rows import pieces, sampled_rows

if TYPE_CHECKING:
    import torch

__all__ = ["REFERENCES", "Answer", "Sensitivity", "answer", "grad_out_on"]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How far a tensor moves per unit of relative rounding error in what cancels: largest entry, L2 norm.

    dS = P∘(dP − Δ) is a difference of what may be nearly equal, as where one key gets all the weight; then
    dq and dk are far smaller than what they are made of. Δ = dO·O is wrong by about eps·‖dO∘O‖ per row, in
    whatever way it is computed. That, propagated in quadrature to dq and dk, is what this holds for eps = 1.
    """

    max_abs: float = 0.0
    norm: float = 0.0


@dataclass(frozen=True)
class Answer:
    """The float64 results of one workload on its sampled query rows.

    `rows` int64 `[R]`, ascending. `results` holds what the pass computes: o and dq `[B, H, R, D]`, on the
    rows; dk and dv `[B, Hkv, Lk, D]`, whole, for a grad_out that is zero outside the rows (`grad_out_on`).
    `max_score` is the largest |score| that a softmax over these rows sees. `sensitivities` are of dq and dk.
    """

    rows: npt.NDArray[np.int64]
    results: dict[str, torch.Tensor]
    max_score: float
    sensitivities: dict[str, Sensitivity] = field(default_factory=dict)


class _Squares:
    """The largest and the sum of squares that are added bit by bit."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.sum = 0.0

    def add(self, squares: torch.Tensor) -> None:
        self.largest = max(self.largest, float(squares.max()))
        self.sum += float(squares.sum())

    def root(self) -> Sensitivity:
        return Sensitivity(math.sqrt(self.largest), math.sqrt(self.sum))


def grad_out_on(rows: npt.NDArray[np.int64], grad_out: torch.Tensor) -> torch.Tensor:
    """`grad_out` `[B, H, Lq, D]` with zeros in all other rows, so that dk and dv need no other row."""
    import torch

    kept = torch.zeros_like(grad_out)
    kept[:, :, rows] = grad_out[:, :, rows]
    return kept


def _attention(drawn: DrawnAttention) -> Answer:
    """o = softmax(scale·q·kᵀ)·v and its gradients.

    With P the softmax, dO = grad_out, Δ = Σⱼ P∘dP per row (Dao et al., FlashAttention, 2022, appendix B.2):
    dV = Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP − Δ), dQ = scale·dS·K, dK = scale·dSᵀ·Q.
    """
    import torch

    shape, scale = drawn.workload.shape, drawn.scale
    rows = sampled_rows(shape.q_len, drawn.seed)
    group = shape.heads // shape.kv_heads  # query heads that share one key head
    o = torch.zeros(shape.batch, shape.heads, len(rows), shape.head_dim, dtype=torch.float64)
    grad_out = drawn.grad_out
    if grad_out is not None:
        dq = torch.zeros_like(o)
        dk = torch.zeros(drawn.k.shape, dtype=torch.float64)
        dv = torch.zeros_like(dk)
    starts, stops = (torch.from_numpy(ends[:, rows]) for ends in drawn.mask().key_ranges())
    max_score = 0.0

    dq_squares, dk_squares = _Squares(), _Squares()

    for b in range(shape.batch):
        start, stop = (ends[b if ends.shape[0] > 1 else 0] for ends in (starts, stops))  # [R]
        for h in range(shape.heads):
            g = h // group
            if h % group == 0:
                k, v = drawn.k[b, g].double(), drawn.v[b, g].double()  # [Lk, D]
                dk_moved = torch.zeros_like(k) if grad_out is not None else k
            for piece in pieces(len(rows), shape.kv_len):
                # Only the keys that some row of the piece sees, and at least one.
                low = min(int(start[piece].min()), shape.kv_len - 1)
                high = max(int(stop[piece].max()), low + 1)
                keys = torch.arange(low, high)
                seen = (keys >= start[piece, None]) & (keys < stop[piece, None])  # [r, n]
                q = drawn.q[b, h, rows[piece]].double()  # [r, D]

                scores = (q @ k[low:high].T).mul_(scale)  # [r, n]
                max_score = max(max_score, float(torch.where(seen, scores, 0.0).abs_().max()))
                scores.masked_fill_(~seen, -torch.inf)
                # A row that sees no key has no largest score and no weights: 0 stands for both.
                largest = scores.amax(dim=-1, keepdim=True).clamp_(min=torch.finfo(torch.float64).min)
                weights = scores.sub_(largest).exp_()
                weights /= weights.sum(dim=-1, keepdim=True).clamp_(min=torch.finfo(torch.float64).tiny)
                output = weights @ v[low:high]
                o[b, h, piece] = output

                if grad_out is not None:
                    d_out = grad_out[b, h, rows[piece]].double()  # [r, D]
                    dv[b, g, low:high] += weights.T @ d_out
                    d_scores = d_out @ v[low:high].T  # dP until Δ is taken off, [r, n]
                    d_scores -= (weights * d_scores).sum(dim=-1, keepdim=True)
                    d_scores *= weights
                    dq[b, h, piece] = scale * (d_scores @ k[low:high])
                    dk[b, g, low:high] += scale * (d_scores.T @ q)

                    moved = weights.square_()
                    moved *= (scale * d_out * output).square().sum(dim=-1, keepdim=True)
                    dq_squares.add(moved @ k[low:high].square())
                    dk_moved[low:high] += moved.T @ q.square()
            if grad_out is not None and h % group == group - 1:
                dk_squares.add(dk_moved)

    results = {"forward": {"o": o}}
    if grad_out is not None:
        results["backward"] = {"dq": dq, "dk": dk, "dv": dv}
        results["forward_backward"] = {"o": o, "dq": dq, "dk": dk, "dv": dv}
    return Answer(
        rows=rows,
        results=results[drawn.workload.pass_],
        max_score=max_score,
        sensitivities={} if grad_out is None else {"dq": dq_squares.root(), "dk": dk_squares.root()},
    )


#: The reference of each operation: `drawn -> answer`.
REFERENCES: dict[str, Callable[[DrawnAttention], Answer]] = {"attention": _attention}


def answer(drawn: DrawnAttention) -> Answer:
    """The right answer to what was drawn."""
    return REFERENCES[drawn.workload.operation](drawn)
