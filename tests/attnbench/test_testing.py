"""The helper for other people's test suites."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attnbench
from attnbench import Implementation, testing
from attnbench.conformance.grid import pairwise_grid
from attnbench.testing import NotRun, assert_conforms, conformance_test, supported_grid
from attnbench.workload import AttentionShape, Workload

SMALL = Workload("attention", AttentionShape(1, 2, 2, 33, 33, 16))


def softmax_attention(q: Any, k: Any, v: Any, scale: float) -> Any:
    return torch.softmax(q @ k.mT * scale, dim=-1) @ v


@attnbench.attention("mine", dtypes={"float32"})
def mine(q, k, v, *, mask, scale):
    return softmax_attention(q, k, v, scale)


@attnbench.attention("off", options={"factor": 1.01})
def off(q, k, v, *, mask, scale, factor):
    return softmax_attention(q, k, v, scale) * factor


@attnbench.attention("unwritten")
def unwritten(q, k, v, *, mask, scale):
    output = torch.empty_like(q)
    output[:, :, 1:] = softmax_attention(q, k, v, scale)[:, :, 1:]
    output[:, :, :1] = torch.where(
        output[:, :, :1].isfinite(), softmax_attention(q, k, v, scale)[:, :, :1], torch.nan
    )
    return output


@attnbench.attention("settings")
def settings(q, k, v, *, mask, scale):
    torch.set_default_dtype(torch.float64)
    return softmax_attention(q, k, v, scale)


@attnbench.attention("raises")
def raises(q, k, v, *, mask, scale):
    raise ValueError("not to my liking")


test_mine = conformance_test(mine)


def test_the_tests_are_those_of_what_is_supported() -> None:
    grid = supported_grid(mine)
    assert {workload.dtype for workload in grid} == {"float32"}
    assert {workload.pass_ for workload in grid} == {"forward"}
    assert len(grid) > 20
    (mark,) = conformance_test(mine).pytestmark  # type: ignore[attr-defined]  # pytest puts it there
    assert mark.args == ("workload", grid)
    assert mark.kwargs["ids"] == [workload.label for workload in grid]


def test_what_is_right_conforms() -> None:
    assert_conforms(mine, SMALL)
    assert_conforms(off, SMALL, options={"factor": 1.0}, seed=3)


def test_what_is_wrong_is_told_with_its_figures() -> None:
    with pytest.raises(AssertionError) as wrong:
        assert_conforms(off, SMALL, options={"factor": 1.02}, seed=3)
    told = str(wrong.value)
    assert told.startswith(f"off(factor=1.02) on {SMALL.label}, seed 3: o: ")
    assert "times its bound" in told
    assert "error_rel_l2 0.02" in told
    with pytest.raises(AssertionError, match="times its bound"):
        conformance_test(off, workloads=[SMALL])(SMALL)


def test_unwritten_memory_is_found() -> None:
    with pytest.raises(AssertionError, match="left memory unwritten, or read what nobody wrote"):
        assert_conforms(unwritten, SMALL)


def test_an_exception_comes_through() -> None:
    with pytest.raises(ValueError, match="not to my liking"):
        assert_conforms(raises, SMALL)


def test_what_a_kernel_changes_of_torch_is_set_back() -> None:
    assert_conforms(settings, SMALL)
    assert torch.get_default_dtype() == torch.float32


def test_what_is_not_supported_is_skipped_with_its_reason() -> None:
    causal = Workload("attention", SMALL.shape, mask="causal")
    with pytest.raises(NotRun) as refused:
        assert_conforms(mine, causal)
    assert (refused.value.status, str(refused.value)) == (
        "unsupported",
        "mine does not declare the mask causal",
    )
    with pytest.raises(pytest.skip.Exception, match="unsupported: mine does not declare the mask causal"):
        conformance_test(mine, workloads=[causal])(causal)


def test_what_is_missing_here_is_skipped_with_the_remedy() -> None:
    absent = Implementation(
        name="absent",
        operation="attention",
        framework="torch",
        summary="",
        load=lambda workload, options: lambda x: x.q,
        available=lambda device: "needs an NVIDIA GPU",
    )
    with pytest.raises(pytest.skip.Exception, match="unavailable: needs an NVIDIA GPU"):
        conformance_test(absent)(pairwise_grid()[0])


def test_a_kernel_that_supports_nothing_still_has_tests() -> None:
    nothing = Implementation(
        name="nothing",
        operation="attention",
        framework="torch",
        summary="",
        load=lambda workload, options: lambda x: x.q,
        supports=lambda: "not today",
    )
    assert supported_grid(nothing) == pairwise_grid()


def test_an_installed_implementation_goes_by_its_name() -> None:
    assert_conforms("naive", SMALL)
    with pytest.raises(KeyError, match="there is no implementation 'naïve' here; there are: "):
        conformance_test("naïve")
    with pytest.raises(ValueError, match=r"expected a function decorated with @attnbench\.attention"):
        conformance_test(softmax_attention)
    with pytest.raises(ValueError, match="mine has no option 'block'"):
        conformance_test(mine, options={"block": 3})


def test_one_workloads_reference_serves_every_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnbench.bench import accuracy

    assert_conforms(mine, SMALL, seed=11)
    monkeypatch.setattr(accuracy, "answer", None)
    assert_conforms("naive", SMALL, seed=11)
    assert testing._pool() is testing._pool()


def test_a_device_that_is_not_here_is_unavailable_and_no_failure() -> None:
    with pytest.raises(NotRun, match="there is no device xpu:99 here") as refusal:
        assert_conforms("naive", SMALL, device="xpu:99")
    assert refusal.value.status == "unavailable"
