from __future__ import annotations

import gc
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attnbench.bench import poison as poisoning
from attnbench.bench.accuracy import assess
from attnbench.bench.kernel import load_case
from attnbench.bench.poison import is_poisoned, poison, poisoned
from attnbench.implementation import Implementation
from attnbench.inputs import InputPool
from attnbench.workload import DISTRIBUTIONS, DTYPES, AttentionShape, Workload
from plugins.mutants import MUTANTS, RIGHT

POOL = InputPool()


def textbook(x, *, scale=1.0, offset=0, dropped=None, kv_head=None):
    """Attention in torch, with one thing wrong on request; differentiable."""
    group = x.q.shape[1] // x.k.shape[1]
    heads = torch.arange(x.q.shape[1]) // group if kv_head is None else kv_head(torch.arange(x.q.shape[1]))
    k, v = x.k[:, heads], x.v[:, heads]
    scores = (x.q @ k.mT) * (x.scale * scale)
    allowed = x.mask.to_bool()
    if allowed is not None:
        allowed = allowed.roll(-offset, dims=-2) if offset else allowed
        scores = scores.masked_fill(~allowed, -torch.inf)
    if dropped is not None:
        scores[..., dropped] = -torch.inf
    return scores.softmax(-1).nan_to_num(0) @ v


def assessed(kernel, workload, *, framework="torch", backward=None, seed=0):
    implementation = Implementation(
        name="under_test",
        operation="attention",
        framework=framework,
        summary="",
        load=lambda workload, options: kernel,
        load_backward=None if backward is None else lambda workload, options: backward,
    )
    return assess(load_case(implementation, {}, workload, "cpu", seed, POOL))


WORKLOADS = [
    Workload("attention", AttentionShape(1, 4, 2, 40, 40, 16), mask="causal"),
    Workload("attention", AttentionShape(1, 4, 2, 500, 500, 8), mask="causal"),
]


def last_row_nan(x):
    o = textbook(x)
    o[:, :, -1] = torch.nan
    return o


def unsampled_row_nan(x):
    o = textbook(x)
    o[:, :, 300:360] = torch.nan
    return o


WRONG = {
    "zeros": lambda x: torch.zeros_like(x.q),
    "scaled by 1.01": lambda x: textbook(x) * 1.01,
    "rows shifted by one": lambda x: textbook(x).roll(1, dims=2),
    "causal off by one": lambda x: textbook(x, offset=1),
    "heads swapped": lambda x: textbook(x)[:, [1, 0, 2, 3]],
    "key heads mapped wrongly": lambda x: textbook(x, kv_head=lambda h: h % 2),
    "a key dropped": lambda x: textbook(x, dropped=7),
    "scale wrong by 5%": lambda x: textbook(x, scale=1.05),
    "no mask": lambda x: textbook(replace(x, mask=replace(x.mask, specification="none", _built={}))),
    "last row not written": lambda x: textbook(x).index_fill(2, torch.tensor([x.q.shape[2] - 1]), 0),
    "computed in bfloat16": lambda x: textbook(
        replace(x, q=x.q.bfloat16(), k=x.k.bfloat16(), v=x.v.bfloat16())
    ).float(),
}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.shape.label)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_kernel_fails(wrong, workload):
    reply = assessed(WRONG[wrong], workload)
    assert reply["accuracy"] == "fail"
    assert reply["error_ratio"] > 20  # ten times what would fail
    assert reply["reason"].startswith("o: ")
    assert "times its bound" in reply["reason"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.shape.label)
def test_the_right_kernel_passes_with_figures(workload):
    reply = assessed(textbook, workload)
    assert (reply["accuracy"], reply["reason"]) == ("pass", None)
    assert 0 < reply["error_floor"] < reply["error_rel_l2"] < 4 * reply["error_yardstick"] < 1e-5
    assert 0 < reply["error_rmse"] < reply["error_max_abs"] < 1e-4
    assert 0 < reply["error_ratio"] < 1.3
    assert reply["bitwise_repeatable"] is True
    assert reply["error_dq_max_abs"] is None


@pytest.mark.parametrize(("kernel", "count"), [(last_row_nan, 4 * 8), (unsampled_row_nan, 4 * 60 * 8)])
def test_every_value_is_scanned_sampled_or_not(kernel, count):
    reply = assessed(kernel, WORKLOADS[1])
    assert reply["accuracy"] == "fail"
    assert reply["reason"] == f"o has {count} non-finite values"
    assert reply["error_ratio"] is None


def test_infinities_are_not_finite_either():
    reply = assessed(lambda x: textbook(x) / 0, WORKLOADS[0])
    assert reply["accuracy"] == "fail"
    assert reply["error_max_abs"] is None


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_an_overwritten_input_fails_and_is_restored(name):
    def overwriting(x):
        o = textbook(x)
        getattr(x, name)[0, 0, 0, 0] *= 2
        return o

    reply = assessed(overwriting, WORKLOADS[0])
    assert (reply["accuracy"], reply["reason"]) == ("fail", f"changed its input {name}")
    assert reply["bitwise_repeatable"] is True  # because the second run got the inputs as drawn
    assert assessed(textbook, WORKLOADS[0])["accuracy"] == "pass"


def test_a_kernel_that_differs_from_run_to_run_is_told():
    calls = []

    def unsteady(x):
        calls.append(x)
        return textbook(x) * (1 + 2**-22 * (len(calls) % 2))

    reply = assessed(unsteady, WORKLOADS[0])
    assert (reply["accuracy"], reply["bitwise_repeatable"]) == ("pass", False)


def test_a_buffer_handed_out_twice_is_not_compared_with_itself():
    buffer = torch.empty(1, 4, 40, 16)
    calls = []

    def static(x):
        calls.append(x)
        return buffer.copy_(textbook(x)).mul_(1 + 2**-22 * (len(calls) % 2))

    assert assessed(static, WORKLOADS[0])["bitwise_repeatable"] is False


GRADIENTS = Workload("attention", AttentionShape(2, 4, 2, 33, 40, 16), mask="causal", pass_="backward")


@pytest.mark.parametrize("tensor", [0, 1, 2], ids=["dq", "dk", "dv"])
@pytest.mark.parametrize("pass_", ["backward", "forward_backward"])
@pytest.mark.parametrize("wrong", [lambda g: g * 1.01, lambda g: g.roll(1, 2), torch.zeros_like])
def test_a_wrong_gradient_fails(tensor, pass_, wrong):
    def backward(x, output, grad_out):
        with torch.enable_grad():
            leaves = [each.detach().requires_grad_() for each in (x.q, x.k, x.v)]
            o = textbook(replace(x, q=leaves[0], k=leaves[1], v=leaves[2]))
        gradients = list(torch.autograd.grad(o, leaves, grad_out))
        gradients[tensor] = wrong(gradients[tensor])
        return tuple(gradients)

    reply = assessed(textbook, replace(GRADIENTS, pass_=pass_), backward=backward)
    name = ("dq", "dk", "dv")[tensor]
    assert reply["accuracy"] == "fail"
    assert reply["reason"].startswith(f"{name}: ")
    assert reply["error_ratio"] > 20
    assert reply[f"error_{name}_max_abs"] == reply["error_max_abs"]


def test_a_nan_in_a_gradient_fails():
    def backward(x, output, grad_out):
        o = textbook(replace(x, q=x.q.detach(), k=x.k.detach(), v=x.v.detach()))
        return x.q.detach() + o.sum(), torch.full_like(x.k, torch.nan), x.v.detach()

    reply = assessed(textbook, GRADIENTS, backward=backward)
    assert "dk has 2560 non-finite values" in reply["reason"]
    assert reply["error_dk_max_abs"] is None
    assert reply["error_dq_max_abs"] is not None


def test_an_overwritten_grad_out_fails():
    def backward(x, output, grad_out):
        with torch.enable_grad():
            o = textbook(x)
        gradients = torch.autograd.grad(o, (x.q, x.k, x.v), grad_out)
        grad_out.zero_()
        return gradients

    assert assessed(textbook, GRADIENTS, backward=backward)["reason"] == "changed its input grad_out"


@settings(max_examples=60)
@given(
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (3, 1)]),
    q_len=st.integers(1, 12),
    kv_len=st.integers(1, 12),
    head_dim=st.sampled_from([1, 2, 5, 8, 64]),
    mask=st.sampled_from(["none", "causal"]),
    dtype=st.sampled_from(list(DTYPES)),
    pass_=st.sampled_from(["forward", "forward_backward"]),
    inputs=st.sampled_from(DISTRIBUTIONS),
    seed=st.integers(0, 50),
)
@example((1, 1), 1, 1, 8, "none", "float16", "forward_backward", "normal", 0)
@example((1, 1), 2, 2, 8, "none", "float64", "forward_backward", "large_logits", 0)
def test_right_kernels_are_never_refused(heads, q_len, kv_len, head_dim, mask, dtype, pass_, inputs, seed):
    shape = AttentionShape(1, *heads, q_len, kv_len, head_dim)
    workload = Workload("attention", shape, mask=mask, dtype=dtype, pass_=pass_, inputs=inputs)

    def fused(x):
        grouped = x.q.shape[1] != x.k.shape[1]
        return torch.nn.functional.scaled_dot_product_attention(
            x.q, x.k, x.v, attn_mask=x.mask.to_bool(), scale=x.scale, enable_gqa=grouped
        )

    for kernel in (textbook, fused):
        reply = assessed(kernel, workload, seed=seed)
        assert reply["accuracy"] == "pass", reply["reason"]


def never_writes_last_row_torch(x):
    o = torch.empty_like(x.q)
    o[:, :, :-1] = textbook(x)[:, :, :-1]
    return o


def never_writes_last_row_numpy(x):
    o = np.empty_like(x.q)
    o[:, :, :-1] = 1
    return o


@pytest.mark.parametrize(
    ("framework", "kernel"), [("torch", never_writes_last_row_torch), ("numpy", never_writes_last_row_numpy)]
)
def test_an_unwritten_row_shows_when_memory_is_poisoned(framework, kernel):
    with poisoned():
        reply = assessed(kernel, WORKLOADS[0], framework=framework)
    assert reply["accuracy"] == "fail"
    assert "64 of o not finite" in reply["reason"]
    assert reply["error_max_abs"] is None


@pytest.mark.parametrize("workload", [*WORKLOADS, GRADIENTS], ids=lambda workload: workload.label)
def test_a_right_kernel_passes_when_memory_is_poisoned(workload):
    with poisoned():
        reply = assessed(textbook, workload)
    assert (reply["accuracy"], reply["reason"], reply["error_ratio"]) == ("pass", None, None)


def test_poison_ends_with_its_context_and_is_silent():
    creators = np.empty, np.empty_like
    with poisoned():
        assert is_poisoned()
        assert torch.empty(3).isnan().all()
        assert np.isnan(np.empty(3, np.float16)).all()
        assert np.isnan(np.empty_like(np.zeros(3))).all()
        assert np.empty(3, int).shape == (3,)
        with warnings.catch_warnings(record=True) as caught:
            # An operation without a deterministic form on some devices; nothing may reach the user.
            torch.zeros(4).put_(torch.tensor([1, 1]), torch.ones(2), accumulate=False)
        assert caught == []
    assert not is_poisoned()
    assert not torch.are_deterministic_algorithms_enabled()
    assert (np.empty, np.empty_like) == creators


def test_poison_lasts():
    poison()
    poison()
    try:
        gc.collect()  # a context that nothing refers to would be left
        assert np.isnan(np.empty(3)).all()
        assert torch.empty(3).isnan().all()
    finally:
        poisoning._for_good.close()
    assert not is_poisoned()


@pytest.mark.parametrize("pass_", ["forward", "backward", "forward_backward"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_negated_inputs_negate_every_result_to_the_bit(pass_, dtype):
    reply = assessed(textbook, replace(WORKLOADS[0], pass_=pass_, dtype=dtype))
    assert (reply["accuracy"], reply["bitwise_repeatable"]) == ("pass", True)


def test_a_kernel_that_answers_from_memory_fails():
    remembered = {}

    def memoising(x):
        key = (x.q.data_ptr(), x.k.data_ptr(), x.v.data_ptr())
        if key not in remembered:
            remembered[key] = textbook(x)
        return remembered[key]

    reply = assessed(memoising, WORKLOADS[0])
    assert reply["accuracy"] == "fail"
    assert reply["reason"].startswith("o does not follow its inputs, as if answered from memory")


def test_a_kernel_that_remembers_its_keys_fails():
    remembered = {}

    def half_memoising(x):
        keys = remembered.setdefault(x.k.data_ptr(), x.k.clone())
        return textbook(replace(x, k=keys))

    assert assessed(half_memoising, WORKLOADS[0])["accuracy"] == "fail"


@pytest.mark.parametrize("pass_", ["forward", "backward", "forward_backward"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.shape.label)
def test_a_kernel_that_keeps_its_weights_fails(workload, pass_):
    """With all inputs negated the weights stay the same: only q negated alone shows it."""
    workload = replace(workload, pass_=pass_)
    reply = assess(load_case(MUTANTS["weights_kept"], {}, workload, "cpu", 0, POOL))
    assert (reply["accuracy"], reply["bitwise_repeatable"]) == ("fail", True)
    assert reply["reason"].startswith("dv does" if pass_ == "backward" else "o does")
    assert "not follow its inputs, as if answered from memory" in reply["reason"]


def test_the_inputs_are_as_drawn_when_it_is_over():
    case = load_case(RIGHT, {}, WORKLOADS[0], "cpu", 0, POOL)
    assess(case)
    assert case.drawn.changed(case.inputs) == []


def test_dq_must_be_0_where_the_output_has_no_gradient():
    """Beyond the sampled rows dq is not compared with anything else."""

    def backward(x, output, grad_out):
        with torch.enable_grad():
            leaves = [each.detach().requires_grad_() for each in (x.q, x.k, x.v)]
            fresh = textbook(replace(x, q=leaves[0], k=leaves[1], v=leaves[2]))
            dq, dk, dv = torch.autograd.grad(fresh, leaves, grad_out)
        return dq + (grad_out == 0).all(dim=-1, keepdim=True), dk, dv

    workload = replace(WORKLOADS[1], pass_="backward")
    reply = assessed(textbook, workload, backward=backward)
    assert reply["accuracy"] == "fail"
    assert reply["reason"].startswith("dq is not 0")
