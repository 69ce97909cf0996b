"""The tutorials' class in NumPy: its steps, its dtypes, and what it has not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attnbench.masks import Mask
from attnbench_impls.numpy_mha import (
    MultiHeadAttention,
    combine_heads,
    linear,
    masked_softmax,
    split_heads,
)
from attnbench_impls.numpy_positions import sinusoidal_encoding
from module_cases import make_workload, results, why_unsupported

RNG = np.random.default_rng(0)


def test_a_linear_layer_is_torchs() -> None:
    x, weight, bias = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(5, 4)), RNG.normal(size=5)
    theirs = torch.nn.functional.linear(*map(torch.from_numpy, (x, weight, bias)))
    np.testing.assert_allclose(linear(x, weight, bias), theirs.numpy(), atol=1e-12)
    np.testing.assert_allclose(linear(x, weight, None), theirs.numpy() - bias, atol=1e-12)


def test_heads_are_split_and_combined() -> None:
    x = RNG.normal(size=(2, 3, 8))
    heads = split_heads(x, 4)
    assert heads.shape == (2, 4, 3, 2)
    np.testing.assert_array_equal(heads[1, 2, 0], x[1, 0, 4:6])
    np.testing.assert_array_equal(combine_heads(heads), x)


def test_the_softmax_is_stable_and_masked() -> None:
    scores = np.full((1, 2, 3, 5), 1e4)  # whose exponentials overflow
    mask = Mask("causal", 1, 3, 4, framework="numpy")  # a fifth key is appended
    weights = masked_softmax(scores, mask)
    np.testing.assert_allclose(weights.sum(-1), 1)
    np.testing.assert_allclose(weights[0, 1, 0], [1 / 3, 1 / 3, 0, 0, 1 / 3])


def test_a_query_without_keys_has_no_weights() -> None:
    mask = Mask("causal", 1, 3, 2, framework="numpy")
    weights = masked_softmax(RNG.normal(size=(1, 2, 3, 2)), mask)
    assert not weights[:, :, 0].any()
    np.testing.assert_allclose(weights[:, :, 1:].sum(-1), 1)


def test_it_can_be_used_by_itself() -> None:
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True, dtype=torch.float64).eval()
    parameters = {name: each.detach().numpy() for name, each in theirs.state_dict().items()}
    x = RNG.normal(size=(2, 5, 8))
    o, weights = MultiHeadAttention(parameters, heads=2)(x, x, x, Mask("none", 2, 5, 5, framework="numpy"))
    tensor = torch.from_numpy(x)
    expected, expected_weights = theirs(tensor, tensor, tensor, average_attn_weights=False)
    np.testing.assert_allclose(o, expected.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(weights, expected_weights.detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_results_have_the_dtype_of_the_inputs(dtype: str) -> None:
    workload = make_workload("mha", "causal", dtype, need_weights="averaged")
    found = results("numpy_mha", workload)
    assert {str(each.dtype) for each in found.values()} == {f"torch.{dtype}"}


def test_halves_are_computed_in_float32() -> None:
    """Rounded once, at the end: as near to ours as float16 gets."""
    workload = make_workload("mha", dtype="float16", seq_len=64, embed_dim=64)
    wide = make_workload("mha", dtype="float32", seq_len=64, embed_dim=64)
    half = results("numpy_mha", workload)["o"].float()
    assert (half - results("mha", wide)["o"]).abs().max() < 2e-3


def test_what_it_has_not_is_told() -> None:
    dropping = make_workload("mha", training=True, dropout=0.1)
    assert why_unsupported("numpy_mha", dropping) == "numpy_mha has no dropout"
    assert why_unsupported("numpy_mha", make_workload("mha", dropout=0.1)) is None


@pytest.mark.parametrize("embed_dim", [1, 7, 8])
def test_positions_by_the_papers_formula(embed_dim: int) -> None:
    encoding = sinusoidal_encoding(9, embed_dim)
    for p in range(9):
        for feature in range(embed_dim):
            angle = p / 10_000 ** (2 * (feature // 2) / embed_dim)
            expected = np.cos(angle) if feature % 2 else np.sin(angle)
            assert encoding[p, feature] == pytest.approx(expected, abs=1e-12)
