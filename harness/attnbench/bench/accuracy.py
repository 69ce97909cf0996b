"""Is it right? A case is run, and its results are judged against the float64 reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnbench.bench.kernel import LoadedCase, as_tensor
from attnbench.bench.poison import is_poisoned, poison
from attnbench.bench.verdict import LARGEST_RATIO, TensorStandard, Verdict
from attnbench.inputs import Drawn, DrawnAttention, place_tensor, same_bits
from attnbench.protocol import AccuracyReply, finite_or_none
from attnbench.reference import Answer, answer, few_rows, grad_out_on, sampled_rows, yardstick

if TYPE_CHECKING:
    import torch

    from attnbench.workload import AttentionShape

__all__ = ["Standard", "assess", "make_standard", "poison"]

#: How often its bound an error on other inputs must be to say that they were not looked at. What is right is
#: judged by the inputs as drawn; what is remembered is wrong altogether.
REMEMBERED = 4


@dataclass(frozen=True)
class Standard:
    """What all cases of one workload are judged by.

    o and dq are compared in the query rows `rows`, dk and dv in the keys `keys` (None: all of them), for a
    grad_out that is zero outside `rows` (`grad_out_on`).
    """

    rows: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64] | None
    tensors: dict[str, TensorStandard]

    @classmethod
    def of(
        cls,
        drawn: DrawnAttention,
        reference: Answer,
        textbook: dict[str, torch.Tensor],
        keys: npt.NDArray[np.int64] | None = None,
    ) -> Standard:
        """From what the reference and the yardstick make of `drawn`; what is used up is taken out of them."""

        def compared(name: str, tensor: torch.Tensor) -> torch.Tensor:
            return tensor if keys is None or name in ("o", "dq") else tensor[:, :, keys]

        tensors = {
            name: TensorStandard.of(
                compared(name, expected),
                compared(name, textbook.pop(name)),
                compared(name, reference.spreads.pop(name)),
                reference.max_score,
                _summed(name, drawn.workload.shape, len(reference.rows)),
            )
            for name, expected in reference.results.items()
        }
        return cls(reference.rows, keys, tensors)

    def judge(self, name: str, found: torch.Tensor) -> Verdict:
        """Judge the whole tensor `name`."""
        return Verdict.on(name, found, self.rows if name in ("o", "dq") else self.keys, self.tensors[name])


@dataclass(frozen=True)
class _Standards:
    """Of one workload: that of its inputs as drawn, and that of its inputs with q alone negated."""

    drawn: Standard
    q_negated: Standard


@lru_cache(maxsize=1)
def _standards(drawn: DrawnAttention) -> _Standards:
    """The standards of one workload, kept until another one is asked for."""
    # That of few rows and keys first: while it is made, it takes as much memory as the other one will keep.
    shape, seed = drawn.workload.shape, drawn.seed
    few, keys = few_rows(shape.q_len, seed), sampled_rows(shape.kv_len, seed)
    turned = replace(drawn, q=-drawn.q)
    q_negated = Standard.of(turned, answer(turned, few), yardstick(turned, few), keys)
    reference = answer(drawn)
    return _Standards(Standard.of(drawn, reference, yardstick(drawn, reference.rows)), q_negated)


def _summed(name: str, shape: AttentionShape, rows: int) -> int:
    """How many numbers one of the tensor `name` is the sum of: keys, or the checked rows of a group."""
    return shape.kv_len if name in ("o", "dq") else rows * (shape.heads // shape.kv_heads)


def make_standard(drawn: DrawnAttention) -> None:
    """Compute reference and yardstick of a workload ahead of the cases that `assess` will judge by them."""
    _standards(drawn)


def assess(case: LoadedCase) -> AccuracyReply:
    """Run `case` and judge it; its inputs are as drawn before and after, whatever the kernel does to them.

    It runs three times. The second time every input is negated (the gradient of the output too): the scores
    stay the same, and every result must be negated, to the bit unless the kernel is not repeatable. The third
    time q alone is negated, which changes the scores: that is judged on few rows, by an answer of its own. A
    kernel that answers from what it remembers of an earlier call, if only its weights, fails.

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

    standards = _standards(case.drawn)
    standard = standards.drawn
    grad_out = _grad_out(case.drawn, standard)
    results, changed = _run(case, grad_out)
    verdicts = {name: standard.judge(name, as_tensor(found)) for name, found in results.items()}
    # Copies, because a kernel may hand out the same buffer at every call.
    first = {name: as_tensor(found).clone() for name, found in results.items()}
    del results
    case.drawn.restore(case.inputs)
    _negate(case.inputs.q, case.inputs.k, case.inputs.v)
    negated, _ = _run(case, None if grad_out is None else -grad_out)
    repeatable = all(torch.equal(first[name], -as_tensor(found)) for name, found in negated.items())
    if not repeatable:
        for name, found in negated.items():
            verdicts[name] = _follows(name, verdicts[name], standard.judge(name, -as_tensor(found)))
    del first, negated, grad_out
    case.drawn.restore(case.inputs)
    _negate(case.inputs.q)
    for name, found in _run(case, _grad_out(case.drawn, standards.q_negated))[0].items():
        turned = standards.q_negated.judge(name, as_tensor(found))
        if turned.ratio > REMEMBERED * LARGEST_RATIO:
            verdicts[name] = _follows(name, verdicts[name], turned)
    return _reply(verdicts, standard.tensors, changed, repeatable)


def _follows(name: str, verdict: Verdict, again: Verdict) -> Verdict:
    """`verdict`, or `again`, that on other inputs, where only they show that the tensor `name` is wrong."""
    if verdict.reason is not None or again.reason is None:
        return verdict
    reason = f"{name} does not follow its inputs, as if answered from memory ({again.reason})"
    return replace(again, reason=reason)


def _grad_out(drawn: Drawn, standard: Standard) -> torch.Tensor | None:
    """The gradient of the output that `standard` is for."""
    return None if drawn.grad_out is None else grad_out_on(standard.rows, drawn.grad_out)


def _negate(*tensors: Any) -> None:
    """Negate torch tensors or ndarrays in place."""
    import torch

    for tensor in tensors:
        if isinstance(tensor, np.ndarray):
            np.negative(tensor, out=tensor)
        else:
            with torch.no_grad():
                tensor.neg_()


def _assess_poisoned(case: LoadedCase) -> AccuracyReply:
    results, _ = _run(case, case.drawn.grad_out)
    counts = {name: int((~as_tensor(found).isfinite()).sum()) for name, found in results.items()}
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
