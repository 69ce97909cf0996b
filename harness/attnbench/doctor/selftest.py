"""The self-test: the whole tool on trial, with kernels whose figures are known beforehand.

The kernels are a plug-in (`truths.py`), their scenarios are read as any scenario, their blocks measured in
benches like any block, and the figures that are judged are the table's. Only the truths come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from attnbench import driver, table
from attnbench.blocks import SYSTEM_CLOCKS, Clocks, measure_block
from attnbench.doctor.check import FAIL, Check
from attnbench.doctor.comparisons import checks_of
from attnbench.doctor.experiments import TRUTHS, Experiment, experiments
from attnbench.protocol import BenchSource
from attnbench.scenario import Scenario

__all__ = ["TRUTHS", "Check", "run"]

#: Share of the available memory that a bench may take.
MEMORY_FRACTION = 0.8

OpenSource = Callable[[Scenario], BenchSource]


def run(
    devices: Sequence[str],
    *,
    open_source: OpenSource | None = None,
    clocks: Clocks = SYSTEM_CLOCKS,
    progressed: Callable[[float], None] = lambda share: None,
) -> list[Check]:
    """Measure the truths on `devices` (`cpu`, `cuda:0`, …); about ten seconds on a CPU with two cores.

    `open_source(scenario)` gives the benches, which must know the plug-in `TRUTHS`; whoever gives it closes
    what it opens. Without it there is a zygote for the time of the test. `progressed` hears the share done.

    Raises:
        MeasuringError: no benches can be had.
        PluginError: the kernels cannot be loaded.
    """
    if open_source is not None:
        return _run(devices, open_source, clocks, progressed)
    limit = driver.memory_limit(MEMORY_FRACTION)
    with driver.ZygoteSource(plugins=[TRUTHS], threads=1, memory_limit_bytes=limit) as source:
        return _run(devices, lambda _: source, clocks, progressed)


def _run(
    devices: Sequence[str],
    open_source: OpenSource,
    clocks: Clocks,
    progressed: Callable[[float], None],
) -> list[Check]:
    checks: list[Check] = []
    todo = [experiment for device in devices for experiment in experiments(device)]
    for done, experiment in enumerate(todo, start=1):
        source = open_source(experiment.scenario)
        checks += _outcome(experiment, source, clocks, pairs=len(devices))
        progressed(done / len(todo))
    return checks


def _outcome(experiment: Experiment, source: BenchSource, clocks: Clocks, pairs: int) -> list[Check]:
    """The checks of the first attempt at which none fails, or of the last; they say what failed before."""
    scenario = experiment.scenario
    (block,) = scenario.expand(source.hello["catalogue"])
    checks: list[Check] = []
    failed: dict[str, list[str]] = {}
    for attempt in range(1, experiment.attempts + 1):
        records = measure_block(scenario, block, source, attempt=attempt, clocks=clocks)
        rows = table.from_records(records, "self-test").to_dict("records")
        checks = [_with_failures(check, failed) for check in checks_of(records, rows, pairs)]
        if all(check.verdict != FAIL for check in checks):
            break
        for check in checks:
            if check.verdict == FAIL:
                off = "broken" if check.deviation is None else f"off by {check.deviation:+.2%}"
                failed.setdefault(check.name, []).append(off)
    return checks


def _with_failures(check: Check, failed: Mapping[str, Sequence[str]]) -> Check:
    """`check`, saying that it failed at earlier attempts: what passes at last was off by so much before."""
    before = failed.get(check.name)
    if not before:
        return check
    told = f"measured {len(before) + 1} times; before: {', '.join(before)}"
    return replace(check, note=f"{check.note}; {told}" if check.note else told)
