"""All implementations of a module compute the same function of the same weights, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import attnbench_impls
from attnbench.implementation import declared_in
from attnbench.testing import NotRun, assert_conforms
from attnbench.workload import SHAPES, AxisError, Workload
from module_cases import make_workload, placed, results, why_unsupported

IMPLEMENTATIONS = {each.name: each for each in declared_in(vars(attnbench_impls))}
MODULES = {
    operation: [
        each.name
        for each in IMPLEMENTATIONS.values()
        if each.operation == operation and each.available("cpu") is None
    ]
    for operation in SHAPES
    if operation != "attention"
}

#: Computed in less than the workload's dtype: not the same function to any precision worth the name.
ROUGH = {"quantized_mha"}

CROSS: dict[str, Any] = {"attention": "cross", "q_len": 5, "kv_len": 7, "kdim": 8, "vdim": 12}

WORKLOADS = [
    make_workload("mha", pass_="forward_backward"),
    make_workload("mha", "causal", pass_="forward_backward"),
    make_workload("mha", "causal", need_weights="per_head"),
    make_workload("mha", "padding(0.5)", need_weights="averaged", pass_="backward"),
    make_workload("mha", "causal+padding(0.5)", batch_first=False, pass_="forward_backward"),
    make_workload("mha", "document(2)", bias=False, need_weights="per_head"),
    make_workload("mha", "sliding_window(2)+padding(0.5)", pass_="forward_backward"),
    make_workload("mha", "causal", add_bias_kv=True, pass_="forward_backward"),
    make_workload("mha", "padding(0.5)", add_zero_attn=True, need_weights="per_head"),
    make_workload("mha", add_bias_kv=True, add_zero_attn=True, batch_first=False, need_weights="averaged"),
    make_workload("mha", "causal", q_len=2, kv_len=6, pass_="forward_backward"),
    make_workload("mha", "sliding_window(3)", q_len=1, kv_len=6, batch_first=False),
    make_workload("mha", "padding(0.5)", **CROSS, pass_="forward_backward"),
    make_workload("mha", "causal", **CROSS, batch_first=False, add_bias_kv=True, need_weights="per_head"),
    make_workload("mha", "causal", attention="cross", q_len=6, kv_len=4, pass_="forward_backward"),
    make_workload("mha", "causal", training=True, pass_="forward_backward"),
    # Queries that see none but the appended keys.
    make_workload("mha", "causal", attention="cross", q_len=6, kv_len=4, add_bias_kv=True),
    make_workload("mha", "sliding_window(2)+padding(0.2)", add_zero_attn=True, need_weights="per_head"),
    *(
        make_workload(operation, mask, **axes)
        for operation in ("encoder_layer", "decoder_layer", "transformer")
        for mask, axes in (
            ("none", {"pass_": "forward_backward"}),
            ("causal", {"norm_first": True}),
            ("causal+padding(0.5)", {"batch_first": False, "pass_": "forward_backward"}),
            ("sliding_window(2)+padding(0.5)", {"bias": False, "training": True, "pass_": "backward"}),
            ("document(2)", {"bias": False, "norm_first": True, "batch_first": False}),
        )
    ),
    make_workload("decoder_layer", "causal", q_len=4, memory_mask="padding(0.5)", kv_len=6),
    make_workload("decoder_layer", "causal", q_len=6, memory_mask="causal", kv_len=4, pass_="backward"),
    make_workload(
        "transformer",
        "causal",
        q_len=4,
        kv_len=6,
        layers=2,
        src_mask="padding(0.5)",
        memory_mask="padding(0.5)",
    ),
    make_workload("transformer", "causal", q_len=6, kv_len=4, src_mask="causal", batch_first=False),
    make_workload("positional_encoding"),
    make_workload("positional_encoding", embed_dim=7, batch_first=False),
]


def test_all_are_declared() -> None:
    assert set(MODULES["mha"]) >= {"mha", "numpy_mha", "quantized_mha", "torch_mha", "torch_mha_fastpath"}
    assert "torchtune_mha" in IMPLEMENTATIONS
    layers = {"encoder_layer", "torch_encoder_layer", "torch_encoder_layer_fastpath"}
    assert set(MODULES["encoder_layer"]) == layers
    assert set(MODULES["decoder_layer"]) == {"decoder_layer", "torch_decoder_layer"}
    assert set(MODULES["transformer"]) == {"transformer", "torch_transformer"}
    assert set(MODULES["positional_encoding"]) == {"positional_encoding", "numpy_positional_encoding"}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.label)
def test_all_that_support_it_agree(workload: Workload) -> None:
    ours = workload.operation
    expected = results(ours, workload)
    compared = 0
    for name in MODULES[workload.operation]:
        if name == ours or name in ROUGH or why_unsupported(name, workload) is not None:
            continue
        if IMPLEMENTATIONS[name].framework == "numpy" and workload.pass_ != "forward":
            continue
        compared += 1
        for result, value in results(name, workload).items():
            torch.testing.assert_close(value, expected[result], rtol=0, atol=1e-9, msg=f"{name}: {result}")
    assert compared


@pytest.mark.parametrize("operation", MODULES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_are_right(operation: str, dtype: str) -> None:
    """By the verdict that sweeps give, on a workload that all support but for its gradients."""
    workload = Workload(operation, SHAPES[operation].plain(), dtype=dtype)
    for name in set(MODULES[operation]) - ROUGH:
        assert_conforms(name, workload)


@pytest.mark.parametrize("operation", MODULES)
def test_gradients_of_all_are_right(operation: str) -> None:
    """They reach the harness's own tensors, activations and weights, by the verdict that sweeps give."""
    workload = make_workload(operation, pass_="forward_backward")
    for name in MODULES[operation]:
        try:
            assert_conforms(name, Workload(operation, workload.shape, dtype="float32", pass_="backward"))
        except NotRun:
            continue


MASKS = st.sampled_from(
    ["none", "causal", "padding(0.4)", "causal+padding(0.4)", "sliding_window(2)", "document(2)+padding(0.4)"]
)


@settings(max_examples=60)
@given(data=st.data(), mask=MASKS, operation=st.sampled_from(["mha", "encoder_layer", "decoder_layer"]))
def test_whatever_is_asked_of_them_they_agree(data: st.DataObject, mask: str, operation: str) -> None:
    """Also where one would rather be `unsupported`: what it does support, it does right."""
    sizes = {"batch": (1, 3), "heads": (1, 4), "seq_len": (2, 7), "q_len": (1, 7), "kv_len": (2, 7)}
    axes: dict[str, Any] = {}
    for axis, each in SHAPES[operation].AXES.items():
        if axis in sizes:
            axes[axis] = data.draw(st.integers(*sizes[axis]), axis)
        elif each.kind == "switch" and axis not in ("rotary", "qk_norm"):  # which ours alone has
            axes[axis] = data.draw(st.booleans(), axis)
        elif each.kind == "choice":
            axes[axis] = data.draw(st.sampled_from(each.choices), axis)
    axes["embed_dim"] = axes["heads"] * 2 * data.draw(st.integers(1, 3), "head_dim / 2")
    if operation != "encoder_layer":
        del axes["seq_len"]
    pass_ = data.draw(st.sampled_from(["forward", "forward_backward"]), "pass")
    try:
        workload = Workload(operation, SHAPES[operation].from_axes(axes), mask, "float64", pass_)
    except AxisError:
        reject()
    expected = results(operation, workload)
    for name in set(MODULES[operation]) - ROUGH - {operation}:
        implementation = IMPLEMENTATIONS[name]
        if why_unsupported(name, workload) is None and (
            pass_ == "forward" or implementation.framework == "torch"
        ):
            for result, value in results(name, workload).items():
                torch.testing.assert_close(
                    value, expected[result], rtol=0, atol=1e-9, msg=f"{name}: {result}"
                )


def test_weights_that_change_are_seen() -> None:
    """A module is built once over the tensors, and does not remember what they held."""
    workload = make_workload("mha")
    for name in set(MODULES["mha"]) - ROUGH:
        implementation = IMPLEMENTATIONS[name]
        inputs = placed(name, workload)
        kernel = implementation.load(workload, implementation.with_defaults({}))
        with torch.no_grad():
            before = torch.as_tensor(kernel(inputs)).clone()
            inputs.parameters["in_proj_weight"][...] = 0
            assert not torch.allclose(torch.as_tensor(kernel(inputs)), before)
