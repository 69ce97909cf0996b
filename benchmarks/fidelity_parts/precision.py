"""Wall time until the cases of the quick scenario are known to 1%: attnbench beside its peers.

Every tool measures every case until its own 95% interval of the median is as narrow as 1% of it, from end to
end, or a cap is reached; and does so several times anew, which shows how far apart its results really lie.
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
from fidelity_parts import Section, Store, _precision_section
from fidelity_parts._peer_process import first_precise
from fidelity_parts._peers import PEERS, Peer

__all__ = ["measure", "section"]

PART = "precision"

#: Workloads of the scenario with fewer FLOPs are measured, so that all of it fits into minutes.
FEWER_FLOPS = 200_000_000

TOOLS = ("attnbench", *PEERS)


def settings(*, quick: bool) -> dict[str, Any]:
    """What is measured; it stands in the header of the data."""
    return {
        "scenario": "quick",
        "fewer_flops": 5_000_000 if quick else FEWER_FLOPS,
        "repetitions": 1 if quick else 6,
        "precision": 0.01,
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
    for repetition in range(chosen["repetitions"]):
        began = monotonic()
        order = Random(f"{chosen['seed']}/{repetition}").sample(TOOLS, len(TOOLS))
        todo = [tool for tool in order if f"{repetition}/{tool}" not in store]
        if not todo:
            continue
        with ZygoteSource(threads="all", malloc=chosen["malloc"]) as source:
            started_s = monotonic() - began
            scenario, blocks = _scenario(source, chosen)
            for tool in todo:
                if tool in PEERS:
                    found = _ask(tool, scenario, blocks, chosen)
                else:
                    found = {"start_s": started_s, "cases": _sweep(source, scenario, blocks, chosen)}
                store.append(f"{repetition}/{tool}", {"repetition": repetition, "tool": tool, **found})
        took = f"{monotonic() - began:.0f} s"
        print(f"{PART}: repetition {repetition + 1} of {chosen['repetitions']}, {took}", flush=True)


def _scenario(source: ZygoteSource, chosen: Mapping[str, Any]) -> tuple[Scenario, list[Block]]:
    """The scenario with our settings, and those of its blocks that are small enough."""
    sets = [f"measure.{name}={chosen[name]}" for name in ("precision", "processes", "max_seconds", "malloc")]
    scenario = scenarios.read(chosen["scenario"], sets=sets)
    blocks = scenario.expand(source.hello["catalogue"])
    return scenario, [
        block for block in blocks if costs(block.workload, chosen["seed"]).flops < chosen["fewer_flops"]
    ]


def _ask(tool: str, scenario: Scenario, blocks: Sequence[Block], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A peer's results, all of one fresh interpreter, each case by itself."""
    threads = scenario.measure.threads_count()
    environment = process_environment(threads, chosen["malloc"])
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
        "threads": threads,
        "seconds": chosen["peer_seconds"],
        "precision": chosen["precision"],
    }
    with Peer(environment) as peer:
        peer.wait()
        answer = peer.measure(request, deadline_s=60 + 20 * len(cases) * sum(chosen["peer_seconds"]))
    found = {name: _stopped(each, chosen["precision"]) for name, each in answer["kernels"].items()}
    return {"start_s": _import_s(environment), "cases": found}


def _stopped(measured: Mapping[str, Any], precision: float) -> dict[str, Any]:
    """What a peer would have reported, and after how long, had it stopped at `precision`."""
    values, calls = measured["per_call_s"], measured["calls"]
    count = first_precise(values, precision)
    unused = values[len(values) if count is None else count :]
    return {
        "median_s": median(values[:count]),
        "reached": count is not None,
        "wall_s": measured["wall_s"] - calls * sum(unused),
    }


def _import_s(environment: Mapping[str, str]) -> float:
    """Seconds that an interpreter takes to start and import torch."""
    began = monotonic()
    subprocess.run([sys.executable, "-P", "-c", "import torch"], env=dict(environment), check=True)
    return monotonic() - began


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
        processes = chosen["processes"]
        began_s = times[-1 - processes]  # the last steps are the ends of its processes
        for record in records:
            if record.status != "ok":
                continue
            groups = [process.per_call_s for process in record.processes]
            count = _enough(groups, chosen["precision"])
            used = groups[:count]
            estimate = stats.hierarchical_interval(used)
            assert estimate is not None  # the case is ok, so it has samples
            found[record.case_id] = {
                "median_s": estimate.value,
                "reached": count is not None,
                "processes": len(used),
                "wall_s": (times[-1 - processes + len(used)] - began_s) / len(block.cases),
            }
    return found


def _enough(groups: Sequence[Sequence[float]], precision: float) -> int | None:
    """After how many processes (two at least) the interval is as narrow as `precision`; None if never."""
    for count in range(2, len(groups) + 1):
        estimate = stats.hierarchical_interval(groups[:count])
        if estimate is None or estimate.relative_width is None:
            continue
        if estimate.relative_width <= precision:
            return count
    return None


def section(folder: Path) -> Section:
    """What `folder` holds, for the page."""
    return _precision_section.section(Store.read(folder, PART))
