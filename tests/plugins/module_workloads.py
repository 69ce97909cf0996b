"""Workloads of module operations for tests: by axes, for a mutant, and at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnbench.workload import DISTRIBUTIONS, SHAPES, Workload

SMALL: dict[str, Any] = {"batch": 2, "embed_dim": 32, "heads": 4}


def workload(
    operation: str,
    *,
    mask: str = "none",
    dtype: str = "float32",
    pass_: str = "forward",
    inputs: str = "normal",
    **axes: Any,
) -> Workload:
    return Workload(operation, SHAPES[operation].from_axes(axes), mask, dtype, pass_, inputs)


def workload_of(operation: str, needs: Mapping[str, Any], **more: Any) -> Workload:
    """A small one to which a mutant matters that needs these axes, mask or pass."""
    axes = {**SMALL, **needs, **more}
    if "q_len" not in axes:
        axes["seq_len"] = 20
    return workload(operation, **{"pass_" if name == "pass" else name: each for name, each in axes.items()})


def random_workload(seed: int, dtype: str) -> Workload:
    """Small, of any operation, with whatever torch's modules can do."""
    rng = np.random.default_rng(seed)
    operation = list(SHAPES)[1 + seed % (len(SHAPES) - 1)]
    heads = int(rng.choice([1, 2, 4]))
    q_len, kv_len = sorted(int(2 ** rng.uniform(0, 5)) for _ in range(2))
    axes = {"batch": int(rng.integers(1, 4)), "embed_dim": heads * int(rng.choice([4, 8]))}
    axes["batch_first"] = bool(rng.random() < 0.7)
    mask = str(rng.choice(["none", "causal", "sliding_window(2)", "causal+padding(0.3)"]))
    if operation == "positional_encoding":
        mask, axes["seq_len"] = "none", kv_len
    else:
        axes |= {"heads": heads, "bias": bool(rng.random() < 0.7)}
    if operation == "encoder_layer":
        axes["seq_len"] = kv_len
    if operation in ("mha", "decoder_layer", "transformer"):
        axes |= {"q_len": q_len, "kv_len": kv_len}
    if operation in ("encoder_layer", "decoder_layer", "transformer"):
        axes |= {"ff_dim": 24, "norm_first": bool(rng.random() < 0.5)}
    if operation == "mha":
        axes |= {
            "add_bias_kv": bool(rng.random() < 0.3),
            "add_zero_attn": bool(rng.random() < 0.3),
            "need_weights": str(rng.choice(["none", "averaged", "per_head"])),
        }
        if rng.random() < 0.4:
            axes |= {"attention": "cross", "kdim": 5, "vdim": 3}
    pass_ = str(rng.choice(["forward", "backward", "forward_backward"]))
    inputs = DISTRIBUTIONS[int(rng.integers(len(DISTRIBUTIONS)))]
    if dtype == "bfloat16" and inputs == "extreme_logits" and operation == "transformer":
        inputs = "normal"  # scores rounded to 8 bits, one softmax after another: chaos
    return workload(operation, mask=mask, dtype=dtype, pass_=pass_, inputs=inputs, **axes)
