"""The attention weights that a case's kernel really uses, for pictures.

Kernels of attention return the output alone: o = P·v. Given columns of the identity as v, what they return
is P itself, to the rounding of its dtype, whatever the kernel does inside.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attnbench.bench.failures import Refusal
from attnbench.bench.kernel import LoadedCase, as_tensor
from attnbench.protocol import WEIGHTED, WeightsReply

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["weights"]


def weights(case: LoadedCase, element: int, heads: Sequence[int]) -> WeightsReply:
    """The weights of one batch element and of `heads`, each counted from 0, of a prepared forward pass.

    Raises:
        Refusal: the operation holds no attention whose weights could be had, or the pass is another.
        OutputError: results of the wrong kind, shape, dtype or device.
        Exception: whatever the kernel raises.
    """
    way = _WAYS.get(case.workload.operation)
    if way is None:
        raise Refusal(
            "unsupported",
            f"{case.workload.operation} returns no attention weights; {' and '.join(WEIGHTED)} have some",
        )
    if case.workload.pass_ != "forward":
        raise Refusal(
            "unsupported", f"attention weights are those of a forward pass, not {case.workload.pass_}"
        )
    with case.grad_mode():
        found = way(case, element, list(heads))
    start, stop = (bounds[min(element, len(bounds) - 1)] for bounds in case.inputs.mask.key_ranges())
    return WeightsReply(
        weights=b64encode(np.ascontiguousarray(found, dtype="<f4").tobytes()).decode("ascii"),
        shape=list(found.shape),
        start=start.tolist(),
        stop=stop.tolist(),
        appended=found.shape[-1] - case.inputs.mask.kv_len,
    )


def _of_attention(case: LoadedCase, element: int, heads: list[int]) -> npt.NDArray[np.float32]:
    """`[heads, Lq, Lk]`, as many keys a call as a value has features, so that the shape is the case's own."""
    inputs, shape = case.inputs, case.workload.shape
    found = np.empty((len(heads), shape.q_len, shape.kv_len), dtype=np.float32)
    for first in range(0, shape.kv_len, shape.v_head_dim):
        keys = slice(first, min(first + shape.v_head_dim, shape.kv_len))
        columns = _identity(inputs.v, keys)
        output = case.named(case.kernel(replace(inputs, v=columns)))["o"]
        found[:, :, keys] = _plain(output, element, heads)[..., : keys.stop - keys.start]
        case.drawn.restore(inputs)  # a kernel that writes to q or k must not change what the next columns see
    return found


def _of_mha(case: LoadedCase, element: int, heads: list[int]) -> npt.NDArray[np.float32]:
    """`[heads, Lq, S]`: the kernel's own second result."""
    result = case.named(case.kernel(case.inputs))
    if "weights" not in result or result["weights"].ndim != 4:
        raise Refusal("unsupported", "the workload does not ask for weights per head: need_weights: per_head")
    return _plain(result["weights"], element, heads)


def _identity(like: Any, keys: slice) -> Any:
    """Values as `like` `[B, Hkv, Lk, Dv]`: those of `keys` are the rows of the identity, all others are 0."""
    size = keys.stop - keys.start
    if isinstance(like, np.ndarray):
        values = np.zeros_like(like)
        values[:, :, keys, :size] = np.eye(size, dtype=like.dtype)
        return values
    import torch

    placed = torch.zeros_like(like)
    placed[:, :, keys, :size] = torch.eye(size, dtype=like.dtype, device=like.device)
    return placed


def _plain(tensor: Any, element: int, heads: list[int]) -> npt.NDArray[np.float32]:
    """One batch element of `heads`, on the host; a copy, as a kernel may hand out the same buffer again."""
    chosen = as_tensor(tensor)[element, heads]
    plain: npt.NDArray[np.float32] = chosen.detach().float().cpu().numpy()
    return plain


#: How each operation's weights are had.
_WAYS: Mapping[str, Callable[[LoadedCase, int, list[int]], npt.NDArray[np.float32]]] = {
    "attention": _of_attention,
    "mha": _of_mha,
}
