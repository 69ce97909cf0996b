"""torchtune's module: right where it is installed, and everywhere with reasons where it cannot be."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
import torch

from attnbench_impls import torchtune_mha
from attnbench_impls.torchtune_mha import IMPLEMENTATION
from module_cases import make_workload, placed, results, why_unsupported

NAME = IMPLEMENTATION.name
HERE = IMPLEMENTATION.available("cpu") is None


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ({}, "torchtune is not installed: pip install 'attnbench[torchtune]'"),
        ({"torchtune": "0.6.1"}, "torchao is not installed: pip install 'attnbench[torchtune]'"),
        ({"torchtune": "0.6.1", "torchao": "0.18.0"}, "cannot be imported beside torchao 0.18.0"),
        ({"torchtune": "0.6.1", "torchao": "1.0"}, "cannot be imported beside torchao 1.0"),
        ({"torchtune": "0.6.1", "torchao": "0.17.0"}, None),
    ],
    ids=str,
)
def test_how_to_get_it_is_told(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], reason: str | None
) -> None:
    def version(package: str) -> str:
        if package not in versions:
            raise PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(torchtune_mha, "version", version)
    why = IMPLEMENTATION.available("cpu")
    assert why is None if reason is None else reason in str(why)


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"attention": "cross", "q_len": 2, "kv_len": 4}, "from two tensors"),
        ({"add_bias_kv": True}, "add_bias_kv"),
        ({"add_zero_attn": True}, "add_zero_attn"),
        ({"need_weights": "averaged"}, "weights to return"),
        ({"batch_first": False}, "comes second"),
        ({"rotary": True, "q_len": 2, "kv_len": 6, "dtype": "float32"}, "rotary positions of queries alone"),
        ({"rotary": True}, "more than float32"),
        ({"qk_norm": True}, "more than float32"),
        ({"kv_heads": 2}, None),
        ({"rotary": True, "qk_norm": True, "dtype": "float32"}, None),
        ({"mask": "document(2)+padding(0.5)", "q_len": 2, "kv_len": 6}, None),
    ],
    ids=str,
)
def test_what_it_has_not_is_told(axes: dict[str, Any], reason: str | None) -> None:
    why = why_unsupported(NAME, make_workload("mha", **axes))
    assert why is None if reason is None else reason in str(why)


def test_blind_queries_may_be_nan_elsewhere() -> None:
    workload = make_workload("mha", "document(2)+padding(0.5)")
    assert "see no key" in str(why_unsupported(NAME, workload, "cuda"))


@pytest.mark.parametrize("axes", [{}, {"kv_heads": 2}, {"bias": False}, {"qk_norm": True}], ids=str)
def test_the_weights_are_the_same_by_its_names(axes: dict[str, Any]) -> None:
    """Packed or not, by views: nothing is copied."""
    workload = make_workload("mha", **axes)
    x = placed("mha", workload)
    renamed = torchtune_mha._renamed(x.parameters, workload.shape)
    kinds = ["weight"] if axes == {"bias": False} else ["weight", "bias"]
    layers = ["q_proj", "k_proj", "v_proj", "output_proj"]
    expected = {f"{layer}.{kind}" for layer in layers for kind in kinds}
    assert set(renamed) == expected | ({"q_norm.scale", "k_norm.scale"} if "qk_norm" in axes else set())
    memory = {each.untyped_storage().data_ptr() for each in x.parameters.values()}
    assert {each.untyped_storage().data_ptr() for each in renamed.values()} == memory
    assert renamed["k_proj.weight"].shape == (8 if "kv_heads" in axes else 16, 16)
    if "in_proj_weight" in x.parameters:
        assert torch.equal(renamed["v_proj.weight"], x.parameters["in_proj_weight"][32:])


@pytest.mark.skipif(not HERE, reason="torchtune is not installed beside a torchao that it can import")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_it_computes_what_ours_does(dtype: str) -> None:
    wide: list[dict[str, Any]] = [{}, {"bias": False}, {"kv_heads": 2}, {"q_len": 2, "kv_len": 6}]
    narrow: list[dict[str, Any]] = [{"rotary": True, "qk_norm": True}, {"rotary": True, "kv_heads": 1}]
    for mask in ("none", "causal", "padding(0.5)", "sliding_window(2)+padding(0.5)"):
        for axes in wide if dtype == "float64" else narrow:
            workload = make_workload("mha", mask, dtype, pass_="forward_backward", **axes)
            expected = results("mha", workload)
            for name, value in results(NAME, workload).items():
                atol = 1e-9 if dtype == "float64" else 2e-5
                torch.testing.assert_close(value, expected[name], rtol=0, atol=atol, msg=workload.label)
