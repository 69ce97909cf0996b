"""Attention over blocks of queries and keys with an online softmax: one tile of scores in memory at a time.

Milakov & Gimelshein, Online normalizer calculation for softmax (2018), for one pass over the scores; Rabe &
Staats, Self-attention Does Not Need O(n²) Memory (2021), for recomputing them in the backward pass; Dao et
al., FlashAttention (2022), appendix B, for that pass's formulas.

What makes it fast on a CPU: a tile of scores is worked on in place, in a piece of memory that stays in the
cache; tiles that the mask hides are skipped, and only those that it cuts through are masked; scores are in
units of log 2, since exp2 is a few instructions where exp is slow; all else is matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attnbench.implementation import AttentionInputs, Implementation, Options
from attnbench.masks import Mask
from attnbench.workload import Workload
from attnbench_impls.blocks import LOG2_E, Plan, Tile, plan, supports

if TYPE_CHECKING:
    import torch

__all__ = ["IMPLEMENTATION"]

# Below, N = B·Hkv counts key heads over the batch, G query heads share each; n of N are worked on at once. R
# queries are `[n, R·G, D]`: the heads of one position beside one another, so that positions are slices of
# rows, and one product serves a group without a copy of its keys. All is in float32, or float64.


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.itemsize < 4 else tensor


def _grouped(tensor: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """`[B, H, Lq, D]` -> `[N, Lq, G, D]`: the same memory, where that can be."""
    batch, heads, q_len, head_dim = tensor.shape
    return tensor.reshape(batch * kv_heads, heads // kv_heads, q_len, head_dim).transpose(1, 2)


def _ungrouped(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """`[N, Lq, G, D]` -> `[B, H, Lq, D]`, the same memory."""
    return tensor.transpose(1, 2).reshape(-1, heads, tensor.shape[1], tensor.shape[3])


def _product(memory: torch.Tensor, a: torch.Tensor, b: torch.Tensor, factor: float = 1) -> torch.Tensor:
    """factor · a·b, `[n, i, j]` · `[n, j, k]` -> `[n, i, k]`, in `memory`, which is used again and again."""
    n, i, k = a.shape[0], a.shape[1], b.shape[2]
    # beta=0: what is in the memory counts for nothing.
    return memory[: n * i * k].view(n, i, k).baddbmm_(a, b, beta=0, alpha=factor)


def _plan(mask: Mask, q: torch.Tensor, kv_heads: int, q_size: int, size: int) -> Plan:
    """What to compute, with the mask's patterns on q's device."""
    import torch

    device = str(q.device)
    return plan(
        mask,
        kv_heads,
        q.shape[1] // kv_heads,
        q_size,
        size,
        lambda array: torch.from_numpy(array).to(device),
        device,
    )


def _rows(tile: Tile, group: int) -> slice:
    return slice(tile.rows.start * group, tile.rows.stop * group)


def _hide(scores: torch.Tensor, tile: Tile, group: int) -> None:
    """Set the scores `[n, rows·G, keys]` that the mask hides to −∞."""
    if tile.hidden is not None:
        per_head = scores.view(len(scores), -1, group, scores.shape[2])
        per_head[:, tile.cut].masked_fill_(tile.hidden(), -math.inf)


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask, scale: float, q_size: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output `[B, H, Lq, Dv]` in q's dtype, and log2 Σ exp(score) of every query, `[N, Lq, G, 1]`."""
    import torch

    heads, kv_heads, v_dim = q.shape[1], k.shape[1], v.shape[-1]
    group = heads // kv_heads
    queries, keys, values = _grouped(q, kv_heads), k.flatten(0, 1), v.flatten(0, 1)
    output = _grouped(q.new_empty((*q.shape[:3], v_dim)), kv_heads)
    computed = torch.promote_types(q.dtype, torch.float32)
    logsumexp = queries.new_empty((*queries.shape[:3], 1), dtype=computed)
    # Stands for the largest score of a query that has seen none. Unlike −∞ it can be subtracted from itself.
    lowest = torch.finfo(computed).min
    planned = _plan(mask, q, kv_heads, q_size, size)
    memory = queries.new_empty(planned.largest_tile, dtype=computed)
    for part, block in planned.work:
        q_block = _widened(queries[part, block.queries].flatten(1, 2))
        largest = q_block.new_full((*q_block.shape[:2], 1), lowest)
        total = torch.zeros_like(largest)
        summed = q_block.new_zeros((*q_block.shape[:2], v_dim))
        for tile in block.tiles():
            k_tile, v_tile = _widened(keys[part, tile.keys]), _widened(values[part, tile.keys])
            rows = _rows(tile, group)
            scores = _product(memory, q_block[:, rows], k_tile.mT, scale * LOG2_E)
            _hide(scores, tile, group)
            before = largest[:, rows]
            after = before.maximum(scores.amax(dim=-1, keepdim=True))
            weights = scores.sub_(after).exp2_()
            # What was summed so far is in units of exp2(before).
            shrink = torch.exp2(before - after)
            before.copy_(after)
            total[:, rows].mul_(shrink).add_(weights.sum(dim=-1, keepdim=True))
            summed[:, rows].mul_(shrink).baddbmm_(weights, v_tile)
        # A query that sees a key has a total of 1 at least, exp2(0) for its largest score. The others get 0.
        total.clamp_(min=1)
        there = (part, block.queries)
        output[there] = summed.div_(total).view(output[there].shape)
        logsumexp[there] = largest.add_(total.log2_()).view(logsumexp[there].shape)
    return _ungrouped(output, heads), logsumexp


def backward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    scale: float,
    q_size: int,
    size: int,
    output: torch.Tensor,
    logsumexp: torch.Tensor,
    grad_out: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dq, dk and dv in the inputs' dtypes, from what `forward` returned and the gradient of its output.

    Each tile's weights are recomputed: P = exp(score − logsumexp); then, with Δ = Σ dO∘O per query,
    dV = Pᵀ·dO, dS = P∘(dO·Vᵀ − Δ), dQ = scale·dS·K, dK = scale·dSᵀ·Q.
    """
    heads, kv_heads = q.shape[1], k.shape[1]
    group = heads // kv_heads
    queries, keys, values = _grouped(q, kv_heads), k.flatten(0, 1), v.flatten(0, 1)
    outputs, d_outputs = _grouped(output, kv_heads), _grouped(grad_out, kv_heads)
    dq = _grouped(q.new_empty(q.shape), kv_heads)
    dk, dv = (each.new_zeros(each.shape, dtype=logsumexp.dtype) for each in (keys, values))
    planned = _plan(mask, q, kv_heads, q_size, size)
    memory = logsumexp.new_empty((2, planned.largest_tile))
    for part, block in planned.work:
        q_block, out, d_out, shift = (
            _widened(each[part, block.queries].flatten(1, 2))
            for each in (queries, outputs, d_outputs, logsumexp)
        )
        delta = (d_out * out).sum(dim=-1, keepdim=True)
        dq_block = q_block.new_zeros(q_block.shape)
        for tile in block.tiles():
            k_tile, v_tile = _widened(keys[part, tile.keys]), _widened(values[part, tile.keys])
            rows = _rows(tile, group)
            q_rows, d_rows = q_block[:, rows], d_out[:, rows]
            weights = _product(memory[0], q_rows, k_tile.mT, scale * LOG2_E)
            _hide(weights, tile, group)
            weights.sub_(shift[:, rows]).exp2_()
            dv[part, tile.keys] += weights.mT @ d_rows
            d_scores = _product(memory[1], d_rows, v_tile.mT).sub_(delta[:, rows]).mul_(weights)
            dq_block[:, rows].baddbmm_(d_scores, k_tile)
            dk[part, tile.keys] += d_scores.mT @ q_rows
        there = (part, block.queries)
        dq[there] = dq_block.mul_(scale).view(dq[there].shape)
    return _ungrouped(dq, heads), dk.mul_(scale).view_as(k).to(k.dtype), dv.view_as(v).to(v.dtype)


def load(workload: Workload, options: Options) -> Callable[[AttentionInputs], torch.Tensor]:
    """Attention that holds a tile of scores, `q_block` × `block`, of some heads, in the backward pass too."""
    del workload
    import torch

    q_size, size = int(options["q_block"]), int(options["block"])

    class Chunked(torch.autograd.Function):
        """Keeps the inputs, the output and one number a row for the backward pass, nothing of size Lq·Lk."""

        @staticmethod
        def forward(
            ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask, scale: float
        ) -> torch.Tensor:
            output, logsumexp = forward(q, k, v, mask, scale, q_size, size)
            ctx.save_for_backward(q, k, v, output, logsumexp)
            ctx.mask, ctx.scale = mask, scale
            return output

        @staticmethod
        def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            q, k, v, output, logsumexp = ctx.saved_tensors
            grads = backward(q, k, v, ctx.mask, ctx.scale, q_size, size, output, logsumexp, grad_outputs[0])
            return (*grads, None, None)

    def chunked(x: AttentionInputs) -> torch.Tensor:
        apply: Callable[..., torch.Tensor] = Chunked.apply
        return apply(x.q, x.k, x.v, x.mask, x.scale)

    return chunked


IMPLEMENTATION = Implementation(
    name="chunked",
    operation="attention",
    framework="torch",
    summary="online softmax over blocks of queries and keys, one tile of scores in memory",
    memory="O(B·H·Lq + q_block·block); backward of halves: + O(B·Hkv·Lk·(D + Dv)), dk and dv in float32",
    flops="O(B·H·Lq·Lk·D), without the tiles that the mask hides",
    source="Rabe & Staats, Self-attention Does Not Need O(n²) Memory (2021)",
    load=load,
    supports=supports,
    options={"block": 256, "q_block": 512},
)
