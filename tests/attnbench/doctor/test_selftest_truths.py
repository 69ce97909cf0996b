"""The truths hold by themselves, and the real pipeline finds them."""

from __future__ import annotations

import math
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attnbench import AttentionInputs, AttentionShape, Implementation, Mask, Workload
from attnbench.doctor import truths
from attnbench.doctor.selftest import run
from attnbench.units import MIB

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="CLOCK_MONOTONIC_RAW, and the peak of resident memory"
)

SINGLE_KEY = Workload("attention", AttentionShape(1, 1, 1, 1, 1, 8))


def inputs(like: Any) -> AttentionInputs:
    return AttentionInputs(q=like, k=like, v=like, mask=Mask("none", 1, 1, 1), scale=1.0)


@linux
@pytest.mark.parametrize(
    ("implementation", "v"),
    [
        (truths.DURATION, np.ones((1, 1, 1, 8), np.float32)),
        (truths.TORCH_DURATION, torch.ones(1, 1, 1, 8)),
    ],
    ids=["numpy", "torch"],
)
@pytest.mark.parametrize("microseconds", [20, 300])
def test_a_bare_loop_of_calls_lasts_what_it_says(
    implementation: Implementation, v: Any, microseconds: int
) -> None:
    kernel = implementation.load(SINGLE_KEY, {"microseconds": microseconds})
    given = inputs(v)

    def batch_ns() -> int:
        began = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        for _ in range(10):
            kernel(given)
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - began

    # The fastest of many: others use this machine too.
    assert min(batch_ns() for _ in range(40)) / 10 / 1000 == pytest.approx(microseconds, rel=0.02)


def test_without_a_clock_of_its_own_the_duration_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truths, "time", SimpleNamespace())
    assert "CLOCK_MONOTONIC_RAW" in str(truths.DURATION.available("cpu"))


def test_the_peak_is_that_of_two_blocks_out_of_four() -> None:
    assert truths.peak_bytes(4) == 7 * MIB


@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
@pytest.mark.parametrize("implementation", [truths.TORCH_MEMORY, truths.NUMPY_MEMORY], ids=["torch", "numpy"])
def test_memory_is_held_as_the_schedule_says(
    implementation: Any, pass_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: dict[int, int] = {}
    peaks = [0]

    class Block:
        def __init__(self, size: int) -> None:
            held[id(self)] = size
            peaks[0] = max(peaks[0], sum(held.values()))

        def __del__(self) -> None:
            del held[id(self)]

    monkeypatch.setattr(truths, "_numpy_ones", Block)
    monkeypatch.setattr(truths, "_torch_ones", lambda device: Block)
    workload = Workload("attention", SINGLE_KEY.shape, pass_=pass_)
    kernel = implementation.load(workload, {"mib": 4})
    if implementation.framework == "torch":
        v = torch.ones(1, 1, 1, 8, requires_grad=pass_ != "forward")
        output = kernel(inputs(v))
        if pass_ != "forward":
            (gradient,) = torch.autograd.grad(output, v, torch.full_like(output, 2.0))
            assert gradient.tolist() == [[[[2.0] * 8]]]
    else:
        given = inputs(np.ones((1, 1, 1, 8), np.float32))
        output = torch.from_numpy(kernel(given))
        if pass_ != "forward":
            backward = implementation.load_backward(workload, {"mib": 4})
            dq, _, dv = backward(given, output, np.full((1, 1, 1, 8), 2.0, np.float32))
            assert (dq.sum(), dv.sum()) == (0.0, 16.0)
    assert output.tolist() == [[[[1.0] * 8]]]
    expected = {"forward": 7.0, "forward_backward": 10.5 + 2 * (implementation.framework == "torch")}
    assert peaks[0] == expected[pass_] * MIB


def test_the_errors_are_those_that_are_known() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 32, 16, generator=generator) for _ in range(3))
    scores = np.einsum("bhqd,bhkd->bhqk", q.double().numpy(), k.double().numpy()) / 4
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    expected = weights @ v.double().numpy()
    exact = truths.exact(q, k, v, mask=None, scale=0.25).double().numpy()
    assert np.abs(exact - expected).max() < 1e-7
    errors = truths.wrong(q, k, v, mask=None, scale=0.25).double().numpy() - expected
    assert np.abs(errors).max() == pytest.approx(truths.KNOWN_MAX_ABS, rel=1e-4)
    assert math.sqrt((errors**2).sum() / (expected**2).sum()) == pytest.approx(truths.KNOWN_REL_L2, rel=1e-4)


@linux
@pytest.mark.slow
def test_the_real_pipeline_finds_the_truths() -> None:
    checks = run(["cpu"])
    assert len(checks) == 19
    timed = [check for check in checks if check.unit in ("s", "×")]
    # Whoever else uses this machine changes neither memory nor errors.
    assert [check for check in checks if check not in timed and check.verdict != "pass"] == []
    assert len(timed) == 4
    # And makes nothing faster: no duration is read short.
    for check in timed:
        assert check.deviation is None or -(check.tolerance or 0) <= check.deviation < 1, check
