"""The grids of whole modules. Sizes are small: what goes wrong in a module goes wrong in a small one.

Axes whose values only go together in some ways are linked, so that few combinations are illegal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnbench.conformance.attention import documents
from attnbench.conformance.axes import Axis, Grid, Row
from attnbench.workload import DISTRIBUTIONS, DTYPES, PASSES, SHAPES, Workload

__all__ = ["GRIDS"]

_MASKS = Axis(
    "mask",
    core=("none", "causal", "sliding_window(5)", "padding(0.5)", "document(3)", "causal+padding(0.3)"),
    more=("causal+document(2)", "causal+sliding_window(3)+padding(0.5)"),
)

# Linked: batch, embed_dim, heads, kv_heads. Heads of odd and even number, sizes that are no power of two,
# groups such that a head's number modulo the key heads is another than its group.
_HEADS = Axis(
    "heads",
    core=((1, 16, 2, 2), (2, 32, 4, 4), (3, 18, 3, 3), (1, 48, 6, 2), (2, 32, 8, 1), (1, 10, 1, 1)),
    more=((1, 128, 8, 8), (2, 60, 5, 5)),
)

_DTYPES = Axis("dtype", ("float32", "float64", "bfloat16", "float16"))
_PASSES = Axis("pass", PASSES)
_INPUTS = Axis("inputs", DISTRIBUTIONS)
_BIAS = Axis("bias", (True, False))
_LAYOUT = Axis("batch_first", (True, False))
_TRAINING = Axis("training", (False, True))

# Linked: attention, q_len, kv_len, kdim, vdim (None: embed_dim). Decoding is self attention with a past.
_SOURCES = Axis(
    "sources",
    core=(
        ("self", 33, 33, None, None),
        ("self", 1, 1, None, None),
        ("self", 130, 130, None, None),
        ("self", 1, 40, None, None),
        ("self", 7, 50, None, None),
        ("cross", 29, 67, None, None),
        ("cross", 40, 17, None, None),
        ("cross", 29, 40, 24, 14),
    ),
    more=(("cross", 1, 300, None, 7), ("self", 257, 257, None, None), ("self", 2, 2, None, None)),
)

# What is out of the ordinary; an entry names the switches that are on.
_EXTRAS = Axis(
    "extras",
    core=(
        (),
        ("add_bias_kv",),
        ("add_zero_attn",),
        ("add_bias_kv", "add_zero_attn"),
        ("rotary",),
        ("qk_norm",),
    ),
    more=(("rotary", "qk_norm"), ("qk_norm", "add_bias_kv")),
)

_WEIGHTS = Axis("need_weights", ("none", "averaged", "per_head"))
_NORM_FIRST = Axis("norm_first", (False, True))
_FF_DIM = Axis("ff_dim", (64, 7))
_LENGTH = Axis("seq_len", (33, 3, 130), (1, 257))
_LENGTHS = Axis("lengths", ((33, 33), (3, 40), (40, 17), (130, 130)), ((1, 5), (7, 300)))
_MEMORY_MASK = Axis("memory_mask", ("none", "padding(0.5)", "causal"))
_SRC_MASK = Axis("src_mask", ("none", "padding(0.5)", "causal"))
_LAYERS = Axis("layers", (1, 2))

_CONDITIONS = (_DTYPES, _PASSES, _INPUTS)


#: The axes that say how many positions the workload's mask is over, and where in their values it stands.
_KEYS = {"sources": 2, "lengths": 0, "seq_len": None}


def _legal(part: Mapping[str, Any]) -> bool:
    """Whether a workload that can be judged has given values: documents have keys, rotations pairs, …"""
    for axis, at in _KEYS.items():
        if axis in part:
            keys = part[axis] if at is None else part[axis][at]
            if documents(part.get("mask", "none")) > keys:
                return False
    # Where one key has all the weight, gradients are rounding alone, and what becomes of them is chance.
    if part.get("inputs") == "extreme_logits" and part.get("pass", "forward") != "forward":
        return False
    if "rotary" not in part.get("extras", ()):
        return True
    _, embed_dim, heads, _ = part.get("heads", (1, 2, 1, 1))
    attention, *_ = part.get("sources", ("self",))
    return bool(attention == "self" and (embed_dim // heads) % 2 == 0)


def _linked(name: str, value: Any) -> dict[str, Any]:
    """The axes of a workload that a value of an axis here stands for."""
    match name:
        case "heads":
            return dict(zip(("batch", "embed_dim", "heads", "kv_heads"), value, strict=True))
        case "sources":
            axes = zip(("attention", "q_len", "kv_len", "kdim", "vdim"), value, strict=True)
            return {axis: each for axis, each in axes if each is not None}
        case "lengths":
            return {"q_len": value[0], "kv_len": value[1]}
        case "extras":
            return dict.fromkeys(value, True)
    return {name: value}


def _grid(operation: str, axes: Sequence[Axis], seldom_refused: Sequence[str]) -> Grid:
    """The grid of `axes`; first come the plainest workload, and what shows a fault best, in each dtype."""
    names = [axis.name for axis in axes]

    def workload(row: Row) -> Workload:
        given: dict[str, Any] = {}
        for name, value in zip(names, row, strict=True):
            given |= _linked(name, value)
        conditions = {key: given.pop(key) for key in ("dtype", "mask", "inputs") if key in given}
        pass_ = given.pop("pass")
        return Workload(operation, SHAPES[operation].from_axes(given), pass_=pass_, **conditions)

    plain = {axis.name: axis.core[0] for axis in axes}
    cornerstones = [plain] + [
        {**plain, "dtype": dtype, "pass": pass_}
        for dtype in DTYPES
        for pass_ in ("forward", "forward_backward")
    ]
    first = dict.fromkeys(tuple(each[name] for name in names) for each in cornerstones)
    return Grid(tuple(axes), workload, _legal, tuple(first), frozenset(seldom_refused))


_LAYER = (_FF_DIM, _NORM_FIRST, _BIAS, _LAYOUT, _TRAINING, *_CONDITIONS)
_PLAIN = ("pass", "inputs", "bias", "ff_dim", "layers", "extras")

GRIDS: dict[str, Grid] = {
    "mha": _grid(
        "mha",
        (_MASKS, _HEADS, _SOURCES, _EXTRAS, _WEIGHTS, _BIAS, _LAYOUT, _TRAINING, *_CONDITIONS),
        _PLAIN,
    ),
    "encoder_layer": _grid("encoder_layer", (_MASKS, _HEADS, _LENGTH, *_LAYER), _PLAIN),
    "decoder_layer": _grid("decoder_layer", (_MASKS, _HEADS, _LENGTHS, _MEMORY_MASK, *_LAYER), _PLAIN),
    "transformer": _grid(
        "transformer", (_MASKS, _HEADS, _LENGTHS, _SRC_MASK, _MEMORY_MASK, _LAYERS, *_LAYER), _PLAIN
    ),
    "positional_encoding": _grid(
        "positional_encoding",
        (
            Axis("batch", (1, 3)),
            Axis("embed_dim", (16, 1, 7, 64)),
            Axis("seq_len", (33, 1, 130), (1030,)),
            _LAYOUT,
            *_CONDITIONS,
        ),
        _PLAIN,
    ),
}
