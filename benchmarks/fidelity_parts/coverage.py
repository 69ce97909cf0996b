"""How often do 95% intervals contain the truth? On a simulated machine, and on one kernel under two names.

Simulated, the truth is known: see `simulated`. On the real machine it is known of a ratio alone: that of a
kernel to itself is 1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from attnbench import scenario as scenarios
from attnbench import stats, table
from attnbench.bench.lifeline import die_with
from attnbench.blocks import measure_block
from attnbench.case import Block
from attnbench.doctor.experiments import TRUTHS
from attnbench.driver import ZygoteSource
from attnbench.protocol import BenchSource
from attnbench.record import Record
from attnbench.sampling import PrecisionOrBudget
from attnbench.scenario import Scenario
from fidelity_parts import DataError, Section, Store
from fidelity_parts._coverage_section import section_of
from fidelity_parts.simulated import SITUATIONS, simulate

__all__ = ["measure", "section"]

PART = "coverage"

#: One kernel under two names.
EQUALS = ("truth_one", "truth_other")

SETTINGS: Mapping[str, Any] = {
    "simulated": {
        "situations": [situation.name for situation in SITUATIONS],
        "processes": (5, 1),
        "trials": 3000,
        "precision": 0.02,
        "max_seconds": 2.0,
    },
    "real": {
        "blocks": 150,
        "shapes": (
            {"heads": 4, "head_dim": 32, "seq_len": 64},
            {"heads": 4, "head_dim": 64, "seq_len": 128},
            {"heads": 1, "head_dim": 64, "seq_len": 256},
        ),
        "measure": {"precision": 0.02, "max_seconds": 0.5, "processes": 5},
    },
}
REHEARSAL: Mapping[str, Any] = {
    "simulated": {
        "situations": ["noisy", "slow drift"],
        "processes": (5, 1),
        "trials": 20,
        "precision": 0.02,
        "max_seconds": 0.2,
    },
    "real": {
        "blocks": 4,
        "shapes": (
            {"heads": 1, "head_dim": 8, "seq_len": 32},
            {"heads": 1, "head_dim": 8, "seq_len": 64},
        ),
        "measure": {"precision": 0.05, "max_seconds": 0.01, "processes": 2},
    },
}

#: What the stopping rule is compared with, where it matters most: one process, 3% of noise.
COMPARED = ("noisy", 1)


class FirstNarrow(PrecisionOrBudget):
    """The rule that would stop the first time that the interval is narrow; for comparison."""

    def __call__(self, per_call_s: Sequence[float], spent_s: float) -> bool:
        if len(per_call_s) < self.least_rounds:
            return False
        return spent_s >= self.budget_s or self._narrow(per_call_s)


RULES = {"twice": PrecisionOrBudget, "first": FirstNarrow}


@dataclass(frozen=True, slots=True)
class Job:
    """Trials of one situation, by its name."""

    situation: str
    processes: int
    rule: str
    trials: int
    precision: float
    max_seconds: float

    @property
    def key(self) -> str:
        return f"simulated/{self.situation}/{self.processes}/{self.rule}"


def measure(folder: Path, *, quick: bool) -> None:
    """First the simulated trials, on all cores; then the real blocks, with nothing beside them.

    Raises:
        DataError: data of something else are there, or a kernel failed.
    """
    settings = REHEARSAL if quick else SETTINGS
    store = Store.open(folder, PART, settings)
    jobs = [job for job in _jobs(settings["simulated"]) if job.key not in store]
    if quick:
        for job in jobs:
            store.append(job.key, tally(job))
    elif jobs:
        workers = min(len(jobs), len(os.sched_getaffinity(0)))
        # Workers that survive us would disturb what is measured when this is resumed.
        with ProcessPoolExecutor(workers, get_context("spawn"), die_with, (os.getpid(),)) as pool:
            futures = {pool.submit(tally, job): job for job in jobs}
            for future in as_completed(futures):
                store.append(futures[future].key, future.result())
    _measure_equals(store, settings["real"])


def section(folder: Path) -> Section:
    """Coverage by situation, in tables and a figure."""
    return section_of(Store.read(folder, PART))


# Simulated -----------------------------------------------------------------------------------------------


def _jobs(settings: Mapping[str, Any]) -> Iterator[Job]:
    def job(situation: str, processes: int, rule: str) -> Job:
        return Job(
            situation,
            processes,
            rule,
            settings["trials"],
            settings["precision"],
            settings["max_seconds"],
        )

    for processes in settings["processes"]:
        for situation in settings["situations"]:
            yield job(situation, processes, "twice")
    yield job(*COMPARED, "first")


def tally(job: Job) -> dict[str, Any]:
    """How often the intervals of simulated blocks contain the truth, and on which side they lie if not."""
    situation = next(each for each in SITUATIONS if each.name == job.situation)
    counts = {
        quantity: dict.fromkeys(("hits", "low", "high", "long_run_hits"), 0)
        for quantity in ("latency", "ratio")
    }
    widths: dict[str, list[float]] = {quantity: [] for quantity in counts}
    samples = []
    for seed in range(job.trials):
        trial = simulate(
            situation,
            processes=job.processes,
            precision=job.precision,
            max_seconds=job.max_seconds,
            seed=seed,
            rule=RULES[job.rule],
        )
        anchor, case = trial.samples["anchor"], trial.samples["case"]
        estimates = {
            "latency": (stats.hierarchical_interval([each.per_call_s for each in case]), "case"),
            "ratio": (stats.speedup(anchor, case), "ratio"),
        }
        for quantity, (estimate, name) in estimates.items():
            assert estimate is not None  # a process plays three rounds at least
            assert estimate.interval is not None
            low, high = estimate.interval.low, estimate.interval.high
            count = counts[quantity]
            count["hits"] += low <= trial.then[name] <= high
            count["low"] += high < trial.then[name]
            count["high"] += low > trial.then[name]
            count["long_run_hits"] += low <= trial.long_run[name] <= high
            widths[quantity].append((high - low) / estimate.value)
        samples.append(sum(len(each.rounds) for each in case))
    return {
        "situation": job.situation,
        "told": situation.told,
        "processes": job.processes,
        "rule": job.rule,
        "trials": job.trials,
        "samples": median(samples),
        **{
            quantity: {**count, "width": round(median(widths[quantity]), 6)}
            for quantity, count in counts.items()
        },
    }


# Real ----------------------------------------------------------------------------------------------------


def _measure_equals(store: Store, settings: Mapping[str, Any]) -> None:
    """Block after block, the shapes taking turns: so each is measured all the while."""
    shapes = settings["shapes"]
    missing = [
        (number, shapes[number % len(shapes)])
        for number in range(settings["blocks"])
        if f"real/{number}" not in store
    ]
    if not missing:
        return
    with ZygoteSource(plugins=[TRUTHS]) as source:
        for number, shape in missing:
            store.append(f"real/{number}", _equals(source, shape, settings["measure"], number))


def _equals(
    source: BenchSource, shape: Mapping[str, int], settings: Mapping[str, Any], number: int
) -> dict[str, Any]:
    """What the table says of one block, and the medians of its processes, that its intervals are made of."""
    scenario = scenarios.parse(_scenario(shape, settings, number), "coverage.yaml")
    (block,) = scenario.expand(source.hello["catalogue"])
    records = _measured(scenario, block, source)
    frame = table.from_records(records, PART)
    one, other = json.loads(frame.to_json(orient="records", double_precision=15))
    estimate = stats.speedup(records[0].processes, records[1].processes, level=0.99)
    assert estimate is not None  # both are alive
    return {
        "shape": block.workload.label,
        "latency": [
            {
                "median_s": row["latency_median_s"],
                "interval_s": [row["latency_ci_low_s"], row["latency_ci_high_s"]],
                "process_medians_s": [median(each.per_call_s) for each in record.processes if each.rounds],
                "samples": row["samples"],
            }
            for row, record in zip((one, other), records, strict=True)
        ],
        "ratio": other["speedup"],
        "ratio_interval": [other["speedup_ci_low"], other["speedup_ci_high"]],
        "ratio_interval_99": None
        if estimate.interval is None
        else [estimate.interval.low, estimate.interval.high],
    }


def _scenario(shape: Mapping[str, int], settings: Mapping[str, Any], number: int) -> str:
    """The seed is the block's own, so that orders are drawn anew."""
    return json.dumps(
        {
            "name": PART,
            "operation": "attention",
            "implementations": list(EQUALS),
            "matrix": dict(shape),
            "measure": {**settings, "seed": number},
        }
    )


def _measured(scenario: Scenario, block: Block, source: BenchSource) -> list[Record]:
    records = measure_block(scenario, block, source)
    for record in records:
        if record.status != "ok":
            raise DataError(f"{record.case_id}: {record.status}: {record.reason}")
    return records
