"""A loaded case: an implementation bound to a workload's inputs on a device, ready to be run and timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from attnbench.case import Option
from attnbench.implementation import Implementation
from attnbench.inputs import Drawn, InputPool
from attnbench.workload import Workload

__all__ = ["LoadedCase", "OutputError", "as_tensor", "describe", "load_case", "why_unsupported"]


class OutputError(ValueError):
    """A kernel returned something of the wrong kind, shape, dtype or device; the text says which."""


def why_unsupported(
    implementation: Implementation, options: Mapping[str, Option], workload: Workload, device: str
) -> str | None:
    """Why this case cannot be, or None: the harness's own reasons first, then the implementation's."""
    if implementation.operation != workload.operation:
        return f"{implementation.name} computes {implementation.operation}, not {workload.operation}"
    if implementation.framework == "numpy":
        if device.split(":")[0] != "cpu":
            return f"NumPy runs on the CPU, not on {device}"
        if workload.dtype == "bfloat16":
            return "NumPy has no bfloat16"
        if workload.pass_ != "forward" and implementation.load_backward is None:
            return "NumPy has no autograd, and the implementation brings no backward of its own"
    return implementation.supports(workload, implementation.with_defaults(options), device)


def load_case(
    implementation: Implementation,
    options: Mapping[str, Option],
    workload: Workload,
    device: str,
    seed: int,
    pool: InputPool | None = None,
) -> LoadedCase:
    """Load the kernel and place its inputs; with a `pool`, drawn once for all its cases.

    Raises:
        ValueError: an option that the implementation does not have.
        Exception: whatever the implementation's `load` raises.
    """
    pool = pool or InputPool()
    chosen = implementation.with_defaults(options)
    inputs, grad_out = pool.placed(workload, seed, implementation.framework, device)
    load_backward = implementation.load_backward if workload.pass_ != "forward" else None
    return LoadedCase(
        implementation=implementation,
        workload=workload,
        device=device,
        drawn=pool.drawn(workload, seed),
        inputs=inputs,
        grad_out=grad_out,
        kernel=implementation.load(workload, chosen),
        backward=load_backward(workload, chosen) if load_backward is not None else None,
    )


class LoadedCase:
    """A kernel with its inputs placed.

    `inputs` and `grad_out` (of `o`; None for a forward pass) are its own; `drawn` holds the same numbers
    untouched.
    """

    def __init__(
        self,
        *,
        implementation: Implementation,
        workload: Workload,
        device: str,
        drawn: Drawn,
        inputs: Any,
        grad_out: Any,
        kernel: Callable[[Any], Any],
        backward: Callable[[Any, Any, Any], tuple[Any, ...]] | None = None,
    ) -> None:
        self.implementation = implementation
        self.workload = workload
        self.device = device
        self.drawn = drawn
        self.inputs = inputs
        self.grad_out = grad_out
        self.kernel = kernel
        self._own_backward = backward
        self._sizes = workload.results()
        first = next(iter(inputs.leaves().values()))
        self._placed_on = str(first.device) if self.framework == "torch" else "cpu"

    @property
    def framework(self) -> str:
        """The kernel's framework: `torch` or `numpy`."""
        return self.implementation.framework

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """What the implementation brought: its kernel, and its own backward if it has one."""
        return [self.kernel] if self._own_backward is None else [self.kernel, self._own_backward]

    @property
    def device_name(self) -> str | None:
        """The accelerator's name; None for the CPU, which the machine's fingerprint names."""
        if self.device.split(":")[0] != "cuda":
            return None
        import torch

        return torch.cuda.get_device_name(self.device)

    @property
    def output_bytes(self) -> int:
        """Bytes of all that one timed call returns."""
        sizes = self._sizes.values()
        return sum(math.prod(size) * self.workload.itemsize for size in sizes)

    @property
    def data_bytes(self) -> int:
        """Bytes of all that a kernel is called with, and of all that one timed call returns."""
        return sum(int(each.nbytes) for each in self.inputs.leaves().values()) + self.output_bytes

    def resolved_backend(self) -> str | None:
        """Which kernel really runs, where the implementation leaves that to its library and can tell."""
        resolve = self.implementation.resolved_backend
        if resolve is None:
            return None
        with self.grad_mode():  # torch goes by it when it chooses
            backend = resolve(self.inputs)
        return None if backend is None else str(backend)  # it travels as JSON, whatever somebody returned

    def grad_mode(self) -> AbstractContextManager[object]:
        """The context in which this case is called: without gradients unless autograd must find them.

        It is entered around measuring, not in the timed call, where it would cost a microsecond.
        """
        if self.framework != "torch":
            return nullcontext()
        import torch

        return torch.set_grad_enabled(self._uses_autograd)

    def prepare_call(self, grad_out: Any = None) -> Callable[[], Any]:
        """The timed region of the workload's pass, as a callable that can be called again and again.

        Call it within `grad_mode()`. For `backward` the graph (or the output that an own backward wants) is
        built here, untimed. What the callable returns is for `named`. `grad_out` replaces the case's own.

        Raises:
            OutputError: in a backward pass, the output is unfit to be differentiated.
            Exception: whatever the kernel raises, in a backward pass.
        """
        grad_out = self.grad_out if grad_out is None else grad_out
        inputs, kernel, own_backward = self.inputs, self.kernel, self._own_backward
        if self.workload.pass_ == "forward":
            return partial(kernel, inputs)
        if self.workload.pass_ == "backward":
            with self.grad_mode():
                output = self._first(kernel(inputs))
        if own_backward is not None:
            if self.workload.pass_ == "backward":
                return partial(own_backward, inputs, output, grad_out)

            def forward_own_backward() -> tuple[Any, ...]:
                fresh = kernel(inputs)
                return (*_each(fresh), *own_backward(inputs, fresh, grad_out))

            return forward_own_backward

        leaves = tuple(inputs.leaves().values())
        if self.workload.pass_ == "backward":
            graph = self._with_graph(output)
            return lambda: self._gradients(graph, leaves, grad_out, retain_graph=True)

        def forward_backward() -> tuple[Any, ...]:
            outputs = _each(kernel(inputs))
            return (*outputs, *self._gradients(self._with_graph(outputs[0]), leaves, grad_out))

        return forward_backward

    def named(self, value: Any) -> dict[str, Any]:
        """What a timed call returned, by name (`o`, `dq`, …; see `Workload.results`), each checked.

        Raises:
            OutputError: something missing, or of the wrong kind, shape, dtype or device.
        """
        names = tuple(self._sizes)
        values = (value,) if names == ("o",) else value
        if not isinstance(values, tuple | list) or len(values) != len(names):
            raise OutputError(
                f"{self.implementation.name} must return {', '.join(names)}, got {describe(values)}"
            )
        return {
            name: self._checked(name, each, self._sizes[name])
            for name, each in zip(names, values, strict=True)
        }

    def results(self, call: Callable[[], Any]) -> dict[str, Any]:
        """Run `call` (from `prepare_call`) once; its results by name, checked and detached.

        Raises:
            OutputError: as `named`.
        """
        with self.grad_mode():
            named = self.named(call())
        return {name: each.detach() if self.framework == "torch" else each for name, each in named.items()}

    @property
    def _uses_autograd(self) -> bool:
        return self.workload.pass_ != "forward" and self._own_backward is None

    def _with_graph(self, output: Any) -> Any:
        if getattr(output, "requires_grad", True):
            return output
        raise OutputError(
            f"{self.implementation.name} returned an output without a graph, so it has no gradients; "
            "declare the pass forward only, or bring a backward"
        )

    def _gradients(
        self, output: Any, leaves: tuple[Any, ...], grad_out: Any, *, retain_graph: bool = False
    ) -> tuple[Any, ...]:
        """Autograd's gradients of `leaves`; on the way that is timed nothing is added to it.

        Raises:
            OutputError: output is of another shape, or there is a leaf that it was not computed from.
        """
        import torch

        try:
            return torch.autograd.grad(output, leaves, grad_out, retain_graph=retain_graph)
        except RuntimeError:
            self._first((output, *self.workload.shape.outputs())[: len(self.workload.shape.outputs())])
            for name, leaf in self.inputs.leaves().items():
                if not _reaches(output, leaf):
                    raise OutputError(
                        f"o of {self.implementation.name} was not computed from {name}, which so has no "
                        "gradient; use the very tensors of the inputs: load_state_dict(assign=True) wraps "
                        "them in others, torch.func.functional_call does not"
                    ) from None
            raise

    def _first(self, value: Any) -> Any:
        """The output `o` among what a forward returned, checked."""
        outputs = self.workload.shape.outputs()
        values = _each(value)
        if len(values) != len(outputs):
            raise OutputError(
                f"{self.implementation.name} must return {', '.join(outputs)}, got {describe(value)}"
            )
        return self._checked("o", values[0], outputs["o"])

    def _checked(self, name: str, value: Any, size: tuple[int, ...]) -> Any:
        """`value`, if it is the framework's tensor with the shape, dtype and device that `name` must have."""
        what = f"{name} of {self.implementation.name}"
        if self.framework == "numpy":
            if not isinstance(value, np.ndarray):
                raise OutputError(f"{what} must be an ndarray, got {describe(value)}")
            dtype, device, layout = str(value.dtype), "cpu", "strided"
        else:
            import torch

            if not isinstance(value, torch.Tensor):
                raise OutputError(f"{what} must be a torch tensor, got {describe(value)}")
            dtype, layout = (str(each).removeprefix("torch.") for each in (value.dtype, value.layout))
            device = str(value.device)
        checks = (
            ("layout", "strided", layout),  # a sparse output is none that the next layer could take
            ("shape", size, tuple(value.shape)),
            ("dtype", self.workload.dtype, dtype),
            ("device", self._placed_on, device),
        )
        for aspect, expected, got in checks:
            if expected != got:
                raise OutputError(f"{what} must have {aspect} {expected}, got {got}")
        return value


def _reaches(output: Any, leaf: Any) -> bool:
    """Whether the graph of `output` leads to `leaf`."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if getattr(node, "variable", None) is leaf:
            return True
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions)
    return output is leaf


def _each(value: Any) -> tuple[Any, ...]:
    """What a forward returned, one by one."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def describe(value: Any) -> str:
    """A value's kind, in words for a message."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def as_tensor(value: Any) -> Any:
    """A result of either framework as a torch tensor, in the same memory where that can be."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
