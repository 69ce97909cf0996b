"""Encoder layer, decoder layer and transformer of ours, over any core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

__all__ = ["DECODER_LAYER", "ENCODER_LAYER", "TRANSFORMER"]

SOURCE = "Vaswani et al., Attention Is All You Need (2017), §3.1"


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """What the core cannot do in one of the attentions."""
    q_len, kv_len = workload.shape.mask_lengths
    attentions = [(workload.mask, q_len, kv_len), *workload.shape.other_masks().values()]
    for mask, queries, keys in attentions:
        why = why_core_cannot(workload, options, device, q_len=queries, kv_len=keys, mask=mask)
        if why is not None:
            return why
    return None


def _arguments(shape: Any, options: Options) -> dict[str, Any]:
    """What all of them are made with."""
    return {
        "dim_feedforward": shape.ff_dim,
        "dropout": shape.dropout,
        "batch_first": shape.batch_first,
        "norm_first": shape.norm_first,
        "bias": shape.bias,
        "device": "meta",
        "core": chosen_core(options),
        "kv_heads": shape.kv_heads,
    }


def load_encoder_layer(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """src -> o."""
    from attnbench_impls.modules import EncoderLayer, over

    shape = workload.shape
    arguments = _arguments(shape, options)

    def prepare(x: ModuleInputs) -> Call:
        module = over(EncoderLayer(shape.embed_dim, shape.heads, **arguments), x.parameters)
        module.train(shape.training)
        x.kept(BACKEND, lambda: backend_of_core(arguments["core"], shape, x))
        return lambda x: module(x.tensors["src"], x.mask)

    return prepared(prepare)


def load_decoder_layer(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """tgt, memory -> o."""
    from attnbench_impls.modules import DecoderLayer, over

    shape = workload.shape
    arguments = _arguments(shape, options)

    def prepare(x: ModuleInputs) -> Call:
        module = over(DecoderLayer(shape.embed_dim, shape.heads, **arguments), x.parameters)
        module.train(shape.training)
        x.kept(BACKEND, lambda: backend_of_core(arguments["core"], shape, x))
        return lambda x: module(x.tensors["tgt"], x.tensors["memory"], x.mask, x.other_masks["memory_mask"])

    return prepared(prepare)


def load_transformer(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """src, tgt -> o; both get their positions added."""
    from attnbench_impls.modules import SinusoidalPositionalEncoding, Transformer, over

    shape = workload.shape
    arguments = _arguments(shape, options)

    def prepare(x: ModuleInputs) -> Call:
        module = over(
            Transformer(
                shape.embed_dim,
                shape.heads,
                num_encoder_layers=shape.layers,
                num_decoder_layers=shape.layers,
                **arguments,
            ),
            x.parameters,
        ).train(shape.training)
        x.kept(BACKEND, lambda: backend_of_core(arguments["core"], shape, x))
        src = x.tensors["src"]
        positions = SinusoidalPositionalEncoding(
            shape.embed_dim,
            max(shape.q_len, shape.kv_len),
            shape.batch_first,
            device=src.device,
            dtype=src.dtype,
        )

        def call(x: ModuleInputs) -> Any:
            return module(
                positions(x.tensors["src"]),
                positions(x.tensors["tgt"]),
                src_mask=x.other_masks["src_mask"],
                tgt_mask=x.mask,
                memory_mask=x.other_masks["memory_mask"],
            )

        return call

    return prepared(prepare)


ENCODER_LAYER = Implementation(
    name="encoder_layer",
    operation="encoder_layer",
    framework="torch",
    summary="ours: self-attention over any core and feed-forward, each added and normalised",
    memory="O(B·L·(E + F)) and the core's (naive: O(B·H·L²))",
    flops="O(B·L·E·(E + F)) and the core's (naive: O(B·L²·E))",
    source=SOURCE,
    options={"core": CORE},
    load=load_encoder_layer,
    supports=supports,
    resolved_backend=told_backend,
)

DECODER_LAYER = Implementation(
    name="decoder_layer",
    operation="decoder_layer",
    framework="torch",
    summary="ours: masked self-attention, cross attention, both over any core, and feed-forward",
    memory="O(B·(Lq·(E + F) + Lk·E)) and the core's (naive: O(B·H·Lq·max(Lq, Lk)))",
    flops="O(B·Lq·E·(E + F) + B·Lk·E²) and the core's (naive: O(B·Lq·(Lq + Lk)·E))",
    source=SOURCE,
    options={"core": CORE},
    load=load_decoder_layer,
    supports=supports,
    resolved_backend=told_backend,
)

TRANSFORMER = Implementation(
    name="transformer",
    operation="transformer",
    framework="torch",
    summary="ours: encoder and decoder stack over sinusoidal positions, all attentions over any core",
    memory="O(B·(Lq + Lk)·(E + F)) and the core's (naive: O(B·H·max(Lq, Lk)²)); backward: times layers",
    flops="O(layers·B·(Lq + Lk)·E·(E + F)) and the core's (naive: O(layers·B·(Lq + Lk)²·E))",
    source=SOURCE,
    options={"core": CORE},
    load=load_transformer,
    supports=supports,
    resolved_backend=told_backend,
)
