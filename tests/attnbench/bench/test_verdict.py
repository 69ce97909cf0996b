from __future__ import annotations

import math

import pytest
import torch

from attnbench.bench.verdict import PIECE_ELEMENTS, Errors, TensorStandard, Verdict

ONES = torch.ones(1, 4, 64, 16, dtype=torch.float64)


def noise(like=ONES, seed=0):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def standard_of(expected, dtype=torch.float32, *, textbook=None, spread=0.0, max_score=1.0, summed=64):
    spreads = torch.full(expected.shape, spread, dtype=torch.float32)
    textbook = expected.to(dtype) if textbook is None else textbook
    return TensorStandard.of(expected, textbook, spreads, max_score, summed)


def judged(found, standard, rows=None, name="o"):
    return Verdict.on(name, found, rows, standard)


def test_errors_are_what_their_names_say():
    found = torch.tensor([[[3.0, 4.0]]])
    expected = torch.tensor([[[3.0, 1.0]]], dtype=torch.float64)
    errors = Errors.of(found, expected, torch.tensor([[[3.0, 2.0]]]))
    assert errors.max_abs == 3
    assert errors.l2 == 3
    assert errors.rel_l2 == pytest.approx(3 / 10**0.5)
    assert errors.rmse == pytest.approx(3 / 2**0.5)
    assert errors.scaled == 1.5
    assert errors.at == (0, 0, 1)
    assert errors.gain == pytest.approx(3 / 10)


def test_errors_are_of_all_heads_together():
    expected = noise()
    found = expected + 0.01 * noise(seed=1)
    scale = expected.abs().float() + 1
    errors = Errors.of(found, expected, scale)
    difference = found - expected
    assert errors.max_abs == float(difference.abs().max())
    assert errors.l2 == pytest.approx(float(difference.norm()))
    assert errors.rel_l2 == pytest.approx(float(difference.norm() / expected.norm()))
    assert errors.scaled == pytest.approx(float((difference.abs() / scale).max()))
    assert float((difference.abs() / scale)[errors.at]) == pytest.approx(errors.scaled)
    assert errors.gain == pytest.approx(float((difference * expected).sum() / expected.square().sum()))


@pytest.mark.parametrize("place", [0, 2 * PIECE_ELEMENTS])
def test_a_nan_is_not_lost_among_later_pieces(place):
    expected = torch.ones(3 * PIECE_ELEMENTS, dtype=torch.float64)
    found = expected + 0.5
    found[place] = math.nan
    errors = Errors.of(found, expected, torch.ones_like(expected))
    assert all(map(math.isnan, (errors.scaled, errors.max_abs, errors.l2, errors.gain)))
    assert errors.at == (place,)


def test_a_textbook_that_overflows_excuses_nothing():
    standard = standard_of(ONES, textbook=torch.full(ONES.shape, torch.inf).half())
    assert standard.bound_scaled < 0.01
    assert standard.bound_l2 < 0.01 * float(ONES.norm())
    assert standard.bound_gain < 0.01
    assert judged(1.5 * ONES.half(), standard).reason is not None


def test_where_the_reference_is_zero_next_to_nothing_else_is_right():
    """What float16 rounds to 0 may be its smallest number; beyond that, 0 is 0."""
    zeros = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    standard = standard_of(zeros)
    assert judged(zeros.float(), standard).reason is None
    assert "times its bound" in judged(torch.full((1, 1, 2, 2), 1e-20), standard).reason
    smallest = torch.zeros(1, 1, 2, 2).half()
    smallest[0, 0, 1, 0] = 6e-8
    assert judged(smallest, standard_of(zeros, torch.float16)).reason is None
    assert judged(20 * smallest, standard_of(zeros, torch.float16)).reason is not None


def test_a_number_may_err_by_its_own_scale_alone():
    """A row of small numbers beside large ones: an error that the large ones hide shows in it."""
    expected = noise()
    expected[:, :, 32:] *= 1e-3
    standard = standard_of(expected, torch.bfloat16, spread=1e-4)
    found = expected.bfloat16()
    assert judged(found, standard).ratio < 1.1  # the floor is all its error
    error = torch.zeros_like(expected)
    error[0, 2, 60, 5] = 0.01
    verdict = judged((expected + error).bfloat16(), standard)
    assert verdict.reason.startswith("o: the error at [0, 2, 60, 5] is ")
    error[0, 2, 60, 5], error[0, 2, 6, 5] = 0, 0.01 * float(expected[0, 2, 6, 5])
    assert judged((expected + error).bfloat16(), standard).reason is None


def test_an_error_is_placed_in_the_whole_tensor():
    rows = torch.tensor([3, 50, 63])
    expected = noise()
    found = expected.float()
    found[0, 1, 50, 7] += 1
    reason = judged(found, standard_of(expected[:, :, rows]), rows).reason
    assert reason.startswith("o: the error at [0, 1, 50, 7] is ")


def test_cancellation_is_allowed_what_it_is_made_of():
    expected = 1e-5 * noise()
    found = (expected + 1e-7 * noise(seed=1)).float()
    assert judged(found, standard_of(expected)).reason is not None
    assert judged(found, standard_of(expected, spread=1.0)).reason is None


def rounding_noise(dtype, seed=1):
    """Errors as half a unit in the last place and other roundings make them."""
    return noise() * (1 + 0.3 * torch.finfo(dtype).eps * noise(seed=seed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_common_factor_shows_below_the_rounding_of_single_numbers(dtype):
    eps = torch.finfo(dtype).eps
    expected = noise()
    standard = standard_of(expected, dtype, textbook=rounding_noise(dtype).to(dtype), spread=1.0)
    assert judged(rounding_noise(dtype, seed=2), standard).ratio < 1.2
    verdict = judged(rounding_noise(dtype, seed=2) * (1 + 1.28 * eps), standard)
    assert verdict.reason.startswith("o: a common factor of 1.0")
    assert verdict.errors.gain == pytest.approx(1.28 * eps, rel=0.05)


def test_a_common_factor_of_a_few_rows_may_be_chance():
    bounds = []
    for heads in (1, 4):
        expected = noise()[:, :heads, : 4 * heads**2]
        standard = standard_of(expected, torch.bfloat16, textbook=expected.bfloat16(), spread=1.0)
        bounds.append(standard.bound_gain - 0.84 * 2**-7)
    # √64 rows to √1 row of 4, and errors that average out over 256 rows but less over 4.
    assert bounds[0] == pytest.approx(17 * bounds[1], rel=0.2)
    assert bounds[0] > 0.002


def test_where_few_rows_matter_all_errors_may_be_as_large_as_the_largest():
    """One row with all the spread among 256: its errors do not average out with the others'."""
    even = standard_of(ONES, torch.bfloat16, spread=1.0)
    assert even.bound_l2 == pytest.approx(0.5 * (1 + 3 / 16) * 2**-7 * float(even.scale.norm()), rel=0.01)
    spread = torch.full(ONES.shape, 1e-6)
    spread[0, 2, 7] = 1e3
    one = TensorStandard.of(1e-3 * ONES, (1e-3 * ONES).bfloat16(), spread, 1.0, 64)
    assert one.bound_l2 == pytest.approx(2 * 2**-7 * float(one.scale.norm()), rel=0.01)
    assert one.bound_scaled == pytest.approx(2 * 2**-7, rel=0.01)


def test_large_scores_cost_halves_no_more_than_float32():
    """That rounding moves large scores is for the spread to say, number by number."""
    bounds = [standard_of(ONES, torch.bfloat16, max_score=score).bound_scaled for score in (1.0, 400.0)]
    assert bounds[1] < 1.02 * bounds[0]


def test_non_finite_values_are_counted():
    found = ONES.float()
    found[0, 0, 0, :3] = math.nan
    verdict = judged(found, standard_of(ONES))
    assert verdict.reason == "o has 3 non-finite values"
    assert math.isinf(verdict.ratio)


def test_dq_is_zero_where_no_gradient_comes_from():
    expected = ONES[:, :, :2]
    found = torch.zeros(1, 4, 64, 16)
    found[:, :, :2] = 1
    standard = standard_of(expected)
    rows = torch.tensor([0, 1])
    assert judged(found, standard, rows, "dq").reason is None
    found[0, 0, 9, 0] = 1e-30
    assert "rows whose output has no gradient" in judged(found, standard, rows, "dq").reason
