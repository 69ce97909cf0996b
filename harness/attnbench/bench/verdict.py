"""When is a result right? Errors against the float64 reference, and the bounds that they must keep.

Each tensor (o; dq, dk, dv) is judged three times: at each number, as a whole, and for what all of it has in
common. With eps of the dtype, eps_c = min(eps, eps of float32), n the count of what one number sums up,

    s = |ref| + spread + tiny              the scale of one number's error (`reference.spread`)
    e = eps + e_c                          what a rounding to the dtype does, and computing besides
    e_c = eps_c·(2 + 3·max|score| + √n/2)  a score is off by some eps_c times itself, a sum by its steps
    g = ⟨err, ref⟩ / ⟨ref, ref⟩            the factor, less 1, by which it exceeds the reference on average

a tensor passes where

    max |err|/s ≤ 2 · max(5/4 · yardstick's, floor's, e)
    ‖err‖       ≤ 2 · max(yardstick's, floor's, (1/4 + 3/4/√rows(s))·e·‖s‖)
    |g|         ≤ 2 · (max(|yardstick's|, |floor's|, 0.42·e) + ρ/√rows(ref))

and every number of the whole tensor is finite. The floor is the error of the reference rounded to the dtype,
tiny the number below which the dtype rounds to a fixed step. rows(x) counts the rows of x that matter,
(Σ‖xᵢ‖²)² / Σ‖xᵢ‖⁴: where few do, all errors may be as large as the largest.

Roundings are independent and average out over rows, and so does g but for ρ/√rows, ρ being half the second
bound over ‖ref‖: that is how a wrong factor shows far below the rounding of single numbers. Only rounding
towards zero, by 0.36·eps on average, twice on the way, leaves as much as the 0.84·eps that are allowed.

The yardstick is one draw, and its largest error varies more than its norm: hence 5/4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbench.reference import rounding, smallest_step

if TYPE_CHECKING:
    import torch

__all__ = ["LARGEST_RATIO", "Errors", "TensorStandard", "Verdict"]

#: What an `error_ratio` may be at most: it is the error as a share of its bound, times 2.
LARGEST_RATIO = 2.0

#: What rounding makes of all numbers together, as a share of the most that it makes of one.
EVEN = 0.25

#: By how much another right kernel's largest error may exceed the yardstick's more than its norm may.
VARIES = 1.25

#: The common factor that two roundings towards zero leave, in eps: half of what is allowed.
COMMON = 0.42

#: Numbers that are compared at a time.
PIECE_ELEMENTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Errors:
    """How far a tensor is from the reference.

    `max_abs`, `l2`, `rel_l2`, `rmse` are the largest difference, the L2 norm of all, that over the
    reference's, and their root mean square; `scaled` is the largest share of its own scale that one number's
    error is, `at` where that is, `gain` the factor, less 1, by which found exceeds the reference on average.
    """

    max_abs: float
    l2: float
    rel_l2: float
    rmse: float
    scaled: float
    at: tuple[int, ...]
    gain: float

    @classmethod
    def of(cls, found: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> Errors:
        """The errors of `found`, any dtype, against `expected`, float64, on `scale`, all of one shape."""
        import torch

        largest = scaled = along = squares = norm = 0.0
        place = 0
        # Piece by piece, in the cache: gradients of long sequences may fill a good part of the memory.
        flat = [each.reshape(-1) for each in (found, expected, scale)]
        for first in range(0, expected.numel(), PIECE_ELEMENTS):
            piece, reference, of_piece = (each[first : first + PIECE_ELEMENTS] for each in flat)
            error = piece.double() - reference
            along += float(torch.dot(error, reference))
            squares += float(torch.dot(error, error))
            norm += float(torch.dot(reference, reference))
            error.abs_()
            largest = float(np.maximum(largest, float(error.max())))  # unlike `max` it keeps a NaN
            worst = float(error.div_(of_piece).max())
            if worst > scaled or (math.isnan(worst) and not math.isnan(scaled)):
                scaled, place = worst, first + int(error.argmax())
        l2, of_reference = math.sqrt(squares), math.sqrt(norm)
        return cls(
            max_abs=largest,
            l2=l2,
            rel_l2=_share(l2, of_reference),
            rmse=l2 / math.sqrt(expected.numel()),
            scaled=scaled,
            at=tuple(int(index) for index in np.unravel_index(place, expected.shape)),
            gain=along / norm if norm else 0.0,
        )


def _rows_that_matter(tensor: torch.Tensor) -> float:
    """(Σ‖xᵢ‖²)² / Σ‖xᵢ‖⁴ over the rows of `tensor`: their number if all are alike, 1 if one is all."""
    squares = tensor.double().square().sum(dim=-1)
    fourth = float(squares.square().sum())
    return max(1.0, float(squares.sum()) ** 2 / fourth) if fourth else 1.0


@dataclass(frozen=True, slots=True)
class TensorStandard:
    """What one tensor is judged by; `bound_*` are the largest errors allowed, the factor 2 included."""

    expected: torch.Tensor
    scale: torch.Tensor
    floor: Errors
    yardstick: Errors
    bound_scaled: float
    bound_l2: float
    bound_gain: float

    @classmethod
    def of(
        cls,
        expected: torch.Tensor,
        textbook: torch.Tensor,
        spread: torch.Tensor,
        max_score: float,
        summed: int,
    ) -> TensorStandard:
        """From the float64 reference, the textbook's result in the case's dtype, the spread of both.

        `max_score` is the largest |score|, `summed` how many numbers are summed up in one of the tensor.
        """
        dtype = textbook.dtype
        rows = _rows_that_matter(expected)
        one = rounding(dtype, max_score, summed)
        scale = expected.abs().float().add_(spread).add_(smallest_step(dtype))
        floor, yard = (Errors.of(each, expected, scale) for each in (expected.to(dtype), textbook))
        norm = float(expected.norm())
        share = EVEN + (1 - EVEN) / math.sqrt(_rows_that_matter(scale))
        l2 = _largest_finite(yard.l2, floor.l2, share * one * float(scale.norm()))
        common = _largest_finite(abs(yard.gain), abs(floor.gain), COMMON * one)
        return cls(
            expected=expected,
            scale=scale,
            floor=floor,
            yardstick=yard,
            bound_scaled=2 * _largest_finite(VARIES * yard.scaled, floor.scaled, one),
            bound_l2=2 * l2,
            bound_gain=2 * (common + _share(l2, norm) / math.sqrt(rows)),
        )


def _largest_finite(*candidates: float) -> float:
    """The largest; a textbook that overflowed excuses nothing."""
    return max(value for value in candidates if math.isfinite(value))


def _share(error: float, bound: float) -> float:
    """`error` as a share of `bound`; where nothing may be wrong, infinite unless nothing is."""
    if bound > 0:
        return error / bound
    return 0.0 if error == 0 else math.inf


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
        errors = Errors.of(checked.cpu(), standard.expected, standard.scale)
        if bad:
            return cls(errors, math.inf, f"{name} has {bad} non-finite value{'s' if bad > 1 else ''}")
        if name == "dq" and int(found.count_nonzero()) > int(checked.count_nonzero()):
            # There the output's gradient is 0, and so is whatever is multiplied with it.
            return cls(errors, math.inf, "dq is not 0 in rows whose output has no gradient")
        at = list(errors.at)
        if rows is not None:
            at[2] = int(rows[at[2]])
        share, what = max(
            (_share(errors.scaled, standard.bound_scaled), f"the error at {at}"),
            (_share(errors.l2, standard.bound_l2), f"relative L2 {errors.rel_l2:.2g}"),
            (_share(abs(errors.gain), standard.bound_gain), f"a common factor of {1 + errors.gain:.5g}"),
        )
        ratio = LARGEST_RATIO * share
        if share <= 1:
            return cls(errors, ratio, None)
        times = f"{share:.3g} times its bound" if math.isfinite(share) else "not the 0 that it must be"
        return cls(errors, ratio, f"{name}: {what} is {times}")
