"""Attention over blocks of keys with an online softmax: O(Lq·block) memory instead of O(Lq·Lk).

Milakov & Gimelshein, Online normalizer calculation for softmax (2018), for one pass over the scores; Rabe &
Staats, Self-attention Does Not Need O(n²) Memory (2021), for recomputing them in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbench.implementation import AttentionInputs, Implementation, Options
from attnbench.masks import Mask
from attnbench.workload import Workload

if TYPE_CHECKING:
    import torch

__all__ = ["IMPLEMENTATION"]


@dataclass(frozen=True, slots=True)
class Block:
    """Keys, the queries that see any of them, and which of those queries (counted from the first) not all."""

    keys: slice
    queries: slice
    partial: slice | None


def _span(indices: np.ndarray[Any, np.dtype[np.intp]]) -> slice | None:
    """The smallest slice that holds all of the ascending `indices`."""
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else None


@lru_cache(maxsize=8)
def key_blocks(mask: Mask, size: int) -> tuple[Block, ...]:
    """The blocks of `size` keys that some query sees, in any batch element; kept, as masks are."""
    starts, stops = mask.key_ranges()
    blocks = []
    for low in range(0, mask.kv_len, size):
        high = min(low + size, mask.kv_len)
        queries = _span(np.flatnonzero(((starts < high) & (stops > low) & (starts < stops)).any(axis=0)))
        if queries is not None:
            all_seen = ((starts[:, queries] <= low) & (stops[:, queries] >= high)).all(axis=0)
            blocks.append(Block(slice(low, high), queries, _span(np.flatnonzero(~all_seen))))
    return tuple(blocks)


# Below, queries are `[B, Hkv, G, Lq, D]`: G query heads share a key head. All is computed in float32, or in
# float64 for float64 inputs.


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.itemsize < 4 else tensor


def _grouped(tensor: torch.Tensor, kv_heads: int) -> torch.Tensor:
    batch, heads, q_len, head_dim = tensor.shape
    return _widened(tensor.reshape(batch, kv_heads, heads // kv_heads, q_len, head_dim))


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`[B, Hkv, G, n, m]` · `[B, Hkv, m, p]`: groups become rows, so that b is not copied for each."""
    return (a.flatten(2, 3) @ b).reshape(*a.shape[:-1], b.shape[-1])


def _outer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`[B, Hkv, G, n, m]`ᵀ · `[B, Hkv, G, n, p]` -> `[B, Hkv, m, p]`, summed over the group."""
    return a.flatten(2, 3).mT @ b.flatten(2, 3)


def _scores(q: torch.Tensor, k: torch.Tensor, mask: Mask, scale: float, block: Block) -> torch.Tensor:
    """One block's scores `[B, Hkv, G, queries, keys]`, −∞ where the mask does not allow."""
    import torch

    scores = _product(q, k.mT).mul_(scale)
    if block.partial is not None:
        first = block.queries.start
        rows = slice(first + block.partial.start, first + block.partial.stop)
        start, stop = (
            torch.from_numpy(ends[:, rows]).to(q.device)[:, None, None, :, None] for ends in mask.key_ranges()
        )
        keys = torch.arange(block.keys.start, block.keys.stop, device=q.device)
        scores[..., block.partial, :].masked_fill_((keys < start) | (keys >= stop), -math.inf)
    return scores


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask, scale: float, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output `[B, H, Lq, D]` in q's dtype, and log Σ exp(score) `[B, Hkv, G, Lq, 1]`, −∞ without keys."""
    wide = _grouped(q, k.shape[1])
    output = wide.new_zeros(wide.shape)
    total = wide.new_zeros((*wide.shape[:-1], 1))
    largest = wide.new_full(total.shape, -math.inf)
    for block in key_blocks(mask, size):
        k_block, v_block = (_widened(each[..., block.keys, :]) for each in (k, v))
        rows = (..., block.queries, slice(None))
        scores = _scores(wide[rows], k_block, mask, scale, block)
        before = largest[rows]
        after = before.maximum(scores.amax(dim=-1, keepdim=True))
        # A query that has seen no key yet has the largest score −∞, and −∞ − (−∞) is no number.
        shift = after.masked_fill(after == -math.inf, 0)
        weights = scores.sub_(shift).exp_()
        shrink = (before - shift).exp_()
        total[rows] = total[rows].mul_(shrink).add_(weights.sum(dim=-1, keepdim=True))
        output[rows] = output[rows].mul_(shrink).add_(_product(weights, v_block))
        largest[rows] = after
    logsumexp = largest.add_(total.log())
    output /= total.masked_fill_(total == 0, 1)
    return output.flatten(1, 2).to(q.dtype), logsumexp


def backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    scale: float,
    size: int,
    output: torch.Tensor,
    logsumexp: torch.Tensor,
    grad_out: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dq, dk and dv in the inputs' dtypes, from what `forward` returned and the gradient of its output.

    Each block's weights are recomputed: P = exp(score − logsumexp); then, with Δ = Σ dO∘O per row,
    dV = Pᵀ·dO, dS = P∘(dO·Vᵀ − Δ), dQ = scale·dS·K, dK = scale·dSᵀ·Q (FlashAttention, 2022, appendix B.2).
    """
    wide, d_out = _grouped(q, k.shape[1]), _grouped(grad_out, k.shape[1])
    delta = (d_out * _grouped(output, k.shape[1])).sum(dim=-1, keepdim=True)
    shift = logsumexp.masked_fill(logsumexp == -math.inf, 0)
    dq = wide.new_zeros(wide.shape)
    dk, dv = wide.new_zeros(k.shape), wide.new_zeros(v.shape)
    for block in key_blocks(mask, size):
        k_block, v_block = (_widened(each[..., block.keys, :]) for each in (k, v))
        rows = (..., block.queries, slice(None))
        weights = _scores(wide[rows], k_block, mask, scale, block).sub_(shift[rows]).exp_()
        dv[..., block.keys, :] = _outer(weights, d_out[rows])
        d_scores = _product(d_out[rows], v_block.mT).sub_(delta[rows]).mul_(weights).mul_(scale)
        dq[rows] += _product(d_scores, k_block)
        dk[..., block.keys, :] = _outer(d_scores, wide[rows])
    return dq.flatten(1, 2).to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """Any workload, with blocks of at least one key."""
    del workload, device
    size = options["block"]
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return None
    return f"block must be a whole number of keys, at least 1; got {size!r}"


def load(workload: Workload, options: Options) -> Callable[[AttentionInputs], torch.Tensor]:
    """Attention that holds scores of `[B, H, Lq, block]` at a time, in the backward pass too."""
    del workload
    import torch

    size = int(options["block"])

    class Chunked(torch.autograd.Function):
        """Keeps the inputs, the output and one number a row for the backward pass, nothing of size Lk."""

        @staticmethod
        def forward(
            ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask, scale: float
        ) -> torch.Tensor:
            output, logsumexp = forward(q, k, v, mask, scale, size)
            ctx.save_for_backward(q, k, v, output, logsumexp)
            ctx.mask, ctx.scale = mask, scale
            return output

        @staticmethod
        def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            q, k, v, output, logsumexp = ctx.saved_tensors
            grads = backward(q, k, v, ctx.mask, ctx.scale, size, output, logsumexp, grad_outputs[0])
            return (*grads, None, None)

    def chunked(x: AttentionInputs) -> torch.Tensor:
        apply: Callable[..., torch.Tensor] = Chunked.apply
        return apply(x.q, x.k, x.v, x.mask, x.scale)

    return chunked


IMPLEMENTATION = Implementation(
    name="chunked",
    operation="attention",
    framework="torch",
    summary="online softmax over blocks of keys, O(L·block) memory",
    load=load,
    supports=supports,
    options={"block": 256},
)
