"""The sinusoidal encoding, by its formula."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench_impls import SinusoidalPositionalEncoding
from attnbench_impls.modules import sinusoidal_table


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_table_is_the_formula(length: int, embed_dim: int) -> None:
    table = sinusoidal_table(length, embed_dim, dtype=torch.float64)
    assert table.shape == (length, embed_dim)
    for p in range(length):
        for feature in range(embed_dim):
            angle = p / 10_000 ** (feature // 2 * 2 / embed_dim)
            expected = math.cos(angle) if feature % 2 else math.sin(angle)
            assert math.isclose(table[p, feature], expected, abs_tol=1e-12)


@pytest.mark.parametrize("embed_dim", [1, 4, 7])
def test_it_is_added_along_the_sequence(embed_dim: int) -> None:
    table = sinusoidal_table(5, embed_dim, dtype=torch.float64)
    x = torch.randn(2, 5, embed_dim, dtype=torch.float64)
    first = SinusoidalPositionalEncoding(embed_dim, 5, batch_first=True)
    assert torch.equal(first(x), x + table)
    last = SinusoidalPositionalEncoding(embed_dim, 5, dtype=torch.float64)
    assert torch.equal(last(x.transpose(0, 1)), (x + table).transpose(0, 1))
    assert torch.equal(last(x[0]), x[0] + table)
    assert torch.equal(first(x[:, 3:], first=3), (x + table)[:, 3:])
    assert not first.state_dict()
    assert first(x.bfloat16()).dtype == torch.bfloat16


def test_the_table_is_exact_at_far_positions_in_float32() -> None:
    module = SinusoidalPositionalEncoding(8, dtype=torch.float32)
    found = module(torch.zeros(5000, 8))
    torch.testing.assert_close(
        found.double(), sinusoidal_table(5000, 8, dtype=torch.float64), rtol=0, atol=1e-7
    )


def test_what_does_not_fit_is_refused() -> None:
    module = SinusoidalPositionalEncoding(4, max_len=3)
    with pytest.raises(ValueError, match=r"positions 0 to 3 do not fit max_len 3: make .*max_len=4"):
        module(torch.zeros(4, 1, 4))
    with pytest.raises(ValueError, match="positions 3 to 3 do not fit"):
        module(torch.zeros(1, 1, 4), first=3)
    with pytest.raises(ValueError, match="x must have 4 features"):
        module(torch.zeros(2, 1, 3))
    with pytest.raises(ValueError, match="embed_dim must be a whole number"):
        SinusoidalPositionalEncoding(0)


def test_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x must be floating, .* tokens; got torch.int64"):
        SinusoidalPositionalEncoding(8)(torch.zeros(3, 8, dtype=torch.int64))


def test_its_table_is_in_no_pickle() -> None:
    module, x = SinusoidalPositionalEncoding(64), torch.zeros(3, 64)
    expected = module(x)
    pickled = pickle.dumps(module)
    assert len(pickled) < 2000
    assert torch.equal(pickle.loads(pickled)(x), expected)


def test_a_table_made_in_inference_mode_serves_in_training() -> None:
    module = SinusoidalPositionalEncoding(4)
    x = torch.zeros(2, 1, 4)
    with torch.inference_mode():
        module(x)
    weight = torch.ones(4, requires_grad=True)
    (module(x) * weight).sum().backward()


def test_it_can_be_built_anywhere() -> None:
    with torch.device("meta"):
        module = SinusoidalPositionalEncoding(4, device="meta")
    assert torch.equal(module(torch.zeros(2, 1, 4))[:, 0], sinusoidal_table(2, 4))
