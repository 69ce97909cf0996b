"""What all cases of one workload are judged by: made once, ahead of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attnbench.bench.verdict import TensorStandard, Verdict
from attnbench.inputs import Drawn
from attnbench.reference import Answer, answer, few_rows, grad_out_on, sampled_rows, yardstick

if TYPE_CHECKING:
    import torch

__all__ = ["Standard", "Standards", "standards"]


@dataclass(frozen=True)
class Standard:
    """What the results on one set of inputs are judged by.

    Of attention o and dq are compared in the query rows `rows`, dk and dv in the keys `keys` (None: all of
    them), for a grad_out that is zero outside `rows`. Without `rows` everything is compared.
    """

    rows: npt.NDArray[np.int64] | None
    keys: npt.NDArray[np.int64] | None
    tensors: dict[str, TensorStandard]

    @classmethod
    def of(
        cls,
        reference: Answer,
        textbook: dict[str, torch.Tensor],
        keys: npt.NDArray[np.int64] | None = None,
    ) -> Standard:
        """From what reference and yardstick make of the inputs; what is used up is taken out of them."""

        def compared(name: str, tensor: torch.Tensor) -> torch.Tensor:
            return tensor if keys is None or name in ("o", "dq") else tensor[:, :, keys]

        tensors = {
            name: TensorStandard.of(
                compared(name, expected),
                compared(name, textbook.pop(name)),
                compared(name, reference.spreads.pop(name)),
                reference.max_score,
                reference.summed[name],
            )
            for name, expected in reference.results.items()
        }
        return cls(reference.rows, keys, tensors)

    def judge(self, name: str, found: torch.Tensor) -> Verdict:
        """Judge the whole tensor `name`."""
        return Verdict.on(name, found, self.rows if name in ("o", "dq") else self.keys, self.tensors[name])

    def grad_out(self, drawn: Drawn) -> torch.Tensor | None:
        """The gradient of the output that this standard is for; None for a forward pass."""
        if drawn.grad_out is None or self.rows is None:
            return drawn.grad_out
        return grad_out_on(self.rows, drawn.grad_out)


@dataclass(frozen=True)
class Standards:
    """Of one workload: that of its inputs as drawn, and that of them turned, of attention on few rows."""

    drawn: Standard
    turned: Standard


@lru_cache(maxsize=1)
def standards(drawn: Drawn) -> Standards:
    """The standards of one workload, kept until another one is asked for."""
    # That of few rows and keys first: while it is made, it takes as much memory as the other one will keep.
    shape, seed, turned = drawn.workload.shape, drawn.seed, drawn.turned()
    few = keys = None
    if drawn.ODD:
        few, keys = few_rows(shape.q_len, seed), sampled_rows(shape.kv_len, seed)
    of_turned = Standard.of(answer(turned, few), yardstick(turned, few), keys)
    reference = answer(drawn)
    return Standards(Standard.of(reference, yardstick(drawn, reference.rows)), of_turned)
