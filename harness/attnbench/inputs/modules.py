"""The inputs of whole modules: activations, and weights by their names in torch's state_dict.

Weights are drawn as torch draws them where that leaves scores and outputs of order 1 (Glorot & Bengio, 2010:
uniform with variance 2 / (fan_in + fan_out)). Biases and normalisations, which torch sets to 0 and 1, are
drawn around those: a kernel that leaves them out would else be right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from attnbench.implementation import ModuleInputs
from attnbench.inputs.drawn import Q_STD, Drawn, draw_tensor
from attnbench.masks import Mask
from attnbench.workload import Workload

if TYPE_CHECKING:
    import torch

__all__ = ["DrawnModule", "draw_module"]

#: How far biases and the scales of normalisations are from what torch sets them to.
BIAS_STD = 0.1


@dataclass(frozen=True, eq=False)
class DrawnModule(Drawn):
    """`tensors` and `parameters` as `ModuleInputs` has them; `grad_out` of o, `[B, L, E]` or `[L, B, E]`."""

    tensors: dict[str, torch.Tensor]
    parameters: dict[str, torch.Tensor]

    ODD: ClassVar[bool] = False

    @property
    def past_len(self) -> int:
        """Positions of x that are the same at every call; see `ModuleInputs`."""
        return int(getattr(self.workload.shape, "past_len", 0))

    def leaves(self) -> dict[str, torch.Tensor]:
        """Activations, then weights."""
        return {**self.tensors, **self.parameters}

    def other_masks(self, framework: str = "torch") -> dict[str, Mask]:
        """The masks besides the workload's, by axis, for kernels of `framework`."""
        shape = self.workload.shape
        return {
            axis: Mask(mask, shape.batch, q_len, kv_len, self.seed, framework)
            for axis, (mask, q_len, kv_len) in shape.other_masks().items()
        }

    def place(self, framework: str, device: str) -> ModuleInputs:
        """Copies for a kernel of `framework` on `device`, as `Drawn.place` says."""
        placed = self._placed(framework, device)
        parameters = {name: placed[name] for name in self.parameters}
        if framework == "torch":
            # As a module's own do, in a forward pass too. torch goes by it without a graph: it makes a single
            # product of a sequence whose batch comes second only if the weight requires gradients.
            for parameter in parameters.values():
                parameter.requires_grad_()
        return ModuleInputs(
            tensors={name: placed[name] for name in self.tensors},
            parameters=parameters,
            mask=self.mask(framework),
            other_masks=self.other_masks(framework),
            past_len=self.past_len,
            batch_first=self.workload.shape.batch_first,
        )

    def turned(self) -> DrawnModule:
        """With the activations negated and their features moved on by one, but for the past.

        Negated alone, they would have the same attention weights where there are no biases.
        """
        turned = {name: -each.roll(1, dims=-1) for name, each in self.tensors.items()}
        if self.past_len:
            past = slice(self.past_len)
            of_x = (slice(None), past) if self.workload.shape.batch_first else past
            turned["x"][of_x] = self.tensors["x"][of_x]
        return replace(self, tensors=turned)


def draw_module(workload: Workload, seed: int) -> DrawnModule:
    """Activations from the workload's distribution, and weights."""
    shape = workload.shape
    return DrawnModule(
        workload=workload,
        seed=seed,
        tensors={
            name: draw_tensor(workload, seed, name, size, workload.inputs)
            for name, size in shape.activations().items()
        },
        parameters={name: _weight(workload, seed, name, size) for name, size in shape.parameters().items()},
        grad_out=(
            None
            if workload.pass_ == "forward"
            else draw_tensor(workload, seed, "grad_out", shape.outputs()["o"], "normal")
        ),
    )


def _weight(workload: Workload, seed: int, name: str, size: tuple[int, ...]) -> torch.Tensor:
    kind = name.rpartition(".")[2]
    widened = Q_STD.get(workload.inputs, 1.0)
    normalised = getattr(workload.shape, "qk_norm", False)  # then it is no projection that widens queries
    if kind in ("bias_k", "bias_v"):
        return draw_tensor(workload, seed, name, size, "normal")
    if len(size) == 1:
        around = 0.0 if kind in ("bias", "in_proj_bias") else 1.0
        drawn = draw_tensor(workload, seed, name, size, "normal", BIAS_STD, around)
        queries = slice(0, workload.shape.embed_dim) if kind == "in_proj_bias" else slice(0, 0)
        if name == "q_norm.scale":
            queries = slice(None)
    else:
        rows = workload.shape.embed_dim if kind == "in_proj_weight" else size[0]
        drawn = draw_tensor(workload, seed, name, size, "uniform", math.sqrt(6 / (rows + size[1])))
        queries = slice(0, workload.shape.embed_dim if kind in ("in_proj_weight", "q_proj_weight") else 0)
    if name == "q_norm.scale" or not normalised:
        drawn[queries] *= widened
    return drawn
