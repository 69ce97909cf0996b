"""The inputs of attention: q, k and v."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from attnbench.implementation import AttentionInputs
from attnbench.inputs.drawn import Q_STD, Drawn, draw_tensor
from attnbench.workload import Workload

if TYPE_CHECKING:
    import torch

__all__ = ["DrawnAttention", "draw_attention"]


@dataclass(frozen=True, eq=False)
class DrawnAttention(Drawn):
    """`q` `[B, H, Lq, D]`; `k` `[B, Hkv, Lk, D]`; `v` `[B, Hkv, Lk, Dv]`; `grad_out` `[B, H, Lq, Dv]`."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor

    ODD: ClassVar[bool] = True

    @property
    def scale(self) -> float:
        """What multiplies the scores: 1/√head_dim."""
        return float(self.workload.shape.head_dim**-0.5)

    def leaves(self) -> dict[str, torch.Tensor]:
        """q, k and v."""
        return {"q": self.q, "k": self.k, "v": self.v}

    def place(self, framework: str, device: str) -> AttentionInputs:
        """Copies for a kernel of `framework` on `device`, as `Drawn.place` says."""
        placed = self._placed(framework, device)
        return AttentionInputs(**placed, mask=self.mask(framework), scale=self.scale)

    def turned(self) -> DrawnAttention:
        """With q alone negated, which changes the scores."""
        return replace(self, q=-self.q)


def draw_attention(workload: Workload, seed: int) -> DrawnAttention:
    """q, k and v from the workload's distribution."""
    sizes = workload.shape.activations()

    def tensor(name: str, std: float = 1.0) -> torch.Tensor:
        return draw_tensor(workload, seed, name, sizes[name], workload.inputs, std)

    return DrawnAttention(
        workload=workload,
        seed=seed,
        q=tensor("q", Q_STD.get(workload.inputs, 1.0)),
        k=tensor("k"),
        v=tensor("v"),
        grad_out=(
            None
            if workload.pass_ == "forward"
            else draw_tensor(workload, seed, "grad_out", workload.shape.outputs()["o"], "normal")
        ),
    )
