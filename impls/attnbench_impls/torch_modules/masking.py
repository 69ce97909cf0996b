"""Masks as torch's modules take them: True hides, and padding apart from the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.masks import Mask

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["TorchMasks", "may_be_blind", "torch_masks"]


@dataclass(frozen=True, slots=True)
class TorchMasks:
    """`attn_mask` `[Lq, Lk]` or `[B·H, Lq, Lk]`, `key_padding_mask` `[B, Lk]`, either None without a need.

    Boolean (True hides) or floating (−∞ hides, 0 does not). `is_causal` is the hint that torch knows:
    attn_mask is the causal mask, aligned top-left, and nothing else is hidden.
    """

    attn_mask: Tensor | None
    key_padding_mask: Tensor | None
    is_causal: bool


def torch_masks(mask: Mask, heads: int, device: Any, dtype: torch.dtype | None) -> TorchMasks:
    """`mask` as torch takes it, made once: floating of `dtype`, else boolean.

    torch's ordinary path adds masks to the scores, and makes floating ones of boolean ones at every call.
    """

    def build() -> TorchMasks:
        import torch

        terms = mask.specification.split("+")
        padding = [term for term in terms if term.startswith("padding")]
        rest = [term for term in terms if term not in padding] or ["none"]
        allowed = Mask("+".join(rest), mask.batch, mask.q_len, mask.kv_len, mask.seed).to_bool(device)
        attn_mask = key_padding_mask = None
        if allowed is not None and allowed.shape[0] == 1:
            attn_mask = ~allowed[0, 0]
        elif allowed is not None:
            attn_mask = ~allowed.expand(-1, heads, -1, -1).flatten(0, 1)
        if padding:
            there = Mask(padding[0], mask.batch, 1, mask.kv_len, mask.seed).to_bool(device)
            key_padding_mask = ~there[:, 0, 0].expand(mask.batch, -1)

        def formed(hidden: Tensor | None) -> Tensor | None:
            if hidden is None or dtype is None:
                return hidden
            return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)

        square_causal = mask.kind == "causal" and mask.q_len == mask.kv_len
        return TorchMasks(formed(attn_mask), formed(key_padding_mask), square_causal)

    return mask.kept(f"torch's masks, {heads} heads, {device}, {dtype}", build)


def may_be_blind(mask: str, q_len: int, kv_len: int) -> bool:
    """Whether some query may see no key at all under `mask`; which ones may depend on the seed.

    A query that stands at a key sees that key in every mask but padding, and the first key, which is never
    padding, in a causal one.
    """
    kinds = {term.split("(")[0] for term in mask.split("+")} - {"none"}
    if kinds <= {"padding"}:
        return False
    return q_len > kv_len or ("padding" in kinds and bool(kinds & {"sliding_window", "document"}))
