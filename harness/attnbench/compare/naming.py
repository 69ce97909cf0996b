"""What the workloads of a comparison are called: by what sets them apart from the others in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attnbench.compare.comparison import Against
from attnbench.plots.rows import Row, usual, workload_label

__all__ = ["naming"]


def naming(comparisons: Sequence[Against], *, alone: bool = False) -> Callable[[Row], str]:
    """A function that names a case's workload: `L512, causal`, without what most of them share.

    It is for cases in both runs; with `alone` for all, so that more may be told of each. The scenario is
    named only where a run holds several: it may have been renamed from run to run.
    """
    rows = [case.either.row for against in comparisons for case in (against.cases if alone else against.both)]
    known = usual(rows)
    one_each = all(
        len({scenario for scenario, _ in run.cases}) == 1
        for against in comparisons
        for run in (against.before, against.after)
    )

    def name(row: Row) -> str:
        own = {"run_id": row.get("run_id")}
        if one_each:
            own["scenario"] = row.get("scenario")
        return workload_label(row, {**known, **own})

    return name
