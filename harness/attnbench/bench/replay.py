"""Is what was timed still computed? A kernel may be right when it is judged, and lazy once it is timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbench.bench.kernel import LoadedCase, as_tensor

if TYPE_CHECKING:
    import torch

__all__ = ["norms", "why_replayed"]

#: What ‖r₁ + r₂‖ / ‖r₁‖ may be: far above any rounding, which is judged elsewhere. Of a replay it is 2.
LARGEST_SHARE = 0.1

#: What ‖r₁‖ must be of the same norm at the first call.
LEAST_SHARE = 0.5

#: Where one key has all the weight, dq and dk are nothing but rounding, which may differ from call to call.
#: Then the share is about √2, and anything where there are only few numbers.
LARGEST_SHARE_OF_ROUNDING = 1.6
FEWEST_OF_ROUNDING = 256

#: Numbers that are widened at a time.
PIECE_ELEMENTS = 1 << 20


def norms(results: Mapping[str, Any]) -> dict[str, float]:
    """The L2 norm of each result."""
    return {name: _norm(as_tensor(each)) for name, each in results.items()}


def why_replayed(case: LoadedCase, call: Callable[[], Any], at_first: Mapping[str, float]) -> str | None:
    """Why `call`, the timed call of `case` after it was timed, does not compute what it returns, or None.

    It is called with the inputs as they are and, in the same memory, with all of them negated and their heads
    moved on by one group of queries that share a key head (by one query, where all share one): that must
    negate every result and move its heads, which neither a remembered result does nor remembered weights. Of
    a backward pass, whose graph must not see its leaves changed, the gradient of the output alone is negated.
    `at_first` are the `norms` of the first call's results. The inputs are turned back whatever happens.

    Raises:
        OutputError: results of the wrong kind, shape, dtype or device.
        Exception: whatever the kernel raises.
    """
    shape = case.workload.shape
    of_queries, of_keys = (shape.heads // shape.kv_heads if shape.kv_heads > 1 else 1), 1
    turning = [(case.inputs.q, of_queries), (case.inputs.k, of_keys), (case.inputs.v, of_keys)]
    if case.grad_out is not None:
        turning.append((case.grad_out, of_queries))
    if case.workload.pass_ == "backward":
        of_queries = of_keys = 0
        turning = [(case.grad_out, 0)]
    moved = {"o": of_queries, "dq": of_queries, "dk": of_keys, "dv": of_keys}

    # Copies, because a kernel may hand out the same buffer at every call.
    first = {name: as_tensor(found).clone() for name, found in case.results(call).items()}
    turned = []
    try:
        for tensor, heads in turning:
            _turn(tensor, heads)
            turned.append((tensor, -heads))
        second = case.results(call)
    finally:
        for tensor, heads in turned:
            _turn(tensor, heads)

    wrong = []
    for name, found in second.items():
        expected = first.pop(name)
        norm = _norm(expected)
        off = _norm(expected.roll(moved[name], dims=1).add_(as_tensor(found)))
        if name in ("o", "dv"):
            right = off <= LARGEST_SHARE * norm and norm >= LEAST_SHARE * at_first[name]
        else:
            right = off <= LARGEST_SHARE_OF_ROUNDING * norm or expected.numel() < FEWEST_OF_ROUNDING
        if not right:
            wrong.append(name)
    if not wrong:
        return None
    return f"{', '.join(wrong)} did not follow the inputs after timing, as if remembered, not computed"


def _turn(tensor: Any, heads: int) -> None:
    """Negate `[B, H, L, D]` in place and move it on by `heads`.

    Past autograd's count of changes: who remembers by that shall not notice.
    """
    if isinstance(tensor, np.ndarray):
        tensor[...] = np.negative(np.roll(tensor, heads, axis=1))
    else:
        tensor.data.copy_(tensor.data.roll(heads, dims=1).neg_())


def _norm(tensor: torch.Tensor) -> float:
    import torch

    pieces = torch.split(tensor.detach().reshape(-1), PIECE_ELEMENTS)
    return math.hypot(*(float(torch.linalg.vector_norm(each, dtype=torch.float64)) for each in pieces))
