"""Positional encodings as the papers define them."""

from __future__ import annotations

import torch

from attnbench.reference.steps import Steps

__all__ = ["rotated", "sinusoidal"]

BASE = 10000.0


def _angles(positions: torch.Tensor, features: int, steps: Steps) -> torch.Tensor:
    """p / 10000^(2i / features) `[L, ⌈features / 2⌉]` for the positions p `[L]`."""
    exponents = torch.arange(0, features, 2, dtype=positions.dtype) / features
    return steps.angle(positions[:, None] * BASE**-exponents)


def sinusoidal(length: int, embed_dim: int, dtype: torch.dtype, steps: Steps) -> torch.Tensor:
    """`[L, E]`: at 2i sin(p / 10000^(2i/E)), at 2i + 1 the cosine (Vaswani et al., 2017, §3.5)."""
    angles = _angles(torch.arange(length, dtype=dtype), embed_dim, steps)
    table = torch.empty(length, embed_dim, dtype=dtype)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles[:, : embed_dim // 2].cos()
    return steps(table)


def rotated(x: torch.Tensor, first: int, steps: Steps) -> torch.Tensor:
    """x `[…, L, D]`, standing at the positions from `first` on, with each pair of features turned.

    The pair (2i, 2i+1) of position p by the angle p / 10000^(2i/D) (Su et al., RoFormer, 2021, §3.2.2).
    """
    length, features = x.shape[-2:]
    angles = _angles(torch.arange(first, first + length, dtype=x.dtype), features, steps)
    cos, sin = steps(angles.cos()), steps(angles.sin())
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([steps(even * cos) - steps(odd * sin), steps(odd * cos) + steps(even * sin)], dim=-1)
    return steps(turned.flatten(-2))
