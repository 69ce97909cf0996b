"""What a workload costs: floating-point operations and bytes, counted exactly by the field's convention.

The convention counts the products of matrices, 2·m·n·k operations each, and in attention the (query, key)
pairs that the mask allows; biases, normalisations, softmax and dropout are not counted. Bytes count each
operand once. What is least is what no right implementation can do without: by it impossible speeds are told.
Cost models are registered per operation in `COSTS`.
"""

from __future__ import annotations

from collections.abc import Callable

from attnbench.costs.attention import attention
from attnbench.costs.counted import PARTS, Costs
from attnbench.costs.modules import decoder_layer, encoder_layer, mha, positional_encoding, transformer
from attnbench.workload import Workload

__all__ = ["COSTS", "PARTS", "Costs", "costs"]

#: The cost model of each operation: `(workload, seed) -> Costs`.
COSTS: dict[str, Callable[[Workload, int], Costs]] = {
    "attention": attention,
    "mha": mha,
    "encoder_layer": encoder_layer,
    "decoder_layer": decoder_layer,
    "transformer": transformer,
    "positional_encoding": positional_encoding,
}


def costs(workload: Workload, seed: int = 0) -> Costs:
    """The costs of `workload`; `seed` draws the lengths of masks that have random ones."""
    return COSTS[workload.operation](workload, seed)
