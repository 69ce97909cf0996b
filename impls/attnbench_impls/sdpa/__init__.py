"""torch's scaled_dot_product_attention: its own choice of backend, or one backend pinned."""

from __future__ import annotations

from attnbench.implementation import Implementation
from attnbench_impls.sdpa.backends import BACKENDS, cudnn_available, needs_cuda
from attnbench_impls.sdpa.choice import chosen_backend
from attnbench_impls.sdpa.kernel import loader
from attnbench_impls.sdpa.twin import supporter

__all__ = ["SDPA", "SDPA_CUDNN", "SDPA_EFFICIENT", "SDPA_FLASH", "SDPA_MATH"]

SOURCE = "torch.nn.functional.scaled_dot_product_attention"

SDPA = Implementation(
    name="sdpa",
    operation="attention",
    framework="torch",
    summary="torch's scaled_dot_product_attention, backend of its own choice",
    memory="that of the backend it chooses",
    flops="that of the backend it chooses",
    source=SOURCE,
    load=loader(None),
    resolved_backend=chosen_backend,
)

SDPA_MATH = Implementation(
    name="sdpa_math",
    operation="attention",
    framework="torch",
    summary="scaled_dot_product_attention pinned to the unfused backend",
    memory="O(B·H·Lq·Lk)",
    flops="O(B·H·Lq·Lk·(D + Dv))",
    source=SOURCE,
    load=loader("math"),
    supports=supporter("math"),
    resolved_backend=lambda _: BACKENDS["math"],
)

SDPA_FLASH = Implementation(
    name="sdpa_flash",
    operation="attention",
    framework="torch",
    summary="scaled_dot_product_attention pinned to the flash backend",
    memory="O(B·H·Lq); O(B·Lq·Lk) for a mask that is a matrix",
    flops="O(B·H·Lq·Lk·(D + Dv)), half of it for causal masks",
    source=f"{SOURCE}; Dao, FlashAttention-2 (2023)",
    load=loader("flash"),
    supports=supporter("flash"),
    resolved_backend=lambda _: BACKENDS["flash"],
)

SDPA_EFFICIENT = Implementation(
    name="sdpa_efficient",
    operation="attention",
    framework="torch",
    summary="scaled_dot_product_attention pinned to the memory-efficient backend",
    memory="O(B·H·Lq); O(B·Lq·Lk) for a mask that is a matrix",
    flops="O(B·H·Lq·Lk·(D + Dv)), half of it for causal masks",
    source=f"{SOURCE}; xFormers, memory_efficient_attention (2022)",
    load=loader("mem_efficient"),
    supports=supporter("mem_efficient"),
    available=needs_cuda("mem_efficient"),
    resolved_backend=lambda _: BACKENDS["mem_efficient"],
)

SDPA_CUDNN = Implementation(
    name="sdpa_cudnn",
    operation="attention",
    framework="torch",
    summary="scaled_dot_product_attention pinned to cuDNN's backend",
    memory="O(B·H·Lq); O(B·Lq·Lk) for a mask that is a matrix",
    flops="O(B·H·Lq·Lk·(D + Dv)), half of it for causal masks",
    source=f"{SOURCE}; NVIDIA cuDNN, fused flash attention",
    load=loader("cudnn"),
    supports=supporter("cudnn"),
    available=cudnn_available,
    resolved_backend=lambda _: BACKENDS["cudnn"],
)
