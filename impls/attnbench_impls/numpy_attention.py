"""Attention as the textbooks write it, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbench.implementation import AttentionInputs, Implementation, Options
from attnbench.workload import Workload

__all__ = ["IMPLEMENTATION"]


def load(workload: Workload, options: Options) -> Callable[[AttentionInputs], npt.NDArray[Any]]:
    """softmax(scale·q·kᵀ)·v with the weights `[B, H, Lq, Lk]` in memory, computed in place.

    float16 is computed in float32: NumPy has no matrix product of halves worth the name.
    """
    del workload, options

    def numpy_attention(x: AttentionInputs) -> npt.NDArray[Any]:
        batch, heads, q_len, head_dim = x.q.shape
        kv_heads, kv_len = x.k.shape[1:3]
        # The query heads that share a key head become rows of one product, so that no key is copied.
        grouped = (batch, kv_heads, heads // kv_heads * q_len)

        computed = np.result_type(x.q.dtype, np.float32)
        # Scaling q is scaling the scores, in head_dim instead of kv_len multiplications a row.
        q = np.multiply(x.q, computed.type(x.scale), dtype=computed).reshape(*grouped, head_dim)
        k, v = (tensor.astype(computed, copy=False) for tensor in (x.k, x.v))
        weights: npt.NDArray[Any] = q @ k.swapaxes(-1, -2)  # [B, Hkv, G·Lq, Lk]
        allowed, blind = x.mask.to_bool(), x.mask.blind_queries()
        per_head = weights.reshape(batch, heads, q_len, kv_len)  # the same memory
        if allowed is not None:
            np.copyto(per_head, -np.inf, where=~allowed)
        if blind is not None:
            # Any finite scores will do: the output is set to 0 below.
            np.copyto(per_head, 0, where=blind)
        weights -= weights.max(axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        # Dividing the output is dividing the weights, in head_dim instead of kv_len divisions a row.
        output: npt.NDArray[Any] = weights @ v
        output /= weights.sum(axis=-1, keepdims=True)
        output = output.reshape(batch, heads, q_len, head_dim).astype(x.q.dtype, copy=False)
        if blind is not None:
            np.copyto(output, 0, where=blind)
        return output

    return numpy_attention


IMPLEMENTATION = Implementation(
    name="numpy",
    operation="attention",
    framework="numpy",
    summary="softmax(QKᵀ/√d)·V in NumPy, computed in place",
    load=load,
)
