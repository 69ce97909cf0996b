"""What every operation's inputs have in common: seeded streams, placing, restoring.

Each tensor has its own random stream, named by what defines it (operation, shape, distribution, seed, the
tensor's name), so mask, pass, dtype and the order of drawing change nothing. Values are rounded to the
workload's dtype here; the reference upcasts these very numbers. Draws are never zeros only: a kernel that
writes nothing would be right about those.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from attnbench.masks import Mask
from attnbench.workload import Workload

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["Q_STD", "Drawn", "draw_tensor", "place_tensor", "same_bits"]

#: How often, and how widely, an entry is an outlier: N(0, 1) + N(0, 100) · Bernoulli(0.001), 100 being the
#: variance (Shah et al., FlashAttention-3, 2024, §4.3).
OUTLIER_SHARE = 0.001
OUTLIER_STD = 10.0

#: Standard deviation of queries: in `large_logits` scores spread ten times as far as on normal inputs, in
#: `extreme_logits` so far that their exponentials overflow in float32 unless a maximum is taken off first.
Q_STD = {"large_logits": 10.0, "extreme_logits": 100.0}


def _stream(workload: Workload, seed: int, tensor: str, of: str) -> np.random.Generator:
    """The random stream of one tensor of a shape called `of`, by a digest that is the same everywhere."""
    label = f"{workload.operation}/{of}/{workload.inputs}/{seed}/{tensor}"
    digest = hashlib.sha256(label.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _entries(
    rng: np.random.Generator, distribution: str, size: tuple[int, ...], double: bool
) -> npt.NDArray[Any]:
    """Entries in float32 (float64 when `double`), before rounding to the workload's dtype."""
    dtype: type[np.float32] | type[np.float64] = np.float64 if double else np.float32
    if distribution == "uniform":
        entries = rng.random(size, dtype=dtype)
        entries *= 2
        entries -= 1
        return entries
    entries = rng.standard_normal(size, dtype=dtype)
    if distribution == "outliers":
        # As many positions as Bernoulli draws would mark, without drawing one number per entry.
        count = rng.binomial(entries.size, OUTLIER_SHARE)
        marked = rng.choice(entries.size, count, replace=False, shuffle=False)
        entries.reshape(-1)[marked] += OUTLIER_STD * rng.standard_normal(count, dtype=dtype)
    return entries


def draw_tensor(
    workload: Workload,
    seed: int,
    name: str,
    size: tuple[int, ...],
    distribution: str,
    std: float = 1.0,
    mean: float = 0.0,
) -> torch.Tensor:
    """A CPU tensor of the workload's dtype: `mean` + `std` times what the distribution gives.

    Tensors of attention are other numbers in another shape, those of modules in another size alone: whether
    weights are returned, say, changes none of them.
    """
    import torch

    of = workload.shape.label if workload.operation == "attention" else "x".join(map(str, size))
    entries = _entries(_stream(workload, seed, name, of), distribution, size, workload.dtype == "float64")
    if std != 1:
        entries *= std
    if mean:
        entries += mean
    rounded: torch.Tensor = torch.from_numpy(entries).to(getattr(torch, workload.dtype))
    return rounded


@dataclass(frozen=True, eq=False)
class Drawn(ABC):
    """The inputs of one workload, as CPU torch tensors in its dtype; nobody may write to them.

    Equal to itself alone, so that what is computed from a drawing can be kept with it as the key. `grad_out`
    is the gradient of `o`, contiguous and normal whatever the inputs' distribution; None for a forward pass.
    """

    workload: Workload
    seed: int
    grad_out: torch.Tensor | None

    #: Whether every result is negated, to the bit, when all inputs and the gradient of the output are.
    ODD: ClassVar[bool]

    @abstractmethod
    def leaves(self) -> dict[str, torch.Tensor]:
        """What a kernel is called with and has gradients, by name."""

    @abstractmethod
    def place(self, framework: str, device: str) -> Any:
        """Copies for a kernel of `framework` on `device`; torch leaves require gradients in a backward pass.

        Raises:
            ValueError: NumPy was asked for bfloat16, which it does not have, or for another device.
        """

    @abstractmethod
    def turned(self) -> Self:
        """Other inputs, on which a kernel that answers from memory is wrong; the workload is the same."""

    def mask(self, framework: str = "torch") -> Mask:
        """The workload's mask for kernels of `framework`."""
        shape = self.workload.shape
        q_len, kv_len = shape.mask_lengths
        return Mask(self.workload.mask, shape.batch, q_len, kv_len, self.seed, framework)

    def changed(self, inputs: Any) -> list[str]:
        """The names of the leaves whose bits differ from what was drawn."""
        placed = inputs.leaves()
        return [name for name, drawn in self.leaves().items() if not same_bits(placed[name], drawn)]

    def restore(self, inputs: Any) -> None:
        """Write what was drawn into `inputs`, whatever they hold."""
        import torch

        placed, drawn = inputs.leaves(), self.leaves()
        for name in self.changed(inputs):
            target = placed[name]
            if isinstance(target, np.ndarray):
                target[...] = drawn[name].numpy()
            else:
                with torch.no_grad():
                    target.copy_(drawn[name])

    def _placed(self, framework: str, device: str) -> dict[str, Any]:
        """Copies of all leaves."""
        placed = {name: place_tensor(each, framework, device) for name, each in self.leaves().items()}
        if framework == "torch" and self.workload.pass_ != "forward":
            for leaf in placed.values():
                leaf.requires_grad_()
        return placed


def place_tensor(tensor: torch.Tensor, framework: str, device: str) -> Any:
    """A contiguous copy of `tensor` for `framework` on `device`: a torch tensor or an ndarray.

    Raises:
        ValueError: NumPy was asked for bfloat16, which it does not have, or for another device.
    """
    import torch

    if framework != "numpy":
        return tensor.detach().to(device, copy=True)
    if tensor.dtype == torch.bfloat16 or device != "cpu":
        raise ValueError(f"NumPy has no bfloat16 and only the CPU; got {tensor.dtype} on {device!r}")
    return tensor.numpy().copy()


def same_bits(a: Any, b: Any) -> bool:
    """Whether two tensors or ndarrays of one shape and dtype hold the same bits (so NaN equals NaN)."""
    import torch

    def bits(x: Any) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x.detach()
        whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
        return tensor.cpu().contiguous().view(whole)

    return torch.equal(bits(a), bits(b))
