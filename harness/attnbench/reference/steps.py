"""What becomes of each step of a computation: nothing, a rounding, or a small random error.

The textbook (`reference.mha`, `reference.layers`, `reference.positions`) calls its `Steps` on every number
that an implementation may round. So one text is the reference, the yardstick and the measure of the spread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from attnbench.reference.answer import smallest_step

__all__ = ["Perturbed", "Recorded", "Rounded", "Steps", "relative_noise"]

#: The least relative error that is tried: far above that of float32, which perturbed steps are computed in.
LEAST_NOISE = 2.0**-13

Change = Callable[[torch.Tensor], torch.Tensor]


class Steps:
    """Exact: each step is left as it is."""

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """A number that implementations may round to the dtype, as its gradient."""
        return tensor

    def angle(self, tensor: torch.Tensor) -> torch.Tensor:
        """A number that everybody computes in float32 at least."""
        return tensor

    def relu(self, tensor: torch.Tensor) -> torch.Tensor:
        """max(0, x)."""
        return tensor.relu()

    def attended(self, scores: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """softmax(scores)·v `[rows, D]` of scores `[rows, keys]`; and the weights, without their gradient."""
        shares = self(scores.softmax(dim=-1))
        return self(shares @ v), shares.detach()


class Recorded(Steps):
    """Exact; `before_relu` holds what each ReLU was called with, in float32."""

    def __init__(self) -> None:
        self.before_relu: list[torch.Tensor] = []

    def relu(self, tensor: torch.Tensor) -> torch.Tensor:
        """max(0, x)."""
        self.before_relu.append(tensor.detach().float())
        return tensor.relu()


class Rounded(Steps):
    """Each step, and its gradient, is rounded to `dtype`, and held as float32 where that is narrower.

    So halves are computed and summed in float32 and then rounded, as every matrix unit does.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` rounded, as its gradient will be."""
        if tensor.dtype == self.dtype:
            return tensor
        return _changed(tensor, lambda each: each.to(self.dtype).to(each.dtype))


class Perturbed(Steps):
    """Each step, and its gradient, is off by a random share of itself, `noise` in root mean square.

    `before_relu` holds what each ReLU is called with where nothing is off, and whether a number is above 0 is
    decided as there. Where a rounding (`rounding`, as a share of a number's spread) may decide otherwise,
    the whole gradient is in doubt: it appears as an error of `noise / rounding` times itself.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        noise: float,
        seed: int,
        before_relu: Sequence[torch.Tensor] = (),
        rounding: float = 1.0,
    ) -> None:
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._noise = noise
        self._eps = torch.finfo(dtype).eps
        self._of_angles = noise * min(1.0, torch.finfo(torch.float32).eps / self._eps)
        self._before_relu = iter(before_relu)
        self._rounding = rounding
        smallest = smallest_step(dtype)
        self._smallest = smallest if smallest**2 > 1e-30 else 0.0

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` with errors, as its gradient will be."""
        return _changed(tensor, self._off)

    def angle(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` with errors of float32 at most."""
        return torch.addcmul(tensor, tensor, self._errors(tensor), value=self._of_angles)

    def relu(self, tensor: torch.Tensor) -> torch.Tensor:
        """max(0, x), as it is where nothing is off."""
        exact = next(self._before_relu)
        spread = (tensor.detach() - exact).square_().mean(dim=-1, keepdim=True).sqrt_().div_(self._noise)
        doubtful = exact.abs() <= (self._rounding + self._eps) * spread
        above = (exact > 0).to(tensor.dtype)
        either = self._errors(tensor).sign().mul_(self._noise / self._rounding)
        return _changed(tensor, lambda each: each * above, lambda each: each * (above + either * doubtful))

    def attended(self, scores: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """softmax(scores)·v, and the weights; in the backward pass what cancels is off by itself."""
        output, shares = _Attended.apply(scores, v, self)  # type: ignore[no-untyped-call]  # torch's
        return self(output), shares

    def recomputed(self, shares: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Weights as a backward pass makes them anew: exp(score − log Σ exp), where a row shares an error."""
        largest = scores.amax(dim=-1, keepdim=True)
        return shares * (1 + self._of_angles * self._errors(largest) * largest)

    def gradients_of_attended(
        self,
        shares: torch.Tensor,
        again: torch.Tensor,
        v: torch.Tensor,
        output: torch.Tensor,
        d_output: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of scores and v: dS = P∘(dP − Δ), with errors of dP = dO·Vᵀ and Δ = dO·O (`reference.spread`)."""
        d_shares, squares = d_output @ v.T, (d_output.square() @ v.square().T).mul_(2)
        delta = (shares * d_shares).sum(dim=-1, keepdim=True)
        delta_squares = (d_output * output).square().sum(dim=-1, keepdim=True)
        # Gradients may flow through the largest score, too, which is taken off before exponentials.
        sums = ((shares.square() * squares).sum(dim=-1, keepdim=True) + delta_squares).sqrt()
        delta = torch.addcmul(delta, delta_squares.sqrt(), self._errors(delta), value=self._noise)
        off = torch.addcmul(d_shares - delta, squares.sqrt_(), self._errors(squares), value=self._noise)
        d_scores = off.mul_(again)
        largest = shares.argmax(dim=-1, keepdim=True)
        d_scores.scatter_add_(-1, largest, sums * self._errors(sums) * self._noise)
        return d_scores, again.T @ d_output

    def _errors(self, tensor: torch.Tensor) -> torch.Tensor:
        """Independent numbers of mean 0 and variance 1, shaped as `tensor`; not to be written to."""
        pool, count = _pool(), tensor.numel()
        if count > len(pool) // 2:
            pool = torch.from_numpy(self._rng.standard_normal(count, dtype=np.float32))
        first = int(self._rng.integers(len(pool) - count + 1))
        return pool[first : first + count].view(tensor.shape)

    def _off(self, tensor: torch.Tensor) -> torch.Tensor:
        errors = self._errors(tensor)
        if not self._smallest:
            return torch.addcmul(tensor, tensor, errors, value=self._noise)
        # What is 0 for everybody (masked, or underflowed by far) stays 0.
        size = tensor.abs().add_((tensor != 0).to(tensor.dtype), alpha=self._smallest)
        return torch.addcmul(tensor, size, errors, value=self._noise)


#: Random numbers that are drawn once: taken from random places, they are as good as new ones, and free.
POOL = 1 << 22


@lru_cache(maxsize=1)
def _pool() -> torch.Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal(POOL, dtype=np.float32))


def relative_noise(dtype: torch.dtype) -> float:
    """The relative error that is tried for `dtype`: its own in halves, where it is no longer a small one."""
    return max(torch.finfo(dtype).eps, LEAST_NOISE)


class _Change(torch.autograd.Function):
    """A tensor that one function changes, and its gradient, that another does."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, forth: Change, back: Change) -> torch.Tensor:
        context.back = back
        return forth(tensor)

    @staticmethod
    def backward(context: Any, *gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return context.back(gradient[0]), None, None


class _Attended(torch.autograd.Function):
    """softmax(scores)·v, and the weights, with errors of `Perturbed` steps."""

    @staticmethod
    def forward(
        context: Any, scores: torch.Tensor, v: torch.Tensor, steps: Perturbed
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shares = steps(scores.softmax(dim=-1))
        output = shares @ v
        context.save_for_backward(shares, steps.recomputed(shares, scores), v, output)
        context.steps = steps
        context.mark_non_differentiable(shares)
        return output, shares

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return *context.steps.gradients_of_attended(*context.saved_tensors, gradients[0]), None


def _changed(tensor: torch.Tensor, forth: Change, back: Change | None = None) -> torch.Tensor:
    changed: torch.Tensor = _Change.apply(tensor, forth, back or forth)  # type: ignore[no-untyped-call]  # torch's
    return changed
