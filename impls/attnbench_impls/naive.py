"""Attention as the textbooks write it: every intermediate in memory, in the inputs' own dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attnbench.implementation import AttentionInputs, Implementation, Options
from attnbench.workload import Workload

if TYPE_CHECKING:
    import torch

__all__ = ["IMPLEMENTATION"]


def load(workload: Workload, options: Options) -> Callable[[AttentionInputs], torch.Tensor]:
    """softmax(scale·q·kᵀ)·v with the scores and the weights `[B, H, Lq, Lk]` in memory."""
    del workload, options
    import torch

    def naive(x: AttentionInputs) -> torch.Tensor:
        batch, heads, q_len, head_dim = x.q.shape
        kv_heads, kv_len = x.k.shape[1:3]
        # The query heads that share a key head become rows of one product, so that no key is copied.
        grouped = (batch, kv_heads, heads // kv_heads * q_len)

        scores = (x.q.reshape(*grouped, head_dim) @ x.k.mT) * x.scale  # [B, Hkv, G·Lq, Lk]
        allowed = x.mask.to_bool(x.q.device)  # [B or 1, 1, Lq, Lk]
        if allowed is not None:
            scores = scores.view(batch, heads, q_len, kv_len)
            scores = torch.where(allowed, scores, -torch.inf).view(*grouped, kv_len)
        weights = torch.softmax(scores, dim=-1)
        blind = x.mask.blind_queries(x.q.device)  # [B or 1, 1, Lq, 1]
        if blind is not None:  # the softmax of a row without keys is 0/0; its output is 0
            weights = weights.view(batch, heads, q_len, kv_len).masked_fill(blind, 0).view_as(scores)
        output: torch.Tensor = weights @ x.v
        return output.view(batch, heads, q_len, x.v.shape[-1])

    return naive


IMPLEMENTATION = Implementation(
    name="naive",
    operation="attention",
    framework="torch",
    summary="softmax(QKᵀ/√d)·V, every intermediate in memory",
    memory="O(B·H·Lq·Lk)",
    flops="O(B·H·Lq·Lk·D)",
    source="Vaswani et al., Attention Is All You Need (2017), §3.2.1",
    load=load,
)
