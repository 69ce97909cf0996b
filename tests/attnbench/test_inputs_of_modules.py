"""The inputs of whole modules: seeded, placed in the workload's layout, turned but for the past."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attnbench.implementation import ModuleInputs
from attnbench.inputs import draw
from attnbench.workload import SHAPES, Workload


def workload(operation: str = "mha", pass_: str = "forward", **axes: Any) -> Workload:
    conditions = {name: axes.pop(name) for name in ("dtype", "inputs", "mask") if name in axes}
    usual = {"embed_dim": 32, "heads": 4, "batch": 2} | ({} if "q_len" in axes else {"seq_len": 6})
    return Workload(operation, SHAPES[operation].from_axes({**usual, **axes}), pass_=pass_, **conditions)


def test_weights_do_not_depend_on_pass_mask_or_dtype() -> None:
    plain = draw(workload(), 3)
    other = draw(workload(pass_="backward", mask="causal", dtype="bfloat16"), 3)
    for name, drawn in plain.leaves().items():
        assert torch.equal(drawn.bfloat16(), other.leaves()[name])
    assert not torch.equal(draw(workload(), 4).leaves()["x"], plain.leaves()["x"])


def test_settings_that_change_no_size_change_no_number() -> None:
    plain = draw(workload(), 3).leaves()
    other = draw(workload(need_weights="per_head", training=True, dropout=0.5, rotary=True), 3).leaves()
    assert all(torch.equal(drawn, other[name]) for name, drawn in plain.items())


def test_scores_and_outputs_are_of_order_one() -> None:
    drawn = draw(workload(embed_dim=256, heads=4, seq_len=64), 0)
    q, k, _ = (drawn.tensors["x"] @ drawn.parameters["in_proj_weight"].T).split(256, dim=-1)
    scores = q.unflatten(-1, (4, 64)).transpose(1, 2) @ k.unflatten(-1, (4, 64)).transpose(1, 2).mT / 8
    assert 0.7 < float(scores.std()) < 1.4
    assert float(drawn.parameters["in_proj_bias"].abs().max()) > 0


@pytest.mark.parametrize(("inputs", "factor"), [("large_logits", 10), ("extreme_logits", 100)])
@pytest.mark.parametrize("axes", [{}, {"kv_heads": 2}, {"qk_norm": True}])
def test_large_logits_widen_the_queries_alone(inputs: str, factor: int, axes: dict[str, Any]) -> None:
    plain, wide = (draw(workload(inputs=each, **axes), 0).parameters for each in ("normal", inputs))
    # Another distribution is another stream, so sizes are compared, not numbers.
    name = "q_norm.scale" if axes.get("qk_norm") else "q_proj_weight" if axes else "in_proj_weight"
    rows = slice(0, 32)
    assert float(wide[name][rows].std()) / float(plain[name][rows].std()) == pytest.approx(factor, rel=0.6)
    if name == "in_proj_weight":
        assert float(wide[name][32:].abs().max()) < 1


def test_normalisations_are_drawn_around_one_and_biases_around_zero() -> None:
    parameters = draw(workload("encoder_layer"), 0).parameters
    assert 0.8 < float(parameters["norm1.weight"].mean()) < 1.2
    assert abs(float(parameters["norm1.bias"].mean())) < 0.2
    assert float(parameters["linear1.bias"].std()) > 0


def test_self_attention_has_one_tensor_and_cross_attention_three() -> None:
    own = draw(workload(), 0).place("torch", "cpu")
    assert own.query is own.key is own.value is own.tensors["x"]
    cross = draw(workload(attention="cross", q_len=3, kv_len=5, kdim=7, vdim=9), 0).place("torch", "cpu")
    assert [tuple(each.shape) for each in (cross.query, cross.key, cross.value)] == [
        (2, 3, 32),
        (2, 5, 7),
        (2, 5, 9),
    ]


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_past_is_the_same_in_turned_inputs(batch_first: bool) -> None:
    drawn = draw(workload(q_len=2, kv_len=6, batch_first=batch_first), 0)
    placed = drawn.place("torch", "cpu")
    assert placed.past_len == 4
    length = 1 if batch_first else 0
    assert placed.query.shape[length] == 2
    drawn.turned().restore(placed)
    x, before = placed.tensors["x"], drawn.tensors["x"]
    assert torch.equal(x.narrow(length, 0, 4), before.narrow(length, 0, 4))
    assert torch.equal(placed.query, -before.narrow(length, 4, 2).roll(1, dims=-1))
    drawn.restore(placed)
    assert drawn.changed(placed) == []


def test_activations_have_gradients_in_a_backward_pass_only_and_weights_as_a_modules_always() -> None:
    for pass_, wanted in (("forward", False), ("backward", True)):
        placed = draw(workload("decoder_layer", pass_), 0).place("torch", "cpu")
        assert {each.requires_grad for each in placed.tensors.values()} == {wanted}
        assert all(weight.requires_grad for weight in placed.parameters.values())
        assert all(leaf.is_leaf for leaf in placed.leaves().values())


def test_numpy_gets_arrays() -> None:
    placed = draw(workload(), 0).place("numpy", "cpu")
    assert {type(each) for each in placed.leaves().values()} == {np.ndarray}
    assert placed.mask.framework == "numpy"


def test_masks_of_the_memory_and_the_source_are_over_their_own_lengths() -> None:
    axes = {"q_len": 3, "kv_len": 5, "src_mask": "causal", "memory_mask": "padding(0.5)"}
    placed = draw(workload("transformer", mask="causal", **axes), 0).place("torch", "cpu")
    sizes = {name: (mask.q_len, mask.kv_len) for name, mask in placed.other_masks.items()}
    assert sizes == {"src_mask": (5, 5), "memory_mask": (3, 5)}
    assert (placed.mask.q_len, placed.mask.kv_len) == (3, 3)


def test_what_is_kept_is_built_once_and_its_time_is_known() -> None:
    placed: ModuleInputs = draw(workload(mask="causal"), 0).place("torch", "cpu")
    built: list[Any] = []

    def build() -> object:
        built.append(placed.mask.to_bool("cpu"))
        return object()

    first = placed.kept("module", build)
    assert placed.kept("module", build) is first
    assert len(built) == 1
    assert placed.build_s > placed.mask.build_s > 0
