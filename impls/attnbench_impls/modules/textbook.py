"""Scaled dot-product attention as the textbooks write it: Vaswani et al. (2017), §3.2.1.

Of all cores this alone can add a bias to the scores, drop weights out, and hand the weights out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout as dropped

__all__ = ["attend", "attention_weights"]


def attention_weights(q: Tensor, k: Tensor, scale: float, added: Tensor | None, dropout: float) -> Tensor:
    """softmax(scale·q·kᵀ + added) over the keys, `[B, H, Lq, Lk]`.

    q `[B, H, Lq, D]`, k `[B, Hkv, Lk, D]`; `added` broadcasts to the scores, and is −∞ where a key is
    hidden. `dropout` is the probability of a weight to be dropped; the others are scaled up.
    """
    batch, heads, q_len, head_dim = q.shape
    kv_heads, kv_len = k.shape[1:3]
    # The query heads that share a key head become rows of one product, so that no key is copied.
    rows = (q * scale).reshape(batch, kv_heads, heads // kv_heads * q_len, head_dim)
    scores = (rows @ k.mT).view(batch, heads, q_len, kv_len)
    if added is not None:
        scores = scores + added
    weights = torch.softmax(scores, dim=-1)
    return dropped(weights, dropout) if dropout > 0 else weights


def attend(weights: Tensor, v: Tensor) -> Tensor:
    """weights·v, `[B, H, Lq, Dv]`: weights `[B, H, Lq, Lk]`, v `[B, Hkv, Lk, Dv]`."""
    batch, heads, q_len, kv_len = weights.shape
    kv_heads = v.shape[1]
    rows = weights.view(batch, kv_heads, heads // kv_heads * q_len, kv_len)
    return (rows @ v).view(batch, heads, q_len, v.shape[-1])
