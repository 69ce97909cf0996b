"""Attention as the textbooks write it, in NumPy, with the textbooks' gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbench.implementation import AttentionInputs, Implementation, Options
from attnbench.workload import Workload

__all__ = ["IMPLEMENTATION"]

Array = npt.NDArray[Any]


def _operands(x: AttentionInputs) -> tuple[Array, Array, Array]:
    """scale·q `[B, Hkv, G·Lq, D]`, k and v in the dtype to compute in.

    float16 is computed in float32: NumPy has no matrix product of halves worth the name. Scaling q is scaling
    the scores, in head_dim instead of kv_len multiplications a row.
    """
    computed = np.result_type(x.q.dtype, np.float32)
    q = np.multiply(x.q, computed.type(x.scale), dtype=computed)
    k, v = (tensor.astype(computed, copy=False) for tensor in (x.k, x.v))
    return _grouped(q, k.shape[1]), k, v


def _grouped(tensor: Array, kv_heads: int) -> Array:
    """`[B, H, Lq, D]` -> `[B, Hkv, G·Lq, D]`: heads that share a key head are rows of one product."""
    batch, heads, q_len, head_dim = tensor.shape
    return tensor.reshape(batch, kv_heads, heads // kv_heads * q_len, head_dim)


def _exponentials(x: AttentionInputs, q: Array, k: Array) -> tuple[Array, Array]:
    """exp(score − the row's largest), `[B, Hkv, G·Lq, Lk]`, 0 for hidden keys, and its sum over the keys.

    The rows of queries that see no key hold ones: finite, and of no account, since their output is set to 0.
    """
    weights: Array = q @ k.swapaxes(-1, -2)
    allowed, blind = x.mask.to_bool(), x.mask.blind_queries()
    per_head = weights.reshape(*x.q.shape[:3], k.shape[2])  # the same memory
    if allowed is not None:
        np.copyto(per_head, -np.inf, where=~allowed)
    if blind is not None:
        np.copyto(per_head, 0, where=blind)
    weights -= weights.max(axis=-1, keepdims=True)
    np.exp(weights, out=weights)
    return weights, weights.sum(axis=-1, keepdims=True)


def _zero_blind(x: AttentionInputs, tensor: Array) -> Array:
    """`tensor` `[B, H, Lq, D]`, with 0 written to the queries that see no key."""
    blind = x.mask.blind_queries()
    if blind is not None:
        np.copyto(tensor, 0, where=blind)
    return tensor


def load(workload: Workload, options: Options) -> Callable[[AttentionInputs], Array]:
    """softmax(scale·q·kᵀ)·v with the weights `[B, H, Lq, Lk]` in memory, computed in place."""
    del workload, options

    def numpy_attention(x: AttentionInputs) -> Array:
        q, k, v = _operands(x)
        weights, total = _exponentials(x, q, k)
        # Dividing the output is dividing the weights, in head_dim instead of kv_len divisions a row.
        output: Array = weights @ v
        output /= total
        output = output.reshape(*x.q.shape[:3], v.shape[-1]).astype(x.q.dtype, copy=False)
        return _zero_blind(x, output)

    return numpy_attention


def load_backward(
    workload: Workload, options: Options
) -> Callable[[AttentionInputs, Array, Array], tuple[Array, Array, Array]]:
    """The gradients by the chain rule, with weights and scores' gradients `[B, H, Lq, Lk]` in memory.

    The weights P are computed again. With Δ = Σ dO∘O per query: dV = Pᵀ·dO, dS = P∘(dO·Vᵀ − Δ),
    dQ = scale·dS·K, dK = scale·dSᵀ·Q (Dao et al., FlashAttention, 2022, appendix B.2).
    """
    del workload, options

    def numpy_attention_backward(
        x: AttentionInputs, output: Array, grad_out: Array
    ) -> tuple[Array, Array, Array]:
        q, k, v = _operands(x)
        out = _grouped(output.astype(q.dtype, copy=False), k.shape[1])
        d_out = _grouped(_zero_blind(x, grad_out.astype(q.dtype)), k.shape[1])
        weights, total = _exponentials(x, q, k)
        weights /= total
        dv = weights.swapaxes(-1, -2) @ d_out
        d_scores: Array = d_out @ v.swapaxes(-1, -2)
        d_scores -= (d_out * out).sum(axis=-1, keepdims=True)
        d_scores *= weights
        dq = d_scores @ k
        dq *= x.scale
        dk = d_scores.swapaxes(-1, -2) @ q  # q is scaled already
        return (
            dq.reshape(x.q.shape).astype(x.q.dtype, copy=False),
            dk.astype(x.k.dtype, copy=False),
            dv.astype(x.v.dtype, copy=False),
        )

    return numpy_attention_backward


IMPLEMENTATION = Implementation(
    name="numpy",
    operation="attention",
    framework="numpy",
    summary="softmax(QKᵀ/√d)·V in NumPy, computed in place",
    memory="O(B·H·Lq·Lk)",
    flops="O(B·H·Lq·Lk·D)",
    source="Vaswani et al., Attention Is All You Need (2017), §3.2.1",
    load=load,
    load_backward=load_backward,
)
