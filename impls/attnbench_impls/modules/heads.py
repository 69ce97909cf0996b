"""Features to heads and back. Heads are a reading of the features: H slices of D beside one another."""

from __future__ import annotations

from torch import Tensor

__all__ = ["concatenate_heads", "split_heads"]


def split_heads(x: Tensor, heads: int, batch_first: bool) -> Tensor:
    """`[B, L, H·D]`, or `[L, B, H·D]` unless `batch_first`, to `[B, H, L, D]`; the same memory."""
    per_head = x.view(*x.shape[:-1], heads, x.shape[-1] // heads)
    return per_head.permute(0, 2, 1, 3) if batch_first else per_head.permute(1, 2, 0, 3)


def concatenate_heads(o: Tensor, batch_first: bool) -> Tensor:
    """`[B, H, L, D]` to `[B, L, H·D]`, or `[L, B, H·D]` unless `batch_first`."""
    per_position = o.permute(0, 2, 1, 3) if batch_first else o.permute(2, 0, 1, 3)
    return per_position.flatten(-2)
