"""Scaled dot-product attention as the textbooks write it: Vaswani et al. (2017), §3.2.1.

Of all cores this alone can add a bias to the scores, drop weights out, and hand the weights out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import dropout as dropped

from attnbench_impls.modules.masks import Masking

__all__ = ["attend", "attention_weights"]


def attention_weights(q: Tensor, k: Tensor, masking: Masking, scale: float) -> Tensor:
    """softmax(scale·q·kᵀ + bias) over the keys that are not hidden, `[B, H, Lq, Lk]`.

    q `[B, H, Lq, D]`, k `[B, Hkv, Lk, D]`. A query from which every key is hidden has weights of 0.
    """
    batch, heads, q_len, _ = q.shape
    kv_heads, kv_len = k.shape[1:3]
    # The query heads that share a key head become rows of one product, so that no key is copied.
    rows = (q * scale).reshape(batch, kv_heads, heads // kv_heads * q_len, -1)
    scores = (rows @ k.mT).view(batch, heads, q_len, kv_len)
    if masking.bias is not None:
        scores = scores + masking.bias.to(scores.dtype)
    if masking.hidden is None:
        return torch.softmax(scores, dim=-1)
    blind = masking.blind
    if blind is None:
        return torch.softmax(scores.masked_fill(masking.hidden, -math.inf), dim=-1)
    # The softmax of a row without keys would be 0/0, and its gradient NaN: such a row sees all, for nothing.
    weights = torch.softmax(scores.masked_fill(masking.hidden & ~blind, -math.inf), dim=-1)
    return weights.masked_fill(blind, 0)


def attend(
    q: Tensor, k: Tensor, v: Tensor, masking: Masking, scale: float, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The output `[B, H, Lq, Dv]` and the weights that made it, `[B, H, Lq, Lk]`.

    q `[B, H, Lq, D]`, k `[B, Hkv, Lk, D]`, v `[B, Hkv, Lk, Dv]`; `dropout` is the probability of a weight to
    be dropped, the others are scaled up.
    """
    weights = attention_weights(q, k, masking, scale)
    if dropout > 0:
        weights = dropped(weights, dropout)
    batch, heads, q_len, kv_len = weights.shape
    kv_heads = v.shape[1]
    rows = weights.view(batch, kv_heads, heads // kv_heads * q_len, kv_len)
    return (rows @ v).view(batch, heads, q_len, v.shape[-1]), weights
