"""Every mutant is refused in float32, nearly wherever its fault matters; no right kernel is, in any dtype."""

from __future__ import annotations

import pytest

from attnbench.bench.accuracy import assess
from attnbench.bench.kernel import load_case
from attnbench.bench.poison import poisoned
from attnbench.conformance.grid import pairwise_grid
from attnbench.inputs import InputPool
from attnbench.workload import DTYPES, AttentionShape, Workload
from plugins.mutants import MUTANTS, RIGHT, matters
from plugins.roundings import ROUNDINGS

#: The grid's small workloads: the others take nearly all its time and show nothing here that these do not.
GRID = [
    each
    for each in pairwise_grid()
    if each.shape.batch * each.shape.heads * each.shape.q_len * each.shape.kv_len <= 70_000
]

#: Not for the grid: what the memory held decides, or which rows are sampled.
LEFT_TO_LUCK = {"last_row_unwritten", "one_row_in_1000"}


def assessed(implementation, workload, pool, seed=0):
    return assess(load_case(implementation, {}, workload, "cpu", seed, pool))


@pytest.fixture(scope="module")
def verdicts():
    """Of each mutant, the verdicts of the float32 workloads of the grid to which its fault matters."""
    found = {name: {} for name in MUTANTS}
    pool = InputPool()
    for workload in GRID:
        if workload.dtype != "float32":
            continue
        for name in MUTANTS.keys() - LEFT_TO_LUCK:
            if matters(name, pool.drawn(workload, 0)):
                found[name][workload.label] = assessed(MUTANTS[name], workload, pool)
    return found


@pytest.mark.parametrize("name", sorted(MUTANTS.keys() - LEFT_TO_LUCK))
def test_a_mutant_is_refused_in_float32_wherever_it_matters(name, verdicts):
    refused = [reply["accuracy"] == "fail" for reply in verdicts[name].values()]
    assert any(refused)
    slipped = {label: reply for label, reply in verdicts[name].items() if reply["accuracy"] != "fail"}
    assert sum(refused) >= 0.85 * len(refused), slipped


def test_what_is_never_written_shows_when_memory_is_poisoned():
    pool = InputPool()
    with poisoned():
        for workload in GRID:
            if workload.dtype == "float32" and workload.pass_ != "backward":
                reply = assessed(MUTANTS["last_row_unwritten"], workload, pool)
                assert reply["accuracy"] == "fail", workload.label


def test_a_row_in_a_thousand_shows_by_luck_beyond_the_sample():
    """256 rows are compared: of 1024, a quarter of seeds should hit the one wrong row; of 256, all."""
    pool = InputPool()

    def refused(seed):
        workload = Workload("attention", AttentionShape(1, 1, 1, 1024, 8, 4))
        return assessed(MUTANTS["one_row_in_1000"], workload, pool, seed)["accuracy"] == "fail"

    assert 5 < sum(refused(seed) for seed in range(60)) < 30


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_per_cent_shows_from_8_heads_of_64_in_every_dtype(dtype):
    pool = InputPool()
    for pass_, names in (
        ("forward", ["scaled_by_1_01"]),
        ("backward", ["dq_scaled_by_1_01", "dk_scaled_by_1_01", "dv_scaled_by_1_01"]),
    ):
        workload = Workload("attention", AttentionShape(1, 8, 8, 64, 64, 64), dtype=dtype, pass_=pass_)
        for seed in range(3):
            for name in names:
                assert assessed(MUTANTS[name], workload, pool, seed)["accuracy"] == "fail", (name, seed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_kernels_pass_however_they_round(dtype):
    pool = InputPool()
    for workload in GRID:
        if workload.dtype != dtype:
            continue
        for implementation in (RIGHT, *ROUNDINGS.values()):
            reply = assessed(implementation, workload, pool)
            assert reply["accuracy"] == "pass", (implementation.name, workload.label, reply["reason"])
