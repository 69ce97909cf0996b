"""What a terminal says of a row of the table, beyond the cells that all reports share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attnbench.cli.output import clean, jsonable
from attnbench.report import cells

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FAILURES", "Row", "accuracy_failed", "case_line", "duration", "failed", "rows_of"]

Row = Mapping[str, Any]

#: Statuses that `--strict` counts as failures. What a kernel never claimed to do (`unsupported`) and what
#: this machine lacks (`unavailable`) are answers, not failures.
FAILURES = ("oom", "timeout", "crashed", "error")


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table with plain values; what is not known is None."""
    return [jsonable(row) for row in frame.to_dict(orient="records")]


def failed(row: Row) -> bool:
    """Whether `--strict` counts the case as failed: it broke, or its answer is wrong."""
    return row.get("status") in FAILURES or accuracy_failed(row)


def accuracy_failed(row: Row) -> bool:
    """Whether the kernel's answer was found wrong."""
    return row.get("accuracy") == "fail"


def case_line(row: Row) -> str:
    """One line that says all of a finished case."""
    where = " ".join([cells.shape(row), *(str(row[name]) for name in ("dtype", "mask", "pass", "device"))])
    head = f"{cells.implementation(row):<20} {clean(where)}"
    if row["status"] != "ok":
        return f"{head}  {row['status']}: {clean(str(row.get('reason') or 'no reason given'))}"
    figures = [
        cells.with_interval(cells.latency(row), cells.latency_interval(row)),
        cells.speedup(row),
        cells.memory(row),
        f"error {cells.error(row)} ({cells.ratio(row)})",
    ]
    verdict = cells.status(row)
    if row.get("reason") and verdict != "ok":  # of an ok row it is what `≥` before its memory says
        verdict += f": {clean(str(row['reason']))}"
    return "  ".join([head, *figures, verdict])


def duration(seconds: float) -> str:
    """A length of time as people say it: `45 s`, `1 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
