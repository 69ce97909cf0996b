"""The helper for other people's test suites."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import attnbench
from attnbench import Implementation
from attnbench.conformance.grid import pairwise_grid
from attnbench.testing import (
    NotRun,
    assert_attention_close,
    assert_conforms,
    conformance,
    conformance_test,
    supported_grid,
)
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
    from attnbench.bench import standard

    assert_conforms(mine, SMALL, seed=11)
    monkeypatch.setattr(standard, "answer", None)
    assert_conforms("naive", SMALL, seed=11)
    assert conformance._pool() is conformance._pool()


def test_a_device_that_is_not_here_is_unavailable_and_no_failure() -> None:
    with pytest.raises(NotRun, match="there is no device xpu:99 here") as refusal:
        assert_conforms("naive", SMALL, device="xpu:99")
    assert refusal.value.status == "unavailable"


# Functions that nobody has declared


def plain(q: Any, k: Any, v: Any) -> Any:
    return softmax_attention(q, k, v, q.shape[-1] ** -0.5)


def masked(q: Any, k: Any, v: Any, mask: Any, *, scale: float, factor: float = 1.0) -> Any:
    k, v = (each.repeat_interleave(q.shape[1] // each.shape[1], dim=1) for each in (k, v))
    scores = q @ k.mT * scale
    if mask.kind != "none":
        scores = scores.masked_fill(~mask.to_bool(q.device), -torch.inf)
    return torch.softmax(scores, dim=-1) @ v * factor


def with_row(output: Any, value: Any) -> Any:
    output = output.clone()
    output[:, :, -1] = value
    return output


WRONG = {
    "zeros": lambda q, k, v: torch.zeros_like(q),
    "scaled": lambda q, k, v: plain(q, k, v) * 1.01,
    "one row off": lambda q, k, v: plain(q, k, v).roll(1, dims=2),
    "nan": lambda q, k, v: with_row(plain(q, k, v), torch.nan),
    "last row unwritten": lambda q, k, v: with_row(plain(q, k, v), 0),
    "transposed heads": lambda q, k, v: plain(q, k, v).flip(1),
}


def test_a_device_may_be_torchs_own() -> None:
    assert_attention_close(plain, heads=2, head_dim=16, seq_len=8, device=torch.device("cpu"))


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_function_fails(wrong: str) -> None:
    with pytest.raises(AssertionError) as told:
        assert_attention_close(WRONG[wrong], SMALL)
    first, figures = str(told.value).splitlines()
    assert first.startswith(f"lambda on {SMALL.label}, seed 0: o")
    if wrong == "nan":
        assert "o has 32 non-finite values" in first
    else:
        assert "times its bound" in first
        assert "error_max_abs" in figures
        assert "error_ratio" in figures


def test_where_the_worst_element_is_is_told() -> None:
    def spoiled(q: Any, k: Any, v: Any) -> Any:
        output = plain(q, k, v).clone()
        output[0, 1, 7, 3] += 0.5
        return output

    with pytest.raises(
        AssertionError, match=r"spoiled on .*: o: the error at \[0, 1, 7, 3\] is .* its bound"
    ):
        assert_attention_close(spoiled, SMALL)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_a_right_function_passes(dtype: str, pass_: str) -> None:
    assert_attention_close(plain, heads=2, head_dim=16, seq_len=33, dtype=dtype, pass_=pass_)


def test_a_function_is_given_what_it_takes() -> None:
    axes = {"heads": 4, "kv_heads": 2, "head_dim": 16, "q_len": 9, "kv_len": 33, "mask": "causal"}
    assert_attention_close(masked, axes)
    assert_attention_close(masked, axes, seed=3, options={"factor": 1.0}, dtype="float64")
    with pytest.raises(AssertionError, match=r"masked\(factor=1\.02\) on .*seed 3: .*times its bound"):
        assert_attention_close(masked, axes, seed=3, options={"factor": 1.02})


def test_built_ins_and_modules_are_functions_too() -> None:
    class Module(torch.nn.Module):
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return plain(q, k, v)

    assert_attention_close(torch.nn.functional.scaled_dot_product_attention, SMALL)
    assert_attention_close(Module(), SMALL)


def test_what_is_declared_keeps_its_declaration() -> None:
    assert_attention_close(mine, SMALL)
    assert_attention_close("naive", SMALL)
    with pytest.raises(AssertionError, match="times its bound"):
        assert_attention_close(off, SMALL)
    with pytest.raises(NotRun, match="mine does not declare float64"):
        assert_attention_close(mine, heads=2, head_dim=16, seq_len=33, dtype="float64")


def test_an_output_of_another_shape_is_wrong() -> None:
    with pytest.raises(AssertionError, match=f"on {SMALL.label}, seed 0: .*shape"):
        assert_attention_close(lambda q, k, v: plain(q, k, v).transpose(1, 2), SMALL)


@pytest.mark.parametrize(
    ("kernel", "given", "told"),
    [
        (plain, {"mask": "causal"}, "plain takes no mask, and the workload has one"),
        (plain, {"options": {"block": 3}}, "plain takes no option block"),
        (3, {}, "expected a function of q, k and v, or what assert_conforms takes; got 3"),
        (plain, {"heads": 0}, "heads: expected a whole number from 1"),
        (plain, {"blocks": 2}, "blocks: is no axis of attention"),
        (plain, {"dtype": "float8"}, "dtype must be one of"),
        (plain, {"operation": "conv"}, "operation must be one of attention, "),
        (plain, {"workload": SMALL}, "give either a Workload or axes"),
        (plain, {"workload": "small"}, "expected an attnbench.Workload or a mapping of axes, got 'small'"),
    ],
)
def test_what_cannot_be_asked_is_told(kernel: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        assert_attention_close(kernel, **{"heads": 2, "head_dim": 16, "seq_len": 33, **given})
