"""Encoder and decoder layers, and stacks of both, as Vaswani et al. (2017, §3.1) define them.

With `norm_first` each part's input is normalised, not its sum (Xiong et al., On Layer Normalization in the
Transformer Architecture, 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from attnbench.masks import Mask
from attnbench.reference.mha import Heads, linear, multi_head_attention
from attnbench.reference.positions import sinusoidal
from attnbench.reference.steps import Steps

__all__ = ["Stack", "below"]

#: What keeps a layer normalisation's variance from being 0.
EPS = 1e-5

Weights = Mapping[str, torch.Tensor]


def below(weights: Weights, prefix: str) -> dict[str, torch.Tensor]:
    """Those whose names begin with `prefix` and a dot, without it."""
    return {
        name.removeprefix(f"{prefix}."): each
        for name, each in weights.items()
        if name.startswith(f"{prefix}.")
    }


@dataclass(frozen=True, slots=True)
class Stack:
    """What all layers of a stack have in common; tensors are `[B, L, E]`."""

    heads: Heads
    norm_first: bool
    steps: Steps

    def encoder_layer(self, src: torch.Tensor, weights: Weights, mask: Mask) -> torch.Tensor:
        """Self attention, then the feed-forward network."""
        x = self._added(src, below(weights, "norm1"), lambda y: self._attended(y, y, weights, mask))
        return self._added(x, below(weights, "norm2"), lambda y: self._fed_forward(y, weights))

    def decoder_layer(
        self, tgt: torch.Tensor, memory: torch.Tensor, weights: Weights, mask: Mask, memory_mask: Mask
    ) -> torch.Tensor:
        """Self attention, attention to the memory, then the feed-forward network."""
        x = self._added(tgt, below(weights, "norm1"), lambda y: self._attended(y, y, weights, mask))
        x = self._added(
            x,
            below(weights, "norm2"),
            lambda y: self._attended(y, memory, weights, memory_mask, "multihead_attn"),
        )
        return self._added(x, below(weights, "norm3"), lambda y: self._fed_forward(y, weights))

    def transformer(
        self,
        src: torch.Tensor,
        tgt: torch.Tensor,
        weights: Weights,
        layers: int,
        masks: Mapping[str, Mask],
    ) -> torch.Tensor:
        """`layers` encoder layers and as many decoder layers over sequences with positions added.

        `masks` are `src_mask`, `memory_mask` and the decoder's, `mask`.
        """
        memory, x = self.with_positions(src), self.with_positions(tgt)
        for layer in range(layers):
            memory = self.encoder_layer(memory, below(weights, f"encoder.layers.{layer}"), masks["src_mask"])
        memory = self._normalised(memory, below(weights, "encoder.norm"))
        for layer in range(layers):
            of_layer = below(weights, f"decoder.layers.{layer}")
            x = self.decoder_layer(x, memory, of_layer, masks["mask"], masks["memory_mask"])
        return self._normalised(x, below(weights, "decoder.norm"))

    def with_positions(self, x: torch.Tensor) -> torch.Tensor:
        """x plus the sinusoidal encoding of its positions."""
        return self.steps(x + sinusoidal(x.shape[1], x.shape[2], x.dtype, self.steps))

    def _added(
        self, x: torch.Tensor, norm: Weights, part: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """norm(x + part(x)), or x + part(norm(x))."""
        if self.norm_first:
            return self.steps(x + part(self._normalised(x, norm)))
        return self._normalised(self.steps(x + part(x)), norm)

    def _attended(
        self, x: torch.Tensor, to: torch.Tensor, weights: Weights, mask: Mask, name: str = "self_attn"
    ) -> torch.Tensor:
        return multi_head_attention(x, to, to, below(weights, name), mask, self.heads, self.steps)[0]

    def _fed_forward(self, x: torch.Tensor, weights: Weights) -> torch.Tensor:
        """W₂·max(0, W₁·x + b₁) + b₂."""
        inner = linear(x, weights["linear1.weight"], weights.get("linear1.bias"), self.steps)
        inner = self.steps.relu(inner)
        return linear(inner, weights["linear2.weight"], weights.get("linear2.bias"), self.steps)

    def _normalised(self, x: torch.Tensor, weights: Weights) -> torch.Tensor:
        """(x − mean) / √(variance + eps) · w + b, over the features (Ba et al., 2016)."""
        centred = x - x.mean(dim=-1, keepdim=True)
        deviation = (self.steps(centred).square().mean(dim=-1, keepdim=True) + EPS).sqrt()
        scaled = self.steps(self.steps(self.steps(centred) / deviation) * weights["weight"])
        return self.steps(scaled + weights["bias"]) if "bias" in weights else scaled
