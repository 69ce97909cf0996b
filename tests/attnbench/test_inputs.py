from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from attnbench.inputs import InputPool, draw, same_bits
from attnbench.workload import DISTRIBUTIONS, DTYPES, AttentionShape, Workload

SHAPE = AttentionShape(batch=2, heads=4, kv_heads=2, q_len=5, kv_len=7, head_dim=8)
LARGE = AttentionShape(batch=1, heads=8, kv_heads=8, q_len=1024, kv_len=1024, head_dim=64)


def test_shapes_dtype_and_scale():
    drawn = draw(Workload("attention", SHAPE, dtype="bfloat16", pass_="backward"), seed=0)
    assert drawn.q.shape == drawn.grad_out.shape == (2, 4, 5, 8)
    assert drawn.k.shape == drawn.v.shape == (2, 2, 7, 8)
    assert {t.dtype for t in (drawn.q, drawn.k, drawn.v, drawn.grad_out)} == {torch.bfloat16}
    assert drawn.grad_out.is_contiguous()
    assert drawn.scale == pytest.approx(8**-0.5)


def test_the_same_numbers_in_another_process():
    program = (
        "from attnbench.inputs import draw; from attnbench.workload import *;"
        "d = draw(Workload('attention', AttentionShape(2, 4, 2, 5, 7, 8)), 3);"
        "print(d.q.numpy().tobytes().hex())"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == draw(Workload("attention", SHAPE), 3).q.numpy().tobytes().hex()


def test_mask_pass_and_dtype_change_no_number():
    plain = draw(Workload("attention", SHAPE), 0)
    other = draw(Workload("attention", SHAPE, mask="causal", pass_="backward", dtype="float16"), 0)
    assert torch.equal(plain.q.half(), other.q)
    assert torch.equal(plain.v.half(), other.v)


def test_tensors_seeds_and_shapes_have_their_own_streams():
    drawn, again = draw(Workload("attention", LARGE), 0), draw(Workload("attention", LARGE), 1)
    for a, b in ((drawn.q, drawn.k), (drawn.k, drawn.v), (drawn.q, again.q)):
        correlation = np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]
        assert abs(correlation) < 0.01


@pytest.mark.parametrize(
    ("inputs", "std_q", "std_k"),
    [
        ("normal", 1, 1),
        ("uniform", 3**-0.5, 3**-0.5),
        ("large_logits", 10, 1),
        ("extreme_logits", 100, 1),
        ("outliers", 1.1**0.5, 1.1**0.5),
    ],
)
def test_distributions(inputs, std_q, std_k):
    drawn = draw(Workload("attention", LARGE, inputs=inputs, pass_="backward"), 0)
    assert float(drawn.q.std()) == pytest.approx(std_q, rel=0.02)
    assert float(drawn.k.std()) == pytest.approx(std_k, rel=0.02)
    assert float(drawn.q.mean()) == pytest.approx(0, abs=0.02 * std_q)
    assert float(drawn.grad_out.std()) == pytest.approx(1, rel=0.02)
    if inputs == "uniform":
        assert -1 <= float(drawn.q.min()) < -0.999
        assert 0.999 < float(drawn.q.max()) < 1
    if inputs == "outliers":
        # Beyond 6 almost nothing is N(0, 1); of N(0, 101) 55% are.
        assert float((drawn.q.abs() > 6).double().mean()) == pytest.approx(0.00055, rel=0.3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", DISTRIBUTIONS)
def test_never_zeros_and_always_finite(dtype, inputs):
    drawn = draw(Workload("attention", SHAPE, dtype=dtype, inputs=inputs), 0)
    for tensor in (drawn.q, drawn.k, drawn.v):
        assert tensor.isfinite().all()
        assert (tensor != 0).double().mean() > 0.95


def test_float64_is_drawn_in_float64():
    drawn = draw(Workload("attention", SHAPE, dtype="float64"), 0)
    assert not torch.equal(drawn.q, drawn.q.float().double())


def test_placed_tensors_are_copies_and_leaves():
    drawn = draw(Workload("attention", SHAPE, pass_="backward"), 0)
    inputs = drawn.place("torch", "cpu")
    assert inputs.q.requires_grad
    assert inputs.q.is_leaf
    with torch.no_grad():
        inputs.q.zero_()
    assert drawn.q.any()
    assert not draw(Workload("attention", SHAPE), 0).place("torch", "cpu").q.requires_grad


def test_numpy_gets_arrays_and_a_numpy_mask():
    inputs = draw(Workload("attention", SHAPE, mask="causal", dtype="float16"), 0).place("numpy", "cpu")
    assert isinstance(inputs.q, np.ndarray)
    assert inputs.q.dtype == np.float16
    assert isinstance(inputs.mask.to_bool(), np.ndarray)


@pytest.mark.parametrize(("dtype", "device"), [("bfloat16", "cpu"), ("float32", "cuda")])
def test_numpy_has_no_bfloat16_and_no_other_device(dtype, device):
    with pytest.raises(ValueError, match="NumPy has no bfloat16 and only the CPU"):
        draw(Workload("attention", SHAPE, dtype=dtype), 0).place("numpy", device)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_overwritten_inputs_are_named_and_restored(framework):
    drawn = draw(Workload("attention", SHAPE), 0)
    inputs = drawn.place(framework, "cpu")
    assert drawn.changed(inputs) == []
    inputs.k[0, 0, 0, 0] += 1
    inputs.v[1] *= -1
    assert drawn.changed(inputs) == ["k", "v"]
    drawn.restore(inputs)
    assert drawn.changed(inputs) == []


def test_same_bits_sees_signs_of_zero_and_not_nan():
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(zero, -zero)
    assert same_bits(zero.numpy(), zero)


def test_a_pool_draws_once_places_copies_and_forgets_the_last():
    pool, workload = InputPool(), Workload("attention", SHAPE, pass_="backward")
    drawn = pool.drawn(workload, 0)
    assert pool.drawn(workload, 0) is drawn
    (one, grad_out), (other, _) = (pool.placed(workload, 0, "torch", "cpu") for _ in range(2))
    assert grad_out.shape == one.q.shape
    assert same_bits(one.q, other.q)
    assert one.q.data_ptr() != other.q.data_ptr()
    assert not same_bits(pool.placed(workload, 1, "torch", "cpu")[0].q, one.q)
    assert pool.drawn(workload, 0) is not drawn
