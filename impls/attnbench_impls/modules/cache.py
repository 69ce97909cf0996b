"""The keys and values of all positions so far, so that decoding computes those of the new ones alone."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench_impls.modules.arguments import check_dtype, check_whole

__all__ = ["KVCache"]


class KVCache:
    """Room for `max_len` positions' keys and values, each `[batch, kv_heads, max_len, head_dim]`.

    `length` positions are filled. Keys are kept as they enter the scores: projected, turned and normalised.
    One cache serves one attention module; nothing in it takes part in a backward pass.
    """

    def __init__(
        self,
        batch: int,
        kv_heads: int,
        max_len: int,
        head_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for name, size in (
            ("batch", batch),
            ("kv_heads", kv_heads),
            ("max_len", max_len),
            ("head_dim", head_dim),
        ):
            check_whole(name, size)
        check_dtype(dtype)
        # A tensor made in inference mode could not be written outside of it.
        with torch.inference_mode(False):
            self.keys = torch.zeros(batch, kv_heads, max_len, head_dim, device=device, dtype=dtype)
            self.values = torch.zeros_like(self.keys)
        self.length = 0

    @property
    def max_len(self) -> int:
        """How many positions there is room for."""
        return self.keys.shape[2]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add `k` and `v` `[B, Hkv, L, D]`; all keys and all values so far, views `[B, Hkv, length, D]`.

        Raises:
            ValueError: they do not fit: in size, dtype or device, for want of room, or with gradients.
        """
        everything = self.write(k, v)
        self.advance(k.shape[2])
        return everything

    def write(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `append`, but `length` stays: what is written counts from `advance` on.

        Raises:
            ValueError: as `append`.
        """
        self._check("keys", k)
        self._check("values", v)
        end = self.length + k.shape[2]
        if end > self.max_len:
            raise ValueError(
                f"the cache has room for {self.max_len} positions and holds {self.length}; {k.shape[2]} more "
                "do not fit: make it with a larger max_len, or forget some with truncate(length)"
            )
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]

    def advance(self, count: int) -> None:
        """The `count` positions that were written last are there."""
        self.length += count

    def truncate(self, length: int = 0) -> None:
        """Forget all positions from `length` on; the cache can then be filled again.

        Raises:
            ValueError: there are not so many positions.
        """
        check_whole("length", length, least=0)
        if length > self.length:
            raise ValueError(f"the cache holds {self.length} positions and cannot be cut to {length}")
        self.length = length

    def _check(self, what: str, new: Tensor) -> None:
        kept = self.keys
        expected = (*kept.shape[:2], new.shape[2], kept.shape[3])
        if new.shape != expected:
            raise ValueError(
                f"the cache takes {what} [batch, kv_heads, new positions, head_dim] = {list(expected)}, got "
                f"{list(new.shape)}: make it with KVCache(batch, module.kv_heads, max_len, module.head_dim)"
            )
        if new.dtype != kept.dtype or new.device != kept.device:
            raise ValueError(
                f"the cache holds {kept.dtype} on {kept.device}, the new {what} are {new.dtype} on "
                f"{new.device}: make it with that device and dtype"
            )
        if new.requires_grad:
            raise ValueError(
                "a cache keeps no graph, so no gradient can pass through it: decode under torch.no_grad(), "
                "and train on whole sequences without a cache"
            )
