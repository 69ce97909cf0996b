from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnbench.errors import RunError
from attnbench.pairs import Pairs
from attnbench.record import ProcessSamples, Record
from attnbench.store import Run
from attnbench.table import from_runs
from builders import make_block, make_record

PROCESSES = 5
ROUNDS = 40


def compared(records: Sequence[Record], tmp_path: Path) -> tuple[Pairs, list[Any]]:
    runs = [Run(tmp_path, "run", {}, tuple(records))]
    return Pairs.of(runs), from_runs(runs).to_dict("records")


def drifting(rng: random.Random, *cases: tuple[float, int]) -> list[Record]:
    """Cases of true latency and last round: every process slows down by its own 30% to 60% as it goes on."""
    processes: list[list[ProcessSamples]] = [[] for _ in cases]
    for _ in range(PROCESSES):
        slope = rng.uniform(0.3, 0.6) / ROUNDS
        for own, (latency_s, last) in zip(processes, cases, strict=True):
            times = [latency_s * (1 + slope * at) * (1 + rng.gauss(0, 0.01)) for at in range(last)]
            own.append(ProcessSamples("scripted", 1, tuple(range(last)), tuple(times), tuple(times)))
    return [
        replace(make_record(name, anchor=None), processes=tuple(own))
        for name, own in zip("abcdef", processes, strict=False)
    ]


def test_identical_kernels_are_not_told_apart_by_drift_and_early_leaving(tmp_path: Path) -> None:
    apart = []
    for seed in range(60):
        records = drifting(random.Random(seed), (1e-3, 12), (1e-3, ROUNDS))
        pairs, (a, b) = compared(records, tmp_path)
        assert a["latency_median_s"] < 0.95 * b["latency_median_s"]  # they come of different rounds
        apart.append(pairs.distinct(a, b))
    assert sum(apart) <= 2  # of 60, at a confidence of 99%


@pytest.mark.parametrize("left", [12, ROUNDS])
def test_a_difference_of_a_tenth_is_found_in_spite_of_drift(left: int, tmp_path: Path) -> None:
    for seed in range(10):
        pairs, (a, b) = compared(drifting(random.Random(seed), (1.1e-3, left), (1e-3, ROUNDS)), tmp_path)
        assert pairs.distinct(a, b)
        assert pairs.distinct(b, a)
        assert pairs.faster(b, a)
        assert not pairs.faster(a, b)
        estimate = pairs.ratio(a, b)
        assert estimate is not None
        assert estimate.value == pytest.approx(1.1, rel=0.02)


def test_one_process_alone_tells_nothing_apart(tmp_path: Path) -> None:
    pairs, (a, b) = compared(make_block({"a": 1e-3, "b": 9e-3}, processes=1), tmp_path)
    assert pairs.ratio(a, b) is None
    assert not pairs.distinct(a, b)
    pairs, (a, b) = compared(make_block({"a": 1e-3, "b": 9e-3}, processes=2), tmp_path)
    assert pairs.ratio(a, b) is not None


def test_processes_without_common_rounds_do_not_count(tmp_path: Path) -> None:
    a, b = make_block({"a": 1e-3, "b": 9e-3}, processes=2)
    apart = [
        replace(each, rounds=tuple(at + 100 * index for at in each.rounds))
        for index, each in enumerate(b.processes)
    ]
    pairs, (first, second) = compared([a, replace(b, processes=tuple(apart))], tmp_path)
    assert pairs.ratio(first, second) is None


@pytest.mark.parametrize(
    "changes",
    [{"attempt": 2}, {"status": "oom", "reason": "x"}, {"block_id": "other"}, {"scenario": "other"}],
)
def test_only_what_was_measured_side_by_side_is_compared(changes: dict[str, Any], tmp_path: Path) -> None:
    a, b = make_block({"a": 1e-3, "b": 2e-3})
    pairs, (first, second) = compared([a, b], tmp_path)
    assert pairs.distinct(first, second)
    pairs, (first, second) = compared([a, replace(b, **changes)], tmp_path)
    assert pairs.ratio(first, second) is None
    assert not pairs.distinct(first, second)


def test_runs_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    runs = [
        Run(tmp_path / name, "run", {}, tuple(make_block({"a": a, "b": b})))
        for name, a, b in (("one", 1e-3, 2e-3), ("two", 2e-3, 1e-3))
    ]
    pairs = Pairs.of(runs)
    a1, b1, a2, b2 = from_runs(runs).to_dict("records")
    assert pairs.faster(a1, b1)
    assert pairs.faster(b2, a2)
    assert pairs.ratio(a1, b2) is None
    with pytest.raises(RunError, match="given twice"):
        Pairs.of([runs[0], runs[0]])
