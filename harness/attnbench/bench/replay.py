"""Is what was timed still computed? A kernel may be right when it is judged, and lazy once it is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbench.bench.kernel import LoadedCase

if TYPE_CHECKING:
    import torch

__all__ = ["why_replayed"]

#: What ‖r₁ + r₂‖ / ‖r₁‖ may be: far above any rounding, which is judged elsewhere; of a replay it is 2.
LARGEST_SHARE = 0.1


def why_replayed(case: LoadedCase, call: Callable[[], Any]) -> str | None:
    """Why `call`, the timed call of `case` after it was timed, does not compute what it returns, or None.

    It is called with the inputs as they are and with them negated in place (q, k, v and the gradient of the
    output; of a backward pass, whose graph must not see its leaves changed, that gradient alone). Each result
    must be negated: ‖r₁ + r₂‖ ≤ 0.1·‖r₁‖. The inputs are negated back whatever happens.

    Raises:
        OutputError: results of the wrong kind, shape, dtype or device.
        Exception: whatever the kernel raises.
    """
    inputs = case.inputs
    turned = [] if case.workload.pass_ == "backward" else [inputs.q, inputs.k, inputs.v]
    if case.grad_out is not None:
        turned.append(case.grad_out)
    # Copies, because a kernel may hand out the same buffer at every call.
    first = {name: _as_tensor(found).clone() for name, found in case.results(call).items()}
    _negate(turned)
    try:
        second = case.results(call)
    finally:
        _negate(turned)
    same = [name for name, found in second.items() if not _negated(first.pop(name), _as_tensor(found))]
    if not same:
        return None
    return f"{', '.join(same)} did not follow the inputs after timing, as if earlier results were returned"


def _negated(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether `second` is −`first`, grossly; `first` is used up."""
    norm = _norm(first)
    return _norm(first.add_(second)) <= LARGEST_SHARE * norm


def _norm(tensor: torch.Tensor) -> float:
    import torch

    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _negate(tensors: list[Any]) -> None:
    """Negate in place, past autograd's count of changes: who caches by that shall not notice."""
    for tensor in tensors:
        if isinstance(tensor, np.ndarray):
            np.negative(tensor, out=tensor)
        else:
            tensor.data.neg_()


def _as_tensor(value: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
