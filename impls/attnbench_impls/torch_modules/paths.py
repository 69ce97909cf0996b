"""The two ways through torch's modules: the ordinary path, and the fast path for inference.

`torch.backends.mha` switches the fast path for all of them; each module takes it where its own conditions
hold, and else the ordinary path, without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attnbench.implementation import ModuleInputs
from attnbench.inputs import draw
from attnbench.workload import Workload
from attnbench_impls.prepared import Call, call_of

__all__ = ["FAST_PATH", "PinnedPath", "path_taken", "why_not_fast", "why_not_taken"]

#: What torch calls the operators that the fast path is.
FAST_PATH = ("aten::_native_multi_head_attention", "aten::_transformer_encoder_layer_fwd")

#: Within the ordinary path: the fused backends of SDPA, by the operators that they are.
SDPA_OPERATORS = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": "flash_attention",
    "aten::_scaled_dot_product_flash_attention": "flash_attention",
    "aten::_scaled_dot_product_efficient_attention": "efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention": "cudnn_attention",
}


class PinnedPath:
    """A context in which torch's modules may take the fast path, or may not."""

    def __init__(self, fast: bool) -> None:
        from torch.backends import mha

        self._fast = fast
        self._get, self._set = mha.get_fastpath_enabled, mha.set_fastpath_enabled
        self._before = True

    def __enter__(self) -> None:
        self._before = self._get()
        self._set(self._fast)

    def __exit__(self, *exception: object) -> None:
        self._set(self._before)


def path_taken(x: ModuleInputs) -> str:
    """The path that the kernel's call with `x` takes, found by recording the operators of one more call.

    `fast path`, or `ordinary path, ` and the backend of attention in it: one of SDPA's fused, or `unfused`.
    """
    return _recorded(partial(call_of(x), x), needs_grad=_needs_grad(x))


def _needs_grad(x: ModuleInputs) -> bool:
    return any(each.requires_grad for each in x.tensors.values())


def _recorded(call: Callable[[], Any], needs_grad: bool) -> str:
    import torch

    # The profiler would tell the same, at 15 ms a call and with lines of its own on stderr.
    from torch.utils._python_dispatch import TorchDispatchMode

    names: set[str] = set()

    class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch left it untyped
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            names.add(func.name())
            return func(*args, **(kwargs or {}))

    with torch.set_grad_enabled(needs_grad), Recording():  # type: ignore[no-untyped-call]  # torch left it untyped
        call()
    if names & set(FAST_PATH):
        return "fast path"
    backends = sorted({backend for operator, backend in SDPA_OPERATORS.items() if operator in names})
    return f"ordinary path, {' and '.join(backends) or 'unfused'}"


def why_not_fast(shape: Any, pass_: str, device: str, others: Sequence[tuple[bool, str]] = ()) -> str | None:
    """The condition of torch's fast path that does not hold, of those that its modules share, or None.

    They are those of `torch.nn.MultiheadAttention.forward` and `torch.nn.TransformerEncoderLayer.forward`;
    `others` are a module's own: whether the path is barred, and by what.
    """
    kind = device.split(":")[0]
    conditions = (
        (pass_ != "forward", "gradients are wanted"),
        (shape.training, "training mode"),
        (shape.heads % 2 == 1, f"the number of heads is odd ({shape.heads})"),
        (not shape.batch_first, "the batch does not come first"),
        (not shape.bias, "there is no bias"),
        *others,
        (kind not in ("cpu", "cuda"), f"it is for the CPU and CUDA, not {kind}"),
    )
    return next((f"torch's fast path: {reason}" for barred, reason in conditions if barred), None)


def why_not_taken(workload: Workload, load: Callable[[Workload], Call], device: str) -> str | None:
    """Why torch takes its ordinary path for `workload` although no condition is known not to hold, or None.

    A twin of the workload, with few positions, is run and recorded.
    """
    inputs = draw(workload, 0).place("torch", device)
    kernel = load(workload)
    taken = _recorded(lambda: kernel(inputs), needs_grad=False)
    return None if taken == "fast path" else f"torch's fast path: torch took its {taken}"
