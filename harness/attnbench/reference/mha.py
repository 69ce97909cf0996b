"""Multi-head attention as its definition reads (Vaswani et al., 2017, §3.2.2), in its tensors' dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from attnbench.masks import Mask
from attnbench.reference.positions import rotated
from attnbench.reference.steps import Steps

__all__ = ["Heads", "linear", "multi_head_attention"]

#: Scores held at a time: 32 MiB in float64.
PIECE_ELEMENTS = 4 * 1024 * 1024

#: What keeps the root mean square of queries and keys from being 0.
RMS_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Heads:
    """How many heads queries, keys and values have, and what is done to them beyond the projections."""

    heads: int
    kv_heads: int
    add_zero_attn: bool = False
    rotary: bool = False
    past_len: int = 0
    need_weights: str = "none"


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, steps: Steps) -> torch.Tensor:
    """x·Wᵀ + b `[…, out]`, W `[out, in]`."""
    product = steps(x @ weight.T)
    return product if bias is None else steps(product + bias)


def multi_head_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
    mask: Mask,
    setting: Heads,
    steps: Steps,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """o `[B, Lq, E]` of query `[B, Lq, E]`, key `[B, Lk, kdim]`, value `[B, Lk, vdim]`; and the weights.

    Those are `[B, Lq, S]`, averaged over heads, `[B, H, Lq, S]`, or None, as `need_weights` says; no gradient
    flows through them. `weights` are the parameters, by their names in torch's state_dict.
    """
    q, k, v = _projected(query, key, value, weights, steps)
    q, k, v = (_split(x, n) for x, n in ((q, setting.heads), (k, setting.kv_heads), (v, setting.kv_heads)))
    if setting.rotary:
        q, k = rotated(q, setting.past_len, steps), rotated(k, 0, steps)
    if "q_norm.scale" in weights:
        q = _rms_normalised(q, weights["q_norm.scale"], steps)
        k = _rms_normalised(k, weights["k_norm.scale"], steps)
    if "bias_k" in weights:
        k, v = (
            torch.cat([x, _split(weights[name], setting.kv_heads).expand(len(x), -1, -1, -1)], dim=2)
            for x, name in ((k, "bias_k"), (v, "bias_v"))
        )
    if setting.add_zero_attn:
        k, v = (torch.cat([x, torch.zeros_like(x[:, :, :1])], dim=2) for x in (k, v))

    o, shares = _attention(q, k, v, mask, setting, steps)
    merged = o.transpose(1, 2).flatten(2)
    return linear(merged, weights["out_proj.weight"], weights.get("out_proj.bias"), steps), shares


def _projected(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
    steps: Steps,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Q `[B, Lq, E]`, K and V `[B, Lk, kv_dim]`."""
    if "in_proj_weight" in weights:
        of_query, of_key, of_value = weights["in_proj_weight"].chunk(3)
    else:
        of_query, of_key, of_value = (weights[f"{name}_proj_weight"] for name in "qkv")
    sizes = [len(of_query), len(of_key), len(of_value)]
    bias = weights.get("in_proj_bias")
    b_q, b_k, b_v = (None, None, None) if bias is None else torch.split(bias, sizes)
    return (
        linear(query, of_query, b_q, steps),
        linear(key, of_key, b_k, steps),
        linear(value, of_value, b_v, steps),
    )


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """`[B, L, H·D]` -> `[B, H, L, D]`."""
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


def _rms_normalised(x: torch.Tensor, scale: torch.Tensor, steps: Steps) -> torch.Tensor:
    """x / √(mean(x²) + eps) · scale, over each head's features (Zhang & Sennrich, 2019)."""
    mean = steps(x).square().mean(dim=-1, keepdim=True)
    return steps(steps(steps(x) * (mean + RMS_EPS).rsqrt()) * scale)


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask, setting: Heads, steps: Steps
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """softmax(Q·Kᵀ/√D)·V `[B, H, Lq, D]`, one head and some queries at a time; and the weights."""
    batch, heads, q_len, _ = q.shape
    keys = k.shape[2]
    group = heads // k.shape[1]  # query heads that share one key head
    starts, stops = (torch.from_numpy(ends).expand(batch, -1) for ends in mask.key_ranges())
    step = max(1, PIECE_ELEMENTS // keys)
    # Unbound once: the gradient of an index is a tensor of zeros as large as what was indexed.
    of_heads = zip(*(each.flatten(0, 1).unbind() for each in (k, v)), strict=True)
    keys_and_values = [pair for pair in of_heads for _ in range(group)]
    shares_of = {"averaged": (batch, q_len, keys), "per_head": (batch, heads, q_len, keys)}
    needed = shares_of.get(setting.need_weights)
    all_shares = None if needed is None else torch.zeros(needed, dtype=q.dtype)
    outputs = []
    # What is small enough keeps its weights for the backward pass: making them anew takes a third more time.
    few = batch * heads * q_len * keys <= PIECE_ELEMENTS
    piece = _one_head if few or not torch.is_grad_enabled() else _made_anew
    for index, (q_head, (k_head, v_head)) in enumerate(
        zip(q.flatten(0, 1).unbind(), keys_and_values, strict=True)
    ):
        b, h = divmod(index, heads)
        for first, q_piece in zip(range(0, q_len, step), torch.split(q_head, step), strict=True):
            rows = slice(first, first + step)
            unseen = _unseen(starts[b, rows], stops[b, rows], mask.kv_len, keys)
            output, shares = piece(q_piece, k_head, v_head, unseen, steps)
            outputs.append(output)
            if all_shares is None:
                continue
            if setting.need_weights == "averaged":
                all_shares[b, rows] += shares / heads
            else:
                all_shares[b, h, rows] = shares
    o = torch.cat(outputs).reshape(batch, heads, q_len, -1)
    return o, steps(
        all_shares
    ) if setting.need_weights == "averaged" and all_shares is not None else all_shares


def _made_anew(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, unseen: torch.Tensor | None, steps: Steps
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_one_head`; weights are not kept for the backward pass, which makes them anew."""
    output, shares = checkpoint(
        _one_head, q, k, v, unseen, steps, use_reentrant=False, preserve_rng_state=False
    )
    return output, shares


def _unseen(start: torch.Tensor, stop: torch.Tensor, kv_len: int, keys: int) -> torch.Tensor | None:
    """Boolean `[rows, keys]`, True where the mask forbids; None where it allows all.

    Keys beyond kv_len were appended, and every query sees them.
    """
    if not start.any() and bool((stop == kv_len).all()):
        return None
    key = torch.arange(keys)
    return ((key < start[:, None]) | (key >= stop[:, None])) & (key < kv_len)


def _one_head(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, unseen: torch.Tensor | None, steps: Steps
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(Q·Kᵀ/√D)·V `[rows, D]` and the weights `[rows, S]`; 0 where a query sees no key."""
    scores = steps(steps(q @ k.T) * q.shape[-1] ** -0.5)
    if unseen is None:
        return steps.attended(scores, v)
    blind = unseen.all(dim=-1, keepdim=True)
    output, shares = steps.attended(scores.masked_fill(unseen & ~blind, -torch.inf), v)
    return output.masked_fill(blind, 0), shares.masked_fill(blind, 0)
