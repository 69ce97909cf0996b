"""torch's two paths: which one runs, and each reason why one cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attnbench import registry
from attnbench.masks import Mask
from attnbench_impls.torch_modules.masking import may_be_blind, torch_masks
from module_cases import make_workload, placed, results, why_unsupported

FAST = {"mha": "torch_mha_fastpath", "encoder_layer": "torch_encoder_layer_fastpath"}
ORDINARY = {
    "mha": "torch_mha",
    "encoder_layer": "torch_encoder_layer",
    "decoder_layer": "torch_decoder_layer",
    "transformer": "torch_transformer",
}


def backend(name: str, workload: Any) -> str | None:
    implementation = registry.current().get(name)
    inputs = placed(name, workload)
    with torch.set_grad_enabled(workload.pass_ != "forward"):
        implementation.load(workload, implementation.with_defaults({}))(inputs)
    assert implementation.resolved_backend is not None
    return implementation.resolved_backend(inputs)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("mask", ["none", "causal", "padding(0.5)", "causal+padding(0.5)", "document(2)"])
@pytest.mark.parametrize("operation", FAST)
def test_the_fast_path_is_taken(operation: str, mask: str, dtype: str) -> None:
    workload = make_workload(operation, mask, dtype)
    assert why_unsupported(FAST[operation], workload) is None
    assert backend(FAST[operation], workload) == "fast path"


@pytest.mark.parametrize("operation", ORDINARY)
def test_the_ordinary_path_is_pinned(operation: str) -> None:
    """Whatever the switch says, which is as it was afterwards."""
    assert torch.backends.mha.get_fastpath_enabled()
    assert backend(ORDINARY[operation], make_workload(operation)) == "ordinary path, flash_attention"
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("operation", FAST)
def test_the_fast_path_is_allowed_whatever_the_switch_says(operation: str) -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert backend(FAST[operation], make_workload(operation)) == "fast path"
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_the_backend_of_attention_is_told() -> None:
    assert backend("torch_mha", make_workload("mha", need_weights="averaged")) == "ordinary path, unfused"
    trained = make_workload("mha", pass_="backward", training=True)
    assert backend("torch_mha", trained) == "ordinary path, flash_attention"


def test_before_the_first_call_nobody_knows() -> None:
    implementation = registry.current().get("torch_mha")
    assert implementation.resolved_backend is not None
    with pytest.raises(RuntimeError, match="has to be called"):
        implementation.resolved_backend(placed("torch_mha", make_workload("mha")))


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"pass_": "backward"}, "gradients are wanted"),
        ({"training": True}, "training mode"),
        ({"heads": 1}, "odd (1)"),
        ({"batch_first": False}, "batch does not come first"),
        ({"bias": False}, "no bias"),
        ({"attention": "cross", "q_len": 6, "kv_len": 6}, "not the same tensor"),
        ({"q_len": 2, "kv_len": 6}, "a part of the keys"),
        ({"add_bias_kv": True}, "add_bias_kv"),
        ({"add_zero_attn": True}, "add_zero_attn"),
        ({"mask": "sliding_window(2)+padding(0.5)"}, "NaN of queries that see no key"),
        ({"kv_heads": 2}, "no grouped-query heads"),
        ({"rotary": True}, "no rotary positions"),
        ({"qk_norm": True}, "no normalised queries"),
    ],
    ids=str,
)
def test_each_condition_of_the_fast_path_is_told(axes: dict[str, Any], reason: str) -> None:
    workload = make_workload("mha", **axes)
    assert reason in str(why_unsupported("torch_mha_fastpath", workload))


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"pass_": "forward_backward"}, "gradients are wanted"),
        ({"training": True}, "training mode"),
        ({"heads": 1}, "odd"),
        ({"batch_first": False}, "batch does not come first"),
        ({"bias": False}, "no bias"),
        ({"mask": "document(2)+padding(0.5)"}, "NaN of queries that see no key"),
        ({"kv_heads": 2}, "no grouped-query heads"),
    ],
    ids=str,
)
def test_each_condition_of_the_layers_fast_path_is_told(axes: dict[str, Any], reason: str) -> None:
    assert reason in str(
        why_unsupported("torch_encoder_layer_fastpath", make_workload("encoder_layer", **axes))
    )


def test_it_is_for_the_cpu_and_cuda() -> None:
    assert "not mps" in str(why_unsupported("torch_mha_fastpath", make_workload("mha"), "mps"))


def test_a_path_that_torch_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions that nobody has listed here: torch is asked by running a twin."""
    monkeypatch.setattr(torch.overrides, "has_torch_function", lambda tensors: True)
    why = why_unsupported("torch_mha_fastpath", make_workload("mha"))
    assert why == "torch's fast path: torch took its ordinary path, flash_attention"


@pytest.mark.parametrize("name", ["torch_mha", "numpy_mha"])
@pytest.mark.parametrize("axis", ["rotary", "qk_norm"])
def test_what_torch_does_not_have_is_refused(name: str, axis: str) -> None:
    axes: dict[str, Any] = {axis: True}
    assert "has no" in str(why_unsupported(name, make_workload("mha", **axes)))
    assert "grouped" in str(why_unsupported(name, make_workload("mha", kv_heads=1)))


@pytest.mark.parametrize("operation", ["encoder_layer", "decoder_layer", "transformer"])
def test_torchs_layers_have_no_grouped_queries(operation: str) -> None:
    assert "grouped" in str(why_unsupported(ORDINARY[operation], make_workload(operation, kv_heads=1)))


BLIND = "sliding_window(2)+padding(0.5)"


def test_nan_is_why_blind_queries_are_refused() -> None:
    """The reasons are true: run all the same, torch makes NaN."""
    for name, axes in (("torch_mha", {"need_weights": "averaged"}), ("torch_mha_fastpath", {})):
        workload = make_workload("mha", BLIND, seq_len=16, **axes)
        assert "see no key" in str(why_unsupported(name, workload))
        inputs = placed(name, workload)
        assert inputs.mask.blind_queries() is not None
        assert results(name, workload, inputs=inputs)["o"].isnan().any()
    assert "see no key" in str(why_unsupported("torch_mha", make_workload("mha", BLIND), "cuda"))
    assert "see no key" in str(
        why_unsupported("torch_decoder_layer", make_workload("decoder_layer", BLIND), "cuda")
    )
    appended = make_workload("mha", BLIND, need_weights="averaged", add_zero_attn=True)
    assert why_unsupported("torch_mha", appended, "cuda") is None


@pytest.mark.parametrize(
    "mask",
    [
        "none",
        "causal",
        "padding(0.5)",
        "causal+padding(0.2)",
        "sliding_window(1)",
        "document(3)",
        "sliding_window(2)+document(3)",
        "sliding_window(2)+padding(0.2)",
        "document(3)+padding(0.2)",
    ],
)
@pytest.mark.parametrize("lengths", [(9, 9), (3, 9), (9, 6)], ids=str)
def test_blind_queries_are_known_without_a_seed(mask: str, lengths: tuple[int, int]) -> None:
    masks = [Mask(mask, 4, *lengths, seed) for seed in range(20)]
    assert any(each.blind_queries() is not None for each in masks) == may_be_blind(mask, *lengths)


@pytest.mark.parametrize("mask", ["causal", "padding(0.5)", "document(2)+padding(0.5)", "none"])
def test_masks_in_torchs_polarity_hide_the_rest(mask: str) -> None:
    batch, heads, q_len, kv_len = 3, 2, 5, 8
    ours = Mask(mask, batch, q_len, kv_len)
    theirs = torch_masks(ours, heads, "cpu", None)
    hidden = torch.zeros(batch, heads, q_len, kv_len, dtype=torch.bool)
    if theirs.attn_mask is not None:
        flat = theirs.attn_mask
        hidden |= flat if flat.dim() == 2 else flat.view(batch, heads, q_len, kv_len)
    if theirs.key_padding_mask is not None:
        hidden |= theirs.key_padding_mask[:, None, None]
    allowed = ours.to_bool("cpu")
    assert torch.equal(~hidden, torch.ones_like(hidden) if allowed is None else allowed.expand_as(hidden))
    assert (theirs.key_padding_mask is not None) == ("padding" in mask)
    assert torch_masks(ours, heads, "cpu", None) is theirs
    floating = torch_masks(ours, heads, "cpu", torch.float32)
    for form, boolean in (
        (floating.attn_mask, theirs.attn_mask),
        (floating.key_padding_mask, theirs.key_padding_mask),
    ):
        assert (form is None) == (boolean is None)
        if form is not None and boolean is not None:
            assert torch.equal(form == -torch.inf, boolean)
            assert torch.equal(form == 0, ~boolean)


def test_the_causal_hint_is_given_where_torch_aligns_as_we_do() -> None:
    assert torch_masks(Mask("causal", 1, 4, 4), 1, "cpu", None).is_causal
    assert not torch_masks(Mask("causal", 1, 2, 4), 1, "cpu", None).is_causal
    assert not torch_masks(Mask("causal+padding(0.5)", 1, 4, 4), 1, "cpu", None).is_causal
