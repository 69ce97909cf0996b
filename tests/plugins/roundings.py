"""Right kernels that round as fast ones do: what a conformance test must not refuse.

Each is attention over blocks of keys with float32 sums (float64 for float64), and rounds in its own way what
a matrix unit would read: the weights before P·V, dS before its products, q times the scale. Or it is the
textbook, with gradients by autograd, that computes all in the inputs' dtype. `ROUNDINGS` holds them by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from attnbench import Implementation
from attnbench.implementation import AttentionInputs


def nearest(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """To the nearest, ties to even."""
    return tensor.to(dtype)


def truncated(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Towards zero, as where a float32's upper half is taken for a bfloat16: every error has one sign."""
    closest = tensor.to(dtype)
    beyond = closest.to(tensor.dtype).abs() > tensor.abs()
    return torch.where(beyond, torch.nextafter(closest, torch.zeros_like(closest)), closest)


@dataclass(frozen=True)
class Rounding:
    """One way to compute attention in blocks.

    `weights`: P and dS are rounded to the inputs' dtype before their products. `q_first`: q is multiplied by
    the scale, and rounded, before the scores. `heads`: each query head's dk and dv are rounded before grouped
    heads are summed. `splits`: keys are cut into so many parts, each with its own softmax, merged at the end,
    the last part first. `to`: how numbers are rounded.
    """

    block: int = 64
    weights: bool = True
    q_first: bool = False
    heads: bool = False
    splits: int = 1
    to: str = "nearest"

    def round(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return {"nearest": nearest, "truncated": truncated}[self.to](tensor, dtype)

    def through(self, tensor: torch.Tensor, dtype: torch.dtype, wanted: bool = True) -> torch.Tensor:
        """`tensor`, in its own dtype, with what precision `dtype` leaves of it."""
        return self.round(tensor, dtype).to(tensor.dtype) if wanted else tensor

    def scores(self, x: AttentionInputs) -> torch.Tensor:
        """`[B, H, Lq, Lk]`, −∞ where not allowed, in the wide dtype."""
        wide = torch.promote_types(x.q.dtype, torch.float32)
        q, k = x.q.detach().to(wide), per_query_head(x, x.k)
        scaled = self.through(q * x.scale, x.q.dtype) @ k.mT
        scores = scaled if self.q_first else q @ k.mT * x.scale
        allowed = x.mask.to_bool(x.q.device)
        return scores if allowed is None else scores.masked_fill(~allowed, -math.inf)

    def part(
        self, scores: torch.Tensor, v: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Σ exp(score − largest)·v, Σ exp(score − largest) and the largest, block by block."""
        o = v.new_zeros(*scores.shape[:-1], v.shape[-1])
        total = v.new_zeros(*scores.shape[:-1], 1)
        largest = torch.full_like(total, -math.inf)
        for s, values in zip(scores.split(self.block, dim=-1), v.split(self.block, dim=-2), strict=True):
            after = largest.maximum(s.amax(dim=-1, keepdim=True))
            shift = after.masked_fill(after == -math.inf, 0)
            weights = (s - shift).exp()
            shrink = (largest - shift).exp()
            total = total * shrink + weights.sum(dim=-1, keepdim=True)
            o = o * shrink + self.through(weights, dtype, self.weights) @ values
            largest = after
        return o, total, largest

    def forward(self, x: AttentionInputs) -> torch.Tensor:
        scores, v = self.scores(x), per_query_head(x, x.v)
        size = -(-scores.shape[-1] // self.splits)
        parts = [
            self.part(s, values, x.q.dtype)
            for s, values in zip(scores.split(size, dim=-1), v.split(size, dim=-2), strict=True)
        ]
        largest = torch.stack([each[2] for each in parts]).amax(dim=0)
        shift = largest.masked_fill(largest == -math.inf, 0)
        o = sum(o * (own - shift).exp() for o, _, own in reversed(parts))
        total = sum(total * (own - shift).exp() for _, total, own in reversed(parts))
        return self.round(o / total.masked_fill(total == 0, 1), x.q.dtype)

    def backward(
        self, x: AttentionInputs, output: torch.Tensor, grad_out: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """FlashAttention's (2022, appendix B.2), Δ from the rounded output."""
        dtype = x.q.dtype
        scores, v, k = self.scores(x), per_query_head(x, x.v), per_query_head(x, x.k)
        q, d_out = x.q.detach().to(v.dtype), grad_out.to(v.dtype)
        logsumexp = scores.logsumexp(dim=-1, keepdim=True)
        weights = (scores - logsumexp.masked_fill(logsumexp == -math.inf, 0)).exp()
        delta = (d_out * output.detach().to(v.dtype)).sum(dim=-1, keepdim=True)
        d_scores = self.through(weights * (d_out @ v.mT - delta), dtype, self.weights)
        weights = self.through(weights, dtype, self.weights)
        dq = (d_scores @ k) * x.scale
        dk, dv = (d_scores.mT @ q) * x.scale, weights.mT @ d_out
        return self.round(dq, dtype), self.summed(dk, x.k), self.summed(dv, x.v)

    def summed(self, gradient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The gradients of each query head, `[B, H, Lk, D]`, summed over groups."""
        gradient = self.through(gradient, like.dtype, self.heads)
        grouped = gradient.unflatten(1, (like.shape[1], -1))
        return self.round(grouped.sum(dim=2), like.dtype)


def per_query_head(x: AttentionInputs, tensor: torch.Tensor) -> torch.Tensor:
    """k or v `[B, Hkv, Lk, D]`, wide, as `[B, H, Lk, D]`."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.detach().to(wide).repeat_interleave(x.q.shape[1] // tensor.shape[1], dim=1)


def implementation(name: str, rounding: Rounding) -> Implementation:
    return Implementation(
        name=name,
        operation="attention",
        framework="torch",
        summary=f"right, with {rounding}",
        load=lambda workload, options: rounding.forward,
        load_backward=lambda workload, options: rounding.backward,
    )


def textbook(name: str, forward: Callable[[AttentionInputs], torch.Tensor]) -> Implementation:
    """`forward`, whose gradients are autograd's."""
    return Implementation(
        name=name,
        operation="attention",
        framework="torch",
        summary=(forward.__doc__ or "").strip(),
        load=lambda workload, options: forward,
    )


def of_scores(x: AttentionInputs, scores: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """softmax(scores)·v with weights in `dtype`, 0 where no key is allowed."""
    allowed = x.mask.to_bool(x.q.device)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    weights = torch.softmax(scores, dim=-1)
    if allowed is not None:
        weights = weights.masked_fill(~allowed.any(dim=-1, keepdim=True), 0)
    return weights.to(dtype) @ repeated(x, x.v)


def repeated(x: AttentionInputs, tensor: torch.Tensor) -> torch.Tensor:
    """k or v `[B, Hkv, Lk, D]` as `[B, H, Lk, D]`, through which gradients flow."""
    return tensor.repeat_interleave(x.q.shape[1] // tensor.shape[1], dim=1)


def softmax_by_hand(x: AttentionInputs) -> torch.Tensor:
    """exp(s − max s) / Σ exp(s − max s), gradients through the maximum included.

    In the inputs' dtype, but for float16, in which the gradient's exp/Σ² underflows.
    """
    wide = torch.float32 if x.q.dtype == torch.float16 else x.q.dtype
    scores = (x.q @ repeated(x, x.k).mT * x.scale).to(wide)
    allowed = x.mask.to_bool(x.q.device)
    blind = torch.zeros(()) > 0
    if allowed is not None:
        blind = ~allowed.any(dim=-1, keepdim=True)
        scores = scores.masked_fill(~allowed & ~blind, -math.inf)
    exps = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    weights = (exps / exps.sum(dim=-1, keepdim=True)).masked_fill(blind, 0)
    return weights.to(x.q.dtype) @ repeated(x, x.v)


def root_of_scale_on_both(x: AttentionInputs) -> torch.Tensor:
    """q and k, times √scale each, rounded; scores and weights rounded."""
    root = math.sqrt(x.scale)
    return of_scores(x, (x.q * root) @ (repeated(x, x.k) * root).mT, x.q.dtype)


def scaled_queries(x: AttentionInputs) -> torch.Tensor:
    """q, times the scale, rounded; scores in float32; weights rounded."""
    wide = torch.promote_types(x.q.dtype, torch.float32)
    return of_scores(x, (x.q * x.scale).to(wide) @ repeated(x, x.k).to(wide).mT, x.q.dtype)


FLASH = implementation("flash", Rounding())
FLASH_SMALL_BLOCKS = implementation("flash_small_blocks", Rounding(block=5))
FLASH_ROUNDED_HEADS = implementation("flash_rounded_heads", Rounding(heads=True))
FLASH_SCALED_QUERIES = implementation("flash_scaled_queries", Rounding(q_first=True))
FLASH_TRUNCATING = implementation("flash_truncating", Rounding(to="truncated"))
SPLIT_KEYS = implementation("split_keys", Rounding(block=16, splits=3))
WIDE_WEIGHTS = implementation("wide_weights", Rounding(weights=False, block=16))
SOFTMAX_BY_HAND = textbook("softmax_by_hand", softmax_by_hand)
ROOT_OF_SCALE_ON_BOTH = textbook("root_of_scale_on_both", root_of_scale_on_both)
SCALED_QUERIES = textbook("scaled_queries", scaled_queries)

ROUNDINGS = {
    each.name: each
    for each in (
        FLASH,
        FLASH_SMALL_BLOCKS,
        FLASH_ROUNDED_HEADS,
        FLASH_SCALED_QUERIES,
        FLASH_TRUNCATING,
        SPLIT_KEYS,
        WIDE_WEIGHTS,
        SOFTMAX_BY_HAND,
        ROOT_OF_SCALE_ON_BOTH,
        SCALED_QUERIES,
    )
}
