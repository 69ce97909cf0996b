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
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbench.reference.tiles import Tile

if TYPE_CHECKING:
    import torch

__all__ = ["add_backward", "forward", "smallest_weight"]


def smallest_weight(dtype: torch.dtype) -> float:
    """Below this a number is rounded to a fixed step, not to a share of itself; at least 1e-18.

    float16's smallest normal number matters; the squares of the others' underflow in float32.
    """
    import torch

    return max(float(torch.finfo(dtype).tiny), 1e-18)


def _squared_weights(tile: Tile, exps: torch.Tensor, totals: torch.Tensor, smallest: float) -> torch.Tensor:
    """P² `[rows, keys]`, at least `smallest`² (where that is any number) where the mask allows, else 0."""
    squares = exps.float().div_(totals[tile.rows]).square_()
    if smallest**2 < 1e-30:
        return squares
    squares.add_(smallest**2)
    return squares if tile.unseen is None else squares.masked_fill_(tile.unseen, 0)


def forward(
    v: torch.Tensor,
    tiles: Sequence[Tile],
    exps: Sequence[torch.Tensor],
    totals: torch.Tensor,
    smallest: float,
) -> torch.Tensor:
    """The squared spread of o `[r, Dv]`, float32; v `[Lk, Dv]`, P = exps / totals, `exps` by tile."""
    import torch

    totals = totals.float()
    squares = torch.zeros(len(totals), v.shape[-1], dtype=torch.float32)
    for tile, exps_of_tile in zip(tiles, exps, strict=True):
        weights = _squared_weights(tile, exps_of_tile, totals, smallest)
        squares[tile.rows].addmm_(weights, v[tile.keys].float().square())
    return squares


def add_backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    tiles: Sequence[Tile],
    exps: Sequence[torch.Tensor],
    totals: torch.Tensor,
    output: torch.Tensor,
    d_out: torch.Tensor,
    smallest: float,
    dk: torch.Tensor,
    dv: torch.Tensor,
) -> torch.Tensor:
    """The squared spread of dq `[r, D]`; those of dk and dv are added to `dk` `[Lk, D]` and `dv` `[Lk, Dv]`.

    q `[r, D]`, k `[Lk, D]`, v `[Lk, Dv]`; output and d_out `[r, Dv]`.
    """
    import torch

    totals = totals.float()
    dq = torch.zeros(q.shape, dtype=torch.float32)
    q_squares, d_out_squares = (scale * q).float().square(), d_out.float().square()
    delta_squares = (d_out * output).float().square().sum(dim=-1, keepdim=True)
    for tile, exps_of_tile in zip(tiles, exps, strict=True):
        weights = _squared_weights(tile, exps_of_tile, totals, smallest)
        dv[tile.keys].addmm_(weights.T, d_out_squares[tile.rows])
        v_squares = v[tile.keys].float().square()
        moved = torch.addmm(delta_squares[tile.rows], d_out_squares[tile.rows], v_squares.T, alpha=2)
        moved.mul_(weights)
        dq[tile.rows].addmm_(moved, (scale * k[tile.keys].float()).square())
        dk[tile.keys].addmm_(moved.T, q_squares[tile.rows])
    return dq
