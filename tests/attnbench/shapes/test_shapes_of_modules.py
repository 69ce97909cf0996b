"""Shapes of whole modules: what goes with what, and the weights that torch's modules have."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attnbench.shapes import SHAPES, AxisError
from attnbench.workload import Workload

SMALL: dict[str, dict[str, Any]] = {
    "mha": {"embed_dim": 12, "heads": 3, "seq_len": 5},
    "encoder_layer": {"embed_dim": 12, "heads": 3, "seq_len": 5},
    "decoder_layer": {"embed_dim": 12, "heads": 3, "q_len": 5, "kv_len": 7},
    "transformer": {"embed_dim": 12, "heads": 3, "q_len": 5, "kv_len": 7, "layers": 2},
    "positional_encoding": {"embed_dim": 12, "seq_len": 5},
}


def small(operation: str, **axes: Any) -> Any:
    return SHAPES[operation].from_axes({**SMALL[operation], **axes})


def in_torch(shape: Any) -> torch.nn.Module:
    """torch's module of this shape."""
    match shape.OPERATION:
        case "mha":
            return torch.nn.MultiheadAttention(
                shape.embed_dim,
                shape.heads,
                bias=shape.bias,
                add_bias_kv=shape.add_bias_kv,
                kdim=shape.kdim,
                vdim=shape.vdim,
            )
        case "encoder_layer":
            return torch.nn.TransformerEncoderLayer(
                shape.embed_dim, shape.heads, shape.ff_dim, bias=shape.bias
            )
        case "decoder_layer":
            return torch.nn.TransformerDecoderLayer(
                shape.embed_dim, shape.heads, shape.ff_dim, bias=shape.bias
            )
    return torch.nn.Transformer(
        shape.embed_dim,
        shape.heads,
        shape.layers,
        shape.layers,
        shape.ff_dim,
        bias=shape.bias,
        batch_first=True,
        norm_first=True,  # else a warning about nested tensors that are no use to anybody
    )


@pytest.mark.parametrize(
    ("operation", "axes"),
    [
        ("mha", {}),
        ("mha", {"bias": False}),
        ("mha", {"add_bias_kv": True}),
        ("mha", {"attention": "cross", "kdim": 4, "vdim": 6}),
        ("mha", {"attention": "cross", "vdim": 6, "bias": False}),
        ("encoder_layer", {"ff_dim": 7}),
        ("encoder_layer", {"bias": False}),
        ("decoder_layer", {}),
        ("decoder_layer", {"bias": False}),
        ("transformer", {}),
        ("transformer", {"bias": False}),
    ],
)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_weights_have_the_names_and_sizes_of_torch(operation: str, axes: dict[str, Any]) -> None:
    shape = small(operation, **axes)
    there = {name: tuple(each.shape) for name, each in in_torch(shape).state_dict().items()}
    assert shape.parameters() == there


def test_grouped_heads_have_smaller_projections_of_their_own() -> None:
    sizes = small("mha", kv_heads=1).parameters()
    assert sizes["q_proj_weight"] == (12, 12)
    assert sizes["k_proj_weight"] == sizes["v_proj_weight"] == (4, 12)
    assert sizes["in_proj_bias"] == (20,)
    assert "in_proj_weight" not in sizes


@pytest.mark.parametrize(
    ("operation", "axes", "axis", "message"),
    [
        ("mha", {"heads": 5}, "heads", "expected a divisor of embed_dim \\(12\\), got 5"),
        ("mha", {"kv_heads": 2}, "kv_heads", "expected a divisor of heads \\(3\\), got 2"),
        ("mha", {"kdim": 4}, "kdim", "in self attention, got 4; give attention: cross"),
        ("mha", {"rotary": True, "attention": "cross"}, "rotary", "is for self attention"),
        ("mha", {"rotary": True, "heads": 12}, "rotary", "turns pairs of numbers, and a head has 1"),
        ("mha", {"attention": "both"}, "attention", "expected one of self, cross, got 'both'"),
        ("mha", {"bias": 1}, "bias", "expected true or false, got 1"),
        ("mha", {"dropout": 1.0}, "dropout", "expected a number from 0, below 1, got 1.0"),
        ("mha", {"ff_dim": 3}, "ff_dim", "is no axis of mha"),
        ("mha", {"batch": True}, "batch", "expected a whole number from 1"),
        ("decoder_layer", {"memory_mask": "document(8)"}, "memory_mask", "needs at least 8 keys"),
        ("transformer", {"src_mask": "casual"}, "src_mask", "'casual' is no mask"),
        ("encoder_layer", {"q_len": 3}, "q_len", "is no axis of encoder_layer"),
    ],
)
def test_what_contradicts_is_refused(operation: str, axes: dict[str, Any], axis: str, message: str) -> None:
    with pytest.raises(AxisError, match=message) as caught:
        small(operation, **axes)
    assert caught.value.axis == axis


@pytest.mark.parametrize(
    ("operation", "axes", "axis", "message"),
    [
        ("mha", {"embed_dim": 12, "heads": 3}, "q_len", "give seq_len, or q_len and kv_len"),
        ("mha", {"heads": 3, "seq_len": 3}, "embed_dim", "mha needs embed_dim and heads"),
        ("encoder_layer", {"embed_dim": 12, "heads": 3}, "seq_len", "needs embed_dim and heads and seq_len"),
        ("mha", {"embed_dim": 12, "heads": 3, "q_len": 9, "kv_len": 3}, "q_len", "at most kv_len \\(3\\)"),
    ],
)
def test_what_is_missing_or_too_long_is_told(
    operation: str, axes: dict[str, Any], axis: str, message: str
) -> None:
    with pytest.raises(AxisError, match=message) as caught:
        SHAPES[operation].from_axes(axes)
    assert caught.value.axis == axis


@pytest.mark.parametrize("operation", SMALL)
def test_a_workload_of_every_operation_travels_as_json(operation: str) -> None:
    workload = Workload(operation, small(operation), pass_="forward_backward")
    assert Workload.from_json(workload.to_json()) == workload
    assert workload.label.startswith(f"{operation}/B1-")


@pytest.mark.parametrize(
    ("operation", "axes", "label"),
    [
        ("mha", {}, "B1-L5-E12-H3"),
        (
            "mha",
            {"seq_len": 8, "rotary": True, "qk_norm": True, "need_weights": "per_head", "kv_heads": 1},
            "B1-L8-E12-H3kv1-headweights-rotary-qknorm",
        ),
        (
            "mha",
            {"attention": "cross", "kdim": 4, "bias": False, "dropout": 0.25, "training": True},
            "B1-L5-E12-H3-cross-kd4-nobias-drop0.25-train",
        ),
        ("encoder_layer", {"norm_first": True, "batch_first": False}, "B1-L5-E12-H3-F48-prenorm-seqfirst"),
        ("decoder_layer", {"memory_mask": "padding(0.5)"}, "B1-Lq5-Lk7-E12-H3-F48-memory(padding(0.5))"),
        ("transformer", {}, "B1-Lq5-Lk7-E12-H3-F48-N2"),
        ("positional_encoding", {"batch": 2}, "B2-L5-E12"),
    ],
)
def test_labels_say_what_is_out_of_the_ordinary(operation: str, axes: dict[str, Any], label: str) -> None:
    assert small(operation, **axes).label == label


def test_results_are_named_after_what_they_are_gradients_of() -> None:
    shape = small("mha", need_weights="averaged", add_zero_attn=True, batch=2, batch_first=False)
    both = Workload("mha", shape, pass_="forward_backward").results()
    assert both["o"] == (5, 2, 12)
    assert both["weights"] == (2, 5, 6)
    assert both["dx"] == (5, 2, 12)
    assert both["din_proj_weight"] == (36, 12)
    assert "o" not in Workload("mha", shape, pass_="backward").results()
    assert list(Workload("mha", shape).results()) == ["o", "weights"]


def test_positions_have_no_mask() -> None:
    with pytest.raises(AxisError, match="nothing to mask in positional_encoding"):
        Workload("positional_encoding", small("positional_encoding"), mask="causal")


def test_a_mask_is_over_the_decoders_own_sequence() -> None:
    with pytest.raises(AxisError, match="needs at least 6 keys, got kv_len 5"):
        Workload("decoder_layer", small("decoder_layer"), mask="document(6)")


def test_only_dropout_in_training_is_random() -> None:
    assert small("encoder_layer", dropout=0.1).why_random() is None
    assert small("encoder_layer", training=True).why_random() is None
    assert "dropout 0.1 in training mode" in small("encoder_layer", dropout=0.1, training=True).why_random()


@pytest.mark.parametrize("operation", SMALL)
def test_columns_of_the_table_follow_from_the_shape(operation: str) -> None:
    columns = small(operation).columns()
    assert columns["q_len"] == 5
    assert columns["kv_len"] == (7 if operation in ("decoder_layer", "transformer") else 5)
    assert columns.get("head_dim") == (None if operation == "positional_encoding" else 4)
    assert "seq_len" not in columns


def test_another_operations_shape_is_refused() -> None:
    with pytest.raises(TypeError, match="mha takes a shape of type MhaShape, got EncoderLayerShape"):
        Workload("mha", small("encoder_layer"))
