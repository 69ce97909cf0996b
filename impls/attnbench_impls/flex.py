"""torch's flex_attention, compiled into one kernel for the workload at hand.

Dong et al., Flex Attention: A Programming Model for Generating Optimized Attention Kernels (2024).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbench.implementation import AttentionInputs, Implementation, Options
from attnbench.masks import Mask
from attnbench.workload import Workload

if TYPE_CHECKING:
    import torch
    from torch.nn.attention.flex_attention import BlockMask

__all__ = ["FLEX"]

#: `mask_mod(batch, head, query, key)`: whether that query may see that key.
MaskMod = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]

#: Queries and keys a block of a BlockMask: torch's default.
BLOCK = 128

#: flex_attention's smallest head dimension on CUDA.
LEAST_HEAD_DIM_ON_CUDA = 16

#: The first torch that compiles flex_attention for CPUs, and takes blocks with the lengths beside them.
LEAST_TORCH = (2, 6)

#: Variables by which torch.compile is switched off; what it is given then runs unfused.
OFF_SWITCHES = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")


def mask_mod(mask: Mask, device: torch.device) -> MaskMod:
    """What flex_attention asks of each pair of query and key: all of the mask's kinds must allow it."""
    from torch.nn.attention.flex_attention import and_masks

    makers = {
        "causal": _causal,
        "sliding_window": _sliding_window,
        "padding": _padding,
        "document": _document,
    }
    together: MaskMod = and_masks(*(makers[kind](mask, device) for kind in mask.kinds))
    return together


def _causal(mask: Mask, device: torch.device) -> MaskMod:
    del device
    offset = mask.kv_len - mask.q_len
    return lambda b, h, q, kv: q + offset >= kv


def _sliding_window(mask: Mask, device: torch.device) -> MaskMod:
    del device
    offset, width = mask.kv_len - mask.q_len, int(mask.parameters["w"])
    return lambda b, h, q, kv: (q + offset >= kv) & (q + offset - kv < width)


def _padding(mask: Mask, device: torch.device) -> MaskMod:
    import torch

    alone = Mask(f"padding({mask.parameters['r']!r})", mask.batch, 1, mask.kv_len, mask.seed)
    lengths = torch.from_numpy(alone.key_ranges()[1][:, 0].astype(np.int32)).to(device)
    return lambda b, h, q, kv: kv < lengths[b]


def _document(mask: Mask, device: torch.device) -> MaskMod:
    """Documents are told apart by their first key; queries before all keys are in none, −1."""
    import torch

    alone = Mask(f"document({mask.parameters['n']})", mask.batch, mask.kv_len, mask.kv_len, mask.seed)
    of_keys = alone.key_ranges()[0].astype(np.int32)
    positions = np.arange(mask.q_len) + (mask.kv_len - mask.q_len)
    of_queries = np.where(positions < 0, np.int32(-1), of_keys[:, np.maximum(positions, 0)])
    key_document, query_document = (torch.from_numpy(each).to(device) for each in (of_keys, of_queries))
    return lambda b, h, q, kv: query_document[b, q] == key_document[b, kv]


def seen_blocks(mask: Mask) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which blocks of keys are seen in part, and which whole, by each block of queries.

    Both boolean `[B or 1, ⌈Lq/BLOCK⌉, ⌈Lk/BLOCK⌉]`. As in torch's `create_block_mask`, a block that reaches
    beyond the queries or the keys counts as seen in part. Found from the ranges of keys that queries see, in
    O(B·Lq) and without a matrix `[Lq, Lk]`, which may be far larger than all that the kernel needs.
    """
    start, stop = mask.key_ranges()
    seeing = start < stop
    some = _queries_per_block(mask, start // BLOCK, -(-stop // BLOCK), seeing)
    whole = _queries_per_block(mask, -(-start // BLOCK), stop // BLOCK, seeing)
    return (some > 0) & (whole < BLOCK), whole == BLOCK


def _queries_per_block(
    mask: Mask, first: npt.NDArray[np.int64], end: npt.NDArray[np.int64], seeing: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """How many queries of each block have that block of keys in first ≤ block < end."""
    blocks = (len(first), -(-mask.q_len // BLOCK), -(-mask.kv_len // BLOCK) + 1)
    changes = np.zeros(blocks, dtype=np.int64)
    batch, query = np.nonzero(seeing & (first < end))
    np.add.at(changes, (batch, query // BLOCK, first[batch, query]), 1)
    np.add.at(changes, (batch, query // BLOCK, end[batch, query]), -1)
    counts: npt.NDArray[np.int64] = changes.cumsum(axis=-1)[..., :-1]
    return counts


def block_mask(mask: Mask, device: torch.device) -> BlockMask | None:
    """The form in which flex_attention takes `mask`; None for `none`."""
    if mask.kind == "none":
        return None
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    def listed(blocks: npt.NDArray[np.bool_]) -> tuple[torch.Tensor, torch.Tensor]:
        """How many, and which: the blocks of keys of each block of queries, the same for all heads."""
        order = np.argsort(~blocks, axis=-1, kind="stable")
        count, which = (
            torch.from_numpy(each[:, None].astype(np.int32)).to(device) for each in (blocks.sum(-1), order)
        )
        return count, which

    partly, wholly = seen_blocks(mask)
    return BlockMask.from_kv_blocks(
        *listed(partly),
        *listed(wholly),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod(mask, device),
        seq_lengths=(mask.q_len, mask.kv_len),
    )


def load(workload: Workload, options: Options) -> Callable[[AttentionInputs], torch.Tensor]:
    """flex_attention, compiled at its first call for the inputs' very shapes.

    Raises (the kernel):
        RuntimeError: torch.compile ran it uncompiled, or what inductor compiled was not flex_attention.
    """
    del workload, options
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch, about torch
        from torch._inductor.compile_fx import compile_fx
        from torch.nn.attention.flex_attention import flex_attention

    kernels = 0

    def inductor(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        nonlocal kernels
        holds_it = any(node.target is torch.ops.higher_order.flex_attention for node in graph.graph.nodes)
        compiled = compile_fx(graph, inputs)
        kernels += holds_it
        return compiled

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, blocks: BlockMask | None, scale: float
    ) -> Any:
        return flex_attention(q, k, v, block_mask=blocks, scale=scale, enable_gqa=q.shape[1] != k.shape[1])

    # torch keeps what it compiled, and counts how often, by the code object. One of its own keeps every case
    # apart from the others: none is recompiled or thrown away for another's sake. (`torch._dynamo.reset()`
    # would throw away all of the process's, those of cases being sampled too.) With `fullgraph` torch
    # raises where it would otherwise give up compiling.
    attend.__code__ = attend.__code__.replace()
    compiled = torch.compile(attend, backend=inductor, fullgraph=True, dynamic=False)
    kept: tuple[Mask, BlockMask | None] | None = None

    def flex(x: AttentionInputs) -> torch.Tensor:
        nonlocal kept
        if kept is None or kept[0] is not x.mask:
            device = x.q.device
            kept = (x.mask, x.mask.kept(f"flex_attention's {device}", lambda: block_mask(x.mask, device)))
        output: torch.Tensor = compiled(x.q, x.k, x.v, kept[1], x.scale)
        if not kernels:
            raise RuntimeError("torch.compile ran flex_attention uncompiled: that is not what is measured")
        return output

    return flex


def available(device: str) -> str | None:
    """What compiling for `device` needs and is not here, with how to get it; None if all is there."""
    import torch

    kind = device.split(":")[0]
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < LEAST_TORCH:
        return f"flex_attention needs torch 2.6 or later, this is {torch.__version__}: pip install -U torch"
    for switch in OFF_SWITCHES:
        if os.environ.get(switch, "0") not in ("", "0"):
            return f"torch.compile is switched off by {switch}={os.environ[switch]}: unset it"
    if kind == "cuda":
        return _triton_missing() or _headers_missing()
    return _cpu_unfit() or _compiler_missing() or _headers_missing()


def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is not None:
        return None
    return "flex_attention is compiled by Triton on CUDA: pip install triton"


def _cpu_unfit() -> str | None:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    if sys.platform == "linux" and capability.startswith("AVX"):
        return None
    return (
        "torch compiles flex_attention for x86 processors with AVX2 under Linux only; "
        f"this is {sys.platform} with {capability}: use such a machine, or a GPU (--device cuda)"
    )


def _compiler_missing() -> str | None:
    """Inductor runs what CXX names, else g++."""
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is not None:
        return None
    return (
        f"torch.compile needs a C++ compiler and finds no {compiler}: install g++ "
        "(apt install g++, dnf install gcc-c++), or set CXX"
    )


def _headers_missing() -> str | None:
    """What is compiled is a module of Python's."""
    folder = Path(sysconfig.get_path("include"))
    if (folder / "Python.h").is_file():
        return None
    return f"torch.compile needs Python's headers and finds no {folder / 'Python.h'}: install python3-dev"


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """What torch's flex_attention refuses, in its own words as of torch 2.13.

    Not asked of torch: asking takes as long as compiling.
    """
    del options
    shape = workload.shape
    if device.split(":")[0] == "cuda":
        least = min(shape.head_dim, shape.v_head_dim)
        if least < LEAST_HEAD_DIM_ON_CUDA:
            return f"flex_attention wants head dimensions of at least 16 on CUDA, got {least}"
        return None
    if workload.pass_ != "forward":
        return "flex_attention does not support backward on CPU"
    if workload.dtype == "float64":
        return "flex_attention takes float32, float16 and bfloat16 on CPU, not float64"
    return None


def resolved_backend(x: AttentionInputs) -> str:
    """The compiler of inductor that made the kernel; it is true of inputs with which the kernel was called.

    The kernel raises unless inductor compiled a graph with the operator flex_attention in it. Inductor has
    nothing for that operator but its templates, in C++ on the CPU and in Triton on CUDA, and raises where
    none fits. Which of Triton's it was (there is one more for few queries) is not told.
    """
    return "inductor_triton" if x.q.device.type == "cuda" else "inductor_cpp"


FLEX = Implementation(
    name="flex",
    operation="attention",
    framework="torch",
    summary="torch's flex_attention, compiled",
    memory="O(B·H·Lq) on CUDA; one tile of scores a thread on the CPU",
    flops="O(pairs·H·(D + Dv)), in blocks of 128×128 pairs",
    source="torch.nn.attention.flex_attention; Dong et al., Flex Attention (2024)",
    compiles=True,
    load=load,
    supports=supports,
    available=available,
    resolved_backend=resolved_backend,
)
