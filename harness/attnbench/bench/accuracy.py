"""Is it right? A case is run, and its results are judged against the float64 reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbench.bench.kernel import LoadedCase
from attnbench.bench.poison import is_poisoned, poison
from attnbench.bench.verdict import TensorStandard, Verdict
from attnbench.implementation import AttentionInputs
from attnbench.inputs import DrawnAttention, place_tensor, same_bits
from attnbench.protocol import AccuracyReply, finite_or_none
from attnbench.reference import Answer, answer, grad_out_on, yardstick

if TYPE_CHECKING:
    import torch

    from attnbench.workload import AttentionShape

__all__ = ["Standard", "assess", "make_standard", "poison"]


@dataclass(frozen=True)
class Standard:
    """What all cases of one workload are judged by; `grad_out` is zero outside the query rows `rows`."""

    rows: npt.NDArray[np.int64]
    grad_out: torch.Tensor | None
    tensors: dict[str, TensorStandard]

    @classmethod
    def of(cls, drawn: DrawnAttention, reference: Answer, textbook: dict[str, torch.Tensor]) -> Standard:
        """From what the reference and the yardstick make of `drawn`; what is used up is taken out of them."""
        tensors = {
            name: TensorStandard.of(
                expected,
                textbook.pop(name),
                reference.spreads.pop(name),
                reference.max_score,
                _summed(name, drawn.workload.shape, len(reference.rows)),
            )
            for name, expected in reference.results.items()
        }
        grad_out = None if drawn.grad_out is None else grad_out_on(reference.rows, drawn.grad_out)
        return cls(reference.rows, grad_out, tensors)

    def judge(self, name: str, found: torch.Tensor) -> Verdict:
        """Judge the whole tensor `name`, of which o and dq are compared in the rows alone."""
        return Verdict.on(name, found, self.rows if name in ("o", "dq") else None, self.tensors[name])


@lru_cache(maxsize=1)
def _standard(drawn: DrawnAttention) -> Standard:
    """The standard of one workload, kept until another one is asked for."""
    reference = answer(drawn)
    return Standard.of(drawn, reference, yardstick(drawn, reference.rows))


def _summed(name: str, shape: AttentionShape, rows: int) -> int:
    """How many numbers one of the tensor `name` is the sum of: keys, or the checked rows of a group."""
    return shape.kv_len if name in ("o", "dq") else rows * (shape.heads // shape.kv_heads)


def make_standard(drawn: DrawnAttention) -> None:
    """Compute reference and yardstick of a workload ahead of the cases that `assess` will judge by them."""
    _standard(drawn)


def assess(case: LoadedCase) -> AccuracyReply:
    """Run `case` and judge it; its inputs are as drawn before and after, whatever the kernel does to them.

    It runs twice, the second time with every input negated (the gradient of the output too): the scores stay
    the same, and every result must be negated, to the bit unless the kernel is not repeatable. A kernel that
    answers from what it remembers of an earlier call does not notice, and fails.

    Of several tensors (o and gradients), the figures without a tensor's name are the worst of them, each
    figure by itself; `error_floor` and
    `error_yardstick` are relative L2 norms, to be read beside `error_rel_l2`. Where uninitialised memory is
    poisoned it runs once, and only `accuracy` and `reason` are set: whether every value is finite.

    Raises:
        OutputError: results of the wrong kind, shape, dtype or device.
        Exception: whatever the kernel raises.
    """
    case.drawn.restore(case.inputs)
    try:
        return _assess_poisoned(case) if is_poisoned() else _assess(case)
    finally:
        case.drawn.restore(case.inputs)


def _assess(case: LoadedCase) -> AccuracyReply:
    import torch

    standard = _standard(case.drawn)
    results, changed = _run(case, standard.grad_out)
    verdicts = {name: standard.judge(name, _as_tensor(found)) for name, found in results.items()}
    # Copies, because a kernel may hand out the same buffer at every call.
    first = {name: _as_tensor(found).clone() for name, found in results.items()}
    del results
    case.drawn.restore(case.inputs)
    _negate(case.inputs)
    negated, _ = _run(case, None if standard.grad_out is None else -standard.grad_out)
    repeatable = all(torch.equal(first[name], -_as_tensor(found)) for name, found in negated.items())
    if not repeatable:
        for name, verdict in verdicts.items():
            second = standard.judge(name, -_as_tensor(negated[name]))
            if verdict.reason is None and second.reason is not None:
                reason = f"{name} does not follow its inputs, as if answered from memory ({second.reason})"
                verdicts[name] = replace(second, reason=reason)
    return _reply(verdicts, standard.tensors, changed, repeatable)


def _negate(inputs: AttentionInputs) -> None:
    """Negate q, k and v in place."""
    import torch

    for tensor in (inputs.q, inputs.k, inputs.v):
        if isinstance(tensor, np.ndarray):
            np.negative(tensor, out=tensor)
        else:
            with torch.no_grad():
                tensor.neg_()


def _assess_poisoned(case: LoadedCase) -> AccuracyReply:
    results, _ = _run(case, case.drawn.grad_out)
    counts = {name: int((~_as_tensor(found).isfinite()).sum()) for name, found in results.items()}
    bad = ", ".join(f"{count} of {name}" for name, count in counts.items() if count)
    reason = f"left memory unwritten, or read what nobody wrote: {bad} not finite" if bad else None
    return _blank("fail" if bad else "pass", reason)


def _run(case: LoadedCase, grad_out: torch.Tensor | None) -> tuple[dict[str, Any], list[str]]:
    """The results of one run with `grad_out`, and the names of the inputs that it changed."""
    placed = None if grad_out is None else place_tensor(grad_out, case.framework, case.device)
    results = case.results(case.prepare_call(placed))
    changed = case.drawn.changed(case.inputs)
    if placed is not None and not same_bits(placed, grad_out):
        changed.append("grad_out")
    return results, changed


def _as_tensor(value: Any) -> torch.Tensor:
    import torch

    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    tensor: torch.Tensor = value
    return tensor


def _blank(accuracy: str, reason: str | None) -> AccuracyReply:
    return AccuracyReply(
        accuracy=accuracy,
        reason=reason,
        error_max_abs=None,
        error_rel_l2=None,
        error_rmse=None,
        error_floor=None,
        error_yardstick=None,
        error_ratio=None,
        bitwise_repeatable=None,
        error_dq_max_abs=None,
        error_dk_max_abs=None,
        error_dv_max_abs=None,
    )


def _reply(
    verdicts: dict[str, Verdict], standards: dict[str, TensorStandard], changed: list[str], repeatable: bool
) -> AccuracyReply:
    reasons = [verdict.reason for verdict in verdicts.values() if verdict.reason is not None]
    if changed:
        reasons.append(f"changed its input{'s' if len(changed) > 1 else ''} {', '.join(changed)}")

    def worst(*values: float) -> float | None:
        """The largest; None when one of them is not finite (Python's `max` may pass over a NaN)."""
        return finite_or_none(float(np.max(values)))

    errors = {name: verdict.errors for name, verdict in verdicts.items()}
    reply = _blank("fail" if reasons else "pass", "; ".join(reasons) or None)
    reply["error_max_abs"] = worst(*(each.max_abs for each in errors.values()))
    reply["error_rel_l2"] = worst(*(each.rel_l2 for each in errors.values()))
    reply["error_rmse"] = worst(*(each.rmse for each in errors.values()))
    reply["error_floor"] = worst(*(each.floor.rel_l2 for each in standards.values()))
    reply["error_yardstick"] = worst(*(each.yardstick.rel_l2 for each in standards.values()))
    reply["error_ratio"] = worst(*(verdict.ratio for verdict in verdicts.values()))
    reply["bitwise_repeatable"] = repeatable
    if "dq" in errors:
        reply["error_dq_max_abs"] = finite_or_none(errors["dq"].max_abs)
        reply["error_dk_max_abs"] = finite_or_none(errors["dk"].max_abs)
        reply["error_dv_max_abs"] = finite_or_none(errors["dv"].max_abs)
    return reply
