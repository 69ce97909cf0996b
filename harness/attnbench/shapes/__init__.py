"""Each operation's own shape: its axes, its tensors, its weights and its outputs."""

from __future__ import annotations

from attnbench.shapes.attention import AttentionShape
from attnbench.shapes.axis import LARGEST, Axis, AxisError, AxisValue, Shape
from attnbench.shapes.layers import DecoderLayerShape, EncoderLayerShape, TransformerShape
from attnbench.shapes.mha import MhaShape
from attnbench.shapes.positions import PositionsShape

__all__ = [
    "LARGEST",
    "SHAPES",
    "AttentionShape",
    "Axis",
    "AxisError",
    "AxisValue",
    "DecoderLayerShape",
    "EncoderLayerShape",
    "MhaShape",
    "PositionsShape",
    "Shape",
    "TransformerShape",
]

#: The shape type of each operation.
SHAPES: dict[str, type[Shape]] = {
    each.OPERATION: each
    for each in (
        AttentionShape,
        MhaShape,
        EncoderLayerShape,
        DecoderLayerShape,
        TransformerShape,
        PositionsShape,
    )
}
