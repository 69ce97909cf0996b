"""torch's scaled_dot_product_attention: its own choice of backend, or one backend pinned."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attnbench.implementation import AttentionInputs, Implementation, Options
from attnbench.masks import Mask
from attnbench.workload import AttentionShape, Workload

if TYPE_CHECKING:
    import torch

__all__ = ["SDPA", "SDPA_FLASH", "SDPA_MATH"]

#: The backends that can be switched, as `torch.backends.cuda` calls them (the switches rule the CPU too).
BACKENDS = ("flash", "mem_efficient", "math", "cudnn")


class Pinned:
    """A context in which torch may use one backend only, and raises rather than falling back to another.

    `torch.nn.attention.sdpa_kernel` does the same in about 10 µs, twice what a small call takes; with the
    public switches it is below 1 µs, which is what the pinned implementations' times include.
    """

    def __init__(self, backend: str) -> None:
        from torch.backends import cuda

        others = [name for name in BACKENDS if name != backend]
        self._enable = getattr(cuda, f"enable_{backend}_sdp")
        self._is_enabled = getattr(cuda, f"{backend}_sdp_enabled")
        self._others = [
            (getattr(cuda, f"enable_{name}_sdp"), getattr(cuda, f"{name}_sdp_enabled")) for name in others
        ]
        self._before: list[tuple[Callable[[bool], None], bool]] = []

    def __enter__(self) -> None:
        self._before = [(enable, is_enabled()) for enable, is_enabled in self._others]
        self._before.append((self._enable, self._is_enabled()))
        for enable, _ in self._others:
            enable(False)
        self._enable(True)

    def __exit__(self, *exception: object) -> None:
        for enable, was in self._before:
            enable(was)


def how_masked(mask: Mask, device: torch.device, backend: str | None) -> dict[str, Any]:
    """The arguments that make SDPA apply `mask`, in the fastest form that is right.

    `is_causal` aligns top-left, so it is right for q_len = kv_len only; a single query sees every key.
    `causal_lower_right` is bottom-right without a mask in memory, but only in the fused CUDA backends, and
    not for q_len > kv_len, where it gives NaN for the queries that see no key.
    """
    if mask.kind == "none" or (mask.kind == "causal" and mask.q_len == 1):
        return {}
    if mask.kind == "causal" and mask.q_len == mask.kv_len:
        return {"is_causal": True}
    if mask.kind == "causal" and mask.q_len < mask.kv_len and device.type == "cuda" and backend != "math":
        from torch.nn.attention.bias import causal_lower_right

        return {"attn_mask": causal_lower_right(mask.q_len, mask.kv_len)}
    return {"attn_mask": mask.to_bool(device)}


def arguments(x: AttentionInputs, backend: str | None) -> dict[str, Any]:
    """All keyword arguments of SDPA for `x`."""
    grouped = {"enable_gqa": True} if x.q.shape[1] != x.k.shape[1] else {}
    return {"scale": x.scale, **grouped, **how_masked(x.mask, x.q.device, backend)}


def loader(
    backend: str | None,
) -> Callable[[Workload, Options], Callable[[AttentionInputs], torch.Tensor]]:
    """The `load` of an implementation whose backend is pinned, or None for torch's own choice."""

    def load(workload: Workload, options: Options) -> Callable[[AttentionInputs], torch.Tensor]:
        del workload, options
        from torch.nn.functional import scaled_dot_product_attention

        kept: tuple[AttentionInputs, dict[str, Any]] | None = None

        def sdpa(x: AttentionInputs) -> torch.Tensor:
            nonlocal kept
            # How to mask is decided once for the same inputs: a look-up would be a tenth of a small call.
            if kept is None or kept[0] is not x:
                kept = (x, arguments(x, backend))
            return scaled_dot_product_attention(x.q, x.k, x.v, **kept[1])

        if backend is None:
            return sdpa
        pinned = Pinned(backend)

        def sdpa_pinned(x: AttentionInputs) -> torch.Tensor:
            with pinned:
                return sdpa(x)

        return sdpa_pinned

    return load


def supporter(backend: str) -> Callable[[Workload, Options, str], str | None]:
    """The `supports` of a pinned backend: it asks torch, with a small twin of the workload."""

    def supports(workload: Workload, options: Options, device: str) -> str | None:
        import torch

        shape = workload.shape
        # Backends refuse by dtype, head_dim, heads, mask and by how q_len compares with kv_len.
        twin = replace(shape, batch=1, q_len=min(shape.q_len, 2), kv_len=min(shape.kv_len, 2))
        if shape.q_len < shape.kv_len:
            twin = replace(twin, kv_len=twin.q_len + 1)
        elif shape.q_len > shape.kv_len:
            twin = replace(twin, q_len=twin.kv_len + 1)
        inputs = twin_inputs(replace(workload, shape=twin), torch.device(device))
        kernel = loader(backend)(workload, options)
        with warnings.catch_warnings(record=True) as caught, torch.enable_grad():
            warnings.simplefilter("always")  # torch warns of each reason, then raises
            try:
                output = kernel(inputs)
                if output.requires_grad:
                    torch.autograd.grad(output, (inputs.q, inputs.k, inputs.v), torch.zeros_like(output))
            except RuntimeError as error:
                reasons = [str(each.message).split(" (Triggered")[0] for each in caught] or [str(error)]
                return f"torch's {backend} backend: {' '.join(reasons)}"
        return None

    return supports


def twin_inputs(workload: Workload, device: torch.device) -> AttentionInputs:
    """Inputs of the workload's shape, dtype, mask and pass, of ones, for asking what torch can do."""
    import torch

    shape: AttentionShape = workload.shape

    def ones(heads: int, length: int) -> torch.Tensor:
        return torch.ones(
            shape.batch,
            heads,
            length,
            shape.head_dim,
            dtype=getattr(torch, workload.dtype),
            device=device,
            requires_grad=workload.pass_ != "forward",
        )

    return AttentionInputs(
        q=ones(shape.heads, shape.q_len),
        k=ones(shape.kv_heads, shape.kv_len),
        v=ones(shape.kv_heads, shape.kv_len),
        mask=Mask(workload.mask, shape.batch, shape.q_len, shape.kv_len),
        scale=1.0,
    )


def chosen_backend(x: AttentionInputs) -> str | None:
    """The backend that torch chooses for `x`, by the function it decides with; None if it cannot tell."""
    import torch
    from torch.nn.attention import SDPBackend

    choose = getattr(torch, "_fused_sdp_choice", None)
    chosen_for = arguments(x, None)
    # A causal bias is a tensor subclass that the function does not know. Its class is not imported to
    # recognise it: that takes two seconds, in every bench.
    if choose is None or type(chosen_for.get("attn_mask", x.q)) is not torch.Tensor:
        return None
    return SDPBackend(choose(x.q, x.k, x.v, **chosen_for)).name.lower()


SDPA = Implementation(
    name="sdpa",
    operation="attention",
    framework="torch",
    summary="torch's scaled_dot_product_attention, backend of its own choice",
    load=loader(None),
    resolved_backend=chosen_backend,
)

SDPA_MATH = Implementation(
    name="sdpa_math",
    operation="attention",
    framework="torch",
    summary="scaled_dot_product_attention pinned to the unfused backend",
    load=loader("math"),
    supports=supporter("math"),
    resolved_backend=lambda _: "math",
)

SDPA_FLASH = Implementation(
    name="sdpa_flash",
    operation="attention",
    framework="torch",
    summary="scaled_dot_product_attention pinned to the flash backend",
    load=loader("flash"),
    supports=supporter("flash"),
    resolved_backend=lambda _: "flash_attention",
)
