"""The check itself: implementations judged over their grids, in benches that a bad kernel may take down.

One bench judges many workloads, another one, whose memory is poisoned, many more; each is replaced when it
is lost. The implementations of one workload come one after the other, so that its reference is computed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.case import Case, Variant
from attnbench.conformance.grid import full_grid, pairwise_grid
from attnbench.judging import Judge, Seat, Trial
from attnbench.protocol import BenchSource
from attnbench.workload import Workload

__all__ = ["DEADLINE_S", "STATUSES", "Result", "check", "grids"]

#: What may be said of an implementation and a workload. All but the first, `unsupported` and `unavailable`
#: mean that it does not conform.
STATUSES = ("pass", "fail", "unsupported", "unavailable", "oom", "timeout", "crashed", "error")

#: How long each verb may take. Every workload is small: a kernel takes milliseconds, a compiler seconds.
DEADLINE_S = 60.0

#: An implementation that has taken too long so often is not asked again.
MOST_TIMEOUTS = 3

#: Whoever answers so when asked what it supports would answer so to every question.
HOPELESS = ("unavailable", "timeout", "crashed", "oom")


@dataclass(frozen=True, slots=True)
class Result:
    """What was found of one implementation on one workload; `reason` tells why it is not a pass.

    `error_ratio` is the error as a share of its bound, times 2 (up to 2 passes); None where there is none, or
    none that is finite.
    """

    case: Case
    status: str
    reason: str | None = None
    error_ratio: float | None = None

    @property
    def implementation(self) -> str:
        """The implementation's label, with its options."""
        return self.case.variant.label

    @property
    def failed(self) -> bool:
        """Whether it shows that the implementation does not conform."""
        return self.status not in ("pass", "unsupported", "unavailable")

    @classmethod
    def of(cls, trial: Trial) -> Result:
        """What a trial came to."""
        if not trial.alive:
            return cls(trial.case, trial.status, trial.reason)
        if trial.accuracy is None:
            return cls(trial.case, "error", trial.reason)
        verdict = trial.accuracy
        return cls(trial.case, verdict["accuracy"], verdict["reason"], verdict["error_ratio"])

    def to_json(self) -> dict[str, Any]:
        """A row of `attnbench conformance --json`."""
        return {
            "implementation": self.implementation,
            "case_id": self.case.case_id,
            "device": self.case.device,
            "workload": self.case.workload.to_json(),
            "label": self.case.workload.label,
            "status": self.status,
            "reason": self.reason,
            "error_ratio": self.error_ratio,
        }


def grids(
    variants: Sequence[Variant],
    source: BenchSource,
    *,
    device: str = "cpu",
    seed: int = 0,
    full: bool = False,
) -> dict[Variant, list[Workload]]:
    """Each variant's workloads: its operation's pairwise grid (or full one), completed for what it supports.

    Raises:
        MeasuringError: no benches can be had.
    """
    make = full_grid if full else pairwise_grid
    operations = {info["name"]: info["operation"] for info in source.hello["catalogue"]}
    judge = Judge(source, seed, None, DEADLINE_S)
    found = {}
    for variant in variants:
        with Seat(source) as seat:
            asked = _Asked(judge, seat, variant, device)
            found[variant] = make(asked.supports, operations[variant.implementation])
    return found


class _Asked:
    """Asks, once a workload, whether a variant can run it; one that cannot at all is not asked on."""

    def __init__(self, judge: Judge, seat: Seat, variant: Variant, device: str) -> None:
        self._judge = judge
        self._seat = seat
        self._variant = variant
        self._device = device
        self._known: dict[Workload, bool] = {}
        self._hopeless = False

    def supports(self, workload: Workload) -> bool:
        if workload not in self._known:
            trial = Trial(Case(self._variant, workload, self._device))
            if not self._hopeless:
                self._judge.ask([trial], self._seat)
            self._hopeless |= trial.status in HOPELESS
            self._known[workload] = trial.alive and not self._hopeless
        return self._known[workload]


def check(
    workloads: Mapping[Variant, Sequence[Workload]],
    source: BenchSource,
    *,
    device: str = "cpu",
    seed: int = 0,
    threads: int | None = None,
    deadline_s: float = DEADLINE_S,
) -> Iterator[Result]:
    """Judge every variant on each of its workloads: one result each, as soon as it is known.

    `seed` draws inputs and masks. With `threads` None kernels have as many as the source's benches.

    Raises:
        MeasuringError: no benches can be had.
    """
    judge = Judge(source, seed, threads, deadline_s, own_precision=True)
    timeouts: Counter[Variant] = Counter()
    variants_of: dict[Workload, list[Variant]] = {}
    for variant, grid in workloads.items():
        for workload in grid:
            variants_of.setdefault(workload, []).append(variant)
    with Seat(source) as plain, Seat(source) as poisoned:
        for workload, variants in variants_of.items():
            trials = [Trial(Case(variant, workload, device)) for variant in variants]
            for trial in trials:
                if timeouts[trial.case.variant] >= MOST_TIMEOUTS:
                    trial.status = "timeout"
                    trial.reason = f"not tried: {MOST_TIMEOUTS} workloads before this one took too long"
            judge.ask(trials, plain)
            judge.judge(trials, plain)
            judge.poison(trials, poisoned)
            for trial in trials:
                timeouts[trial.case.variant] += trial.status == "timeout"
                yield Result.of(trial)
