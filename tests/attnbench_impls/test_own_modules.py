"""Our modules over a core: any of the registry's, with its own reasons against a workload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

import attnbench
from attnbench import registry
from attnbench.case import Option
from attnbench.registry import Registry
from attnbench_impls.own_modules.cores import chosen_core
from module_cases import make_workload, placed, results, why_unsupported

CORED = ("mha", "encoder_layer", "decoder_layer", "transformer")

PLUGIN = """
import attnbench
import torch

@attnbench.attention("plain", passes={"forward", "backward", "forward_backward"}, masks={"none", "causal"})
def plain(q, k, v, *, mask, scale):
    scores = scale * q @ k.mT
    allowed = mask.to_bool(q.device)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return torch.softmax(scores, -1) @ v
"""


@pytest.fixture
def with_plugin(tmp_path: Any) -> Iterator[None]:
    before = registry.current()
    (tmp_path / "plain.py").write_text(PLUGIN, encoding="utf-8")
    registry.use(Registry.discover([tmp_path / "plain.py"]))
    yield
    registry.use(before)


@pytest.mark.parametrize("core", ["chunked", "sdpa", "sdpa_flash"])
@pytest.mark.parametrize("operation", CORED)
@pytest.mark.parametrize("mask", ["causal", "padding(0.5)"])
def test_any_core_computes_the_same(operation: str, core: str, mask: str) -> None:
    workload = make_workload(operation, mask, pass_="forward_backward")
    expected = results(operation, workload)
    for name, value in results(operation, workload, {"core": core}).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9)


@pytest.mark.usefixtures("with_plugin")
@pytest.mark.parametrize("operation", CORED)
def test_a_plugins_attention_is_a_core(operation: str) -> None:
    workload = make_workload(operation, "causal", pass_="forward_backward")
    options: dict[str, Option] = {"core": "plain"}
    assert why_unsupported(operation, workload, options=options) is None
    expected = results(operation, workload)
    for name, value in results(operation, workload, options).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9)
    padded = make_workload(operation, "padding(0.5)")
    why = why_unsupported(operation, padded, options=options)
    assert why == "the core plain: plain does not declare the mask padding(0.5)"


@pytest.mark.parametrize(
    ("axes", "core", "reason"),
    [
        ({}, "nobody", "there is no implementation 'nobody' here"),
        ({}, "numpy", "numpy is in numpy"),
        ({}, "torch_mha", "torch_mha computes mha"),
        ({"training": True, "dropout": 0.1}, "sdpa", "drops no weights out: core=naive does"),
        ({"add_bias_kv": True, "mask": "causal"}, "chunked", "causal is none of them: core=naive takes it"),
        ({"kv_heads": 2}, "sdpa_flash", None),
        ({"add_zero_attn": True}, "chunked", None),
        ({"training": True}, "sdpa", None),
        ({"dropout": 0.1}, "sdpa", None),
        ({"training": True, "dropout": 0.1}, "naive", None),
        ({"add_bias_kv": True, "mask": "causal"}, "naive", None),
    ],
    ids=str,
)
def test_what_a_core_cannot_the_module_cannot(axes: dict[str, Any], core: str, reason: str | None) -> None:
    why = why_unsupported("mha", make_workload("mha", **axes), options={"core": core})
    assert why is None if reason is None else reason in str(why)


def test_a_core_that_is_not_here_is_told_with_its_remedy() -> None:
    why = why_unsupported("encoder_layer", make_workload("encoder_layer"), options={"core": "sdpa_efficient"})
    assert str(why).startswith("the core sdpa_efficient: torch's efficient_attention backend is made of CUDA")


def test_every_attention_of_a_layer_is_asked_about() -> None:
    """Not the first alone: here it is the cross attention's mask that its core does not take."""
    asked: list[tuple[str, int, int]] = []

    def supports(workload: attnbench.Workload, options: Mapping[str, Option], device: str) -> str | None:
        del options, device
        asked.append((workload.mask, workload.shape.q_len, workload.shape.kv_len))
        return None

    before = registry.current()
    listening = attnbench.Implementation(
        name="listening",
        operation="attention",
        framework="torch",
        summary="hears what it is asked",
        load=before.get("naive").load,
        supports=supports,
    )
    registry.use(Registry({"listening": registry.Entry(listening, "here")}))
    try:
        workload = make_workload(
            "transformer", "causal", q_len=4, kv_len=6, src_mask="padding(0.5)", memory_mask="document(2)"
        )
        implementation = before.get("transformer")
        assert implementation.supports(workload, {"core": "listening"}, "cpu") is None
    finally:
        registry.use(before)
    assert asked == [("causal", 4, 4), ("padding(0.5)", 6, 6), ("document(2)", 4, 6)]


@pytest.mark.parametrize("name", ["mha", "quantized_mha"])
def test_the_cores_backend_is_told(name: str) -> None:
    implementation = registry.current().get(name)
    assert implementation.resolved_backend is not None
    told = {}
    for core in ("naive", "chunked", "sdpa"):
        workload = make_workload("mha", "causal", dtype="float32", add_zero_attn=False)
        inputs = placed(name, workload)
        with torch.no_grad():
            implementation.load(workload, implementation.with_defaults({"core": core}))(inputs)
        told[core] = implementation.resolved_backend(inputs)
    assert told == {"naive": None, "chunked": None, "sdpa": "flash_attention"}


@pytest.mark.parametrize("operation", ["encoder_layer", "decoder_layer", "transformer"])
def test_the_backends_of_all_attentions_are_told(operation: str) -> None:
    implementation = registry.current().get(operation)
    assert implementation.resolved_backend is not None
    workload = make_workload(operation, "causal", dtype="float32", pass_="backward")
    inputs = placed(operation, workload)
    implementation.load(workload, {"core": "sdpa"})(inputs)
    assert implementation.resolved_backend(inputs) == "flash_attention"


def test_a_core_has_its_own_defaults() -> None:
    core = chosen_core({"core": "chunked"})
    assert core is registry.current().get("chunked")
    assert chosen_core({"core": "naive"}) == "naive"


@pytest.mark.parametrize("operation", ["mha", "encoder_layer", "decoder_layer", "transformer"])
def test_dropout_drops_in_training_alone(operation: str) -> None:
    def outputs(**axes: Any) -> tuple[torch.Tensor, torch.Tensor]:
        workload = make_workload(operation, dropout=0.5, **axes)
        found = []
        for name in (operation, f"torch_{operation}"):
            assert why_unsupported(name, workload) is None
            torch.manual_seed(0)
            found.append(results(name, workload)["o"])
        return found[0], found[1]

    ours, torchs = outputs()
    torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-9)
    for dropping, quiet in zip(outputs(training=True), (ours, torchs), strict=True):
        assert not torch.allclose(dropping, quiet)
