"""A small workload of which torch's conditions hold as they do of a large one."""

from __future__ import annotations

from dataclasses import replace

from attnbench.workload import Workload

__all__ = ["twin_of"]

#: The conditions go by heads, masks, modes and layouts, not by sizes.
LENGTH = 4
HEAD_DIM = 8

#: Parameters of masks that fit so few keys.
SHORT = {"sliding_window": "sliding_window(2)", "document": "document(2)"}


def twin_of(workload: Workload) -> Workload:
    """`workload` with two sequences of few positions and narrow heads."""
    shape = workload.shape
    width = shape.heads * HEAD_DIM
    small = {"batch": 2} | dict.fromkeys(("seq_len", "q_len", "kv_len"), LENGTH)
    small |= dict.fromkeys(("embed_dim", "kdim", "vdim", "ff_dim"), width)
    twin = replace(shape, **{axis: size for axis, size in small.items() if hasattr(shape, axis)})
    mask = "+".join(SHORT.get(term.split("(")[0], term) for term in workload.mask.split("+"))
    return replace(workload, shape=twin, mask=mask)
