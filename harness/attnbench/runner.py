"""Sweeps: block after block, until every case has its record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from attnbench.blocks import SYSTEM_CLOCKS, Clocks, measure_block, measures_energy
from attnbench.case import Block
from attnbench.ceilings import Ceilings
from attnbench.costs import costs
from attnbench.protocol import BenchSource
from attnbench.record import Record
from attnbench.scenario import Scenario
from attnbench.store import RunWriter

__all__ = ["Observer", "budget_s", "sweep"]

#: What starting a bench and preparing one case in it is reckoned at when the time left is estimated.
OVERHEAD_S = 0.1

#: What measuring the energy of a case is reckoned at, where that is asked.
ENERGY_S = 1.0

#: What compiling a case is reckoned at, and what having compiled it already in each further process.
FIRST_COMPILING_S = 20.0
COMPILED_ALREADY_S = 4.0

#: How fast a case is reckoned to be: so much of the device's matrix rate, where that is known; otherwise, by
#: kind of device, so many FLOP/s, which may be relied on.
RECKONED_SHARE = 0.25
RECKONED_FLOPS_PER_S = {"cpu": 5e10}
RECKONED_FLOPS_PER_S_OTHERWISE = 3e12

#: Calls of a case too slow for its `max_seconds`: in each process (the first one, then warm-up and three
#: rounds, each with its priming call), and besides (inspection, judgement, poisoned memory).
LEAST_CALLS = 10
INSPECTING_CALLS = 6


class Observer(Protocol):
    """Hears how a sweep gets on."""

    def sweep_started(self, blocks: int, cases: int, budget_s: float) -> None:
        """So many blocks and cases are to be measured, in at most about `budget_s` seconds."""
        ...

    def block_started(self, block: Block, index: int) -> None:
        """The block number `index` (from 0) of those to be measured begins."""
        ...

    def progress(self, done_s: float, total_s: float) -> None:
        """Of the work reckoned at `total_s` seconds, `done_s` are done."""
        ...

    def block_finished(self, block: Block, records: Sequence[Record]) -> None:
        """The block's records are on disk."""
        ...


def budget_s(
    scenario: Scenario,
    block: Block,
    compiled: Collection[str] = (),
    ceilings: Mapping[str, Ceilings] = MappingProxyType({}),
) -> float:
    """Seconds that measuring `block` is reckoned at, at most (but for slow preparation and kernels).

    `compiled` names the implementations that are compiled for each workload; `ceilings` are those of the
    devices, as blocks name them, of which they are known.
    """
    processes = scenario.measure.processes_on(block.device)
    call_s = costs(block.workload, scenario.measure.seed).flops / _reckoned_rate(scenario, block, ceilings)
    sampling_s = max(scenario.measure.max_seconds, processes * LEAST_CALLS * call_s)
    if measures_energy(scenario.measure, block.device):
        sampling_s += ENERGY_S
    benches = processes + 3
    compiling = sum(case.variant.implementation in compiled for case in block.cases)
    compiling_s = compiling * (FIRST_COMPILING_S + benches * COMPILED_ALREADY_S)
    return compiling_s + len(block.cases) * (sampling_s + INSPECTING_CALLS * call_s + benches * OVERHEAD_S)


def _reckoned_rate(scenario: Scenario, block: Block, ceilings: Mapping[str, Ceilings]) -> float:
    """FLOP/s at which a case of `block` is reckoned."""
    known = ceilings.get(block.device)
    threads = scenario.measure.threads_count()
    reached = None if known is None else known.flops_per_s(block.workload.dtype, threads)
    if reached is not None:
        return RECKONED_SHARE * reached
    return RECKONED_FLOPS_PER_S.get(block.device.split(":")[0], RECKONED_FLOPS_PER_S_OTHERWISE)


def sweep(
    scenarios: Sequence[tuple[Scenario, Sequence[Block]]],
    open_source: Callable[[Scenario], BenchSource],
    writer: RunWriter,
    observer: Observer,
    clocks: Clocks = SYSTEM_CLOCKS,
    compiled: Collection[str] = (),
    ceilings: Mapping[str, Ceilings] = MappingProxyType({}),
) -> None:
    """Measure every block that `writer` does not hold complete, appending its records when it ends.

    `compiled` and `ceilings` are as `budget_s` has them.

    Raises:
        MeasuringError: no benches can be had.
        RunError: a record could not be written; those before it are safe.
    """
    todo = [
        (scenario, block)
        for scenario, blocks in scenarios
        for block in blocks
        if not {case.case_id for case in block.cases}
        <= writer.finished.get((scenario.name, block.block_id), frozenset())
    ]
    reckoned = [budget_s(scenario, block, compiled, ceilings) for scenario, block in todo]
    observer.sweep_started(len(todo), sum(len(block.cases) for _, block in todo), sum(reckoned))
    for index, (scenario, block) in enumerate(todo):
        before = sum(reckoned[:index])
        observer.block_started(block, index)
        observer.progress(before, sum(reckoned))

        def progressed(share: float, before: float = before, own: float = reckoned[index]) -> None:
            observer.progress(before + share * own, sum(reckoned))

        source = open_source(scenario)
        attempt = max(writer.attempt_of(scenario.name, case.case_id) for case in block.cases)
        records = measure_block(
            scenario, block, source, attempt=attempt, progressed=progressed, clocks=clocks
        )
        for record in records:
            writer.append(record)
        observer.block_finished(block, records)
    observer.progress(sum(reckoned), sum(reckoned))
