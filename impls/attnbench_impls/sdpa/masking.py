"""How SDPA is made to apply a mask: in the fastest form that is right on that device, in that backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.implementation import AttentionInputs
from attnbench.masks import Mask

if TYPE_CHECKING:
    import torch

__all__ = ["Masking", "answers_blind_queries", "arguments", "how_masked"]

#: The backends for which `causal_lower_right` has a kernel; cuDNN is handed the mask as a matrix there.
WITH_LOWER_RIGHT = (None, "flash", "mem_efficient")


@dataclass(frozen=True, slots=True)
class Masking:
    """How SDPA is made to apply a mask.

    `arguments` say it to SDPA, which is asked about the queries from `first` on: those before see no key.
    `blind`, boolean `[B or 1, 1, Lq − first, 1]` or None, marks queries that SDPA was told to let see keys
    because it would make NaN of them; their output must be set to 0 afterwards.
    """

    arguments: Mapping[str, Any]
    first: int = 0
    blind: torch.Tensor | None = None


def answers_blind_queries(device: torch.device, backend: str | None) -> bool:
    """Whether SDPA answers 0, with gradients of 0, for a row of a boolean mask without any key.

    It does on the CPU, and in the unfused backend (tried with torch 2.13). The fused CUDA kernels may
    subtract −∞ from −∞, depending on backend and version.
    """
    return device.type == "cpu" or backend == "math"


def how_masked(mask: Mask, device: torch.device, backend: str | None) -> Masking:
    """How to have `mask` applied in the fastest form that is right.

    `is_causal` aligns top-left, so it is right for q_len = kv_len only. Where there are more queries than
    keys, a causal mask leaves the first ones blind, and for the rest it is that square: this costs a copy of
    the output. A single query sees every key. `causal_lower_right` is bottom-right without a mask in memory,
    but only in fused CUDA backends.

    Any other mask is a matrix. Where torch cannot be relied on for rows of it without any key, they see
    every key and are set to 0 afterwards, in place where no gradient is wanted, else with one copy of the
    output, and one of its gradient in the backward pass. A gradient of 0 then reaches those rows, and they
    add nothing to dq, dk and dv.
    """
    surplus = mask.q_len - mask.kv_len
    if mask.kind == "none" or (mask.kind == "causal" and mask.q_len == 1):
        return Masking({})
    if mask.kind == "causal" and surplus >= 0:
        # A single key is seen by the single query that is left.
        return Masking({"is_causal": True} if mask.kv_len > 1 else {}, first=surplus)
    if mask.kind == "causal" and device.type == "cuda" and backend in WITH_LOWER_RIGHT:
        from torch.nn.attention.bias import causal_lower_right

        return Masking({"attn_mask": causal_lower_right(mask.q_len, mask.kv_len)})
    allowed, blind = mask.to_bool(device), mask.blind_queries(device)
    if blind is None or answers_blind_queries(device, backend):
        return Masking({"attn_mask": allowed})
    lenient = mask.kept(f"sdpa's, blind queries seeing {device}", lambda: allowed | blind)
    return Masking({"attn_mask": lenient}, blind=blind)


def arguments(x: AttentionInputs, masking: Masking) -> dict[str, Any]:
    """All keyword arguments of SDPA for `x`."""
    grouped = {"enable_gqa": True} if x.q.shape[1] != x.k.shape[1] else {}
    return {"scale": x.scale, **grouped, **masking.arguments}
