"""The option `core`: which implementation of attention computes inside of a module of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attnbench import registry
from attnbench.implementation import AttentionInputs, Implementation, ModuleInputs, Options
from attnbench.masks import Mask
from attnbench.workload import AttentionShape, Workload

if TYPE_CHECKING:
    import torch

__all__ = ["BACKEND", "CORE", "backend_of_core", "chosen_core", "told_backend", "why_core_cannot"]

#: The default: the module's own softmax(QKᵀ/√d)·V.
CORE = "naive"

#: Where inputs keep what `backend_of_core` said of them.
BACKEND = "the core's backend"


def chosen_core(options: Options) -> str | Implementation:
    """What `options` name: `naive`, which the modules are themselves, or an implementation, by its defaults.

    Raises:
        KeyError: there is none of this name.
    """
    name = str(options["core"])
    return name if name == CORE else registry.current().get(name)


def why_core_cannot(
    workload: Workload,
    options: Options,
    device: str,
    *,
    q_len: int,
    kv_len: int,
    mask: str,
    columns: int = 0,
) -> str | None:
    """Why the core cannot attend from `q_len` queries to `kv_len` keys under `mask`, or None.

    `columns` keys are appended, which every query sees. Heads, dtype and pass are the workload's.
    """
    try:
        core = chosen_core(options)
    except KeyError as error:
        return f"core: {error.args[0]}"
    if isinstance(core, str):
        return None
    shape = workload.shape
    if core.operation != "attention":
        return f"core must compute attention; {core.name} computes {core.operation}"
    if core.framework != "torch":
        return f"core must work on torch tensors; {core.name} is in {core.framework}"
    if shape.training and shape.dropout:
        return f"the core {core.name} drops no weights out: core=naive does"
    if columns and mask != "none":
        return (
            f"the core {core.name} takes masks by their kinds, and with the keys that add_bias_kv and "
            f"add_zero_attn append {mask} is none of them: core=naive takes it"
        )
    asked = Workload(
        "attention",
        AttentionShape(shape.batch, shape.heads, shape.kv_heads, q_len, kv_len + columns, shape.head_dim),
        mask=mask,
        dtype=workload.dtype,
        pass_="forward" if workload.pass_ == "forward" else "forward_backward",
        inputs=workload.inputs,
    )
    why = core.available(device) or core.supports(asked, core.with_defaults({}), device)
    return None if why is None else f"the core {core.name}: {why}"


def told_backend(x: ModuleInputs) -> str | None:
    """The `resolved_backend` of modules over a core: what was found when they were made ready."""
    return x.kept(BACKEND, lambda: None)


def backend_of_core(core: str | Implementation, shape: Any, x: ModuleInputs, columns: int = 0) -> str | None:
    """Which kernel the core's library chooses within a module, if the core can tell; several with `and`."""
    if isinstance(core, str) or core.resolved_backend is None:
        return None
    told = (_backend(core.resolved_backend, shape, x, mask, columns) for mask in x.masks())
    return " and ".join(sorted({each for each in told if each is not None})) or None


def _backend(
    resolve: Callable[[Any], str | None], shape: Any, x: ModuleInputs, mask: Mask, columns: int
) -> str | None:
    """What a core says of the attention under `mask`, of heads that lie in memory as the modules' do."""
    like = next(iter(x.tensors.values()))

    def heads(count: int, length: int) -> torch.Tensor:  # [B, H, L, D], of [B, L, H, D]
        memory: torch.Tensor = like.new_empty(shape.batch, length, count, shape.head_dim)
        return memory.transpose(1, 2)

    keys = mask.kv_len + columns
    asked = Mask("none", mask.batch, mask.q_len, keys) if columns else mask
    q, k, v = heads(shape.heads, mask.q_len), heads(shape.kv_heads, keys), heads(shape.kv_heads, keys)
    if like.requires_grad:
        for each in (q, k, v):
            each.requires_grad_()
    return resolve(AttentionInputs(q, k, v, asked, shape.head_dim**-0.5))
