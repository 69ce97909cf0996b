"""Multi-head attention with projections in int8, as an implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnbench.implementation import Implementation, ModuleInputs, Options
from attnbench.workload import Workload
from attnbench_impls.own_modules.cores import BACKEND, CORE, backend_of_core, chosen_core, told_backend
from attnbench_impls.own_modules.mha import appended_keys, arguments, settings_of, why_core
from attnbench_impls.prepared import Call, prepared

__all__ = ["IMPLEMENTATION"]

#: What torch._int_mm needs on CUDA: more rows than this, and sizes that are multiples of the other.
CUDA_ROWS = 16
CUDA_MULTIPLE = 8


def supports(workload: Workload, options: Options, device: str) -> str | None:
    """Inference alone; on CUDA what the kernel of int8 products takes."""
    shape = workload.shape
    if workload.pass_ != "forward":
        return "what was rounded to int8 has no gradient: forward only"
    if shape.training:
        return "weights are quantised for inference: evaluation mode only"
    why = why_core(workload, options, device)
    return why or _why_no_product(shape, device.split(":")[0])


def _why_no_product(shape: Any, kind: str) -> str | None:
    """Why torch has no int8 product for these sizes, or None."""
    if kind == "cpu":
        return None
    if kind != "cuda":
        return f"torch multiplies int8 matrices on the CPU and on CUDA, not on {kind}"
    rows = shape.batch * min(shape.q_len, shape.kv_len)
    if rows <= CUDA_ROWS:
        return f"torch multiplies int8 matrices of more than {CUDA_ROWS} rows on CUDA; there are {rows}"
    sizes = {"embed_dim": shape.embed_dim, "kdim": shape.kdim, "vdim": shape.vdim, "kv_dim": shape.kv_dim}
    for name, size in sizes.items():
        if size % CUDA_MULTIPLE:
            return f"torch multiplies int8 matrices of multiples of {CUDA_MULTIPLE} on CUDA; {name} is {size}"
    return None


def load(workload: Workload, options: Options) -> Callable[[ModuleInputs], Any]:
    """Our module; its projections' weights are quantised before the first call."""
    from attnbench_impls.modules import over
    from attnbench_impls.quantized.attention import QuantizedMultiHeadAttention

    shape = workload.shape
    core = chosen_core(options)
    settings = settings_of(shape)

    def prepare(x: ModuleInputs) -> Call:
        module = over(
            QuantizedMultiHeadAttention(**arguments(shape, core)),
            x.parameters,
        ).eval()
        module.quantise_projections()
        x.kept(BACKEND, lambda: backend_of_core(core, shape, x, appended_keys(shape)))

        def call(x: ModuleInputs) -> Any:
            output = module(x.query, x.key, x.value, mask=x.mask, **settings)
            return output if settings["need_weights"] else output[0]

        return call

    return prepared(prepare)


IMPLEMENTATION = Implementation(
    name="quantized_mha",
    operation="mha",
    framework="torch",
    summary="ours, its projections in int8: weights quantised once, activations at every call",
    memory="O(B·(Lq + Lk)·E) and the core's (naive: O(B·H·Lq·Lk)); int8 weights, O(E²), kept between calls",
    flops="O(B·(Lq + Lk)·E²) in int8 and the core's (naive: O(B·Lq·Lk·E))",
    source="torch._int_mm, by the scheme of torchao's Int8DynamicActivationInt8WeightConfig",
    precision="int8",
    options={"core": CORE},
    load=load,
    supports=supports,
    resolved_backend=told_backend,
)
