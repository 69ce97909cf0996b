"""Cores: any implementation of attention of the registry, or a function, inside of multi-head attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from attnbench.case import Option, Variant
from attnbench.implementation import AttentionInputs, Implementation
from attnbench.masks import Mask
from attnbench.workload import AttentionShape, Workload
from attnbench_impls.modules.masks import TensorMask

__all__ = ["TEXTBOOK", "AttentionFunction", "Core", "core_of"]

Value = TypeVar("Value")
Key = TypeVar("Key")
Kernel = Callable[[AttentionInputs], Tensor]

#: `function(q, k, v, *, mask, scale) -> o`, all as in `attnbench.AttentionInputs`.
AttentionFunction = Callable[..., Tensor]

#: The name of the core that the module itself is.
TEXTBOOK = "naive"

#: What an implementation is asked for a mask that was given as a tensor: can it do every kind of mask? One
#: that does not declare them all may not look at its mask.
ANY_MASK = "causal+sliding_window(1)+padding(0)+document(1)"

#: How many kernels, one a workload, and how many masks are kept.
KERNELS_KEPT = 64
MASKS_KEPT = 8


def core_of(core: str | Implementation | AttentionFunction) -> Core | None:
    """What computes attention: `core` is a label as `chunked(block=128)`, an implementation, or a function.

    None for `naive`, which the module computes itself.

    Raises:
        ValueError: there is no such implementation or option, or it cannot be a core.
    """
    if isinstance(core, str):
        return _labelled(core)
    # A function that was declared with `@attnbench.attention` brings what it supports.
    declared = core if isinstance(core, Implementation) else getattr(core, "__attnbench__", None)
    if isinstance(declared, Implementation):
        return Core(core, declared)
    if callable(core):
        return Core(core, _undeclared(core))
    raise ValueError(
        "core must be the label of an implementation of attention, an attnbench.Implementation or a function "
        f"(q, k, v, *, mask, scale); got {core!r}"
    )


def _labelled(label: str) -> Core | None:
    from attnbench import registry

    if label == TEXTBOOK:
        return None
    if label.isidentifier():
        variant = Variant(label)
    else:
        from attnbench.scenario.variants import parse_label  # reads options as scenarios do

        variant = parse_label(label)
    if variant == Variant(TEXTBOOK):
        return None
    known = registry.current()
    try:
        implementation = known.get(variant.implementation)
    except KeyError:
        from attnbench.scenario.names import nearest

        names = [
            each["name"]
            for each in known.catalogue()
            if (each["operation"], each["framework"]) == ("attention", "torch")
        ]
        hint = nearest(variant.implementation, names)
        raise ValueError(f"there is no core {label!r} (there are {', '.join(names)}){hint}") from None
    return Core(label, implementation, dict(variant.options))


def _undeclared(function: AttentionFunction) -> Implementation:
    """A function of which nothing is known: it is called with whatever comes."""

    def load(workload: Workload, options: Mapping[str, Option]) -> Kernel:
        del workload, options
        return lambda x: function(x.q, x.k, x.v, mask=x.mask, scale=x.scale)

    return Implementation(
        name="function",
        operation="attention",
        framework="torch",
        summary=f"the function {getattr(function, '__name__', repr(function))}",
        load=load,
    )


class Core:
    """Computes attention on heads by `implementation`, with `options` over its defaults.

    `argument` is what the module was given as `core`.

    Raises:
        ValueError: it computes something else, works on NumPy arrays, or has no such option.
    """

    def __init__(
        self,
        argument: str | Implementation | AttentionFunction,
        implementation: Implementation,
        options: Mapping[str, Option] | None = None,
    ) -> None:
        self.label = argument if isinstance(argument, str) else implementation.name
        self._argument = argument
        self._implementation = implementation
        self._options = implementation.with_defaults(options or {})
        self._kernels: dict[tuple[Any, ...], Kernel] = {}
        self._masks: dict[tuple[str, int, int, int], Mask] = {}
        if implementation.operation != "attention":
            raise ValueError(
                f"core must be an implementation of attention; {self.label} is {implementation.operation}"
            )
        if implementation.framework != "torch":
            raise ValueError(
                f"core must work on torch tensors; {self.label} works on NumPy arrays, through which no "
                "gradient passes: use naive, chunked, sdpa or another torch implementation"
            )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
        """The output `[B, H, Lq, D]` of q `[B, H, Lq, D]`, k and v `[B, Hkv, Lk, D]`.

        Raises:
            ValueError: the implementation does not do this, or answers with another shape.
        """
        backward = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        asked = TensorMask if isinstance(mask, TensorMask) else mask.specification
        case = (q.shape, k.shape, q.dtype, q.device, backward, asked)
        kernel = self._kernels.get(case)
        if kernel is None:
            kernel = self._load(q, k, mask, backward)
            _keep(self._kernels, case, kernel, KERNELS_KEPT)
        o = kernel(AttentionInputs(q, k, v, mask, scale))
        if not isinstance(o, Tensor) or o.shape != q.shape:
            raise ValueError(
                f"the core {self.label} must return [batch, heads, queries, head_dim] = {list(q.shape)}; "
                f"got {list(o.shape) if isinstance(o, Tensor) else type(o).__name__}"
            )
        if o.dtype != q.dtype and not torch.is_autocast_enabled(q.device.type):
            raise ValueError(f"the core {self.label} must return the queries' {q.dtype}; got {o.dtype}")
        return o

    def mask(self, specification: str, batch: int, q_len: int, kv_len: int) -> Mask:
        """The mask of that specification: the same object again, since kernels keep what they make of it."""
        wanted = (specification, batch, q_len, kv_len)
        known = self._masks.get(wanted)
        if known is None:
            known = Mask(*wanted)
            _keep(self._masks, wanted, known, MASKS_KEPT)
        return known

    def _load(self, q: Tensor, k: Tensor, mask: Mask, backward: bool) -> Kernel:
        """The kernel for this workload."""
        batch, heads, q_len, head_dim = q.shape
        workload = Workload(
            "attention",
            AttentionShape(batch, heads, k.shape[1], q_len, k.shape[2], head_dim),
            mask=ANY_MASK if isinstance(mask, TensorMask) else mask.specification,
            dtype=str(q.dtype).removeprefix("torch."),
            pass_="forward_backward" if backward else "forward",
        )
        implementation, device = self._implementation, str(q.device)
        why_not = implementation.available(device) or implementation.supports(workload, self._options, device)
        if why_not is not None:
            given = " (its mask was given as a tensor)" if isinstance(mask, TensorMask) else ""
            raise ValueError(f"the core {self.label} cannot do {workload.label}{given}: {why_not}")
        kernel = implementation.load(workload, self._options)
        if backward and implementation.load_backward is not None:
            return _with_backward(kernel, implementation.load_backward(workload, self._options))
        return kernel

    def __deepcopy__(self, memo: dict[int, Any]) -> Core:
        del memo
        return Core(self._argument, self._implementation, self._options)

    def __reduce__(self) -> tuple[Any, ...]:
        # Kernels are closures, which nobody can pickle, and so may be what loads them.
        return core_of, (self._argument,)


def _with_backward(kernel: Kernel, backward: Callable[[Any, Any, Any], tuple[Any, ...]]) -> Kernel:
    """`kernel` with gradients of its own, known to autograd."""

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
            o = kernel(AttentionInputs(q, k, v, mask, scale))
            ctx.save_for_backward(q, k, v, o)
            ctx.mask, ctx.scale = mask, scale
            return o

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
            q, k, v, o = ctx.saved_tensors
            inputs = AttentionInputs(q, k, v, ctx.mask, ctx.scale)
            return (*backward(inputs, o, grad_outputs[0]), None, None)

    apply: Callable[..., Tensor] = Attention.apply
    return lambda x: apply(x.q, x.k, x.v, x.mask, x.scale)


def _keep(kept: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Put it into `kept`, of which the oldest goes where there are `most` already."""
    if len(kept) >= most:
        del kept[next(iter(kept))]
    kept[key] = value
