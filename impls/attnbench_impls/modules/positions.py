"""Sinusoidal positional encoding: Vaswani et al., Attention Is All You Need (2017), §3.5."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from attnbench_impls.modules.arguments import check_dtype, check_features, check_whole

__all__ = ["SinusoidalPositionalEncoding", "sinusoidal_table"]

#: Wavelengths grow from 2π to this times 2π.
BASE = 10_000.0


def sinusoidal_table(
    length: int,
    embed_dim: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """PE[p, 2i] = sin(p / 10000^(2i/E)) and PE[p, 2i + 1] = cos(p / 10000^(2i/E)), `[length, E]`.

    Computed in float64, then rounded to `dtype`. E may be odd: the last sine then has no cosine.
    """
    positions = torch.arange(length, dtype=torch.float64, device="cpu")
    features = torch.arange(embed_dim, device="cpu")
    angles = positions[:, None] / BASE ** ((features - features % 2).double() / embed_dim)
    table = torch.where(features % 2 == 0, angles.sin(), angles.cos())
    return table.to(device, dtype or torch.get_default_dtype())


class SinusoidalPositionalEncoding(nn.Module):
    """Adds to each element of a sequence what tells its position.

    `embed_dim` features E, any number from 1; up to `max_len` positions. `device` and `dtype` are those for
    which the table is made at first; for an `x` elsewhere another is made when it comes. The table is no
    parameter and not in the `state_dict`.

    Raises:
        ValueError: `embed_dim` or `max_len` is no whole number from 1.
    """

    def __init__(
        self,
        embed_dim: int,
        max_len: int = 5000,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_whole("embed_dim", embed_dim)
        check_whole("max_len", max_len)
        check_dtype(dtype)
        self.embed_dim = embed_dim
        self.max_len = max_len
        self.batch_first = batch_first
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        if device is not None or dtype is not None:
            where = torch.empty(0, device=device, dtype=dtype)
            self._table(where.device, where.dtype)

    def forward(self, x: Tensor, *, first: int = 0) -> Tensor:
        """`x` + PE; `x` `[B, L, E]` with batch_first, else `[L, B, E]`, or `[L, E]`.

        `first` is the position of the first element, for decoding.

        Raises:
            ValueError: `x` has another shape, is not floating, or has positions from `max_len` on.
        """
        check_features("x", x, self.embed_dim)
        if not x.is_floating_point():
            raise ValueError(f"x must be floating, embeddings rather than tokens; got {x.dtype}")
        check_whole("first", first, least=0)
        sequence_first = x.dim() == 3 and not self.batch_first
        length = x.shape[0] if sequence_first else x.shape[-2]
        if first + length > self.max_len:
            raise ValueError(
                f"positions {first} to {first + length - 1} do not fit max_len {self.max_len}: make "
                f"SinusoidalPositionalEncoding({self.embed_dim}, max_len={first + length}) or larger"
            )
        encoding = self._table(x.device, x.dtype)[first : first + length]  # [L, E]
        return x + (encoding[:, None] if sequence_first else encoding)

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"{self.embed_dim}, max_len={self.max_len}, batch_first={self.batch_first}"

    def __getstate__(self) -> dict[str, Any]:
        """All but the tables, which are made again: a saved model holds no more than its parameters."""
        return {**self.__dict__, "_tables": {}}

    def _table(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """All positions' encodings, `[max_len, E]`, made once for each device and dtype."""
        known = self._tables.get((device, dtype))
        if known is None:
            # A tensor made in inference mode could not be used for training later.
            with torch.inference_mode(False):
                known = sinusoidal_table(self.max_len, self.embed_dim, device, dtype)
            self._tables[device, dtype] = known
        return known
