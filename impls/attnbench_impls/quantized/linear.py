"""A linear layer in int8: weights quantised once, activations at every call.

The scheme is torchao's Int8DynamicActivationInt8WeightConfig: symmetric, one scale an output channel of the
weight, one scale a row of the activations. So is the kernel, `torch._int_mm`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Int8Linear", "Int8Rows", "quantise"]

#: The largest of the symmetric range; −128 is not used.
LARGEST = 127


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` `[N, K]` as int8 `[N, K]` and a scale a row `[N, 1]`, in float32 at least: x ≈ int8 · scale."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = wide.abs().amax(-1, keepdim=True)
    scale = largest.clamp_min(torch.finfo(wide.dtype).tiny * LARGEST) / LARGEST  # a row of zeros stays one
    return (wide / scale).round_().to(torch.int8), scale


class Int8Rows:
    """Activations `[…, K]`, quantised once for all layers that take them."""

    def __init__(self, x: Tensor) -> None:
        self.leading, self.dtype = x.shape[:-1], x.dtype
        self.int8, self.scale = quantise(x.flatten(0, -2))


class Int8Linear(nn.Module):
    """x·Wᵀ + b with W `[out, in]` in int8; the sums are int32, the output has the dtype of x.

    `weight` is what W was made of; nothing is computed with it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.int8, scale = quantise(weight.detach())
        self.scale = scale[:, 0]
        self.bias = None if bias is None else bias.detach().to(self.scale.dtype)

    def rows(self, first: int, end: int) -> Int8Linear:
        """The layer of these output features alone, in the same memory."""
        part = Int8Linear.__new__(Int8Linear)
        nn.Module.__init__(part)
        part.weight = self.weight[first:end]
        part.int8, part.scale = self.int8[first:end], self.scale[first:end]
        part.bias = None if self.bias is None else self.bias[first:end]
        return part

    def forward(self, x: Tensor | Int8Rows) -> Tensor:
        """`[…, in]` -> `[…, out]`."""
        rows = x if isinstance(x, Int8Rows) else Int8Rows(x)
        sums = torch._int_mm(rows.int8, self.int8.t())
        o = sums.to(self.scale.dtype).mul_(rows.scale).mul_(self.scale)
        if self.bias is not None:
            o.add_(self.bias)
        return o.to(rows.dtype).view(*rows.leading, -1)
