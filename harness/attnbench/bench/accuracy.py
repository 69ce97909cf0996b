"""Is it right? A case is run, and its results are judged against the float64 reference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbench.bench.kernel import LoadedCase, as_tensor
from attnbench.bench.poison import is_poisoned, poison
from attnbench.bench.standard import Standard, standards
from attnbench.bench.verdict import LARGEST_RATIO, TensorStandard, Verdict
from attnbench.implementation import PRECISIONS
from attnbench.inputs import Drawn, place_tensor, same_bits
from attnbench.protocol import AccuracyReply, finite_or_none

if TYPE_CHECKING:
    import torch

__all__ = ["assess", "make_standard", "poison"]

#: How often its bound an error on other inputs must be to say that they were not looked at. What is right is
#: judged by the inputs as drawn; what is remembered is wrong altogether.
REMEMBERED = 4


def make_standard(drawn: Drawn) -> None:
    """Compute reference and yardstick of a workload ahead of the cases that `assess` will judge by them."""
    if drawn.workload.shape.why_random() is None:
        standards(drawn)


def assess(case: LoadedCase, *, own_precision: bool = False) -> AccuracyReply:
    """Run `case` and judge it; its inputs are as drawn before and after, whatever the kernel does to them.

    It runs three times. Attention runs a second time with every input negated (the gradient of the output
    too): the scores stay the same, and every result must be negated, to the bit unless the kernel is not
    repeatable. The third time q alone is negated, which changes the scores: that is judged on few rows, by an
    answer of its own. A module, which is no odd function, runs on its inputs turned (`Drawn.turned`), judged
    by an answer of their own, and then as drawn again, which must give the same bits. A kernel that answers
    from what it remembers of an earlier call, if only its weights, fails.

    Of several tensors (o and gradients), the figures without a tensor's name are the worst of them, each
    figure by itself; `error_floor` and
    `error_yardstick` are relative L2 norms, to be read beside `error_rel_l2`. Where uninitialised memory is
    poisoned it runs once, and only `accuracy` and `reason` are set: whether every value is finite. No more
    is asked of what is random, and where it is, the answer is `unchecked`.

    With `own_precision` an implementation that declares a lower precision than the workload's dtype is judged
    by that: its errors may exceed their bounds, which are roundings to the dtype, as often as its eps does.

    Raises:
        OutputError: results of the wrong kind, shape, dtype or device.
        Exception: whatever the kernel raises.
    """
    random = case.workload.shape.why_random()
    case.drawn.restore(case.inputs)
    try:
        if is_poisoned():
            bad = _not_finite(case)
            reason = f"left memory unwritten, or read what nobody wrote: {bad} not finite" if bad else None
            return _blank("fail" if bad else "pass", reason)
        if random is not None:
            bad = _not_finite(case)
            return _blank("fail", f"{bad} not finite") if bad else _blank("unchecked", random)
        return _assess(case, _coarser(case) if own_precision else 1.0)
    finally:
        case.drawn.restore(case.inputs)


def _coarser(case: LoadedCase) -> float:
    """How often the eps of the workload's dtype goes into that of the declared precision; at least once."""
    import torch

    eps: float = torch.finfo(getattr(torch, case.workload.dtype)).eps
    return max(1.0, PRECISIONS.get(case.implementation.precision, 0.0) / eps)


def _within(verdict: Verdict, allowed: float) -> Verdict:
    """`verdict` where the bounds are `allowed` times as wide."""
    if allowed == 1:
        return verdict
    ratio = verdict.ratio / allowed
    return replace(verdict, ratio=ratio, reason=verdict.reason if ratio > LARGEST_RATIO else None)


def _not_finite(case: LoadedCase) -> str:
    """`3 of o, 1 of dq`: how many values of one run are not finite; empty if all are."""
    results, _ = _run(case, case.drawn.grad_out)
    counts = {name: int((~as_tensor(found).isfinite()).sum()) for name, found in results.items()}
    return ", ".join(f"{count} of {name}" for name, count in counts.items() if count)


def _assess(case: LoadedCase, allowed: float) -> AccuracyReply:
    both = standards(case.drawn)
    grad_out = both.drawn.grad_out(case.drawn)
    results, changed = _run(case, grad_out)
    verdicts = {
        name: _within(both.drawn.judge(name, as_tensor(found)), allowed) for name, found in results.items()
    }
    # Copies, because a kernel may hand out the same buffer at every call.
    first = {name: as_tensor(found).clone() for name, found in results.items()}
    del results
    if case.drawn.ODD:
        repeatable = _again_negated(case, grad_out, first, both.drawn, verdicts, allowed)
        del first
        _judge_turned(case, both.turned, verdicts, allowed)
    else:
        _judge_turned(case, both.turned, verdicts, allowed)
        repeatable = _again(case, grad_out, first, both.drawn, verdicts, allowed)
    precision = case.implementation.precision
    why = f"it computes in {precision} by its nature" if precision else ""
    if allowed > 1:
        why = f"judged by {precision}, in which it computes"
    return _reply(verdicts, both.drawn.tensors, changed, repeatable, why)


def _again_negated(
    case: LoadedCase,
    grad_out: torch.Tensor | None,
    first: dict[str, torch.Tensor],
    standard: Standard,
    verdicts: dict[str, Verdict],
    allowed: float,
) -> bool:
    """Whether results are negated to the bit by negating all inputs; judge those that are not."""
    case.drawn.restore(case.inputs)
    _negate(*case.inputs.leaves().values())
    negated, _ = _run(case, None if grad_out is None else -grad_out)
    again = {name: -as_tensor(found) for name, found in negated.items()}
    return _agree(first, again, standard, verdicts, allowed)


def _again(
    case: LoadedCase,
    grad_out: torch.Tensor | None,
    first: dict[str, torch.Tensor],
    standard: Standard,
    verdicts: dict[str, Verdict],
    allowed: float,
) -> bool:
    """Whether results are the same to the bit on the same inputs, after others; judge those that are not."""
    case.drawn.restore(case.inputs)
    second, _ = _run(case, grad_out)
    again = {name: as_tensor(found) for name, found in second.items()}
    return _agree(first, again, standard, verdicts, allowed)


def _agree(
    first: dict[str, torch.Tensor],
    second: dict[str, torch.Tensor],
    standard: Standard,
    verdicts: dict[str, Verdict],
    allowed: float,
) -> bool:
    import torch

    if all(torch.equal(first[name], found) for name, found in second.items()):
        return True
    for name, found in second.items():
        again = _within(standard.judge(name, found), allowed)
        verdicts[name] = _follows(name, verdicts[name], again)
    return False


def _judge_turned(case: LoadedCase, standard: Standard, verdicts: dict[str, Verdict], allowed: float) -> None:
    """Judge a run on inputs that are turned, grossly; a failure there goes into `verdicts`."""
    case.drawn.turned().restore(case.inputs)
    most = LARGEST_RATIO * (REMEMBERED if allowed == 1 else 1)  # what is coarse has been given its share
    for name, found in _run(case, standard.grad_out(case.drawn))[0].items():
        turned = _within(standard.judge(name, as_tensor(found)), allowed)
        if turned.ratio > most:
            verdicts[name] = _follows(name, verdicts[name], turned)


def _follows(name: str, verdict: Verdict, again: Verdict) -> Verdict:
    """`verdict`, or `again`, that on other inputs, where only they show that the tensor `name` is wrong."""
    if verdict.reason is not None or again.reason is None:
        return verdict
    reason = f"{name} does not follow its inputs, as if answered from memory ({again.reason})"
    return replace(again, reason=reason)


def _negate(*tensors: Any) -> None:
    """Negate torch tensors or ndarrays in place."""
    import torch

    for tensor in tensors:
        if isinstance(tensor, np.ndarray):
            np.negative(tensor, out=tensor)
        else:
            with torch.no_grad():
                tensor.neg_()


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
    verdicts: dict[str, Verdict],
    of_tensors: dict[str, TensorStandard],
    changed: list[str],
    repeatable: bool,
    why_coarse: str,
) -> AccuracyReply:
    reasons = [verdict.reason for verdict in verdicts.values() if verdict.reason is not None]
    if reasons and why_coarse:
        reasons.append(why_coarse)
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
    reply["error_floor"] = worst(*(each.floor.rel_l2 for each in of_tensors.values()))
    reply["error_yardstick"] = worst(*(each.yardstick.rel_l2 for each in of_tensors.values()))
    reply["error_ratio"] = worst(*(verdict.ratio for verdict in verdicts.values()))
    reply["bitwise_repeatable"] = repeatable
    if errors.keys() >= {"dq", "dk", "dv"}:
        reply["error_dq_max_abs"] = finite_or_none(errors["dq"].max_abs)
        reply["error_dk_max_abs"] = finite_or_none(errors["dk"].max_abs)
        reply["error_dv_max_abs"] = finite_or_none(errors["dv"].max_abs)
    return reply
