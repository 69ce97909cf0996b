"""torch's encoder layer, on either path, its decoder layer, and its transformer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attnbench.implementation import Implementation, ModuleInputs, Options
from attnbench.workload import Workload
from attnbench_impls.prepared import Call, prepared
from attnbench_impls.torch_modules.masking import TorchMasks, may_be_blind, torch_masks
from attnbench_impls.torch_modules.paths import PinnedPath, path_taken, why_not_fast, why_not_taken
from attnbench_impls.torch_modules.twin import twin_of

__all__ = [
    "TORCH_DECODER_LAYER",
    "TORCH_ENCODER_LAYER",
    "TORCH_ENCODER_LAYER_FASTPATH",
    "TORCH_TRANSFORMER",
]


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """All that torch's layers have, but queries that see no key elsewhere than on the CPU."""
    del options
    shape = workload.shape
    if shape.kv_heads < shape.heads:
        return "torch's layers have no grouped-query heads"
    for mask, q_len, kv_len in _attentions(workload):
        if may_be_blind(mask, q_len, kv_len) and not device.startswith("cpu"):
            return f"torch may make NaN of queries that see no key, on {device}; {mask} has some"
    return None


def supports_fastpath(workload: Workload, options: Options, device: str) -> str | None:
    """The condition of the fast path that does not hold; then whether torch really takes it."""
    blind = may_be_blind(workload.mask, *workload.shape.mask_lengths)
    others = ((blind, f"it makes NaN of queries that see no key; {workload.mask} has some"),)
    why = supports(workload, options, device) or why_not_fast(workload.shape, workload.pass_, device, others)
    load = partial(_load_encoder_layer, options={}, fast=True)
    return why or why_not_taken(twin_of(workload), load, device)


def _attentions(workload: Workload) -> list[tuple[str, int, int]]:
    """The mask, queries and keys of each attention."""
    return [(workload.mask, *workload.shape.mask_lengths), *workload.shape.other_masks().values()]


def _arguments(shape: Any) -> dict[str, Any]:
    """What all of them are made with."""
    return {
        "d_model": shape.embed_dim,
        "nhead": shape.heads,
        "dim_feedforward": shape.ff_dim,
        "dropout": shape.dropout,
        "batch_first": shape.batch_first,
        "norm_first": shape.norm_first,
        "bias": shape.bias,
        "device": "meta",
    }


def _masks(x: ModuleInputs, heads: int, axis: str | None = None) -> TorchMasks:
    """The workload's mask, or that of another axis, floating as torch would make it at each call."""
    like = next(iter(x.tensors.values()))
    return torch_masks(x.mask if axis is None else x.other_masks[axis], heads, like.device, like.dtype)


def _load_encoder_layer(workload: Workload, options: Options, fast: bool) -> Callable[[ModuleInputs], Any]:
    """src -> o, with the fast path allowed or not."""
    del options
    from torch import nn

    from attnbench_impls.modules import over

    shape = workload.shape
    pinned = PinnedPath(fast)

    def prepare(x: ModuleInputs) -> Call:
        module = over(nn.TransformerEncoderLayer(**_arguments(shape)), x.parameters).train(shape.training)
        masks = _masks(x, shape.heads)
        settings: dict[str, Any] = {
            "src_mask": masks.attn_mask,
            "src_key_padding_mask": masks.key_padding_mask,
            "is_causal": masks.is_causal,
        }

        def call(x: ModuleInputs) -> Any:
            with pinned:
                return module(x.tensors["src"], **settings)

        return call

    return prepared(prepare)


def _load_decoder_layer(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """tgt, memory -> o."""
    del options
    from torch import nn

    from attnbench_impls.modules import over

    shape = workload.shape
    pinned = PinnedPath(fast=False)

    def prepare(x: ModuleInputs) -> Call:
        module = over(nn.TransformerDecoderLayer(**_arguments(shape)), x.parameters).train(shape.training)
        settings = _decoder_settings(x, shape.heads)

        def call(x: ModuleInputs) -> Any:
            with pinned:
                return module(x.tensors["tgt"], x.tensors["memory"], **settings)

        return call

    return prepared(prepare)


def _decoder_settings(x: ModuleInputs, heads: int) -> dict[str, Any]:
    """The masks and hints of a decoder's two attentions."""
    own, memory = _masks(x, heads), _masks(x, heads, "memory_mask")
    return {
        "tgt_mask": own.attn_mask,
        "tgt_key_padding_mask": own.key_padding_mask,
        "tgt_is_causal": own.is_causal,
        "memory_mask": memory.attn_mask,
        "memory_key_padding_mask": memory.key_padding_mask,
        "memory_is_causal": memory.is_causal,
    }


def _load_transformer(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """src, tgt -> o. torch has no positional encoding: a table made before the first call is added."""
    del options
    from torch import nn

    from attnbench_impls.modules import over, sinusoidal_table

    shape = workload.shape
    pinned = PinnedPath(fast=False)
    arguments = _arguments(shape)

    def prepare(x: ModuleInputs) -> Call:
        norm = partial(nn.LayerNorm, shape.embed_dim, bias=shape.bias, device="meta")
        # Made here, since nn.Transformer asks for nested tensors, which the ordinary path knows nothing of.
        encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**arguments), shape.layers, norm(), enable_nested_tensor=False
        )
        decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**arguments), shape.layers, norm())
        module = over(
            nn.Transformer(
                shape.embed_dim,
                shape.heads,
                custom_encoder=encoder,
                custom_decoder=decoder,
                batch_first=shape.batch_first,
            ),
            x.parameters,
        ).train(shape.training)
        like = x.tensors["src"]
        table = sinusoidal_table(max(shape.q_len, shape.kv_len), shape.embed_dim, like.device, like.dtype)
        if not shape.batch_first:
            table = table[:, None]
        src_positions, tgt_positions = table[: shape.kv_len], table[: shape.q_len]
        src = _masks(x, shape.heads, "src_mask")
        settings = {
            "src_mask": src.attn_mask,
            "src_key_padding_mask": src.key_padding_mask,
            "src_is_causal": src.is_causal,
            **_decoder_settings(x, shape.heads),
        }

        def call(x: ModuleInputs) -> Any:
            with pinned:
                return module(x.tensors["src"] + src_positions, x.tensors["tgt"] + tgt_positions, **settings)

        return call

    return prepared(prepare)


TORCH_ENCODER_LAYER = Implementation(
    name="torch_encoder_layer",
    operation="encoder_layer",
    framework="torch",
    summary="torch's nn.TransformerEncoderLayer on its ordinary path",
    memory="O(B·L·(E + F)) and SDPA's; O(B·H·L²) for some masks",
    flops="O(B·L·E·(E + F) + B·L²·E)",
    source="torch.nn.TransformerEncoderLayer",
    load=partial(_load_encoder_layer, fast=False),
    supports=supports,
    resolved_backend=path_taken,
)

TORCH_ENCODER_LAYER_FASTPATH = Implementation(
    name="torch_encoder_layer_fastpath",
    operation="encoder_layer",
    framework="torch",
    summary="torch's nn.TransformerEncoderLayer on its fast path for inference",
    memory="O(B·L·(E + F) + B·H·L²)",
    flops="O(B·L·E·(E + F) + B·L²·E)",
    source="torch.nn.TransformerEncoderLayer; torch._transformer_encoder_layer_fwd",
    load=partial(_load_encoder_layer, fast=True),
    supports=supports_fastpath,
    resolved_backend=path_taken,
)

TORCH_DECODER_LAYER = Implementation(
    name="torch_decoder_layer",
    operation="decoder_layer",
    framework="torch",
    summary="torch's nn.TransformerDecoderLayer",
    memory="O(B·(Lq·(E + F) + Lk·E)) and SDPA's; O(B·H·Lq·max(Lq, Lk)) for some masks",
    flops="O(B·Lq·E·(E + F) + B·Lk·E² + B·Lq·(Lq + Lk)·E)",
    source="torch.nn.TransformerDecoderLayer",
    load=_load_decoder_layer,
    supports=supports,
    resolved_backend=path_taken,
)

TORCH_TRANSFORMER = Implementation(
    name="torch_transformer",
    operation="transformer",
    framework="torch",
    summary="torch's nn.Transformer on its ordinary path, over a table of sinusoidal positions",
    memory="O(B·(Lq + Lk)·(E + F)) and SDPA's; O(B·H·max(Lq, Lk)²) for some masks; backward: times layers",
    flops="O(layers·B·(Lq + Lk)·E·(E + F) + layers·B·(Lq + Lk)²·E)",
    source="torch.nn.Transformer",
    load=_load_transformer,
    supports=supports,
    resolved_backend=path_taken,
)
