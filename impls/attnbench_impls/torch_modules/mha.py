"""torch.nn.MultiheadAttention, on its ordinary path and on its fast path."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attnbench.implementation import Implementation, ModuleInputs, Options
from attnbench.workload import Workload
from attnbench_impls.prepared import Call, prepared
from attnbench_impls.torch_modules.masking import may_be_blind, torch_masks
from attnbench_impls.torch_modules.paths import PinnedPath, path_taken, why_not_fast, why_not_taken
from attnbench_impls.torch_modules.twin import twin_of

__all__ = ["TORCH_MHA", "TORCH_MHA_FASTPATH"]

SOURCE = "torch.nn.MultiheadAttention"


def why_not_there(shape: Any) -> str | None:
    """What nn.MultiheadAttention does not have, or None."""
    lacking = (
        (shape.kv_heads < shape.heads, "grouped-query heads"),
        (shape.rotary, "rotary positions"),
        (shape.qk_norm, "normalised queries and keys"),
    )
    return next((f"{SOURCE} has no {what}" for asked, what in lacking if asked), None)


def _why_nan(workload: Workload, device: str) -> str | None:
    """Why the ordinary path may answer NaN, or None.

    Where it computes the weights itself, a row of scores without any key is softmax(−∞, …). SDPA answers 0
    for one on the CPU; the fused CUDA kernels may not.
    """
    shape = workload.shape
    appended = shape.add_bias_kv or shape.add_zero_attn
    if appended or not may_be_blind(workload.mask, shape.q_len, shape.kv_len):
        return None
    if shape.need_weights != "none":
        return f"where torch returns weights, queries that see no key are NaN; {workload.mask} has some"
    if not device.startswith("cpu"):
        return f"torch may make NaN of queries that see no key, on {device}; {workload.mask} has some"
    return None


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """All that nn.MultiheadAttention has, but what it makes NaN of."""
    del options
    return why_not_there(workload.shape) or _why_nan(workload, device)


def supports_fastpath(workload: Workload, options: Options, device: str) -> str | None:
    """The condition of the fast path that does not hold; then whether torch really takes it."""
    del options
    shape = workload.shape
    others = (
        (shape.attention == "cross", "query, key and value are not the same tensor"),
        (shape.past_len > 0, "the query is a part of the keys, not the same tensor"),
        (shape.add_bias_kv, "add_bias_kv"),
        (shape.add_zero_attn, "add_zero_attn"),
        (
            may_be_blind(workload.mask, shape.q_len, shape.kv_len),
            f"it makes NaN of queries that see no key; {workload.mask} has some",
        ),
    )
    why = why_not_there(shape) or why_not_fast(shape, workload.pass_, device, others)
    return why or why_not_taken(twin_of(workload), partial(_load, options={}, fast=True), device)


def _load(workload: Workload, options: Options, fast: bool) -> Callable[[ModuleInputs], Any]:
    """The module over the workload's weights, with the fast path allowed or not."""
    del options
    from torch import nn

    from attnbench_impls.modules import over

    shape = workload.shape
    pinned = PinnedPath(fast)
    weights = shape.need_weights != "none"

    def prepare(x: ModuleInputs) -> Call:
        module = over(
            nn.MultiheadAttention(
                shape.embed_dim,
                shape.heads,
                dropout=shape.dropout,
                bias=shape.bias,
                add_bias_kv=shape.add_bias_kv,
                add_zero_attn=shape.add_zero_attn,
                kdim=shape.kdim,
                vdim=shape.vdim,
                batch_first=shape.batch_first,
                device="meta",
            ),
            x.parameters,
        ).train(shape.training)
        query = x.query
        # The fast path refuses floating masks.
        masks = torch_masks(x.mask, shape.heads, query.device, None if fast else query.dtype)
        # The hint makes torch leave attn_mask to SDPA, which then knows nothing of appended keys.
        appended = shape.add_bias_kv or shape.add_zero_attn
        settings: dict[str, Any] = {
            "attn_mask": masks.attn_mask,
            "key_padding_mask": masks.key_padding_mask,
            "is_causal": masks.is_causal and not appended,
            "need_weights": weights,
            "average_attn_weights": shape.need_weights == "averaged",
        }

        def call(x: ModuleInputs) -> Any:
            with pinned:
                output = module(x.query, x.key, x.value, **settings)
            return output if weights else output[0]

        return call

    return prepared(prepare)


TORCH_MHA = Implementation(
    name="torch_mha",
    operation="mha",
    framework="torch",
    summary="torch's nn.MultiheadAttention on its ordinary path",
    memory="O(B·(Lq + Lk)·E) and SDPA's; O(B·H·Lq·Lk) with weights; O(B·H·Lq·Lk) for some masks",
    flops="O(B·(Lq + Lk)·E² + B·Lq·Lk·E)",
    source=SOURCE,
    load=partial(_load, fast=False),
    supports=supports,
    resolved_backend=path_taken,
)

TORCH_MHA_FASTPATH = Implementation(
    name="torch_mha_fastpath",
    operation="mha",
    framework="torch",
    summary="torch's nn.MultiheadAttention on its fast path for inference",
    memory="O(B·L·E + B·H·L²)",
    flops="O(B·L·E² + B·L²·E)",
    source=f"{SOURCE}; torch._native_multi_head_attention",
    load=partial(_load, fast=True),
    supports=supports_fastpath,
    resolved_backend=path_taken,
)
