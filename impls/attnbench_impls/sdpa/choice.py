"""Which backend torch chooses, by the functions with which it chooses."""

from __future__ import annotations

from attnbench.implementation import AttentionInputs
from attnbench_impls.sdpa.backends import BACKENDS
from attnbench_impls.sdpa.masking import arguments, how_masked

__all__ = ["chosen_backend", "lower_right_backend"]


def chosen_backend(x: AttentionInputs) -> str | None:
    """The backend that torch chooses for `x`, by the functions it decides with; None if it cannot tell."""
    import torch
    from torch.nn.attention import SDPBackend

    choose = getattr(torch, "_fused_sdp_choice", None)
    if choose is None:
        return None
    masking = how_masked(x.mask, x.q.device, None)
    chosen_for = arguments(x, masking)
    if type(chosen_for.get("attn_mask", x.q)) is not torch.Tensor:
        # A causal bias, a tensor subclass of which that function does not know, dispatches by itself.
        kernel = lower_right_backend(x)
        if kernel is not None:
            return kernel
        chosen_for["attn_mask"] = x.mask.to_bool(x.q.device)
    q = x.q[:, :, masking.first :]
    return SDPBackend(choose(q, x.k, x.v, **chosen_for)).name.lower()


def lower_right_backend(x: AttentionInputs) -> str | None:
    """The fused kernel that `causal_lower_right` runs for `x`; None if it makes a mask in memory instead.

    It asks as `torch.nn.attention.bias.CausalBias` does.
    """
    from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention

    asked = SDPAParams(x.q, x.k, x.v, None, 0.0, False, x.q.shape[1] != x.k.shape[1])
    if can_use_flash_attention(asked):
        return BACKENDS["flash"]
    return BACKENDS["mem_efficient"] if can_use_efficient_attention(asked) else None
