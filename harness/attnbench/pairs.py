"""Two cases of a block compared by their own paired ratio, from the raw samples of the rounds both were in.

A table cannot tell two rows apart: cases leave the rounds at different times, so that latencies, and
speed-ups over a third, come of different rounds; where a process drifts, identical kernels then differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from attnbench import stats, table
from attnbench.record import Record
from attnbench.stats import Estimate
from attnbench.store import Run

__all__ = ["FEWEST_PROCESSES", "LEVEL", "Pairs"]

#: Confidence of one comparison. A report makes many, and each may be the one that chance decides.
LEVEL = 0.99

#: What sets processes apart (memory layout, placement) is as large as many a difference between kernels, and
#: one process alone says nothing of it.
FEWEST_PROCESSES = 2

Row = Mapping[str, Any]


class Pairs:
    """The samples behind a table's rows, found by the run's name in the table, scenario and case."""

    def __init__(self, records: Mapping[tuple[str, str, str], Record]) -> None:
        self._records = dict(records)

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Self:
        """Those of the table that `table.load` makes of the same runs.

        Raises:
            RunError: a run is given twice.
        """
        named = zip(table.run_names(runs), runs, strict=True)
        return cls({(name, r.scenario, r.case_id): r for name, run in named for r in run.records})

    def ratio(self, a: Row, b: Row) -> Estimate | None:
        """How many times faster `b` is than `a` (above 1: faster), with its 99% interval.

        Of rounds that both have in the same process. None unless both are ok, of one block and attempt, and
        `FEWEST_PROCESSES` have common rounds; its interval is None with too few of those.
        """
        first, second = self._record(a), self._record(b)
        if first is None or second is None or not _side_by_side(a, first, b, second):
            return None
        shared = sum(
            not set(one.rounds).isdisjoint(other.rounds)
            for one, other in zip(first.processes, second.processes, strict=False)
        )
        if shared < FEWEST_PROCESSES:
            return None
        return stats.speedup(first.processes, second.processes, level=LEVEL)

    def faster(self, a: Row, b: Row) -> bool:
        """Whether `a` is faster than `b` beyond doubt: the whole interval of their ratio says so."""
        estimate = self.ratio(b, a)
        return estimate is not None and estimate.interval is not None and estimate.interval.low > 1

    def distinct(self, a: Row, b: Row) -> bool:
        """Whether the rows are told apart: the interval of their ratio excludes 1."""
        return self.faster(a, b) or self.faster(b, a)

    def _record(self, row: Row) -> Record | None:
        return self._records.get((str(row["run_id"]), str(row["scenario"]), str(row["case_id"])))


def _side_by_side(a: Row, first: Record, b: Row, second: Record) -> bool:
    """Whether samples of equal process and round were taken together."""
    return (
        first.status == second.status == "ok"
        and a["run_id"] == b["run_id"]
        and all(getattr(first, name) == getattr(second, name) for name in ("scenario", "block_id", "attempt"))
    )
