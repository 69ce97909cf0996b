"""Is what was timed still computed? A kernel may be right when it is judged, and lazy once it is timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbench.bench.kernel import LoadedCase, as_tensor
from attnbench.reference import textbook_answers

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

#: How often the textbook's own error a module's result may be off, where that is gross.
ROUGHNESSES = 4

#: Numbers that are widened at a time.
PIECE_ELEMENTS = 1 << 20


def norms(results: Mapping[str, Any]) -> dict[str, float]:
    """The L2 norm of each result."""
    return {name: _norm(as_tensor(each)) for name, each in results.items()}


def why_replayed(case: LoadedCase, call: Callable[[], Any], at_first: Mapping[str, float]) -> str | None:
    """Why `call`, the timed call of `case` after it was timed, does not compute what it returns, or None.

    It is called with the inputs as they are and, in the same memory, with others. Attention's are negated and
    their heads moved on by one group of queries that share a key head (by one query, where all share one):
    that must negate every result and move its heads, which neither a remembered result does nor remembered
    weights. A module's are turned (`Drawn.turned`), and must give what the textbook gives. Of a backward
    pass, whose graph must not see its leaves changed, the gradient of the output alone is negated, which must
    negate every result. `at_first` are the `norms` of the first call's results. The inputs are turned back
    whatever happens. Of what is random nothing is asked.

    Raises:
        OutputError: results of the wrong kind, shape, dtype or device.
        Exception: whatever the kernel raises.
    """
    if case.workload.shape.why_random() is not None:
        return None
    # Copies, because a kernel may hand out the same buffer at every call.
    first = {name: as_tensor(found).clone() for name, found in case.results(call).items()}
    if case.drawn.ODD:
        wrong = _wrong_of_attention(case, call, first, at_first)
    elif case.workload.pass_ == "backward":
        wrong = _wrong_gradients(case, call, first)
    else:
        wrong = _wrong_of_module(case, call)
    if not wrong:
        return None
    return f"{', '.join(wrong)} did not follow the inputs after timing, as if remembered, not computed"


def _wrong_of_attention(
    case: LoadedCase, call: Callable[[], Any], first: dict[str, torch.Tensor], at_first: Mapping[str, float]
) -> list[str]:
    """The results that do not follow inputs which are negated and whose heads are moved on."""
    shape = case.workload.shape
    of_queries, of_keys = (shape.heads // shape.kv_heads if shape.kv_heads > 1 else 1), 1
    turning = [(case.inputs.q, of_queries), (case.inputs.k, of_keys), (case.inputs.v, of_keys)]
    if case.grad_out is not None:
        turning.append((case.grad_out, of_queries))
    if case.workload.pass_ == "backward":
        of_queries = of_keys = 0
        turning = [(case.grad_out, 0)]
    moved = {"o": of_queries, "dq": of_queries, "dk": of_keys, "dv": of_keys}

    wrong = []
    for name, found in _results_turned(case, call, turning).items():
        expected = first.pop(name)
        norm = _norm(expected)
        off = _norm(expected.roll(moved[name], dims=1).add_(found))
        if name in ("o", "dv"):
            right = off <= LARGEST_SHARE * norm and norm >= LEAST_SHARE * at_first[name]
        else:
            right = _is_negated_at_least(off, norm, expected.numel())
        if not right:
            wrong.append(name)
    return wrong


def _wrong_gradients(case: LoadedCase, call: Callable[[], Any], first: dict[str, torch.Tensor]) -> list[str]:
    """The gradients that a negated gradient of the output does not negate."""
    wrong, offs, all_norms = [], [], []
    for name, found in _results_turned(case, call, [(case.grad_out, 0)]).items():
        norm, count = _norm(first[name]), first[name].numel()
        off = _norm(first[name].add_(found))
        if not _is_negated_at_least(off, norm, count):
            wrong.append(name)
        offs.append(off)
        all_norms.append(norm)
    if math.hypot(*offs) > LARGEST_SHARE_OF_ROUNDING * math.hypot(*all_norms):
        return list(first)  # each may be too small to tell, but together they are not negated
    return wrong


def _is_negated_at_least(off: float, norm: float, count: int) -> bool:
    """Whether a gradient, which may be nothing but rounding, is no remembered one."""
    return off <= LARGEST_SHARE_OF_ROUNDING * norm or count < FEWEST_OF_ROUNDING


def _results_turned(
    case: LoadedCase, call: Callable[[], Any], turning: list[tuple[Any, int]]
) -> dict[str, torch.Tensor]:
    """The results with each tensor negated and its heads moved on, after which they are turned back."""
    turned = []
    try:
        for tensor, heads in turning:
            _turn(tensor, heads)
            turned.append((tensor, -heads))
        # Copies, because the gradient of an identity may be the tensor that is turned back.
        return {name: as_tensor(found).clone() for name, found in case.results(call).items()}
    finally:
        for tensor, heads in turned:
            _turn(tensor, heads)


def _wrong_of_module(case: LoadedCase, call: Callable[[], Any]) -> list[str]:
    """The results on turned inputs that are not, grossly, what the textbook makes of them.

    Where roundings to the dtype are gross themselves, what they do to the textbook is allowed four times.
    """
    turned = case.drawn.turned()
    try:
        _write(case.inputs, turned.leaves())
        found = {name: as_tensor(each).cpu() for name, each in case.results(call).items()}
    finally:
        _write(case.inputs, case.drawn.leaves())
    rounded, exact = textbook_answers(turned)
    wrong = []
    for name, each in found.items():
        expected = exact[name]
        roughness = _norm(rounded[name].to(expected.dtype) - expected)
        if not _norm(each.to(expected.dtype) - expected) <= max(
            LARGEST_SHARE * _norm(expected), ROUGHNESSES * roughness
        ):
            wrong.append(name)
    return wrong


def _write(inputs: Any, values: Mapping[str, torch.Tensor]) -> None:
    """Write `values` into the leaves of `inputs`, past autograd's count of changes."""
    for name, leaf in inputs.leaves().items():
        if isinstance(leaf, np.ndarray):
            leaf[...] = values[name].numpy()
        else:
            leaf.data.copy_(values[name])


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
