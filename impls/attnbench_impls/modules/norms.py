"""Normalisation of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · scale over the last axis, of `dim` features (Zhang & Sennrich, 2019, eq. 4).

    Computed in float32 at least, as torchtune does, whose name for the parameter it has: `scale` `[dim]`.
    """

    def __init__(
        self,
        dim: int,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(dim, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[…, dim]`, normalised."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normalised = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normalised.to(x.dtype) * self.scale).to(x.dtype)  # under autocast the scale is wider
