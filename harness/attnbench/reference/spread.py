"""How far rounding moves each number of a result: the scale that its error is to be read on.

Every implementation rounds the softmax's weights, the gradients' intermediates and the sums it keeps, each by
up to eps of itself and independently of one another, whatever its order. Propagated in quadrature to one
number of a result, for eps = 1, that is its *spread*:

    o:   √ Σⱼ Pᵢⱼ²·vⱼ²                       dv:  √ Σᵢ Pᵢⱼ²·dOᵢ²
    dq:  scale·√ Σⱼ Tᵢⱼ²·kⱼ²                 dk:  scale·√ Σᵢ Tᵢⱼ²·qᵢ²
    with Tᵢⱼ² = Pᵢⱼ²·(2·‖dOᵢ∘vⱼ‖² + ‖dOᵢ∘Oᵢ‖²)

T is what rounding makes of dS = P∘(dP − Δ): dP = dO·v is off by eps·‖dO∘v‖, as is P·dP by P's own error, and
Δ = dO·O by eps·‖dO∘O‖. Where one key has all the weight, dP = Δ, and dq and dk are all rounding. The square
root of a sum of squares, for it is independent errors that are summed (Higham & Mary, A New Approach to
Probabilistic Rounding Error Analysis, 2019), is far below the sum of magnitudes and yet not 0 where the sum
itself cancels. Float32 is precise enough for a scale.

*The maximum.* A softmax written by hand subtracts the largest score, and gradients flow through that too:
−Σⱼ dSᵢⱼ, which is 0 but for rounding, goes to the key of the largest score. There T² has Σⱼ 2·Pᵢⱼ²·‖dOᵢ∘vⱼ‖²
+ ‖dOᵢ∘Oᵢ‖² besides (an error of Δ is common to the row, whose weights sum up to 1). Where other keys' scores
are next to as large, rounding may choose them.

*Scores.* In halves an implementation may round q and k times a part of the scale, and the scores: they
move by δᵢⱼ² = scale²·‖qᵢ∘kⱼ‖² + scoreᵢⱼ². By the derivatives that adds, with Aᵢ = Σⱼ Pᵢⱼ²·δᵢⱼ² and
Bᵢ = Σⱼ dSᵢⱼ²·δᵢⱼ²,

    to o's square      Σⱼ Pᵢⱼ²·δᵢⱼ²·(vⱼ − Oᵢ)²
    to Pᵢⱼ² in dv's    Pᵢⱼ²·λᵢⱼ  with λᵢⱼ = (1 − 2·Pᵢⱼ)·δᵢⱼ² + Aᵢ
    to Tᵢⱼ²            dSᵢⱼ²·λᵢⱼ + Pᵢⱼ²·Bᵢ

From float32 on, scores are as precise as whatever is made of them, and nothing is added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnbench.reference.answer import smallest_step
from attnbench.reference.tiles import Operands, Softmax, Tile

if TYPE_CHECKING:
    import torch

__all__ = ["add_backward", "forward"]


def _squared_weights(tile: Tile, exps: torch.Tensor, totals: torch.Tensor, smallest: float) -> torch.Tensor:
    """P² `[rows, keys]`, at least `smallest`² (where that is any number) where the mask allows, else 0."""
    squares = exps.float().div_(totals[tile.rows]).square_()
    if smallest**2 < 1e-30:
        return squares
    squares.add_(smallest**2)
    return squares if tile.unseen is None else squares.masked_fill_(tile.unseen, 0)


def _rounds_scores(dtype: torch.dtype) -> bool:
    """Whether scores may be less precise than float32."""
    import torch

    return torch.finfo(dtype).eps > torch.finfo(torch.float32).eps


def _moved_scores(x: Operands, tile: Tile) -> torch.Tensor:
    """δ² `[rows, keys]`, float32: the squares of how far rounding moves the scores of a tile."""
    q, k = (x.scale * x.q[tile.rows]).float(), x.k[tile.keys].float()
    return (q @ k.T).square_().addmm_(q.square(), k.square().T)


def forward(x: Operands, softmax: Softmax, output: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The squared spread of o `[r, Dv]`, float32, for kernels that compute in `dtype`; output `[r, Dv]`."""
    import torch

    totals, output, smallest = softmax.totals.float(), output.float(), smallest_step(dtype)
    squares = torch.zeros(output.shape, dtype=torch.float32)
    for tile, exps in zip(x.tiles, softmax.exps, strict=True):
        weights = _squared_weights(tile, exps, totals, smallest)
        v = x.v[tile.keys].float()
        if _rounds_scores(dtype):
            moved = _moved_scores(x, tile).mul_(weights)
            mean = output[tile.rows]
            from_mean = (moved @ v.square()).addcmul_(moved @ v, mean, value=-2)
            from_mean.addcmul_(moved.sum(dim=-1, keepdim=True), mean.square())
            squares[tile.rows] += from_mean.clamp_(min=0)  # below 0 by rounding alone
        squares[tile.rows].addmm_(weights, v.square())
    return squares


def add_backward(
    x: Operands,
    softmax: Softmax,
    output: torch.Tensor,
    d_out: torch.Tensor,
    dtype: torch.dtype,
    dk: torch.Tensor,
    dv: torch.Tensor,
) -> torch.Tensor:
    """The squared spread of dq `[r, D]`; those of dk and dv are added to `dk` `[Lk, D]` and `dv` `[Lk, Dv]`.

    For kernels that compute in `dtype`; output and d_out `[r, Dv]`.
    """
    import torch

    totals, smallest = softmax.totals.float(), smallest_step(dtype)
    dq = torch.zeros(x.q.shape, dtype=torch.float32)
    q_squares, d_out_squares = (x.scale * x.q).float().square(), d_out.float().square()
    delta = (d_out * output).float().sum(dim=-1, keepdim=True)
    delta_squares = (d_out * output).float().square().sum(dim=-1, keepdim=True)
    # Of each row: what Σⱼ dSᵢⱼ may be in place of 0, A and B.
    sums, of_weights, of_gradients = delta_squares.clone(), torch.zeros_like(totals), torch.zeros_like(totals)
    parts = []
    for tile, exps in zip(x.tiles, softmax.exps, strict=True):
        weights = _squared_weights(tile, exps, totals, smallest)
        v = x.v[tile.keys].float()
        products = (d_out_squares[tile.rows] @ v.square().T).mul_(weights).mul_(2)
        sums[tile.rows] += products.sum(dim=-1, keepdim=True)
        moved = slopes = None
        if _rounds_scores(dtype):
            moved = _moved_scores(x, tile)
            slopes = (d_out[tile.rows].float() @ v.T).sub_(delta[tile.rows]).square_().mul_(weights)
            of_weights[tile.rows] += (weights * moved).sum(dim=-1, keepdim=True)
            of_gradients[tile.rows] += (slopes * moved).sum(dim=-1, keepdim=True)
        parts.append((weights, products, moved, slopes))
    next_to_largest = (-2 * torch.finfo(dtype).eps * softmax.largest.abs()).exp_()
    for tile, exps in zip(x.tiles, softmax.exps, strict=True):
        weights, squares, moved, slopes = parts.pop(0)
        squares.addcmul_(weights, delta_squares[tile.rows])
        squares.addcmul_((exps >= next_to_largest[tile.rows]).float(), sums[tile.rows])
        if moved is not None and slopes is not None:
            moved.addcmul_(weights.sqrt(), moved, value=-2).add_(of_weights[tile.rows]).clamp_(min=0)
            squares.addcmul_(slopes, moved).addcmul_(weights, of_gradients[tile.rows])
            weights.addcmul_(weights, moved)
        dv[tile.keys].addmm_(weights.T, d_out_squares[tile.rows])
        dq[tile.rows].addmm_(squares, (x.scale * x.k[tile.keys].float()).square())
        dk[tile.keys].addmm_(squares.T, q_squares[tile.rows])
    return dq
