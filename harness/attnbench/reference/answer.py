"""What a reference returns, and the sizes of roundings that results are judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["Answer", "rounding", "smallest_step"]


@dataclass(frozen=True)
class Answer:
    """The float64 results of one workload.

    `rows` int64 `[R]`, ascending, are the query rows that attention is known on; None: results are whole.
    `results` holds what the pass computes. For attention those are o and dq `[B, H, R, D]`, on the rows; dk
    and dv `[B, Hkv, Lk, D]`, whole, for a grad_out that is zero outside the rows (`grad_out_on`).
    `max_score` is the largest |score| that a softmax sees, 0 where the spreads hold what scores do.
    `spreads`, float32, shaped as `results`, say how far rounding moves each number. `summed` says how many
    numbers one of each result is the sum of.
    """

    rows: npt.NDArray[np.int64] | None
    results: dict[str, torch.Tensor]
    max_score: float
    spreads: dict[str, torch.Tensor]
    summed: dict[str, int]


def rounding(dtype: torch.dtype, max_score: float, summed: int) -> float:
    """What a rounding to `dtype`, and computing besides, do to a number, as a share of its scale.

    eps + eps_c·(2 + 3·max|score| + √n/2), eps_c being that of float32 where the dtype's is larger: a score is
    off by some eps_c times itself, a sum of n numbers by its steps.
    """
    import torch

    eps = float(torch.finfo(dtype).eps)
    computing = min(eps, float(torch.finfo(torch.float32).eps))
    return eps + computing * (2 + 3 * max_score + math.sqrt(summed) / 2)


def smallest_step(dtype: torch.dtype) -> float:
    """Below this a number is rounded to a fixed step, not to a share of itself; at least 1e-18.

    float16's smallest normal number matters; the squares of the others' underflow in float32.
    """
    import torch

    return max(float(torch.finfo(dtype).tiny), 1e-18)
