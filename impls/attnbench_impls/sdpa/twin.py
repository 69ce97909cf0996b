"""What a pinned backend cannot do: torch is asked, by a small twin of the workload."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from attnbench.implementation import AttentionInputs, Options
from attnbench.masks import Mask, parse
from attnbench.workload import AttentionShape, Workload
from attnbench_impls.sdpa.kernel import loader

if TYPE_CHECKING:
    import torch

__all__ = ["own_reasons", "shortened", "supporter", "twin_inputs", "twin_of"]

#: How torch's headings of why a backend cannot be used begin.
HEADINGS: Mapping[str, str] = {
    "flash": "flash attention",
    "mem_efficient": "memory efficient",
    "cudnn": "cudnn attention",
}

#: Kernels refuse lengths by their remainders, at most modulo this (tiles of 128 queries or keys), and single
#: queries; beyond, a length is as good as any other that leaves the same remainder.
TILE = 128


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
