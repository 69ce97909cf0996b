"""Is a module that was timed still computed? Honest ones pass, whatever remembers does not."""

from __future__ import annotations

import pytest
import torch

from attnbench.bench.kernel import load_case
from attnbench.bench.replay import norms, why_replayed
from attnbench.workload import PASSES
from plugins.module_workloads import SMALL, workload
from plugins.modules import MHA_MUTANTS, by_torch, implementation


def loaded(kernel, operation="mha", **asked):
    asked = workload(operation, seq_len=12, **SMALL, **asked)
    return load_case(implementation(operation, kernel), {}, asked, "cpu", 0)


def why(case, call):
    return why_replayed(case, call, norms(case.results(call)))


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize(
    "asked",
    [
        {"need_weights": "averaged"},
        {"dtype": "bfloat16", "inputs": "extreme_logits"},
        {"operation": "encoder_layer", "dtype": "float16"},
    ],
    ids=str,
)
def test_what_is_computed_passes_and_its_inputs_are_turned_back(pass_, asked):
    case = loaded(by_torch, pass_=pass_, **asked)
    assert why(case, case.prepare_call()) is None
    assert case.drawn.changed(case.inputs) == []


@pytest.mark.parametrize("pass_", PASSES)
def test_what_is_remembered_is_told(pass_):
    case = loaded(by_torch, pass_=pass_)
    remembered = {name: each.clone() for name, each in case.results(case.prepare_call()).items()}
    value = remembered["o"] if pass_ == "forward" else tuple(remembered.values())
    reason = why(case, lambda: value)
    assert reason is not None
    assert reason.endswith("did not follow the inputs after timing, as if remembered, not computed")
    assert reason.startswith("o" if pass_ != "backward" else "dx")
    assert case.drawn.changed(case.inputs) == []


def test_an_identity_s_gradient_is_the_very_tensor_that_is_turned():
    asked = workload("positional_encoding", seq_len=12, embed_dim=32, pass_="backward")
    case = load_case(implementation("positional_encoding", by_torch), {}, asked, "cpu", 0)
    assert why(case, case.prepare_call()) is None


def test_of_what_is_random_nothing_is_asked():
    case = loaded(by_torch, dropout=0.5, training=True)
    assert why(case, lambda: torch.ones(2, 12, 32)) is None


def test_a_nan_is_no_match():
    case = loaded(MHA_MUTANTS["NaN in the last row"][1])
    assert "o did not follow" in why(case, case.prepare_call())
