from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.workload import DISTRIBUTIONS, DTYPES, PASSES, AttentionShape, AxisError, Workload

SIZES = st.integers(1, 4096)


@st.composite
def shapes(draw: st.DrawFn) -> AttentionShape:
    kv_heads = draw(st.integers(1, 16))
    return AttentionShape(
        batch=draw(SIZES),
        heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        q_len=draw(SIZES),
        kv_len=draw(SIZES),
        head_dim=draw(SIZES),
    )


@given(
    st.builds(
        Workload,
        st.just("attention"),
        shapes(),
        st.sampled_from(["none", "causal"]),
        st.sampled_from(sorted(DTYPES)),
        st.sampled_from(PASSES),
        st.sampled_from(DISTRIBUTIONS),
    )
)
def test_a_workload_survives_json(workload: Workload) -> None:
    assert Workload.from_json(workload.to_json()) == workload


@given(shapes(), shapes())
def test_different_shapes_have_different_labels(one: AttentionShape, other: AttentionShape) -> None:
    assert (one.label == other.label) == (one == other)


def test_seq_len_stands_for_both_lengths_and_kv_heads_default_to_heads() -> None:
    shape = AttentionShape.from_axes({"heads": 8, "head_dim": 64, "seq_len": 512})
    assert shape == AttentionShape(1, 8, 8, 512, 512, 64)
    assert shape.label == "B1-H8-L512-D64"


def test_grouped_heads_and_unequal_lengths_show_in_the_label() -> None:
    axes = {"batch": 2, "heads": 8, "kv_heads": 2, "head_dim": 64, "q_len": 1, "kv_len": 512}
    assert AttentionShape.from_axes(axes).label == "B2-H8kv2-Lq1-Lk512-D64"


def test_the_distribution_shows_in_the_label_only_when_it_is_not_normal() -> None:
    shape = AttentionShape(1, 8, 8, 512, 512, 64)
    assert Workload("attention", shape).label == "attention/B1-H8-L512-D64/float32/none/forward"
    assert Workload("attention", shape, inputs="outliers").label.endswith("/forward/outliers")


@pytest.mark.parametrize(
    ("axes", "axis"),
    [
        ({"heads": 8, "head_dim": 64}, "q_len"),
        ({"heads": 8, "head_dim": 64, "q_len": 1}, "kv_len"),
        ({"heads": 8, "seq_len": 1}, "head_dim"),
        ({"head_dim": 8, "seq_len": 1}, "heads"),
        ({"heads": 8, "head_dim": 64, "seq_len": 1, "kv_len": 2}, "kv_len"),
        ({"heads": 8, "kv_heads": 3, "head_dim": 64, "seq_len": 1}, "kv_heads"),
        ({"heads": 8, "head_dim": 0, "seq_len": 1}, "head_dim"),
        ({"heads": 8, "head_dim": True, "seq_len": 1}, "head_dim"),
        ({"heads": 8, "head_dim": 2**31, "seq_len": 1}, "head_dim"),
        ({"heads": 8, "head_dim": 8, "seq_len": 1, "width": 1}, "width"),
    ],
)
def test_a_wrong_axis_is_named(axes: dict[str, int], axis: str) -> None:
    with pytest.raises(AxisError) as raised:
        AttentionShape.from_axes(axes)
    assert raised.value.axis == axis


def test_values_may_have_features_of_their_own() -> None:
    axes = {"heads": 2, "head_dim": 192, "seq_len": 8}
    same = AttentionShape.from_axes(axes)
    assert same.v_head_dim == 192
    assert same.label == "B1-H2-L8-D192"
    other = AttentionShape.from_axes({**axes, "v_head_dim": 128})
    assert (other.head_dim, other.v_head_dim) == (192, 128)
    assert other.label == "B1-H2-L8-D192v128"
    workload = Workload("attention", other)
    assert Workload.from_json(workload.to_json()) == workload
    with pytest.raises(AxisError, match="from 1 to"):
        AttentionShape.from_axes({**axes, "v_head_dim": 0})


def test_shapes_recorded_without_features_of_the_values_are_read() -> None:
    data = Workload("attention", AttentionShape(1, 2, 2, 8, 8, 16)).to_json()
    del data["shape"]["v_head_dim"]
    assert Workload.from_json(data).shape.v_head_dim == 16


def test_a_mask_that_the_keys_cannot_have_is_refused() -> None:
    with pytest.raises(AxisError, match="needs at least 9 keys, got kv_len 8") as caught:
        Workload("attention", AttentionShape(1, 2, 2, 8, 8, 16), "causal+document(9)")
    assert caught.value.axis == "mask"


def test_a_mask_has_one_spelling() -> None:
    shape = AttentionShape(1, 2, 2, 8, 8, 16)
    spelt = Workload("attention", shape, "sliding_window( 5 )+causal")
    assert spelt == Workload("attention", shape, "causal+sliding_window(5)")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"operation": "attn"}, "operation must be one of attention, mha, .*; got 'attn'"),
        ({"dtype": "int8"}, "dtype must be one of float64, .*; got 'int8'"),
        ({"pass_": "fwd"}, "pass must be one of forward, .*; got 'fwd'"),
        ({"inputs": "zeros"}, "inputs must be one of normal, .*; got 'zeros'"),
        ({"mask": "casual"}, "'casual' is no mask"),
    ],
)
def test_what_no_workload_can_be_is_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workload(**{"operation": "attention", "shape": AttentionShape(1, 2, 2, 8, 8, 16), **wrong})
