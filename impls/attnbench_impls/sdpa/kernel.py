"""The kernel: SDPA with the backend of its own choice, or with one backend pinned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attnbench.implementation import AttentionInputs, Options
from attnbench.masks import Mask
from attnbench.workload import Workload
from attnbench_impls.sdpa.backends import Pinned
from attnbench_impls.sdpa.masking import Masking, arguments, how_masked

if TYPE_CHECKING:
    import torch

__all__ = ["loader"]


def loader(
    backend: str | None,
) -> Callable[[Workload, Options], Callable[[AttentionInputs], torch.Tensor]]:
    """The `load` of an implementation whose backend is pinned, or None for torch's own choice."""

    def load(workload: Workload, options: Options) -> Callable[[AttentionInputs], torch.Tensor]:
        del workload, options
        from torch.nn.functional import pad, scaled_dot_product_attention

        kept: tuple[Mask, Masking, dict[str, Any]] | None = None

        def sdpa(x: AttentionInputs) -> torch.Tensor:
            nonlocal kept
            # How to mask is decided once for the same mask: a look-up would be a tenth of a small call. (Not
            # by the inputs: that would keep them, and their graph, alive.)
            if kept is None or kept[0] is not x.mask or kept[2]["scale"] != x.scale:
                masking = how_masked(x.mask, x.q.device, backend)
                kept = (x.mask, masking, arguments(x, masking))
            _, masking, chosen = kept
            if not masking.first:
                output = scaled_dot_product_attention(x.q, x.k, x.v, **chosen)
            else:
                seeing = scaled_dot_product_attention(x.q[:, :, masking.first :], x.k, x.v, **chosen)
                output = pad(seeing, (0, 0, masking.first, 0))
            if masking.blind is None:
                return output
            if output.requires_grad:  # the backward pass needs the output as it was
                return output.masked_fill(masking.blind, 0)
            return output.masked_fill_(masking.blind, 0)

        if backend is None:
            return sdpa
        pinned = Pinned(backend)

        def sdpa_pinned(x: AttentionInputs) -> torch.Tensor:
            with pinned:
                return sdpa(x)

        return sdpa_pinned

    return load
