"""The cases of one run, each with its samples, its row of the table and its anchor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench import table
from attnbench.errors import RunError
from attnbench.plots.rows import Row, rows_of
from attnbench.record import Record
from attnbench.store import Run

__all__ = ["Key", "Measured", "Side", "measured_runs"]

#: What names a case within a run: scenario and case id.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Side:
    """A case as one run has it; `anchor` is what its speed-up is relative to, None where there is none."""

    record: Record
    row: Row
    anchor: Side | None

    @property
    def key(self) -> Key:
        """What names it within its run."""
        return self.record.scenario, self.record.case_id


@dataclass(frozen=True, slots=True)
class Measured:
    """A run as it is compared: its name, what run.json says, and its cases in order of appearance."""

    name: str
    path: str
    header: Mapping[str, Any]
    cases: Mapping[Key, Side]

    @property
    def environment(self) -> Mapping[str, Any]:
        """The fingerprint of where it was measured; empty where the header has none."""
        found = self.header.get("environment")
        return found if isinstance(found, Mapping) else {}


def measured_runs(runs: Sequence[Run]) -> list[Measured]:
    """The runs with their tables' rows; each named as the table names it.

    Raises:
        RunError: a run is given twice, holds no records, or has corrupted ceilings.
    """
    names = table.run_names(runs)
    for run in runs:
        if not run.records:
            raise RunError(
                f"{run.path}: holds no records yet; measure with: attnbench sweep --resume {run.path}"
            )
    found: dict[str, dict[Key, Row]] = {name: {} for name in names}
    for row in rows_of(table.from_runs(runs)):
        found[row["run_id"]][row["scenario"], row["case_id"]] = row
    return [
        Measured(name, str(run.path), run.header, _sides(run.records, found[name]))
        for name, run in zip(names, runs, strict=True)
    ]


def _sides(records: Sequence[Record], rows: Mapping[Key, Row]) -> dict[Key, Side]:
    known = {(record.scenario, record.case_id): record for record in records}

    def side(record: Record, anchor: Side | None) -> Side:
        return Side(record, rows[record.scenario, record.case_id], anchor)

    sides = {}
    for key, record in known.items():
        anchor = None if record.anchor is None else known.get((record.scenario, record.anchor))
        sides[key] = side(record, None if anchor is None else side(anchor, None))
    return sides
