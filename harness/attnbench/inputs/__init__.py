"""The tensors that kernels are called with: drawn once, seeded, the same everywhere and in every process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnbench.inputs.attention import DrawnAttention, draw_attention
from attnbench.inputs.drawn import Drawn, place_tensor, same_bits
from attnbench.inputs.modules import DrawnModule, draw_module
from attnbench.workload import SHAPES, Workload

__all__ = [
    "INPUTS",
    "Drawn",
    "DrawnAttention",
    "DrawnModule",
    "InputPool",
    "draw",
    "place_tensor",
    "same_bits",
]

#: How each operation's inputs are drawn: `(workload, seed) -> drawn`.
INPUTS: dict[str, Callable[[Workload, int], Drawn]] = {
    **dict.fromkeys(SHAPES, draw_module),
    "attention": draw_attention,
}


def draw(workload: Workload, seed: int) -> Any:
    """The inputs of `workload`, a `Drawn` of its operation: the same for the same seed, everywhere."""
    return INPUTS[workload.operation](workload, seed)


class InputPool:
    """The inputs of one workload, drawn once for a block's cases; another workload evicts them."""

    def __init__(self) -> None:
        self._drawn: Drawn | None = None

    def drawn(self, workload: Workload, seed: int) -> Any:
        """What was drawn for `workload`."""
        if self._drawn is None or (self._drawn.workload, self._drawn.seed) != (workload, seed):
            self._drawn = draw(workload, seed)
        return self._drawn

    def placed(self, workload: Workload, seed: int, framework: str, device: str) -> tuple[Any, Any]:
        """Inputs and grad_out (None for a forward pass) for a kernel of `framework` on `device`.

        Copies for one case alone: a kernel that writes to its inputs spoils nobody's but its own.

        Raises:
            ValueError: as `Drawn.place`.
        """
        drawn = self.drawn(workload, seed)
        grad_out = drawn.grad_out
        placed = None if grad_out is None else place_tensor(grad_out, framework, device)
        return drawn.place(framework, device), placed
