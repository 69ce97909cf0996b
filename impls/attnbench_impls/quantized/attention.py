"""Multi-head attention whose projections compute in int8; attention itself does not."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attnbench_impls.modules import MultiHeadAttention
from attnbench_impls.quantized.linear import Int8Linear, Int8Rows

__all__ = ["QuantizedMultiHeadAttention"]


class QuantizedMultiHeadAttention(MultiHeadAttention):
    """`MultiHeadAttention` with its projections in int8 after `quantise_projections`; for inference."""

    def quantise_projections(self) -> None:
        """Quantise the projections' weights as they are now; later changes of them are not seen."""
        width, kv_dim = self.embed_dim, self.kv_heads * self.head_dim
        self._packed: Int8Linear | None = None
        self._keys_and_values: Int8Linear | None = None
        bias: Any = self.in_proj_bias
        if self.in_proj_weight is not None:
            self._packed = packed = Int8Linear(self.in_proj_weight, bias)
            self._keys_and_values = packed.rows(width, 3 * width)
            parts = [packed.rows(first, first + width) for first in (0, width, 2 * width)]
        else:
            biases = [None] * 3 if bias is None else bias.split([width, kv_dim, kv_dim])
            apart: list[Any] = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
            parts = [Int8Linear(weight, each) for weight, each in zip(apart, biases, strict=True)]
        self._projections = parts
        output: Any = self.out_proj
        del self.out_proj  # a module refuses another kind of layer under a name that is declared
        self.out_proj = Int8Linear(output.weight, output.bias)  # type: ignore[assignment]  # called alike

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in the base class, in int8; what is the same tensor is quantised once."""
        if self._packed is not None and query is key and key is value:  # self-attention: one product
            q, k, v = self._packed(query).chunk(3, dim=-1)
            return q, k, v
        to_q, to_k, to_v = self._projections
        q, keys = to_q(query), Int8Rows(key)
        if self._keys_and_values is not None and key is value:
            k, v = self._keys_and_values(keys).chunk(2, dim=-1)
            return q, k, v
        return q, to_k(keys), to_v(keys if key is value else value)
