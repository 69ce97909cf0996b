"""torch's scaled_dot_product_attention: its own choice of backend, or one backend pinned."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from attnbench.implementation import AttentionInputs, Implementation, Options
from attnbench.masks import Mask, parse
from attnbench.workload import AttentionShape, Workload

if TYPE_CHECKING:
    import torch

__all__ = ["SDPA", "SDPA_CUDNN", "SDPA_EFFICIENT", "SDPA_FLASH", "SDPA_MATH"]

#: The backends that can be switched, as `torch.backends.cuda` calls them (the switches rule the CPU too), and
#: what torch calls them where it says which one it chose.
BACKENDS: Mapping[str, str] = {
    "flash": "flash_attention",
    "mem_efficient": "efficient_attention",
    "math": "math",
    "cudnn": "cudnn_attention",
}

#: How torch's headings of why a backend cannot be used begin.
HEADINGS: Mapping[str, str] = {
    "flash": "flash attention",
    "mem_efficient": "memory efficient",
    "cudnn": "cudnn attention",
}

#: The backends for which `causal_lower_right` has a kernel; cuDNN is handed the mask as a matrix there.
WITH_LOWER_RIGHT = (None, "flash", "mem_efficient")


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


@dataclass(frozen=True, slots=True)
class Masking:
    """How SDPA is made to apply a mask.

    `arguments` say it to SDPA, which is asked about the queries from `first` on: those before see no key.
    `blind`, boolean `[B or 1, 1, Lq − first, 1]` or None, marks queries that SDPA was told to let see keys
    because it would make NaN of them; their output must be set to 0 afterwards.
    """

    arguments: Mapping[str, Any]
    first: int = 0
    blind: torch.Tensor | None = None


def answers_blind_queries(device: torch.device, backend: str | None) -> bool:
    """Whether SDPA answers 0, with gradients of 0, for a row of a boolean mask without any key.

    It does on the CPU, and in the unfused backend (tried with torch 2.13). The fused CUDA kernels may
    subtract −∞ from −∞, depending on backend and version.
    """
    return device.type == "cpu" or backend == "math"


def how_masked(mask: Mask, device: torch.device, backend: str | None) -> Masking:
    """How to have `mask` applied in the fastest form that is right.

    `is_causal` aligns top-left, so it is right for q_len = kv_len only. Where there are more queries than
    keys, a causal mask leaves the first ones blind, and for the rest it is that square: this costs a copy of
    the output. A single query sees every key. `causal_lower_right` is bottom-right without a mask in memory,
    but only in fused CUDA backends.

    Any other mask is a matrix. Where torch cannot be relied on for rows of it without any key, they see
    every key and are set to 0 afterwards, in place where no gradient is wanted, else with one copy of the
    output, and one of its gradient in the backward pass. A gradient of 0 then reaches those rows, and they
    add nothing to dq, dk and dv.
    """
    surplus = mask.q_len - mask.kv_len
    if mask.kind == "none" or (mask.kind == "causal" and mask.q_len == 1):
        return Masking({})
    if mask.kind == "causal" and surplus >= 0:
        # A single key is seen by the single query that is left.
        return Masking({"is_causal": True} if mask.kv_len > 1 else {}, first=surplus)
    if mask.kind == "causal" and device.type == "cuda" and backend in WITH_LOWER_RIGHT:
        from torch.nn.attention.bias import causal_lower_right

        return Masking({"attn_mask": causal_lower_right(mask.q_len, mask.kv_len)})
    allowed, blind = mask.to_bool(device), mask.blind_queries(device)
    if blind is None or answers_blind_queries(device, backend):
        return Masking({"attn_mask": allowed})
    lenient = mask.kept(f"sdpa's, blind queries seeing {device}", lambda: allowed | blind)
    return Masking({"attn_mask": lenient}, blind=blind)


def arguments(x: AttentionInputs, masking: Masking) -> dict[str, Any]:
    """All keyword arguments of SDPA for `x`."""
    grouped = {"enable_gqa": True} if x.q.shape[1] != x.k.shape[1] else {}
    return {"scale": x.scale, **grouped, **masking.arguments}


def loader(
    backend: str | None,
) -> Callable[[Workload, Options], Callable[[AttentionInputs], torch.Tensor]]:
    """The `load` of an implementation whose backend is pinned, or None for torch's own choice."""

    def load(workload: Workload, options: Options) -> Callable[[AttentionInputs], torch.Tensor]:
        del workload, options
        from torch.nn.functional import pad, scaled_dot_product_attention

        kept: tuple[AttentionInputs, Masking, dict[str, Any]] | None = None

        def sdpa(x: AttentionInputs) -> torch.Tensor:
            nonlocal kept
            # How to mask is decided once for the same inputs: a look-up would be a tenth of a small call.
            if kept is None or kept[0] is not x:
                masking = how_masked(x.mask, x.q.device, backend)
                kept = (x, masking, arguments(x, masking))
            _, masking, chosen = kept
            if not masking.first:
                output = scaled_dot_product_attention(x.q, x.k, x.v, **chosen)
            else:
                seeing = scaled_dot_product_attention(x.q[:, :, masking.first :], x.k, x.v, **chosen)
                output = pad(seeing, (0, 0, masking.first, 0))
            if masking.blind is None:
                return output
            if output.requires_grad:  # the backward pass needs the output as it was
                return output.masked_fill(masking.blind, 0)
            return output.masked_fill_(masking.blind, 0)

        if backend is None:
            return sdpa
        pinned = Pinned(backend)

        def sdpa_pinned(x: AttentionInputs) -> torch.Tensor:
            with pinned:
                return sdpa(x)

        return sdpa_pinned

    return load


def needs_cuda(backend: str) -> Callable[[str], str | None]:
    """The `available` of a backend that is nothing but CUDA kernels."""

    def available(device: str) -> str | None:
        if device.split(":")[0] == "cuda":
            return None
        return (
            f"torch's {BACKENDS[backend]} backend is made of CUDA kernels: "
            "run it on an NVIDIA GPU, with a CUDA build of torch (--device cuda)"
        )

    return available


def cudnn_available(device: str) -> str | None:
    """The `available` of cuDNN's backend, which needs the library beside CUDA."""
    from torch.backends import cudnn

    missing = needs_cuda("cudnn")(device)
    if missing is None and not cudnn.is_available():  # type: ignore[no-untyped-call]  # torch left it untyped
        return "torch finds no cuDNN: install a build of torch that brings it"
    return missing


def supporter(backend: str) -> Callable[[Workload, Options, str], str | None]:
    """The `supports` of a pinned backend: it asks torch, with a small twin of the workload."""

    def supports(workload: Workload, options: Options, device: str) -> str | None:
        import torch

        inputs = twin_inputs(twin_of(workload), torch.device(device))
        kernel = loader(backend)(workload, options)
        with warnings.catch_warnings(record=True) as caught, torch.enable_grad():
            warnings.simplefilter("always")  # torch warns of each reason, then raises
            try:
                output = kernel(inputs)
                if output.requires_grad:
                    torch.autograd.grad(output, (inputs.q, inputs.k, inputs.v), torch.zeros_like(output))
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
                    raise  # it is the machine that fails, not the backend that refuses
                told = [str(each.message).split(" (Triggered")[0].strip() for each in caught]
                reasons = own_reasons(told, HEADINGS.get(backend)) or [str(error)]
                return f"torch's {backend} backend: {' '.join(reasons)}"
        return None

    return supports


def own_reasons(told: Sequence[str], heading: str | None) -> list[str]:
    """What torch told of the backend whose section starts with `heading`, in lower case; else all of it.

    torch goes through every backend, and says of all that were not asked for that they are disabled.
    """
    own, reading = list[str](), False
    for text in told:
        if text.lower().endswith("because:"):
            reading = heading is not None and text.lower().startswith(heading)
        elif reading:
            own.append(text)
    return own or list(told)


#: Kernels refuse lengths by their remainders, at most modulo this (tiles of 128 queries or keys), and single
#: queries; beyond, a length is as good as any other that leaves the same remainder.
TILE = 128


def shortened(length: int) -> int:
    """The smallest length that no kernel can tell from `length` by its remainder, or as a single tile."""
    return length if length <= TILE else TILE + length % TILE


def twin_of(workload: Workload) -> Workload:
    """A small workload that torch's backends accept or refuse as they do `workload`.

    They go by dtype, head dimensions, heads, kind of mask, alignment of the lengths, and by which of the
    two is the longer.
    """
    shape = workload.shape
    shorter, surplus = min(shape.q_len, shape.kv_len), abs(shape.q_len - shape.kv_len)
    short = shortened(shorter)
    long = short + shortened(surplus) if surplus else short
    q_len, kv_len = (short, long) if shape.q_len <= shape.kv_len else (long, short)
    terms = [
        # A window, or a number of documents, beyond the twin's keys would be none of a mask.
        name + (f"({','.join(str(_at_most(kv_len, value)) for value in values)})" if values else "")
        for name, values in parse(workload.mask)
    ]
    twin = replace(shape, batch=1, q_len=q_len, kv_len=kv_len)
    return replace(workload, shape=twin, mask="+".join(terms) or "none")


def _at_most(kv_len: int, value: float) -> float:
    return min(value, kv_len) if isinstance(value, int) else value


def twin_inputs(workload: Workload, device: torch.device) -> AttentionInputs:
    """Inputs of the workload's shape, dtype, mask and pass, of ones, for asking what torch can do."""
    import torch

    shape: AttentionShape = workload.shape

    def ones(heads: int, length: int, head_dim: int) -> torch.Tensor:
        return torch.ones(
            shape.batch,
            heads,
            length,
            head_dim,
            dtype=getattr(torch, workload.dtype),
            device=device,
            requires_grad=workload.pass_ != "forward",
        )

    return AttentionInputs(
        q=ones(shape.heads, shape.q_len, shape.head_dim),
        k=ones(shape.kv_heads, shape.kv_len, shape.head_dim),
        v=ones(shape.kv_heads, shape.kv_len, shape.v_head_dim),
        mask=Mask(workload.mask, shape.batch, shape.q_len, shape.kv_len),
        scale=1.0,
    )


def chosen_backend(x: AttentionInputs) -> str | None:
    """The backend that torch chooses for `x`, by the functions it decides with; None if it cannot tell."""
    import torch
    from torch.nn.attention import SDPBackend

    choose = getattr(torch, "_fused_sdp_choice", None)
    if choose is None:
        return None
    masking = how_masked(x.mask, x.q.device, None)
    chosen_for = arguments(x, masking)
    if type(chosen_for.get("attn_mask", x.q)) is not torch.Tensor:
        # A causal bias, a tensor subclass of which that function does not know, dispatches by itself.
        kernel = lower_right_backend(x)
        if kernel is not None:
            return kernel
        chosen_for["attn_mask"] = x.mask.to_bool(x.q.device)
    q = x.q[:, :, masking.first :]
    return SDPBackend(choose(q, x.k, x.v, **chosen_for)).name.lower()


def lower_right_backend(x: AttentionInputs) -> str | None:
    """The fused kernel that `causal_lower_right` runs for `x`; None if it makes a mask in memory instead.

    It asks as `torch.nn.attention.bias.CausalBias` does.
    """
    from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention

    asked = SDPAParams(x.q, x.k, x.v, None, 0.0, False, x.q.shape[1] != x.k.shape[1])
    if can_use_flash_attention(asked):
        return BACKENDS["flash"]
    return BACKENDS["mem_efficient"] if can_use_efficient_attention(asked) else None


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
