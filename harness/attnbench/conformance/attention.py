"""The grid of attention: masks, heads, lengths, head dimensions, dtypes, passes, inputs.

The product of all values has over a million workloads. The pairwise grid has about a hundred of them, the
full one, of more values, over two thousand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnbench.conformance.axes import Axis, Grid, Row
from attnbench.masks import parse
from attnbench.workload import DISTRIBUTIONS, DTYPES, PASSES, AttentionShape, Workload

__all__ = ["AXES", "GRID", "MOST_WORK", "PER_SCORE", "documents"]

#: Bounds a grid's time: the most that a legal workload's scores may come to, each counted with the
#: multiplications that it takes part in and `PER_SCORE` more for its softmax.
MOST_WORK = 320_000_000
PER_SCORE = 32

# Windows and documents are no multiple of a block; some windows are smaller than any block, some span more.
_MASKS = Axis(
    "mask",
    core=(
        "none",
        "causal",
        "sliding_window(5)",
        "sliding_window(100)",
        "padding(0.5)",
        "document(3)",
        "causal+sliding_window(20)",
        "causal+padding(0.3)",
        "causal+document(2)",
        "causal+sliding_window(37)+padding(0.5)+document(2)",
    ),
    more=(
        "sliding_window(1)",
        "sliding_window(300)",
        "padding(0.05)",
        "document(23)",
        "sliding_window(19)+padding(0.3)",
        "padding(0.5)+document(4)",
    ),
)

# Grouped heads such that a head's number modulo the key heads is another than its group.
_HEADS = Axis(
    "heads",
    core=((1, 1, 1), (1, 3, 3), (1, 6, 2), (1, 4, 1), (2, 2, 2), (3, 4, 2), (1, 8, 8)),
    more=((2, 5, 1), (1, 12, 4)),
)

# Just beyond blocks of 32, 128 and 512, within one, a whole number of them, and beyond the 256 rows that are
# compared; one query (decoding), fewer queries than keys (cross attention), and more (a causal mask leaves
# some of them blind).
_LENGTHS = Axis(
    "lengths",
    core=((33, 33), (1, 1), (2, 2), (7, 7), (130, 130), (1, 67), (29, 90), (90, 29), (611, 611)),
    more=((64, 64), (256, 256), (257, 257), (1, 1030), (40, 513), (700, 19), (1037, 1037)),
)

_DIMS = Axis(
    "dims",
    core=((16, 16), (1, 1), (5, 5), (64, 64), (80, 80), (128, 128), (24, 40), (48, 16)),
    more=((192, 128),),
)

_PASSES = Axis("pass", PASSES)
_INPUTS = Axis("inputs", DISTRIBUTIONS)

#: The axes, in the order of a row's values.
AXES = (
    _MASKS,
    _HEADS,
    _LENGTHS,
    _DIMS,
    Axis("dtype", ("float32", "float64", "bfloat16", "float16")),
    _PASSES,
    _INPUTS,
)

#: The plainest of all workloads: the first to ask of an implementation.
_PLAIN = ("none", (1, 1, 1), (33, 33), (16, 16), "float32", "forward", "normal")

#: Rows that must be there whatever else is: each dtype at the size from which even bfloat16 shows an output
#: that is wrong by 1%, and each way to go wrong in the precision that shows it best.
_CORNERSTONES = (
    _PLAIN,
    *(
        ("none", (1, 8, 8), (130, 130), (64, 64), dtype, pass_, "normal")
        for dtype in DTYPES
        for pass_ in ("forward", "forward_backward")
    ),
    ("causal", (1, 6, 2), (29, 90), (16, 16), "float32", "forward_backward", "normal"),
    ("causal", (1, 3, 3), (90, 29), (16, 16), "float32", "forward_backward", "normal"),
    ("sliding_window(5)", (2, 2, 2), (33, 33), (16, 16), "float32", "forward_backward", "normal"),
    ("padding(0.5)", (3, 4, 2), (33, 33), (16, 16), "float32", "forward_backward", "normal"),
    ("document(3)", (1, 3, 3), (130, 130), (16, 16), "float32", "forward_backward", "normal"),
    ("none", (1, 3, 3), (29, 90), (16, 16), "float32", "forward_backward", "extreme_logits"),
)


def documents(mask: str) -> int:
    """How many documents `mask` has, each of which needs a key."""
    return max((int(values[0]) for name, values in parse(mask) if name == "document"), default=0)


_MOST_KEYS = max(kv_len for _, kv_len in _LENGTHS.core + _LENGTHS.more)

#: The least that an axis adds to a workload's work, for those that are not chosen yet.
_LEAST = {"heads": (1, 1, 1), "lengths": (1, 1), "dims": (1, 1)}


def _legal(part: Mapping[str, Any]) -> bool:
    """Whether a legal workload has given values: each document has a key, and no workload is too large."""
    _, keys = part.get("lengths", (0, _MOST_KEYS))
    if documents(part.get("mask", "none")) > keys:
        return False
    (batch, heads, _), (q_len, kv_len), dims = (part.get(axis, least) for axis, least in _LEAST.items())
    return bool(batch * heads * q_len * kv_len * (PER_SCORE + sum(dims)) <= MOST_WORK)


def _workload(row: Row) -> Workload:
    mask, (batch, heads, kv_heads), (q_len, kv_len), (head_dim, v_head_dim), dtype, pass_, inputs = row
    shape = AttentionShape(batch, heads, kv_heads, q_len, kv_len, head_dim, v_head_dim)
    return Workload("attention", shape, mask=mask, dtype=dtype, pass_=pass_, inputs=inputs)


GRID = Grid(AXES, _workload, _legal, _CORNERSTONES, frozenset({"heads", "pass", "inputs"}))
