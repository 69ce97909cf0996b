from __future__ import annotations

from dataclasses import replace

import pytest

from attnbench.ceilings import Bandwidth, Ceilings, MatrixRate
from attnbench.costs import Costs
from attnbench.roofline import Standing, standing

CEILINGS = Ceilings(
    device="cpu",
    device_name="Some CPU",
    cache_bytes=1000,
    measured_at="2026-01-02T03:04:05Z",
    matrix=(MatrixRate("float32", 2, 1e6, "torch matmul"),),
    bandwidth=(Bandwidth("read", 2, 1e4),),
)
#: One second at the matrix rate; 0.1 s of it is recomputation.
WORK = Costs(flops=1_000_000, bytes=100, least_flops=900_000, least_bytes=90)
#: A quarter of a second of traffic.
TRAFFIC = Costs(flops=1000, bytes=2600, least_flops=1000, least_bytes=2500)


def of(costs: Costs, latency_s: float, *, cold: bool = False, ceilings: Ceilings = CEILINGS) -> Standing:
    return standing(costs, ceilings, dtype="float32", threads=2, cold=cold, latency_s=latency_s)


def test_the_fraction_is_the_share_of_the_matrix_rate() -> None:
    assert of(WORK, 2.0) == Standing(0.5, None, False)


def test_the_fraction_of_much_traffic_is_the_share_of_the_bandwidth() -> None:
    assert of(TRAFFIC, 0.5).fraction == pytest.approx(0.5)


@pytest.mark.parametrize("least_bytes", [1999, 90])
def test_traffic_that_caches_may_hold_is_no_share_of_anything(least_bytes: int) -> None:
    assert of(replace(TRAFFIC, least_bytes=least_bytes), 0.5).fraction == pytest.approx(0.002)


def test_the_nearer_limit_counts() -> None:
    both = Costs(flops=1_000_000, bytes=5000, least_flops=1_000_000, least_bytes=5000)
    assert of(both, 2.0).fraction == 0.5
    assert of(replace(both, least_bytes=15_000), 2.0).fraction == 0.75


def test_what_a_cache_saves_is_no_share_of_anything() -> None:
    assert of(replace(WORK, with_cache=100_000), 2.0).fraction == pytest.approx(0.05)


def test_without_a_product_there_is_no_share_of_the_matrix_rate() -> None:
    added = Costs(flops=0, bytes=100, least_flops=0, least_bytes=100)
    assert of(added, 2.0) == Standing(None, None, False)
    assert of(replace(added, least_bytes=2500), 0.5).fraction == pytest.approx(0.5)


def test_beyond_the_matrix_rate_is_what_even_the_least_work_would_need_longer_for() -> None:
    assert of(WORK, 0.9).flagged is False
    assert of(WORK, 0.9).fraction == pytest.approx(1 / 0.9)  # the convention's work, the recomputation spared
    assert of(WORK, 0.9 / 1.04).flagged is False
    found = of(WORK, 0.9 / 1.06)
    assert found.flagged is True
    assert found.beyond == (
        "faster than this machine can be: at least 1.06 MFLOP/s in float32, where Some CPU with 2 threads "
        "was measured to reach 1.00 MFLOP/s"
    )


def test_beyond_ceilings_that_may_be_too_low_is_what_no_disturbance_explains() -> None:
    disturbed = replace(CEILINGS, disturbed="others used the CPU")
    assert of(WORK, 0.9 / 1.95, ceilings=disturbed).flagged is False
    assert of(WORK, 0.9 / 2.05, ceilings=disturbed).flagged is True


def test_only_cold_calls_are_held_against_the_bandwidth() -> None:
    assert of(TRAFFIC, 0.2).flagged is False
    assert of(TRAFFIC, 0.25 / 1.04, cold=True).flagged is False
    found = of(TRAFFIC, 0.2, cold=True)
    assert found.flagged is True
    assert found.beyond is not None
    assert "12.5 kB/s from memory" in found.beyond
    assert "10.0 kB/s" in found.beyond


def test_both_limits_are_told() -> None:
    found = of(replace(TRAFFIC, least_flops=10_000_000, flops=10_000_000), 0.2, cold=True)
    assert (found.beyond or "").count("faster than this machine can be") == 2


def test_what_was_not_measured_is_not_known() -> None:
    nothing = replace(CEILINGS, matrix=(), bandwidth=())
    assert of(TRAFFIC, 0.5, ceilings=nothing) == Standing(None, None, None)
    only_memory = replace(CEILINGS, matrix=())
    assert of(TRAFFIC, 0.5, ceilings=only_memory).flagged is None
    assert of(TRAFFIC, 0.1, cold=True, ceilings=only_memory).flagged is True
    assert of(TRAFFIC, 0.5, ceilings=replace(CEILINGS, cache_bytes=None)).fraction == pytest.approx(0.002)


def test_a_gpu_is_told_without_threads() -> None:
    gpu = replace(
        CEILINGS, device="cuda:0", device_name="Some GPU", matrix=(MatrixRate("float32", None, 1e6, "x"),)
    )
    assert "where Some GPU was measured" in (of(WORK, 0.5, ceilings=gpu).beyond or "")
