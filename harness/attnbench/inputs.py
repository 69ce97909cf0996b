"""The tensors that kernels are called with: drawn once, seeded, the same everywhere and in every process.

Each tensor has its own random stream, named by what defines it (operation, shape, distribution, seed, the
tensor's name), so mask, pass, dtype and the order of drawing change nothing. Values are rounded to the
workload's dtype here; the reference upcasts these very numbers. Draws are never zeros only: a kernel that
writes nothing would be right about those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbench.implementation import AttentionInputs
from attnbench.masks import Mask
from attnbench.workload import AttentionShape, Workload

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["INPUTS", "DrawnAttention", "InputPool", "draw", "place_tensor", "same_bits"]

#: How often, and how widely, an entry is an outlier: N(0, 1) + N(0, 100) · Bernoulli(0.001), 100 being the
#: variance (Shah et al., FlashAttention-3, 2024, §4.3).
OUTLIER_SHARE = 0.001
OUTLIER_STD = 10.0

#: Standard deviation of q: in `large_logits` scores spread ten times as far as on normal inputs, in
#: `extreme_logits` so far that their exponentials overflow in float32 unless a maximum is taken off first.
Q_STD = {"large_logits": 10.0, "extreme_logits": 100.0}


def _stream(workload: Workload, seed: int, tensor: str) -> np.random.Generator:
    """The random stream of one tensor; the digest is the same everywhere, unlike Python's `hash`."""
    label = f"{workload.operation}/{workload.shape.label}/{workload.inputs}/{seed}/{tensor}"
    digest = hashlib.sha256(label.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _entries(
    rng: np.random.Generator, distribution: str, tensor: str, size: tuple[int, ...], double: bool
) -> npt.NDArray[Any]:
    """Entries of `tensor` in float32 (float64 when `double`), before rounding to the workload's dtype."""
    dtype: type[np.float32] | type[np.float64] = np.float64 if double else np.float32
    if distribution == "uniform":
        entries = rng.random(size, dtype=dtype)
        entries *= 2
        entries -= 1
        return entries
    entries = rng.standard_normal(size, dtype=dtype)
    if tensor == "q" and distribution in Q_STD:
        entries *= Q_STD[distribution]
    elif distribution == "outliers":
        # As many positions as Bernoulli draws would mark, without drawing one number per entry.
        count = rng.binomial(entries.size, OUTLIER_SHARE)
        marked = rng.choice(entries.size, count, replace=False, shuffle=False)
        entries.reshape(-1)[marked] += OUTLIER_STD * rng.standard_normal(count, dtype=dtype)
    return entries


@dataclass(frozen=True, eq=False)
class DrawnAttention:
    """The inputs of one attention workload, as CPU torch tensors in its dtype; nobody may write to them.

    Equal to itself alone, so that what is computed from a drawing can be kept with it as the key.

    `q` `[B, H, Lq, D]`; `k` `[B, Hkv, Lk, D]`; `v` `[B, Hkv, Lk, Dv]`; `grad_out` `[B, H, Lq, Dv]`,
    contiguous and normal whatever the inputs' distribution, or None for a forward pass.
    """

    workload: Workload
    seed: int
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    grad_out: torch.Tensor | None

    @property
    def scale(self) -> float:
        """What multiplies the scores: 1/√head_dim."""
        return float(self.workload.shape.head_dim**-0.5)

    def mask(self, framework: str = "torch") -> Mask:
        """The workload's mask for kernels of `framework`."""
        shape: AttentionShape = self.workload.shape
        return Mask(self.workload.mask, shape.batch, shape.q_len, shape.kv_len, self.seed, framework)

    def place(self, framework: str, device: str) -> AttentionInputs:
        """Copies for a kernel of `framework` on `device`; torch leaves require gradients in a backward pass.

        Raises:
            ValueError: NumPy was asked for bfloat16, which it does not have, or for another device.
        """
        gradients = framework == "torch" and self.workload.pass_ != "forward"
        q, k, v = (place_tensor(each, framework, device) for each in (self.q, self.k, self.v))
        if gradients:
            for leaf in (q, k, v):
                leaf.requires_grad_()
        return AttentionInputs(q, k, v, mask=self.mask(framework), scale=self.scale)

    def changed(self, inputs: AttentionInputs) -> list[str]:
        """The names of the tensors among q, k, v whose bits differ from what was drawn."""
        return [name for name in "qkv" if not same_bits(getattr(inputs, name), getattr(self, name))]

    def restore(self, inputs: AttentionInputs) -> None:
        """Write what was drawn back into `inputs`, after a kernel that overwrote them."""
        import torch

        for name in self.changed(inputs):
            target = getattr(inputs, name)
            if isinstance(target, np.ndarray):
                target[...] = getattr(self, name).numpy()
            else:
                with torch.no_grad():
                    target.copy_(getattr(self, name))


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


def _draw_attention(workload: Workload, seed: int) -> DrawnAttention:
    import torch

    shape = workload.shape
    queries = (shape.batch, shape.heads, shape.q_len)
    keys = (shape.batch, shape.kv_heads, shape.kv_len)

    def tensor(name: str, size: tuple[int, ...], distribution: str) -> torch.Tensor:
        entries = _entries(
            _stream(workload, seed, name), distribution, name, size, workload.dtype == "float64"
        )
        rounded: torch.Tensor = torch.from_numpy(entries).to(getattr(torch, workload.dtype))
        return rounded

    return DrawnAttention(
        workload=workload,
        seed=seed,
        q=tensor("q", (*queries, shape.head_dim), workload.inputs),
        k=tensor("k", (*keys, shape.head_dim), workload.inputs),
        v=tensor("v", (*keys, shape.v_head_dim), workload.inputs),
        grad_out=(
            None
            if workload.pass_ == "forward"
            else tensor("grad_out", (*queries, shape.v_head_dim), "normal")
        ),
    )


#: How each operation's inputs are drawn: `(workload, seed) -> drawn`.
INPUTS: dict[str, Callable[[Workload, int], DrawnAttention]] = {"attention": _draw_attention}


def draw(workload: Workload, seed: int) -> DrawnAttention:
    """The inputs of `workload`: the same numbers for the same seed, everywhere."""
    return INPUTS[workload.operation](workload, seed)


class InputPool:
    """The inputs of one workload, drawn once for a block's cases; another workload evicts them."""

    def __init__(self) -> None:
        self._drawn: DrawnAttention | None = None

    def drawn(self, workload: Workload, seed: int) -> DrawnAttention:
        """What was drawn for `workload`."""
        if self._drawn is None or (self._drawn.workload, self._drawn.seed) != (workload, seed):
            self._drawn = draw(workload, seed)
        return self._drawn

    def placed(
        self, workload: Workload, seed: int, framework: str, device: str
    ) -> tuple[AttentionInputs, Any]:
        """Inputs and grad_out (None for a forward pass) for a kernel of `framework` on `device`.

        Copies for one case alone: a kernel that writes to its inputs spoils nobody's but its own.

        Raises:
            ValueError: as `DrawnAttention.place`.
        """
        drawn = self.drawn(workload, seed)
        grad_out = drawn.grad_out
        placed = None if grad_out is None else place_tensor(grad_out, framework, device)
        return drawn.place(framework, device), placed
