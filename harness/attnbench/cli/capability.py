"""Which cases could run here: asked in a bench, as implementations are imported nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.protocol import BenchFailed, BenchLost

if TYPE_CHECKING:
    from attnbench.case import Case
    from attnbench.protocol import Bench, BenchSource

__all__ = ["Answer", "Asker", "asking"]

#: Importing a framework and looking for a compiler take seconds, never minutes.
DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is None when the case could run; else a status of the table, with its reason."""

    status: str | None = None
    reason: str | None = None


class Asker:
    """Asks one bench after another: a question that kills a bench is answered, and the next one starts."""

    def __init__(self, source: BenchSource) -> None:
        self._source = source
        self._bench: Bench | None = None
        self._known: dict[str, Answer] = {}

    def ask(self, case: Case, *, seed: int = 0, threads: int | None = None) -> Answer:
        """Whether `case` could run here, and why not.

        Raises:
            MeasuringError: no bench can be had.
        """
        if case.case_id not in self._known:
            self._known[case.case_id] = self._prepare(
                {
                    "case": case.case_id,
                    "implementation": case.variant.implementation,
                    "options": dict(case.variant.options),
                    "workload": case.workload.to_json(),
                    "device": case.device,
                    "seed": seed,
                    "threads": threads,
                    "capability_only": True,
                },
            )
        return self._known[case.case_id]

    def _prepare(self, parameters: Mapping[str, object]) -> Answer:
        if self._bench is None:
            self._bench = self._source.bench()
        try:
            self._bench.request("prepare", parameters, DEADLINE_S)
        except BenchFailed as failure:
            if isinstance(failure, BenchLost):
                self.close()
            return Answer(failure.status, failure.reason)
        return Answer()

    def close(self) -> None:
        """End the bench in use. Can be called twice."""
        if self._bench is not None:
            bench, self._bench = self._bench, None
            bench.close()


@contextmanager
def asking(source: BenchSource) -> Iterator[Asker]:
    """An `Asker` whose bench ends with the block."""
    asker = Asker(source)
    try:
        yield asker
    finally:
        asker.close()
