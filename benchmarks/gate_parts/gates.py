"""Real whole gates: fresh zygotes each, one small case, what `attnbench check` does from beginning to end.

Kinds of gates take turns, so that whatever time there is, all kinds have data, from all of that time.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

from attnbench import scenario as scenarios
from attnbench.case import Block, Case
from attnbench.driver import ZygoteSource, memory_limit
from attnbench.driver.pinned import process_environment
from attnbench.errors import AttnbenchError
from attnbench.gate import arms
from attnbench.gate.check import check
from attnbench.gate.pairing import Times
from attnbench.gate.timing import BASE, CONTROL, HEAD
from attnbench.gate.verdict import Latency, Outcome, Report, Series
from attnbench.scenario import Scenario
from gate_parts import Store, kernels
from gate_parts.kernels import Version
from published.competitor import PHASE_S, competing

__all__ = ["KINDS", "KIND_NAMES", "PART", "UNIT_S", "Kind", "measure", "plan"]

PART = "gates"

#: Rounds of each process that are kept for others' rules: pyperf takes three values of each, too.
KEPT_ROUNDS = 3

#: Times are kept in units of so many seconds: a few hundredths of a per cent of what a call takes.
UNIT_S = 1e-7


@dataclass(frozen=True, slots=True)
class Kind:
    """`count` gates, of `gate`, of `head` against the plain kernel, beside a load or not.

    `expected` is the outcome of a gate that does what it is for, None where only the rate is told.
    """

    head: Version
    count: int
    expected: Outcome | None
    loaded: bool = False
    gate: float = 0.10


KINDS: Mapping[str, Kind] = {
    "aa": Kind(Version(), 300, Outcome.PASS),
    "plus10": Kind(Version(extra=2), 20, Outcome.FAIL),
    "plus5": Kind(Version(extra=1), 6, None),
    "aa-gate5": Kind(Version(), 10, Outcome.PASS, gate=0.05),
    "plus10-gate5": Kind(Version(extra=2), 10, Outcome.FAIL, gate=0.05),
    "aa-loaded": Kind(Version(), 15, Outcome.PASS, loaded=True),
    "plus10-loaded": Kind(Version(extra=2), 8, Outcome.FAIL, loaded=True),
    "bytes": Kind(Version(defect="bytes"), 2, Outcome.FAIL),
    "error": Kind(Version(defect="error"), 2, Outcome.FAIL),
    "nan": Kind(Version(defect="nan"), 2, Outcome.FAIL),
    "crash": Kind(Version(defect="crash"), 2, Outcome.FAIL),
}

#: As the page calls them.
KIND_NAMES: Mapping[str, str] = {
    "aa": "A/A",
    "plus10": "+10% work",
    "plus5": "+5% work",
    "aa-gate5": "A/A, 5% gate",
    "plus10-gate5": "+10% work, 5% gate",
    "aa-loaded": "A/A, loaded",
    "plus10-loaded": "+10% work, loaded",
    "bytes": "a temporary of 1 MiB more",
    "error": "output × 1.001",
    "nan": "NaN in the last row",
    "crash": "the head crashes",
}

#: What decides about the data: with other settings they are others.
SETTINGS: Mapping[str, Any] = {
    "shape": {"heads": kernels.HEADS, "head_dim": kernels.HEAD_DIM, "seq_len": kernels.SEQ_LEN},
    "check": {"gate": 0.10},
    "threads": 1,
    "malloc": "pinned",
    "phase_s": list(PHASE_S),
    "kept_rounds": KEPT_ROUNDS,
    "kinds": {
        name: {
            "extra_heads": kind.head.extra,
            "defect": kind.head.defect,
            "loaded": kind.loaded,
            "gate": kind.gate,
        }
        for name, kind in KINDS.items()
    },
}


def plan(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Which gate comes when: each kind spread evenly over the whole."""
    places = [
        ((number + 0.5) / count, kind, number) for kind, count in counts.items() for number in range(count)
    ]
    return [(kind, number) for _, kind, number in sorted(places)]


def measure(folder: Path, counts: Mapping[str, int], *, go_on: Callable[[], bool]) -> None:
    """Play the gates of `plan(counts)` that are missing in `folder`, while `go_on()`."""
    store = Store.open(folder, PART, SETTINGS)
    todo = [(kind, number) for kind, number in plan(counts) if f"{kind}/{number}" not in store]
    if not todo:
        return
    with tempfile.TemporaryDirectory() as files:
        bench = _Workbench(Path(files))
        for done, (kind, number) in enumerate(todo, start=1):
            if not go_on():
                break
            entry = bench.gate(KINDS[kind], number)
            store.append(f"{kind}/{number}", {"kind": kind, **entry})
            told = f"{entry['outcome']} after {entry['wall_s']:.1f} s: {entry['text']}"
            print(f"{done} of {len(todo)}: {kind}/{number}: {told}", flush=True)


def scenario_of(settings: Mapping[str, Any], names: Sequence[str], seed: int) -> Scenario:
    """One case for each of `names`."""
    text = {
        "name": "gate",
        "operation": "attention",
        "implementations": list(names),
        "matrix": {**settings["shape"], "dtype": kernels.DTYPE},
        "measure": {"threads": settings["threads"], "malloc": settings["malloc"], "seed": seed},
        "check": dict(settings["check"]),
    }
    return scenarios.parse(json.dumps(text), "gate.yaml")


def _opener(arm: arms.Arm, scenario: Scenario) -> Callable[[], ZygoteSource]:
    """Opens fresh sources of an arm, as the command line does."""
    measure = scenario.measure

    def opened() -> ZygoteSource:
        return arm.open(
            threads=measure.threads_count(),
            malloc=measure.malloc,
            memory_limit_bytes=memory_limit(scenario.limits.memory_fraction),
            wait=False,
        )

    return opened


class _Workbench:
    """Where plug-in files are written and gates are played."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = process_environment(SETTINGS["threads"], SETTINGS["malloc"])
        self._base = kernels.write(Version(), folder / "base.py")

    @cached_property
    def _catalogue(self) -> Sequence[Mapping[str, Any]]:
        with ZygoteSource(plugins=[self._base], threads=SETTINGS["threads"]) as source:
            return source.hello["catalogue"]

    def gate(self, kind: Kind, number: int) -> dict[str, Any]:
        """One gate, as it is kept."""
        head = kernels.write(kind.head, self._folder / "head.py")
        settings = {**SETTINGS, "check": {"gate": kind.gate}}
        scenario = scenario_of(settings, kernels.NAMES, seed=number)
        blocks: list[Block] = scenario.expand(self._catalogue)
        kept = _Kept()
        began_at = datetime.now(UTC).isoformat(timespec="seconds")
        with self._load(number) if kind.loaded else ExitStack():
            began = monotonic()
            with self._arm("--base", self._base) as base, self._arm("--head", head) as other:
                openers = [_opener(arm, scenario) for arm in (base, other)]
                try:
                    found = _entry(check(scenario, blocks, *openers, observer=kept))
                except AttnbenchError as error:  # a gate that breaks is one that is wrong
                    found = {"outcome": "ERROR", "text": str(error), "changes": [], "latency": None}
            wall_s = monotonic() - began
        return {"began": began_at, "wall_s": round(wall_s, 2), **found, "times": kept.times()}

    @contextmanager
    def _arm(self, option: str, plugin: Path) -> Iterator[arms.Arm]:
        with arms.prepared(arms.resolve(str(plugin), option=option)) as arm:
            yield arm

    @contextmanager
    def _load(self, seed: int) -> Iterator[None]:
        """A competing process a core, each with phases of its own."""
        cores = len(os.sched_getaffinity(0))
        with ExitStack() as stack:
            for core in range(cores):
                stack.enter_context(competing(cores * seed + core, self._environment))
            yield


@dataclass(slots=True)
class _Kept:
    """Listens to a gate, and keeps the first rounds of the pairs of the first test.

    `pairs[i]` are the times of the base in pair i, then those of the head.
    """

    pairs: list[list[int]] = field(default_factory=list)

    def phase(self, text: str) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def decided(self, case: Case, outcome: Outcome, text: str) -> None: ...

    def pair(self, case: Case, times: Times) -> None:
        if CONTROL in times.by_round:
            return
        rounds = times.common(BASE, HEAD)[:KEPT_ROUNDS]
        self.pairs.append([round(pair[arm] / UNIT_S) for arm in range(2) for pair in rounds])

    def times(self) -> dict[str, Any] | None:
        """The least of all times in `UNIT_S`, and how far each is above it; None where nothing was timed."""
        if not self.pairs:
            return None
        least = min(min(pair) for pair in self.pairs)
        return {"least": least, "above": [[time - least for time in pair] for pair in self.pairs]}


def _entry(report: Report) -> dict[str, Any]:
    (verdict,) = report.cases
    return {
        "outcome": str(report.outcome),
        "text": verdict.text,
        "timed_s": round(report.timed_s, 2),
        "changes": [[change.metric, str(change.outcome)] for change in verdict.changes],
        "latency": None if verdict.latency is None else _latency(verdict.latency),
    }


def _latency(latency: Latency) -> dict[str, Any]:
    tests = {"first": latency.first, "again": latency.again, "control": latency.control}
    return {
        "outcome": str(latency.outcome),
        "reason": latency.reason,
        "base_us": round(1e6 * latency.base_s, 2),
        "head_us": round(1e6 * latency.head_s, 2),
        **{name: None if series is None else _series(series) for name, series in tests.items()},
    }


def _series(series: Series) -> dict[str, Any]:
    return {
        "verdict": str(series.verdict),
        "slower": series.slower,
        "within": series.within,
        "d": [round(d, 4) for d in series.d],
    }
