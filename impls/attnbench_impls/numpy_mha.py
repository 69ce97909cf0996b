"""Multi-head attention as the tutorials write it, in NumPy: project, split, softmax, combine, project."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbench.implementation import Implementation, ModuleInputs, Options
from attnbench.masks import Mask
from attnbench.workload import Workload
from attnbench_impls.prepared import Call, prepared

__all__ = ["IMPLEMENTATION", "MultiHeadAttention"]

Array = npt.NDArray[Any]


class MultiHeadAttention:
    """Multi-head attention over weights in torch's layout, batch first.

    `parameters` are those of `torch.nn.MultiheadAttention`'s state_dict: `in_proj_weight` `[3E, E]`, or
    `q_proj_weight` `[E, E]`, `k_proj_weight` `[E, kdim]` and `v_proj_weight` `[E, vdim]`; `out_proj.weight`
    `[E, E]`; and where there are biases `in_proj_bias` `[3E]`, `out_proj.bias` `[E]`. `bias_k` and `bias_v`
    `[1, 1, E]` are appended to keys and values, a key and value of zeros where `add_zero_attn` says so.
    float16 is computed in float32: NumPy has no matrix product of halves worth the name.
    """

    def __init__(self, parameters: dict[str, Array], heads: int, add_zero_attn: bool = False) -> None:
        self.heads = heads
        self.add_zero_attn = add_zero_attn
        given = next(iter(parameters.values())).dtype
        self.dtype = np.result_type(given, np.float32)
        wide = {name: each.astype(self.dtype, copy=False) for name, each in parameters.items()}
        packed = wide.get("in_proj_weight")
        self.projections: list[Array] = (
            np.split(packed, 3)
            if packed is not None
            else [wide[f"{name}_proj_weight"] for name in ("q", "k", "v")]
        )
        bias = wide.get("in_proj_bias")
        self.biases: list[Array | None] = [None] * 3 if bias is None else list(np.split(bias, 3))
        self.output_weight, self.output_bias = wide["out_proj.weight"], wide.get("out_proj.bias")
        self.appended = [(wide["bias_k"], wide["bias_v"])] if "bias_k" in wide else []

    def __call__(self, query: Array, key: Array, value: Array, mask: Mask) -> tuple[Array, Array]:
        """The output `[B, Lq, E]` and the weights `[B, H, Lq, S]`, both in the dtype that is computed in.

        query `[B, Lq, E]`, key `[B, Lk, kdim]`, value `[B, Lk, vdim]`. S counts the keys and what is
        appended. A query that sees no key has weights and attention of 0.
        """
        q, k, v = (
            linear(x.astype(self.dtype, copy=False), weight, bias)
            for x, weight, bias in zip((query, key, value), self.projections, self.biases, strict=True)
        )
        k, v = self._append(k, v)
        q, k, v = (split_heads(each, self.heads) for each in (q, k, v))  # [B, H, L, D]
        scores = (q * q.dtype.type(q.shape[-1] ** -0.5)) @ k.swapaxes(-1, -2)  # [B, H, Lq, S]
        weights = masked_softmax(scores, mask)
        attended = combine_heads(weights @ v)  # [B, Lq, E]
        return linear(attended, self.output_weight, self.output_bias), weights

    def _append(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Keys and values `[B, Lk, E]` with those behind them that every query sees."""
        one = (k.shape[0], 1, k.shape[2])
        more = list(self.appended)
        if self.add_zero_attn:
            more.append((np.zeros(one, dtype=k.dtype), np.zeros(one, dtype=v.dtype)))
        if not more:
            return k, v
        keys, values = ([np.broadcast_to(each, one) for each in column] for column in zip(*more, strict=True))
        return np.concatenate([k, *keys], axis=1), np.concatenate([v, *values], axis=1)


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x·Wᵀ + b: `[B, L, in]` -> `[B, L, out]`, the weight being `[out, in]`."""
    rows: Array = x.reshape(-1, x.shape[-1]) @ weight.T  # one product, where x·Wᵀ would be one a sequence
    if bias is not None:
        rows += bias
    return rows.reshape(*x.shape[:-1], len(weight))


def split_heads(x: Array, heads: int) -> Array:
    """`[B, L, E]` -> `[B, H, L, E / H]`."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def combine_heads(x: Array) -> Array:
    """`[B, H, L, D]` -> `[B, L, H·D]`."""
    batch, heads, length, head_dim = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * head_dim)


def masked_softmax(scores: Array, mask: Mask) -> Array:
    """The softmax of scores `[B, H, Lq, S]` over the keys that are seen, in place.

    Stable: the largest is subtracted first. Keys beyond the mask's are seen by every query.
    """
    allowed, blind = mask.to_bool(), mask.blind_queries()
    if allowed is not None:
        np.copyto(scores[..., : mask.kv_len], -np.inf, where=~allowed)
    if scores.shape[-1] > mask.kv_len:
        blind = None
    if blind is not None:  # finite, and of no account
        np.copyto(scores, 0, where=blind)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    if blind is not None:
        np.copyto(scores, 0, where=blind)
    return scores


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """What nn.MultiheadAttention has, but for dropout that acts."""
    del options, device
    shape = workload.shape
    lacking = (
        (shape.kv_heads < shape.heads, "grouped-query heads"),
        (shape.rotary, "rotary positions"),
        (shape.qk_norm, "normalised queries and keys"),
        (shape.training and shape.dropout > 0, "dropout"),
    )
    return next((f"numpy_mha has no {what}" for asked, what in lacking if asked), None)


def load(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """The class over the workload's weights; those of float16 are kept in float32."""
    del options
    shape = workload.shape

    def prepare(x: ModuleInputs) -> Call:
        module = MultiHeadAttention(x.parameters, shape.heads, shape.add_zero_attn)

        def call(x: ModuleInputs) -> Any:
            activations = (x.query, x.key, x.value)
            if not shape.batch_first:
                activations = tuple(each.swapaxes(0, 1) for each in activations)
            o, weights = module(*activations, x.mask)
            o = o.astype(x.query.dtype, copy=False)
            o = o if shape.batch_first else np.ascontiguousarray(o.swapaxes(0, 1))
            if shape.need_weights == "none":
                return o
            if shape.need_weights == "averaged":
                weights = weights.mean(axis=1)
            return o, weights.astype(x.query.dtype, copy=False)

        return call

    return prepared(prepare)


IMPLEMENTATION = Implementation(
    name="numpy_mha",
    operation="mha",
    framework="numpy",
    summary="the NumPy class of the tutorials: projections, split heads, stable softmax, combined heads",
    memory="O(B·(Lq + Lk)·E + B·H·Lq·Lk)",
    flops="O(B·(Lq + Lk)·E² + B·Lq·Lk·E)",
    source="Vaswani et al., Attention Is All You Need (2017), §3.2.2",
    load=load,
    supports=supports,
)
