from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attnbench.bench.kernel import OutputError, load_case, why_unsupported
from attnbench.implementation import Implementation
from attnbench.workload import PASSES, AttentionShape, Workload

SHAPE = AttentionShape(batch=2, heads=4, kv_heads=4, q_len=5, kv_len=7, head_dim=8)


def attend(x):
    return torch.softmax(x.q @ x.k.mT * x.scale, -1) @ x.v


def implementation(kernel=attend, framework="torch", backward=None, **rest):
    return Implementation(
        name="mine",
        operation="attention",
        framework=framework,
        summary="",
        load=lambda workload, options: kernel,
        load_backward=None if backward is None else lambda workload, options: backward,
        **rest,
    )


def loaded(pass_="forward", **rest):
    return load_case(implementation(**rest), {}, Workload("attention", SHAPE, pass_=pass_), "cpu", 0)


def test_what_each_pass_returns():
    queries, keys = (2, 4, 5, 8), (2, 4, 7, 8)
    expected = {
        "forward": {"o": queries},
        "backward": {"dq": queries, "dk": keys, "dv": keys},
        "forward_backward": {"o": queries, "dq": queries, "dk": keys, "dv": keys},
    }
    for pass_ in PASSES:
        case = loaded(pass_)
        results = case.results(case.prepare_call())
        assert {name: tuple(each.shape) for name, each in results.items()} == expected[pass_]
        assert case.output_bytes == sum(each.nbytes for each in results.values())
        inputs = (case.inputs.q, case.inputs.k, case.inputs.v)
        assert case.data_bytes == case.output_bytes + sum(each.nbytes for each in inputs)
        assert not any(each.requires_grad for each in results.values())


@pytest.mark.parametrize(
    ("pass_", "graph"), [("forward", False), ("backward", True), ("forward_backward", True)]
)
def test_a_graph_is_built_where_gradients_are_wanted_only(pass_, graph):
    seen = []

    def kernel(x):
        seen.append(torch.is_grad_enabled() and x.q.requires_grad)
        return attend(x)

    case = loaded(pass_, kernel=kernel)
    case.prepare_call()()
    assert set(seen) == {pass_ != "forward"}


def test_a_backward_call_can_be_repeated_and_its_forward_is_outside():
    calls = []

    def kernel(x):
        calls.append(x)
        return attend(x)

    case = loaded("backward", kernel=kernel)
    call = case.prepare_call()
    assert len(calls) == 1
    first, second = call(), call()
    assert len(calls) == 1
    assert torch.equal(first[0], second[0])


def test_an_own_grad_out_replaces_the_cases():
    case = loaded("backward")
    zeros = case.results(case.prepare_call(torch.zeros_like(case.grad_out)))
    assert not any(each.any() for each in zeros.values())


@pytest.mark.parametrize("pass_", ["backward", "forward_backward"])
@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_a_backward_of_its_own_is_honoured(pass_, framework):
    def kernel(x):
        return x.q + 1

    def backward(x, output, grad_out):
        return output * grad_out, x.k * 2, x.v * 3

    case = loaded(pass_, kernel=kernel, framework=framework, backward=backward)
    results = case.results(case.prepare_call())
    inputs, drawn = case.inputs, case.drawn
    expected = (drawn.q + 1) * drawn.grad_out
    assert torch.equal(torch.as_tensor(results["dq"]), expected)
    assert torch.equal(torch.as_tensor(results["dk"]), drawn.k * 2)
    assert ("o" in results) == (pass_ == "forward_backward")
    assert isinstance(results["dv"], type(inputs.v) if framework == "numpy" else torch.Tensor)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (lambda x: None, "o of mine must be a torch tensor, got None"),
        (lambda x: (x.q, x.k), "o of mine must be a torch tensor, got a tuple of 2"),
        (lambda x: x.q.numpy(), "o of mine must be a torch tensor, got a value of type ndarray"),
        (lambda x: x.q[:, :, :-1], r"must have shape \(2, 4, 5, 8\), got \(2, 4, 4, 8\)"),
        (lambda x: x.q.transpose(1, 2), r"must have shape \(2, 4, 5, 8\), got \(2, 5, 4, 8\)"),
        (lambda x: x.q.double(), "must have dtype float32, got float64"),
        (lambda x: x.q.to("meta"), "must have device cpu, got meta"),
    ],
)
def test_an_output_of_the_wrong_kind_is_an_error(kernel, message):
    case = loaded(kernel=kernel)
    with pytest.raises(OutputError, match=message):
        case.named(case.prepare_call()())


def test_a_numpy_output_must_be_an_array_of_the_dtype():
    for kernel, message in ((lambda x: 1, "ndarray, got a value of type int"), (lambda x: x.q * 1.0, "")):
        case = loaded(kernel=kernel, framework="numpy")
        if message:
            with pytest.raises(OutputError, match=message):
                case.named(case.prepare_call()())
        else:
            assert isinstance(case.named(case.prepare_call()())["o"], np.ndarray)
    case = loaded(kernel=lambda x: x.q.astype(np.float64), framework="numpy")
    with pytest.raises(OutputError, match="must have dtype float32, got float64"):
        case.named(case.prepare_call()())


@pytest.mark.parametrize("pass_", ["backward", "forward_backward"])
def test_an_output_without_a_graph_is_an_error(pass_):
    case = loaded(pass_, kernel=lambda x: attend(x).detach())
    with pytest.raises(OutputError, match="without a graph"):
        case.prepare_call()()


@pytest.mark.parametrize("pass_", ["backward", "forward_backward"])
def test_an_output_that_was_not_computed_from_a_leaf_is_an_error_that_names_it(pass_):
    case = loaded(pass_, kernel=lambda x: attend(replace(x, k=x.k.detach())))
    with pytest.raises(OutputError, match="o of mine was not computed from k, which so has no gradient"):
        case.prepare_call()()


def test_an_output_of_the_wrong_shape_is_told_before_its_gradients_fail():
    case = loaded("forward_backward", kernel=lambda x: attend(x)[:, :, :-1])
    with pytest.raises(OutputError, match=r"must have shape \(2, 4, 5, 8\), got \(2, 4, 4, 8\)"):
        case.prepare_call()()


@pytest.mark.parametrize("pass_", ["backward", "forward_backward"])
def test_too_few_gradients_are_an_error(pass_):
    case = loaded(pass_, backward=lambda x, output, grad_out: (x.q, x.k))
    with pytest.raises(OutputError, match="mine must return"):
        case.results(case.prepare_call())


def test_why_a_case_cannot_be():
    workload = Workload("attention", SHAPE, dtype="bfloat16", pass_="backward")

    def why(device="cpu", dtype="float32", **rest):
        changed = Workload("attention", SHAPE, dtype=dtype, pass_="backward")
        return why_unsupported(implementation(**rest), {}, changed, device)

    assert why() is None
    assert why_unsupported(implementation(), {}, workload, "cpu") is None
    assert "on the CPU, not on cuda:0" in why(framework="numpy", device="cuda:0")
    assert why(framework="numpy", dtype="bfloat16") == "NumPy has no bfloat16"
    assert "no autograd" in why(framework="numpy")
    assert why(framework="numpy", backward=attend) is None
    assert why(supports=lambda workload, options, device: f"not {workload.dtype}") == "not float32"


def test_supports_sees_options_with_their_defaults():
    picky = implementation(
        options={"block": 128}, supports=lambda workload, options, device: str(options["block"])
    )
    workload = Workload("attention", SHAPE)
    assert why_unsupported(picky, {}, workload, "cpu") == "128"
    assert why_unsupported(picky, {"block": 64}, workload, "cpu") == "64"


def test_the_resolved_backend_is_the_implementations_to_tell():
    assert loaded().resolved_backend() is None
    assert loaded(resolved_backend=lambda x: f"for {x.q.dtype}").resolved_backend() == "for torch.float32"
    assert loaded().device_name is None


def test_nothing_of_the_harness_is_in_a_timed_forward_call():
    case = loaded()
    call = case.prepare_call()
    assert call.func is case.kernel
    assert call.args == (case.inputs,)
