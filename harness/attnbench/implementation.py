"""Implementations: one way to compute an operation, and how to declare one.

A module-level `Implementation` is what the registry collects; `@attnbench.attention` makes one of a plain
function. Nothing here imports a framework: `load` does, in a bench.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from attnbench.case import Option
from attnbench.masks import KINDS, Mask, parse
from attnbench.workload import DTYPES, PASSES, SHAPES, Workload

__all__ = ["AttentionInputs", "Implementation", "ModuleInputs", "Options", "attention", "declared_in"]

Options = Mapping[str, Option]
Function = TypeVar("Function", bound=Callable[..., Any])
Built = TypeVar("Built")

FRAMEWORKS = ("torch", "numpy")
LAYOUTS = ("BHLD", "BLHD")
#: Names of implementations; they are part of case ids and labels, where other characters have a meaning.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
DEVICE_KINDS = ("cpu", "cuda", "mps", "xpu")

#: What an implementation may compute in instead of its workload's dtype, each with its eps: the step from one
#: number to the next as a share of it. Of integers it is 1/127 of the largest number of a row, which is some
#: four times as large as a usual one. By anything coarser an output of zeros would do.
PRECISIONS: Mapping[str, float] = {"tf32": 2**-10, "float16": 2**-10, "bfloat16": 2**-7, "int8": 2**-5}


@dataclass(slots=True)
class AttentionInputs:
    """What an attention kernel is called with.

    `q` `[B, H, Lq, D]`, `k` `[B, Hkv, Lk, D]` and `v` `[B, Hkv, Lk, Dv]`, in the implementation's framework,
    in the workload's dtype, on the case's device; `scale` multiplies the scores before the softmax.
    """

    q: Any
    k: Any
    v: Any
    mask: Mask
    scale: float

    def leaves(self) -> dict[str, Any]:
        """What has gradients in a backward pass, by name."""
        return {"q": self.q, "k": self.k, "v": self.v}

    def masks(self) -> list[Mask]:
        """Every mask."""
        return [self.mask]

    @property
    def build_s(self) -> float:
        """Seconds spent on what is built once; the first call's time is reported without them."""
        return self.mask.build_s


@dataclass(slots=True)
class ModuleInputs:
    """What a kernel of any other operation is called with: activations, weights and masks.

    `tensors` holds the activations by name: `x`, or `query`, `key` and `value` (mha); `src` (encoder_layer);
    `tgt` and `memory` (decoder_layer); `src` and `tgt` (transformer); `x` (positional_encoding); `[B, L, E]`
    each, or `[L, B, E]` where the workload's batch does not come first. `parameters` holds the weights by
    their names in torch's state_dict. All are in the implementation's framework, in the workload's dtype, on
    the case's device, and leaves in a backward pass; torch's weights require gradients in a forward pass too,
    as a module's do, but no graph is made then. `mask` is the workload's, `other_masks` has the other ones by
    axis (`memory_mask`, `src_mask`).

    The first `past_len` positions of x are the past: they are the same at every call, so what is made of
    them alone may be kept (a key-value cache). Nothing else is the same.
    """

    tensors: dict[str, Any]
    parameters: dict[str, Any]
    mask: Mask
    other_masks: dict[str, Mask] = field(default_factory=dict)
    past_len: int = 0
    batch_first: bool = True
    _built: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _seconds: float = field(default=0.0, repr=False, compare=False)

    def leaves(self) -> dict[str, Any]:
        """What has gradients in a backward pass, by name."""
        return {**self.tensors, **self.parameters}

    def masks(self) -> list[Mask]:
        """Every mask."""
        return [self.mask, *self.other_masks.values()]

    @property
    def query(self) -> Any:
        """mha's queries `[B, Lq, E]`: x itself, its last positions where there is a past, or others."""
        x = self.tensors.get("x")
        if x is None:
            return self.tensors["query"]
        if not self.past_len:
            return x
        return x[:, self.past_len :] if self.batch_first else x[self.past_len :]

    @property
    def key(self) -> Any:
        """mha's keys `[B, Lk, kdim]`; in self attention x."""
        return self.tensors["x"] if "x" in self.tensors else self.tensors["key"]

    @property
    def value(self) -> Any:
        """mha's values `[B, Lk, vdim]`; in self attention x."""
        return self.tensors["x"] if "x" in self.tensors else self.tensors["value"]

    def kept(self, key: str, build: Callable[[], Built]) -> Built:
        """What `build()` returns, built at the first call with this `key` and kept as long as the inputs.

        For what a user of the kernel has before calling it: a module over `parameters`, weights that were
        quantised, the keys and values of the past. Building it is in no call's time, not even the first's.
        """
        if key not in self._built:
            others, began = self.build_s, perf_counter()
            self._built[key] = build()
            # What masks, or nested calls, were built for meanwhile is counted there already.
            self._seconds += perf_counter() - began - (self.build_s - others)
        built: Built = self._built[key]
        return built

    @property
    def build_s(self) -> float:
        """Seconds spent on what is built once; the first call's time is reported without them."""
        return self._seconds + sum(mask.build_s for mask in self.masks())


def _supports_everything(workload: Workload, options: Options, device: str) -> str | None:
    del workload, options, device
    return None


def _always_available(device: str) -> str | None:
    del device
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """One way to compute an operation.

    `load(workload, options)` imports what it needs and returns the kernel: `kernel(inputs) -> output`. For
    attention inputs are `AttentionInputs` and the output is o `[B, H, Lq, Dv]`; for every other operation
    inputs are `ModuleInputs` and the output is what the shape's `outputs` say: o, or (o, weights).
    `supports(workload, options, device)` returns None, or why it cannot do this (the row's `unsupported: …`);
    it may take fewer arguments. `available(device)` returns None, or how to get what is missing
    (`unavailable: …`). `options` holds every option with its default. `load_backward(workload, options)`, for
    implementations that bring their own, returns `backward(inputs, output, grad_out) -> (dq, dk, dv)`, or the
    gradients of all `leaves`; without it gradients come from torch's autograd. `resolved_backend(inputs)`
    tells which kernel really runs, where that is the library's choice. All of them are called in measuring
    processes only.

    `memory` and `flops` say in O-notation what the algorithm holds beside inputs and output, and how much it
    computes; `source` where it comes from (a paper's section, a library's function). They are for the reader.
    `compiles` tells that a first call takes many seconds, since the kernel is compiled for each workload.
    `precision` names what it computes in, where that is less than the workload's dtype (`int8`, one of
    `PRECISIONS`): a sweep judges its errors like anybody's, and the verdict says why they are large; whether
    it conforms is judged by what can be had in that precision.
    """

    name: str
    operation: str
    framework: str
    summary: str
    memory: str = ""
    flops: str = ""
    source: str = ""
    compiles: bool = False
    precision: str = ""
    load: Callable[[Workload, Options], Callable[[Any], Any]]
    supports: Callable[[Workload, Options, str], str | None] = _supports_everything
    available: Callable[[str], str | None] = _always_available
    options: Options = field(default_factory=dict)
    load_backward: Callable[[Workload, Options], Callable[[Any, Any, Any], tuple[Any, ...]]] | None = None
    resolved_backend: Callable[[Any], str | None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ValueError(
                "an implementation's name must be letters, digits, '.', '_' and '-', a letter or '_' first; "
                f"got {self.name!r}"
            )
        _require("operation", self.operation, SHAPES)
        _require("framework", self.framework, FRAMEWORKS)
        if self.precision:
            _require("precision", self.precision, PRECISIONS)
        for told in ("summary", "memory", "flops", "source"):
            if not isinstance(getattr(self, told), str):
                raise ValueError(f"{told} of {self.name!r} must be text, got {getattr(self, told)!r}")
        if not isinstance(self.options, Mapping):
            raise ValueError(
                f"the options of {self.name!r} must map names to their defaults, got {self.options!r}"
            )
        for name, value in self.options.items():
            if not str(name).isidentifier() or not isinstance(value, bool | int | float | str):
                raise ValueError(
                    f"the option {name!r} of {self.name!r} must be an identifier with a number, a bool or a "
                    f"string as its default, got {value!r}"
                )
        object.__setattr__(self, "supports", _with_three(self.supports, self.name))

    @property
    def file(self) -> str | None:
        """The path of the Python file that the kernel is written in, or None where that cannot be told."""
        return _file_of(self.load)

    def with_defaults(self, options: Options) -> dict[str, Option]:
        """`options` over the defaults.

        Raises:
            ValueError: an option that this implementation does not have.
        """
        for name in options:
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise ValueError(f"{self.name} has no option {name!r}; its options: {known}")
        return {**self.options, **options}


def _file_of(function: Any) -> str | None:
    """Where `function`, or what it stands for, was defined."""
    while isinstance(function, functools.partial):
        function = function.func
    try:
        function = inspect.unwrap(function)
    except ValueError:  # it stands for itself
        return None
    code = getattr(function, "__code__", None)
    if code is not None:
        return str(code.co_filename) if os.path.isfile(code.co_filename) else None
    # A callable object, or a function that was compiled: the module's file.
    module = getattr(function, "__module__", None) or type(function).__module__
    return getattr(sys.modules.get(module), "__file__", None)


def _with_three(supports: Callable[..., str | None], name: str) -> Callable[..., str | None]:
    """`supports` as it is called, with three arguments, of which it is handed as many as it takes."""
    try:
        signature = inspect.signature(supports)
    except (TypeError, ValueError):  # a callable that does not tell
        return supports
    for taken in (3, 2, 1, 0):
        try:
            signature.bind(*range(taken))
        except TypeError:
            continue
        break
    else:
        raise ValueError(f"supports of {name!r} must be callable as supports(workload, options, device)")
    return supports if taken == 3 else lambda *arguments: supports(*arguments[:taken])


def _require(what: str, value: Any, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}; got {value!r}")


def _require_all(what: str, values: Collection[str], allowed: Collection[str]) -> frozenset[str]:
    if isinstance(values, str):
        raise ValueError(f"{what} must be a set of names, got the string {values!r}; write {{{values!r}}}")
    for value in values:
        _require(f"each of {what}", value, allowed)
    if not values:
        raise ValueError(f"{what} must not be empty")
    return frozenset(values)


def attention(
    name: str,
    *,
    masks: Collection[str] = frozenset({"none"}),
    grouped_query: bool = False,
    v_head_dim: bool = False,
    dtypes: Collection[str] = frozenset(DTYPES),
    devices: Collection[str] | None = None,
    passes: Collection[str] = frozenset({"forward"}),
    options: Options | None = None,
    framework: str = "torch",
    layout: str = "BHLD",
    summary: str | None = None,
) -> Callable[[Function], Function]:
    """Declare a function as an implementation of attention; what is not declared is `unsupported`.

    The function is called as `function(q, k, v, *, mask, scale, **options)` with q `[B, H, Lq, D]`,
    k `[B, Hkv, Lk, D]` and v `[B, Hkv, Lk, Dv]` (`layout="BLHD"` swaps the middle two axes of all three and
    of the output) and returns `[B, H, Lq, Dv]`. `grouped_query` declares that Hkv may be less than H,
    `v_head_dim` that Dv may differ from D. `mask` is an `attnbench.Mask`. `masks` names kinds; an
    intersection needs each of its kinds. `framework="numpy"` passes ndarrays. `devices` are kinds (`cpu`,
    `cuda`); by default any.

    Raises:
        ValueError: a name, mask, dtype, device, pass, framework, layout or option that is none.
    """
    kinds = _require_all("masks", masks, ["none", *KINDS])
    known_dtypes = _require_all("dtypes", dtypes, DTYPES)
    known_passes = _require_all("passes", passes, PASSES)
    known_devices = None if devices is None else _require_all("devices", devices, DEVICE_KINDS)
    _require("framework", framework, FRAMEWORKS)
    _require("layout", layout, LAYOUTS)
    if framework == "numpy" and known_passes != {"forward"}:
        raise ValueError("a NumPy function has no autograd: passes must be {'forward'}")

    def supports(workload: Workload, _: Options, device: str) -> str | None:
        wanted = [kind for kind, _ in parse(workload.mask)] or ["none"]
        kind = device.split(":")[0]
        checks = (
            (all(each in kinds for each in wanted), f"the mask {workload.mask}"),
            (grouped_query or workload.shape.heads == workload.shape.kv_heads, "grouped-query heads"),
            (
                v_head_dim or workload.shape.head_dim == workload.shape.v_head_dim,
                "another head_dim of the values",
            ),
            (workload.dtype in known_dtypes, workload.dtype),
            (known_devices is None or kind in known_devices, f"the device {kind}"),
            (workload.pass_ in known_passes, f"the pass {workload.pass_}"),
        )
        missing = [what for holds, what in checks if not holds]
        return f"{name} does not declare {', '.join(missing)}" if missing else None

    def declare(function: Function) -> Function:
        def load(_: Workload, chosen: Options) -> Callable[[AttentionInputs], Any]:
            arguments = dict(chosen)
            if layout == "BHLD":
                return lambda x: function(x.q, x.k, x.v, mask=x.mask, scale=x.scale, **arguments)

            def swapped(x: AttentionInputs) -> Any:
                q, k, v = (tensor.swapaxes(1, 2) for tensor in (x.q, x.k, x.v))
                return function(q, k, v, mask=x.mask, scale=x.scale, **arguments).swapaxes(1, 2)

            return swapped

        load.__wrapped__ = function  # type: ignore[attr-defined]  # where the kernel is, see `file`
        first_line = (function.__doc__ or "").strip().splitlines()[:1]
        implementation = Implementation(
            name=name,
            operation="attention",
            framework=framework,
            summary=summary or (first_line[0] if first_line else f"{function.__name__}, from a plug-in"),
            load=load,
            supports=supports,
            options={} if options is None else options,
        )
        # On the function, so that it stays callable by its author and is found by the registry.
        function.__attnbench__ = implementation  # type: ignore[attr-defined]
        return function

    return declare


def declared_in(namespace: Mapping[str, Any]) -> list[Implementation]:
    """The implementations among a module's values: `Implementation`s and decorated functions."""
    found: list[Implementation] = []
    for value in list(namespace.values()):
        candidate = value if isinstance(value, Implementation) else getattr(value, "__attnbench__", None)
        if isinstance(candidate, Implementation) and candidate not in found:
            found.append(candidate)
    return found
