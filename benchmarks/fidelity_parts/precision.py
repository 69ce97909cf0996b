"""Wall time until the cases of the quick scenario are known to 1%: attnbench beside its peers.

Every tool measures every case until its own 95% interval of the median is within 1% of it, or a cap is
reached; and does so several times anew, which shows how far apart its results really lie: latencies, and
ratios of two of them, which the machine's drift spares where they were measured side by side.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic
from typing import Any

from attnbench import scenario as scenarios
from attnbench import stats
from attnbench.blocks import measure_block
from attnbench.case import Block
from attnbench.costs import costs
from attnbench.driver import ZygoteSource
from attnbench.driver.pinned import process_environment
from attnbench.scenario import Scenario
from attnbench.stats import Estimate
from fidelity_parts import Section, Store, _precision_section
from fidelity_parts._peer_process import first_precise
from fidelity_parts._peers import PEERS, Peer

__all__ = ["measure", "section"]

PART = "precision"

#: Workloads of the scenario with fewer FLOPs are measured, so that all of it fits into minutes.
FEWER_FLOPS = 200_000_000

TOOLS = ("attnbench", *PEERS)

#: The key of how long interpreters take to start.
START = "start"

#: Settings that are the scenario's, too.
SET = ("precision", "processes", "max_seconds", "malloc", "threads")


def settings(*, quick: bool) -> dict[str, Any]:
    """What is measured; it stands in the header of the data."""
    return {
        "scenario": "quick",
        "fewer_flops": 5_000_000 if quick else FEWER_FLOPS,
        "repetitions": 1 if quick else 6,
        "precision": 0.02,  # from end to end, as `measure.precision`: ±1%
        "threads": 1,
        "peer_seconds": [0.02] if quick else [0.1, 0.4, 1.6],
        "processes": 6 if quick else 24,
        "max_seconds": 0.06 if quick else 0.6,
        "malloc": "pinned",
        "seed": 0,
    }


def measure(folder: Path, *, quick: bool) -> None:
    """Measure what is missing in `folder`."""
    chosen = settings(quick=quick)
    store = Store.open(folder, PART, chosen)
    if START not in store:
        store.append(START, _start_s(chosen))
    for repetition in range(chosen["repetitions"]):
        began = monotonic()
        order = Random(f"{chosen['seed']}/{repetition}").sample(TOOLS, len(TOOLS))
        todo = [tool for tool in order if f"{repetition}/{tool}" not in store]
        if not todo:
            continue
        with ZygoteSource(threads=chosen["threads"], malloc=chosen["malloc"]) as source:
            scenario, blocks = _scenario(source, chosen)
            for tool in todo:
                if tool in PEERS:
                    cases = _ask(tool, blocks, chosen)
                else:
                    cases = _sweep(source, scenario, blocks, chosen)
                entry = {"repetition": repetition, "tool": tool, "cases": cases}
                store.append(f"{repetition}/{tool}", entry)
        took = f"{monotonic() - began:.0f} s"
        print(f"{PART}: repetition {repetition + 1} of {chosen['repetitions']}, {took}", flush=True)


def _start_s(chosen: Mapping[str, Any]) -> dict[str, float]:
    """Seconds that an interpreter takes to start and import torch, and attnbench to start its own."""
    environment = process_environment(chosen["threads"], chosen["malloc"])
    began = monotonic()
    subprocess.run([sys.executable, "-P", "-c", "import torch"], env=environment, check=True)
    imported = monotonic()
    with ZygoteSource(threads=chosen["threads"], malloc=chosen["malloc"]):
        started = monotonic()
    return {"torch_s": imported - began, "attnbench_s": started - imported}


def _scenario(source: ZygoteSource, chosen: Mapping[str, Any]) -> tuple[Scenario, list[Block]]:
    """The scenario with our settings, and those of its blocks that are small enough."""
    sets = [f"measure.{name}={chosen[name]}" for name in SET]
    scenario = scenarios.read(chosen["scenario"], sets=sets)
    blocks = scenario.expand(source.hello["catalogue"])
    return scenario, [
        block for block in blocks if costs(block.workload, chosen["seed"]).flops < chosen["fewer_flops"]
    ]


def _ask(tool: str, blocks: Sequence[Block], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A peer's results, all of one fresh interpreter, each case by itself."""
    environment = process_environment(chosen["threads"], chosen["malloc"])
    cases = [case for block in blocks for case in block.cases]
    request = {
        "peer": tool,
        "kernels": {
            case.case_id: [
                case.workload.to_json(),
                case.variant.implementation,
                dict(case.variant.options),
            ]
            for case in cases
        },
        "seed": chosen["seed"],
        "threads": chosen["threads"],
        "seconds": chosen["peer_seconds"],
        "precision": chosen["precision"],
    }
    with Peer(environment) as peer:
        peer.wait()
        answer = peer.measure(request, deadline_s=60 + 20 * len(cases) * sum(chosen["peer_seconds"]))
    latencies = {name: _stopped(each, chosen["precision"]) for name, each in answer["kernels"].items()}
    found: dict[str, Any] = {case_id: {"latency": latency} for case_id, latency in latencies.items()}
    for block in blocks:
        for case, anchor in _against_anchor(block):
            found[case]["speedup"] = {
                "value": latencies[anchor]["value"] / latencies[case]["value"],
                "reached": latencies[anchor]["reached"] and latencies[case]["reached"],
                "wall_s": latencies[case]["wall_s"],  # the anchor is measured once for all
            }
    return found


def _against_anchor(block: Block) -> list[tuple[str, str]]:
    """The block's cases but the anchor, each with it."""
    anchor = block.anchor
    if anchor is None:
        return []
    return [(case.case_id, anchor.case_id) for case in block.cases if case is not anchor]


def _stopped(measured: Mapping[str, Any], precision: float) -> dict[str, Any]:
    """What a peer would have reported, and after how long, had it stopped at `precision`."""
    values, calls = measured["per_call_s"], measured["calls"]
    count = first_precise(values, precision)
    unused = values[len(values) if count is None else count :]
    return {
        "value": median(values[:count]),
        "reached": count is not None,
        "wall_s": measured["wall_s"] - calls * sum(unused),
    }


def _sweep(
    source: ZygoteSource, scenario: Scenario, blocks: Sequence[Block], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """attnbench's results: of as many of its processes as it takes until the interval is narrow enough.

    A block's cases take turns, so the wall time of its processes, with all that they cost, is shared equally.
    """
    found: dict[str, Any] = {}
    for block in blocks:
        times: list[float] = []

        def progressed(share: float, times: list[float] = times) -> None:
            times.append(monotonic())

        records = measure_block(scenario, block, source, progressed=progressed)
        began_s, *ends_s = times[-1 - chosen["processes"] :]  # the last steps are the ends of its processes
        shares_s = [(end_s - began_s) / len(block.cases) for end_s in ends_s]
        taken = {record.case_id: record.processes for record in records if record.status == "ok"}
        for case, processes in taken.items():
            groups = [process.per_call_s for process in processes]
            latencies = [stats.hierarchical_interval(groups[: n + 1]) for n in range(len(groups))]
            found[case] = {"latency": _narrow(latencies, shares_s, chosen["precision"])}
        for case, anchor in _against_anchor(block):
            if case in taken and anchor in taken:
                ours, theirs = taken[case], taken[anchor]
                speedups = [stats.speedup(theirs[: n + 1], ours[: n + 1]) for n in range(len(ours))]
                found[case]["speedup"] = _narrow(speedups, shares_s, chosen["precision"])
    return found


def _narrow(
    estimates: Sequence[Estimate | None], wall_s: Sequence[float], precision: float
) -> dict[str, Any]:
    """The first of the estimates, one after each process, that is narrow enough, or the last, and when.

    One process alone knows nothing of others, so the second is the earliest.
    """
    for at, estimate in enumerate(estimates):
        if at == 0 or estimate is None or estimate.relative_width is None:
            continue
        if estimate.relative_width <= precision:
            return {"value": estimate.value, "reached": True, "wall_s": wall_s[at]}
    last = estimates[-1]
    assert last is not None  # the case is ok, so it has samples
    return {"value": last.value, "reached": False, "wall_s": wall_s[-1]}


def section(folder: Path) -> Section:
    """What `folder` holds, for the page."""
    return _precision_section.section(Store.read(folder, PART))
