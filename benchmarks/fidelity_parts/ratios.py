"""How repeatable is a reported ratio? attnbench beside torch.utils.benchmark and pytest-benchmark.

Each repetition of each tool reports the same ratio anew, from fresh processes and in the same wall time, with
the other core idle or loaded by `published.competitor`. Repetitions of all tools, shapes and loads are
interleaved in seeded random order, so that the machine's drift hits all alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from random import Random
from statistics import median
from time import monotonic
from typing import Any

from attnbench import scenario as scenarios
from attnbench import table
from attnbench.blocks import measure_block
from attnbench.driver import ZygoteSource
from attnbench.driver.pinned import process_environment
from attnbench.workload import AttentionShape, Workload
from fidelity_parts import Section, Store, _ratios_section
from fidelity_parts._peers import PEERS, Peer
from published.competitor import PHASE_S, competing

__all__ = ["measure", "section"]

PART = "ratios"

ANCHOR, CASE = "naive", "sdpa_flash"

#: Where a call is mostly overhead, where it is mostly computing, and where it is mostly memory traffic.
SHAPES: Mapping[str, AttentionShape] = {
    "short": AttentionShape(1, 8, 8, 128, 128, 64),
    "long": AttentionShape(1, 2, 2, 512, 512, 64),
    "decode": AttentionShape(1, 8, 8, 1, 4096, 64),
}

TOOLS = ("attnbench", *PEERS)

SCENARIO = """
name: ratios
operation: attention
implementations: [{anchor}, {case}]
anchor: {anchor}
matrix: {{heads: {shape.heads}, head_dim: {shape.head_dim}, q_len: {shape.q_len}, kv_len: {shape.kv_len}}}
measure:
  precision: 0.000001
  max_seconds: {max_seconds}
  processes: {processes}
  threads: {threads}
  malloc: {malloc}
  seed: {seed}
"""


def settings(*, quick: bool) -> dict[str, Any]:
    """What is measured; it stands in the header of the data."""
    return {
        "shapes": {name: workload(name).label for name in (["short"] if quick else SHAPES)},
        "loads": ["loaded"] if quick else ["idle", "loaded"],
        "repetitions": 1 if quick else 20,
        "seconds": 0.3 if quick else 1.5,
        "threads": 1,
        "malloc": "pinned",
        "processes": 3 if quick else 5,
        "phase_s": list(PHASE_S),
        "seed": 0,
    }


def workload(shape: str) -> Workload:
    """The workload of one of `SHAPES`."""
    return Workload("attention", SHAPES[shape])


def measure(folder: Path, *, quick: bool) -> None:
    """Measure what is missing in `folder`."""
    chosen = settings(quick=quick)
    store = Store.open(folder, PART, chosen)
    _reckon(chosen, store)
    for repetition in range(chosen["repetitions"]):
        began = monotonic()
        jobs = [
            (shape, load, tool) for shape in chosen["shapes"] for load in chosen["loads"] for tool in TOOLS
        ]
        Random(f"{chosen['seed']}/{repetition}").shuffle(jobs)
        jobs = [job for job in jobs if "/".join((str(repetition), *job)) not in store]
        if jobs:
            _repeat(repetition, jobs, chosen, store)
            took = f"{monotonic() - began:.0f} s"
            print(f"{PART}: repetition {repetition + 1} of {chosen['repetitions']}, {took}", flush=True)


def _reckon(chosen: Mapping[str, Any], store: Store) -> None:
    """How much of attnbench's time is not its budget, so that it can be given as much less.

    Processes are started, prepared and ended besides; how long that takes depends on machine, shape and load.
    """
    todo = [(shape, load) for shape in chosen["shapes"] for load in chosen["loads"]]
    todo = [job for job in todo if "/".join(("beside", *job)) not in store]
    if not todo:
        return
    environment = process_environment(chosen["threads"], chosen["malloc"])
    with ZygoteSource(threads=chosen["threads"], malloc=chosen["malloc"]) as source:
        for shape, load in todo:
            budget_s = chosen["seconds"] / 2
            with competing(chosen["seed"], environment) if load == "loaded" else nullcontext():
                found = _sweep(source, shape, budget_s, chosen)
            store.append("/".join(("beside", shape, load)), {"seconds": found["wall_s"] - budget_s})


def _repeat(
    repetition: int, jobs: Sequence[tuple[str, str, str]], chosen: Mapping[str, Any], store: Store
) -> None:
    """One repetition. All its interpreters are started before anything is measured; then they wait."""
    environment = process_environment(chosen["threads"], chosen["malloc"])
    reckoned = dict(store.items())
    beside_s = {(shape, load): reckoned[f"beside/{shape}/{load}"]["seconds"] for shape, load, _ in jobs}
    with ExitStack() as stack:
        peers = {job: stack.enter_context(Peer(environment)) for job in jobs if job[2] in PEERS}
        source = stack.enter_context(ZygoteSource(threads=chosen["threads"], malloc=chosen["malloc"]))
        for peer in peers.values():
            peer.wait()
        for job in jobs:
            shape, load, tool = job
            # The same load for every tool, and another one for every repetition.
            seed = chosen["seed"] + repetition
            budget_s = chosen["seconds"] - beside_s[shape, load]
            with competing(seed, environment) if load == "loaded" else nullcontext():
                if tool in PEERS:
                    found = _ask(peers[job], job, chosen)
                else:
                    found = _sweep(source, shape, budget_s, chosen)
            entry = {"repetition": repetition, "shape": shape, "load": load, "tool": tool, **found}
            store.append("/".join((str(repetition), *job)), entry)
            if tool in PEERS:
                peers[job].close()


def _ask(peer: Peer, job: tuple[str, str, str], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The ratios of the medians and of the fastest that a peer reports; half the time for each kernel."""
    shape, _, tool = job
    request = {
        "peer": tool,
        "kernels": {name: [workload(shape).to_json(), name, {}] for name in (ANCHOR, CASE)},
        "seed": chosen["seed"],
        "threads": chosen["threads"],
        "seconds": [chosen["seconds"] / 2],
        "precision": 0,
    }
    answer = peer.measure(request, deadline_s=60 + 20 * chosen["seconds"])
    kernels = answer["kernels"]
    seconds = {name: median(each["per_call_s"]) for name, each in kernels.items()}
    return {
        "ratio": seconds[ANCHOR] / seconds[CASE],
        "ratio_of_fastest": min(kernels[ANCHOR]["per_call_s"]) / min(kernels[CASE]["per_call_s"]),
        "anchor_s": seconds[ANCHOR],
        "case_s": seconds[CASE],
        "wall_s": answer["wall_s"],
        "calls": sum(each["calls"] * len(each["per_call_s"]) for each in kernels.values()),
    }


def _sweep(source: ZygoteSource, shape: str, budget_s: float, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The speed-up that attnbench reports, of a sweep that samples both cases for `budget_s` together.

    Of its time, all that sampling costs counts: starting and ending its processes, preparing, warming up,
    verifying. Inspecting and judging, which no peer does, are left out.
    """
    processes = chosen["processes"]
    text = SCENARIO.format(
        anchor=ANCHOR,
        case=CASE,
        shape=SHAPES[shape],
        max_seconds=max(0.01, budget_s / 2),
        **{key: chosen[key] for key in ("processes", "threads", "malloc", "seed")},
    )
    scenario = scenarios.parse(text, "ratios.yaml")
    (block,) = scenario.expand(source.hello["catalogue"])
    times: list[float] = []
    records = measure_block(scenario, block, source, progressed=lambda _: times.append(monotonic()))
    rows = table.from_records(records, PART).to_dict("records")
    row, anchor = (next(row for row in rows if row["implementation"] == name) for name in (CASE, ANCHOR))
    for each in (row, anchor):
        if each["status"] != "ok":
            raise RuntimeError(f"{each['case_id']}: {each['status']}: {each['reason']}")
    return {
        "ratio": float(row["speedup"]),
        "ratio_of_fastest": float(anchor["latency_min_s"] / row["latency_min_s"]),
        "anchor_s": float(anchor["latency_median_s"]),
        "case_s": float(row["latency_median_s"]),
        "wall_s": times[-1] - times[-1 - processes],  # a time at the end of each process, the last steps
        "calls": sum(each.calls * len(each.rounds) for record in records for each in record.processes),
    }


def section(folder: Path) -> Section:
    """What `folder` holds, for the page."""
    return _ratios_section.section(Store.read(folder, PART))
