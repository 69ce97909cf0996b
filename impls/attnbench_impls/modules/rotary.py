"""Rotary positions: a query or key is turned by angles that grow with its position.

Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding (2021), §3.2.2: the score of a query
and a key then depends on their distance alone. Features 2i and 2i + 1 are the pair that is turned by
position · base^(−2i/D), as in the paper and in torchtune.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["RotaryPositions"]


class RotaryPositions:
    """Turns heads `[B, H, L, D]`, D even; keeps the cosines and sines of the positions it has seen."""

    def __init__(self, head_dim: int, base: float) -> None:
        self.head_dim = head_dim
        self.base = base
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def turn(self, x: Tensor, first: int) -> Tensor:
        """`x` `[B, H, L, D]`, whose first element stands at position `first`; in float32 at least."""
        wide = torch.promote_types(x.dtype, torch.float32)
        cos, sin = self._table(first + x.shape[2], x.device, wide)
        cos, sin = cos[first : first + x.shape[2]], sin[first : first + x.shape[2]]  # [L, D/2]
        even, odd = x.to(wide)[..., 0::2], x.to(wide)[..., 1::2]  # [B, H, L, D/2]
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
        return turned.flatten(-2).to(x.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """All but the tables, which are made again: a saved model holds no more than its parameters."""
        return {**self.__dict__, "_tables": {}}

    def _table(self, length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin of the angles, `[at least length, D/2]`."""
        known = self._tables.get((device, dtype))
        if known is not None and known[0].shape[0] >= length:
            return known
        # A tensor made in inference mode could not be used for training later.
        with torch.inference_mode(False):
            positions = torch.arange(1 << (length - 1).bit_length(), dtype=torch.float64, device="cpu")
            pairs = torch.arange(0, self.head_dim, 2, dtype=torch.float64, device="cpu") / self.head_dim
            angles = positions[:, None] * self.base**-pairs
            made = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
        self._tables[device, dtype] = made
        return made
