"""torchtune's MultiHeadAttention, over the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from attnbench.implementation import Implementation, ModuleInputs, Options
from attnbench.workload import Workload
from attnbench_impls.prepared import Call, prepared
from attnbench_impls.torch_modules.masking import may_be_blind

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IMPLEMENTATION"]

HOW = "pip install 'attnbench[torchtune]'"

#: torchtune 0.6.1, its last release, imports torchao.dtypes.nf4tensor, which this version of torchao lacks.
TORCHAO_WITHOUT = (0, 18)


def available(device: str) -> str | None:
    """Whether torchtune is installed, and beside a torchao that it can import. It is not imported here."""
    del device
    try:
        version("torchtune")
        torchao = version("torchao")
    except PackageNotFoundError as error:
        return f"{error.name} is not installed: {HOW}"
    if tuple(int(part) for part in torchao.split(".")[:2]) >= TORCHAO_WITHOUT:
        return f"torchtune cannot be imported beside torchao {torchao}: {HOW}, which brings one below 0.18"
    return None


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """Self attention over a whole sequence, batch first, with neither appended keys nor weights."""
    del options
    shape = workload.shape
    wide = shape.rotary or shape.qk_norm
    lacking = (
        (shape.attention == "cross", "keys and values from two tensors"),
        (shape.add_bias_kv, "add_bias_kv"),
        (shape.add_zero_attn, "add_zero_attn"),
        (shape.need_weights != "none", "attention weights to return"),
        (not shape.batch_first, "a batch that comes second"),
        (shape.rotary and shape.past_len > 0, "rotary positions of queries alone"),
        (wide and workload.dtype == "float64", "rotary positions and normalisation in more than float32"),
    )
    for asked, what in lacking:
        if asked:
            return f"torchtune's MultiHeadAttention has no {what}"
    if may_be_blind(workload.mask, shape.q_len, shape.kv_len) and not device.startswith("cpu"):
        return f"torch may make NaN of queries that see no key, on {device}; {workload.mask} has some"
    return None


def load(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """The module over views of the workload's weights."""
    del options
    import torch
    from torch import nn

    from attnbench_impls.modules import over

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the many packages that torchtune imports
        theirs = import_module("torchtune.modules")

    shape = workload.shape
    # Without a mask torchtune is causal, aligned top-left, if it is told so: right for a square.
    square_causal = workload.mask == "causal" and not shape.past_len

    def prepare(x: ModuleInputs) -> Call:
        first = x.tensors["x"]

        def linear(inner: int, outer: int) -> nn.Linear:
            return nn.Linear(inner, outer, bias=shape.bias, device="meta")

        with torch.device("meta"):
            norms = {name: theirs.RMSNorm(shape.head_dim) for name in ("q_norm", "k_norm") if shape.qk_norm}
        bare = theirs.MultiHeadAttention(
            embed_dim=shape.embed_dim,
            num_heads=shape.heads,
            num_kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            q_proj=linear(shape.embed_dim, shape.embed_dim),
            k_proj=linear(shape.embed_dim, shape.kv_dim),
            v_proj=linear(shape.embed_dim, shape.kv_dim),
            output_proj=linear(shape.embed_dim, shape.embed_dim),
            max_seq_len=shape.kv_len,
            is_causal=square_causal,
            attn_dropout=shape.dropout,
            **norms,
        )
        module = over(bare, _renamed(x.parameters, shape)).train(shape.training)
        if shape.rotary:
            positions = theirs.RotaryPositionalEmbeddings(shape.head_dim, shape.kv_len)
            module.pos_embeddings = positions.to(first.device)
        allowed = None if square_causal else x.mask.to_bool(first.device)
        mask = None if allowed is None else allowed[:, 0].expand(shape.batch, -1, -1)
        return lambda x: module(x.query, x.key, mask=mask)

    return prepared(prepare)


def _renamed(parameters: dict[str, Tensor], shape: Any) -> dict[str, Tensor]:
    """The weights by torchtune's names; views, where torch packs several into one.

    Of packed weights and biases a backward pass copies the gradient once, to pack it again.
    """
    import torch

    sizes = [shape.embed_dim, shape.kv_dim, shape.kv_dim]
    projections = [f"{name}_proj" for name in ("q", "k", "v")]
    renamed = {name: each for name, each in parameters.items() if name.endswith("norm.scale")}
    for name, each in parameters.items():
        if name.startswith("out_proj"):
            renamed[name.replace("out_proj", "output_proj")] = each
        elif name.startswith("in_proj"):
            kind = name.removeprefix("in_proj_")
            parts = torch.split(each, sizes)
            renamed |= {f"{to}.{kind}": part for to, part in zip(projections, parts, strict=True)}
        elif name.endswith("_proj_weight"):
            renamed[name.replace("_proj_weight", "_proj.weight")] = each
    return renamed


IMPLEMENTATION = Implementation(
    name="torchtune_mha",
    operation="mha",
    framework="torch",
    summary="torchtune's MultiHeadAttention, over SDPA",
    memory="O(B·L·E) and SDPA's; grouped keys and values are copied for every query head",
    flops="O(B·L·E² + B·Lq·Lk·E)",
    source="torchtune.modules.MultiHeadAttention",
    load=load,
    supports=supports,
    available=available,
)
