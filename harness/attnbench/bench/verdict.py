"""When is a result right? Errors against the float64 reference, and the bound that they must keep.

The verdict, per tensor (o; dq, dk, dv), with R = max|ref|, eps of the dtype, eps_c = min(eps, eps of
float32) and κ = 4·(2 + max|score|):

    max|err|    ≤ 2 · max(yardstick's, floor's, eps/2·R + κ·eps_c·R + (eps + κ·eps_c)·S)
    relative L2 ≤ 2 · max(yardstick's, floor's, eps/4 + κ/4·eps_c + (eps/2 + κ/4·eps_c)·‖S‖/‖ref‖)

and every number of the whole tensor is finite. The floor is the error of the reference rounded to the
dtype. A score is wrong by about eps_c times itself however it is computed, which multiplies its weight by
that much: hence the κ terms, without which correct float32 kernels are refused on small tensors. S is 0 for
o and dv, and for dq and dk what rounding makes of a difference that cancels (`reference.Sensitivity`):
negligible where many keys share the weight, all there is where one key has it, and dq and dk are nearly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbench.reference import Sensitivity

if TYPE_CHECKING:
    import torch

__all__ = ["LARGEST_RATIO", "Errors", "TensorStandard", "Verdict"]

#: What an `error_ratio` may be at most: it is the error as a share of its bound, times 2.
LARGEST_RATIO = 2.0


@dataclass(frozen=True, slots=True)
class Errors:
    """How far a tensor is from the reference: largest difference, L2 norm of it, relative L2, and RMS."""

    max_abs: float
    l2: float
    rel_l2: float
    rmse: float

    @classmethod
    def of(cls, found: torch.Tensor, expected: torch.Tensor) -> Errors:
        """The errors of `found`, any dtype, against `expected`, float64, of the same shape."""
        difference = found.double().sub_(expected) if found.dtype != expected.dtype else found - expected
        norm, of_expected = float(difference.norm()), float(expected.norm())
        return cls(
            max_abs=float(difference.abs_().max()),
            l2=norm,
            rel_l2=norm / of_expected if of_expected else (0.0 if norm == 0 else float("inf")),
            rmse=norm / difference.numel() ** 0.5,
        )


@dataclass(frozen=True, slots=True)
class TensorStandard:
    """What one tensor is judged by; `bound_*` are the largest errors allowed, the factor 2 included."""

    expected: torch.Tensor
    floor: Errors
    yardstick: Errors
    bound_max_abs: float
    bound_l2: float

    @classmethod
    def of(
        cls,
        expected: torch.Tensor,
        textbook: torch.Tensor,
        max_score: float,
        sensitivity: Sensitivity | None = None,
    ) -> TensorStandard:
        """From the float64 reference and the textbook's result in the case's dtype."""
        import torch

        sensitivity = sensitivity or Sensitivity()
        dtype = textbook.dtype
        eps = torch.finfo(dtype).eps
        computed = 4 * (2 + max_score) * min(eps, torch.finfo(torch.float32).eps)  # κ·eps_c
        largest, norm = float(expected.abs().max()), float(expected.norm())
        by_max = (eps / 2 + computed) * largest + (eps + computed) * sensitivity.max_abs
        by_l2 = (eps / 4 + computed / 4) * norm + (eps / 2 + computed / 4) * sensitivity.norm
        floor, yard = Errors.of(expected.to(dtype), expected), Errors.of(textbook, expected)
        return cls(
            expected=expected,
            floor=floor,
            yardstick=yard,
            bound_max_abs=2 * _largest_finite(yard.max_abs, floor.max_abs, by_max),
            bound_l2=2 * _largest_finite(yard.l2, floor.l2, by_l2),
        )


def _largest_finite(*candidates: float) -> float:
    """The largest; a textbook that overflowed excuses nothing."""
    return max(value for value in candidates if np.isfinite(value))


def _share(error: float, bound: float) -> float:
    """`error` as a share of `bound`; where nothing may be wrong, infinite unless nothing is."""
    if bound > 0:
        return error / bound
    return 0.0 if error == 0 else float("inf")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one tensor; `reason` is None when it passes."""

    errors: Errors
    ratio: float
    reason: str | None

    @classmethod
    def on(cls, name: str, found: torch.Tensor, rows: Any, standard: TensorStandard) -> Verdict:
        """Judge `found`, the whole tensor; `rows` are its query rows that `standard` has, None for all."""
        bad = int(found.numel() - found.isfinite().sum())
        checked = found if rows is None else found[:, :, rows]
        errors = Errors.of(checked.cpu(), standard.expected)
        if bad:
            return cls(errors, float("inf"), f"{name} has {bad} non-finite value{'s' if bad > 1 else ''}")
        if name == "dq" and int(found.count_nonzero()) > int(checked.count_nonzero()):
            # There the output's gradient is 0, and so is whatever is multiplied with it.
            return cls(errors, float("inf"), "dq is not 0 in rows whose output has no gradient")
        by_max = _share(errors.max_abs, standard.bound_max_abs)
        by_l2 = _share(errors.l2, standard.bound_l2)
        share, what, error = max((by_max, "max error", errors.max_abs), (by_l2, "relative L2", errors.rel_l2))
        ratio = LARGEST_RATIO * share
        if share <= 1:
            return cls(errors, ratio, None)
        times = f"{share:.3g} times its bound" if np.isfinite(share) else "not the 0 that it must be"
        return cls(errors, ratio, f"{name}: {what} {error:.2g} is {times}")
