"""A comparison as a table: one flat row for each case and run that is compared with the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnbench.columns import OCCASIONAL
from attnbench.compare.case import CaseComparison, Ratio
from attnbench.compare.comparison import Against, Comparison
from attnbench.compare.machine import arrow
from attnbench.compare.sides import Side

__all__ = ["COLUMNS", "RATIOS", "Row", "rows"]

Row = Mapping[str, Any]

#: The figures that are compared: their names in `CaseComparison`, and the unit that ends a column's name.
RATIOS: Mapping[str, str] = {
    "latency": "_s",
    "speedup": "",
    "peak_alloc": "_bytes",
    "peak_rss": "_bytes",
    "error_rel_l2": "",
    "error_max_abs": "",
}

_IDENTITY = (
    "scenario",
    "case_id",
    "operation",
    "implementation",
    "options",
    "device",
    "dtype",
    "pass",
    "mask",
    "batch",
    "heads",
    "kv_heads",
    "q_len",
    "kv_len",
    "head_dim",
    "v_head_dim",
    "inputs",
)

#: What stands at the end of a row, where some case of the comparison has it: the axes of modules.
_OF_MODULES = tuple(
    column.name
    for column in OCCASIONAL
    if column.name not in _IDENTITY and not column.name.startswith("flops")
)

#: Of either run: `status_before`, `status_after`, …
_OF_EITHER = ("status", "reason", "accuracy", "flagged", "device_name", "resolved_backend", "processes")

#: Every column of the table, in order, but those of modules.
COLUMNS: tuple[str, ...] = (
    "before",
    "after",
    *_IDENTITY,
    "verdict",
    "compared_by",
    "why",
    "changes",
    "conditions",
    *(
        name
        for figure, unit in RATIOS.items()
        for name in (
            f"{figure}_before{unit}",
            f"{figure}_after{unit}",
            f"{figure}_ratio",
            f"{figure}_ratio_ci_low",
            f"{figure}_ratio_ci_high",
            f"{figure}_note",
        )
    ),
    *(f"{name}_{when}" for name in _OF_EITHER for when in ("before", "after")),
)


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row for each case of each run after the first; the keys are `COLUMNS`, what is not known is None.

    `before` and `after` name the runs. A ratio is after / before: of latency, memory and error the smaller
    the better, of speed-up the larger. Where some case is of a module, the axes of modules follow.
    """
    cases = [(against, case) for against in comparison.against for case in against.cases]
    more = [name for name in _OF_MODULES if any(case.either.row.get(name) is not None for _, case in cases)]
    return [
        _row(against, case) | {name: case.either.row.get(name) for name in more} for against, case in cases
    ]


def _row(against: Against, case: CaseComparison) -> dict[str, Any]:
    of = case.either
    row: dict[str, Any] = {"before": against.before.name, "after": against.after.name}
    row |= {name: of.row.get(name) for name in _IDENTITY}
    row |= {
        "verdict": str(case.verdict),
        "compared_by": case.by,
        "why": case.why,
        "changes": "; ".join(case.changes) or None,
        "conditions": "; ".join(f"{name}: {arrow(a, b)}" for name, a, b in case.conditions) or None,
    }
    for figure, unit in RATIOS.items():
        row |= _ratio(figure, unit, getattr(case, figure))
    for name in _OF_EITHER:
        row |= {f"{name}_before": _value(case.before, name), f"{name}_after": _value(case.after, name)}
    return row


def _ratio(figure: str, unit: str, ratio: Ratio) -> dict[str, Any]:
    return {
        f"{figure}_before{unit}": ratio.before,
        f"{figure}_after{unit}": ratio.after,
        f"{figure}_ratio": ratio.value,
        f"{figure}_ratio_ci_low": ratio.interval.low if ratio.interval else None,
        f"{figure}_ratio_ci_high": ratio.interval.high if ratio.interval else None,
        f"{figure}_note": ratio.note,
    }


def _value(side: Side | None, name: str) -> Any:
    return None if side is None else side.row.get(name)
