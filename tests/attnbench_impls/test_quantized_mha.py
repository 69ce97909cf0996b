"""Multi-head attention in int8: the arithmetic, how far off it is, and where it cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attnbench import registry
from attnbench.bench import accuracy
from attnbench.bench.kernel import load_case
from attnbench.testing import assert_conforms
from attnbench.workload import SHAPES, Workload
from attnbench_impls.quantized.linear import Int8Linear, Int8Rows, quantise
from module_cases import make_workload, placed, results, why_unsupported


def test_rows_are_rounded_to_255_steps() -> None:
    x = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [1e-30, 2e-30, -1e-30]])
    int8, scale = quantise(x)
    assert int8.tolist()[:2] == [[64, -127, 32], [0, 0, 0]]
    assert scale[0, 0] == pytest.approx(2 / 127)
    assert torch.isfinite(int8 * scale).all()
    assert ((int8 * scale - x).abs() <= scale / 2 * 1.0001).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_linear_layer_is_that_of_its_rounded_operands(dtype: torch.dtype) -> None:
    """The products are exact: all the error is that of rounding weights and activations."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        for size in ((2, 5, 33), (9, 33), (9,))
    )
    (x8, x_scale), (w8, w_scale) = quantise(x.flatten(0, 1)), quantise(weight)
    exact = (x8.double() * x_scale.double()) @ (w8.double() * w_scale.double()).T + bias.double()
    found = Int8Linear(weight, bias)(x)
    assert found.dtype == dtype
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps if dtype != torch.float64 else 0)
    torch.testing.assert_close(found.flatten(0, 1).double(), exact, rtol=4 * eps, atol=20 * eps)


def test_a_part_of_a_layer_is_that_part() -> None:
    weight, bias, x = torch.randn(6, 4), torch.randn(6), torch.randn(3, 4)
    layer = Int8Linear(weight, bias)
    part = layer.rows(2, 5)
    assert torch.equal(part(x), layer(x)[:, 2:5])
    assert part.int8.untyped_storage().data_ptr() == layer.int8.untyped_storage().data_ptr()
    assert torch.equal(layer(Int8Rows(x)), layer(x))


WORKLOADS: list[dict[str, Any]] = [
    {},
    {"mask": "causal", "kv_heads": 2},
    {"attention": "cross", "q_len": 5, "kv_len": 9, "kdim": 8, "vdim": 24, "mask": "padding(0.5)"},
    {"q_len": 1, "kv_len": 9, "bias": False},
    {"batch_first": False, "add_bias_kv": True, "need_weights": "per_head"},
    {"rotary": True, "qk_norm": True},
]


@pytest.mark.parametrize("core", ["naive", "sdpa"])
@pytest.mark.parametrize("axes", WORKLOADS, ids=str)
def test_it_is_off_by_a_few_per_cent(axes: dict[str, Any], core: str) -> None:
    workload = make_workload("mha", dtype="float32", **{"embed_dim": 64, **axes})
    expected = results("mha", workload)
    for name, value in results("quantized_mha", workload, {"core": core}).items():
        error = (value - expected[name]).norm() / expected[name].norm()
        assert 1e-3 < error < 5e-2, name


def test_it_is_wrong_by_float32_and_right_by_int8() -> None:
    workload = Workload("mha", SHAPES["mha"].plain())
    implementation = registry.current().get("quantized_mha")
    case = load_case(implementation, {}, workload, "cpu", seed=0)
    reply = accuracy.assess(case)
    assert reply["accuracy"] == "fail"
    assert "int8 by its nature" in (reply["reason"] or "")
    assert_conforms("quantized_mha", workload)


def test_weights_are_quantised_once_and_before_the_first_call() -> None:
    implementation = registry.current().get("quantized_mha")
    workload = make_workload("mha")
    inputs = placed("quantized_mha", workload)
    kernel = implementation.load(workload, {"core": "naive"})
    with torch.no_grad():
        first = kernel(inputs)
        built = inputs.build_s
        inputs.parameters["in_proj_weight"].zero_()
        assert torch.equal(kernel(inputs), first)
    assert 0 < built == inputs.build_s


@pytest.mark.parametrize(
    ("axes", "device", "reason"),
    [
        ({"pass_": "backward"}, "cpu", "no gradient"),
        ({"training": True}, "cpu", "evaluation mode only"),
        ({}, "mps", "not on mps"),
        ({}, "cuda", "more than 16 rows on CUDA; there are 12"),
        ({"seq_len": 64, "embed_dim": 20}, "cuda", "multiples of 8 on CUDA; embed_dim is 20"),
        ({"seq_len": 64, "kv_heads": 1}, "cuda", "multiples of 8 on CUDA; kv_dim is 4"),
    ],
    ids=str,
)
def test_where_it_cannot_be_it_says_why(axes: dict[str, Any], device: str, reason: str) -> None:
    assert reason in str(why_unsupported("quantized_mha", make_workload("mha", **axes), device))


def test_on_cuda_it_can_be() -> None:
    assert why_unsupported("quantized_mha", make_workload("mha", seq_len=64), "cuda:0") is None
