"""Multi-head attention by `attnbench_impls.MultiHeadAttention`, over any core, with a cache or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attnbench.implementation import Implementation, ModuleInputs, Options
from attnbench.workload import Workload
from attnbench_impls.own_modules.cores import (
    BACKEND,
    CORE,
    backend_of_core,
    chosen_core,
    told_backend,
    why_core_cannot,
)
from attnbench_impls.prepared import Call, prepared

if TYPE_CHECKING:
    from attnbench_impls.modules import KVCache, MultiHeadAttention

__all__ = ["MHA", "appended_keys", "arguments", "settings_of", "why_core"]


def appended_keys(shape: Any) -> int:
    """How many keys are appended, which every query sees."""
    return int(shape.add_bias_kv) + int(shape.add_zero_attn)


def why_core(workload: Workload, options: Options, device: str) -> str | None:
    """Why the core cannot do what the module of this workload asks of it, or None."""
    shape = workload.shape
    return why_core_cannot(
        workload,
        options,
        device,
        q_len=shape.q_len,
        kv_len=shape.kv_len,
        mask=workload.mask,
        columns=appended_keys(shape),
    )


def arguments(shape: Any, core: str | Implementation) -> dict[str, Any]:
    """What a `MultiHeadAttention` of this shape is made with."""
    return {
        "embed_dim": shape.embed_dim,
        "num_heads": shape.heads,
        "dropout": shape.dropout,
        "bias": shape.bias,
        "add_bias_kv": shape.add_bias_kv,
        "add_zero_attn": shape.add_zero_attn,
        "kdim": shape.kdim,
        "vdim": shape.vdim,
        "batch_first": shape.batch_first,
        "device": "meta",
        "core": core,
        "kv_heads": shape.kv_heads,
        "rotary": shape.rotary,
        "qk_norm": shape.qk_norm,
    }


def settings_of(shape: Any) -> dict[str, Any]:
    """What it is called with, besides activations and mask."""
    return {
        "need_weights": shape.need_weights != "none",
        "average_attn_weights": shape.need_weights == "averaged",
    }


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """What the core cannot do; a cache without a past, or where gradients are wanted."""
    shape = workload.shape
    if options["cache"] and not shape.past_len:
        return "cache: there is no past to keep; self attention with q_len < kv_len decodes"
    if options["cache"] and workload.pass_ != "forward":
        return "cache: what is kept from earlier calls has no graph, so nothing can be differentiated"
    return why_core(workload, options, device)


def load(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """The module over the workload's weights; with `cache` it projects the new positions alone."""
    from attnbench_impls.modules import MultiHeadAttention, over

    shape = workload.shape
    core = chosen_core(options)
    settings = settings_of(shape)
    weights = settings["need_weights"]

    def prepare(x: ModuleInputs) -> Call:
        module = over(
            MultiHeadAttention(**arguments(shape, core)),
            x.parameters,
        ).train(shape.training)
        x.kept(BACKEND, lambda: backend_of_core(core, shape, x, appended_keys(shape)))
        cache = _past(module, x) if options["cache"] else None

        def call(x: ModuleInputs) -> Any:
            output = module(x.query, x.key, x.value, mask=x.mask, **settings)
            return output if weights else output[0]

        def decode(x: ModuleInputs) -> Any:
            assert cache is not None
            new = x.query
            output = module(new, new, new, mask=x.mask, cache=cache, **settings)
            cache.truncate(x.past_len)  # the next call's new positions may be others
            return output if weights else output[0]

        return call if cache is None else decode

    return prepared(prepare)


def _past(module: MultiHeadAttention, x: ModuleInputs) -> KVCache:
    """A cache with room for all positions that holds those of the past."""
    import torch

    from attnbench_impls.modules import KVCache

    whole = x.tensors["x"]
    past = whole[:, : x.past_len] if x.batch_first else whole[: x.past_len]
    last = past[:, -1:] if x.batch_first else past[-1:]
    batch = x.mask.batch
    cache = KVCache(
        batch, module.kv_heads, x.mask.kv_len, module.head_dim, device=whole.device, dtype=whole.dtype
    )
    with torch.no_grad():
        # All keys and values enter the cache, whoever asks: one query, so that no square of scores is made.
        module(last, past, past, need_weights=False, cache=cache)
    return cache


MHA = Implementation(
    name="mha",
    operation="mha",
    framework="torch",
    summary=(
        "ours: projections, split heads, any core, output projection; all keys and values are projected at "
        "every call, with cache=true those of the new positions alone"
    ),
    memory="O(B·(Lq + Lk)·E) and the core's (naive: O(B·H·Lq·Lk)); cache: O(B·Lk·E) kept between calls",
    flops="O(B·(Lq + Lk)·E²) and the core's (naive: O(B·Lq·Lk·E)); cache: O(B·Lq·E²) and the core's",
    source="Vaswani et al., Attention Is All You Need (2017), §3.2.2",
    options={"core": CORE, "cache": False},
    load=load,
    supports=supports,
    resolved_backend=told_backend,
)
