"""What the self-test measures: scenarios of one block each, over the kernels of `truths`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.doctor import truths
from attnbench.doctor.comparisons import DURATIONS
from attnbench.scenario import Scenario, parse

__all__ = ["CYCLES", "TRUTHS", "Experiment", "experiments"]

#: The plug-in file that declares the kernels.
TRUTHS = Path(truths.__file__).resolve()

#: A duration that is off is measured so often in all: bursts of other work pass, a wrong clock stays.
DURATION_ATTEMPTS = 3

#: What a kernel spins for on a GPU: a few milliseconds.
CYCLES = 4_000_000

#: Base size of the blocks that the memory kernels hold; with both passes they hold nearly twice as much.
FORWARD_MIB, BOTH_PASSES_MIB = 32, 16

#: What is held past the framework's allocator: more than what is put down to pages, stacks and tables, and
#: less than the 64 MiB from which on glibc always gives back to the system what a thread frees.
FOREIGN_MIB = 48

#: What is kept from call to call.
KEPT_MIB = 16

#: Over a single key, attention returns v.
_SINGLE_KEY = {"heads": 1, "head_dim": 8, "seq_len": 1}
_SINGLE_KEY_BOTH_PASSES = {**_SINGLE_KEY, "pass": "forward_backward"}

#: Small, but with an output whose norm has room for the known errors.
_FEW_KEYS = {"heads": 4, "head_dim": 32, "seq_len": 64}

#: For what is not about time.
_ONCE = {"processes": 1, "max_seconds": 0.01}


@dataclass(frozen=True, slots=True)
class Experiment:
    """A scenario of one block, which is measured up to `attempts` times, until none of its checks fails."""

    scenario: Scenario
    attempts: int = 1


def experiments(device: str) -> list[Experiment]:
    """All of the self-test on `device` (`cpu`, `cuda`, `cuda:1`, …)."""
    return _on_cpu() if device.split(":")[0] == "cpu" else _on_gpu(device)


def _on_cpu() -> list[Experiment]:
    """Each block has what it needs: durations several processes, equals many, all else one and no time."""
    durations = {"truth_duration": {"microseconds": list(DURATIONS)}}
    forward = _holding(FORWARD_MIB, "torch", "numpy")
    unseen = [{"truth_foreign_memory": {"mib": FOREIGN_MIB}}, {"truth_kept_memory": {"mib": KEPT_MIB}}]
    both = _holding(BOTH_PASSES_MIB, "torch", "numpy")
    equals = ["truth_one", "truth_other"]
    timed = _scenario("durations", "cpu", [durations], _SINGLE_KEY, processes=3, max_seconds=0.3)
    return [
        Experiment(timed, DURATION_ATTEMPTS),
        Experiment(_scenario("memory", "cpu", forward + unseen, _SINGLE_KEY, **_ONCE)),
        Experiment(_scenario("memory-of-both-passes", "cpu", both, _SINGLE_KEY_BOTH_PASSES, **_ONCE)),
        Experiment(_scenario("errors", "cpu", ["truth_exact", "truth_wrong"], _FEW_KEYS, **_ONCE)),
        Experiment(_scenario("equals", "cpu", equals, _FEW_KEYS, processes=8, max_seconds=1.0)),
    ]


def _on_gpu(device: str) -> list[Experiment]:
    """In few blocks, for every bench makes a context of its own; cold but where a duration is at stake.

    Of warm calls the energy is measured, too, which takes a second a case.
    """
    single_key = [{"truth_cuda_duration": {"cycles": CYCLES}}, *_holding(FORWARD_MIB, "torch")]
    both = _holding(BOTH_PASSES_MIB, "torch")
    rest = ["truth_one", "truth_other", "truth_exact", "truth_wrong"]
    cold = {**_ONCE, "cache": "cold"}
    timed = _scenario("duration-and-memory", device, single_key, _SINGLE_KEY, processes=1, max_seconds=0.3)
    passes = _scenario("memory-of-both-passes", device, both, _SINGLE_KEY_BOTH_PASSES, **cold)
    equals = _scenario("equals-and-errors", device, rest, _FEW_KEYS, **{**cold, "max_seconds": 0.3})
    return [Experiment(timed, DURATION_ATTEMPTS), Experiment(passes), Experiment(equals)]


def _holding(mib: int, *frameworks: str) -> list[object]:
    return [{f"truth_{framework}_memory": {"mib": mib}} for framework in frameworks]


def _scenario(
    name: str, device: str, implementations: Sequence[object], matrix: Mapping[str, Any], **measure: Any
) -> Scenario:
    """A scenario of one block, read as any other is: JSON is YAML."""
    document = {
        "name": f"self-test-{name}",
        "operation": "attention",
        "implementations": implementations,
        "devices": [device],
        "matrix": matrix,
        "measure": {"threads": 1, "precision": 0.001, **measure},
        "limits": {"seconds_per_case": 30},
    }
    return parse(json.dumps(document), f"the self-test's {name}")
