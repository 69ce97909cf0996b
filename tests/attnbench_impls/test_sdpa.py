"""torch's scaled_dot_product_attention: which backend runs, and what a pinned one cannot do."""

from __future__ import annotations

import pytest
import torch

from attnbench.bench.kernel import load_case, why_unsupported
from attnbench.workload import AttentionShape, Workload
from attnbench_impls.sdpa import SDPA, SDPA_FLASH, SDPA_MATH, Pinned

IMPLEMENTATIONS = {each.name: each for each in (SDPA, SDPA_FLASH, SDPA_MATH)}

SHAPES = {
    "equal": AttentionShape(2, 2, 2, 33, 33, 16),
    "grouped": AttentionShape(1, 4, 2, 20, 50, 8),
}


@pytest.mark.parametrize("name", ["sdpa", "sdpa_flash", "sdpa_math"])
def test_the_backend_that_runs_is_the_one_named(name):
    case = load_case(
        IMPLEMENTATIONS[name], {}, Workload("attention", SHAPES["equal"], mask="causal"), "cpu", 0
    )
    operators = {"flash_attention": "_scaled_dot_product_flash_attention_for_cpu", "math": "_math"}
    with torch.autograd.profiler.profile() as profile:
        case.prepare_call()()
    ran = {
        backend
        for backend, op in operators.items()
        if any(op in event.name for event in profile.function_events)
    }
    assert ran == {case.resolved_backend()}


def test_pinning_leaves_the_switches_as_they_were():
    cuda = torch.backends.cuda

    def state():
        return (
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        )

    before = state()
    cuda.enable_mem_efficient_sdp(False)
    try:
        outside = state()
        pinned = Pinned("math")
        for _ in range(2):
            with pinned:
                assert state() == (False, False, True, False)
            assert state() == outside
    finally:
        cuda.enable_mem_efficient_sdp(before[1])
    assert state() == before


def test_a_pinned_backend_that_cannot_is_unsupported(monkeypatch):
    def refusing(*args, **kwargs):
        raise RuntimeError("No available kernel. Aborting execution.")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refusing)
    workload = Workload("attention", SHAPES["grouped"], mask="causal")
    why = why_unsupported(IMPLEMENTATIONS["sdpa_flash"], {}, workload, "cpu")
    assert why == "torch's flash backend: No available kernel. Aborting execution."
