"""`attnbench show`: a run again in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench.cli.options import json_option
from attnbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from attnbench.cli.cells import Row
    from attnbench.report.findings import Finding

__all__ = ["show"]

#: What `--status` takes: the table's statuses, `wrong` for what ran but failed its verdict, and `flagged` for
#: what is faster than the machine can be.
STATUSES = ("ok", "wrong", "flagged", "unsupported", "unavailable", "oom", "timeout", "crashed", "error")


@click.command(short_help="Show a run again in the terminal, filtered and sorted.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--impl",
    "implementations",
    metavar="NAME",
    multiple=True,
    help="Show this implementation only, by name or as it is labelled. Repeatable.",
)
@click.option(
    "--status",
    "statuses",
    type=click.Choice(STATUSES),
    multiple=True,
    help="Show cases of this status only. Repeatable.",
)
@click.option(
    "--sort", metavar="COLUMN", help="Sort by this column of the table (docs/columns.md), ascending."
)
@json_option
def show(
    run: Path,
    implementations: tuple[str, ...],
    statuses: tuple[str, ...],
    sort: str | None,
    as_json: bool,
) -> None:
    """Show the table of RUN (a folder that a sweep wrote) and what is found in the cases shown.

    `ok` is what ran and was neither found wrong nor flagged; what is not known is sorted to the end.

    \b
    Examples:
      attnbench show results/quick-20260102-030405
      attnbench show results/quick-20260102-030405 --impl sdpa --impl naive --sort kv_len
      attnbench show results/quick-20260102-030405 --status wrong --status crashed
    """
    from attnbench import store, table
    from attnbench.cli import cells
    from attnbench.cli.output import print_json
    from attnbench.report.conditions import conditions
    from attnbench.report.facts import precisions
    from attnbench.report.findings import findings

    frame = _sorted(_chosen(table.load(run), implementations, statuses), sort)
    rows = cells.rows_of(frame)
    headers = [store.read(run).header]
    found = [*conditions(headers), *findings(frame, precisions(headers))] if rows else []
    if as_json:
        print_json(
            {
                "run": str(run),
                "cases": len(rows),
                "findings": [
                    {"kind": each.kind, "text": each.text, "serious": each.serious} for each in found
                ],
                "rows": rows,
            }
        )
    else:
        _print(rows, found)


def _print(rows: Sequence[Row], found: Sequence[Finding]) -> None:
    from attnbench.cli import terminal
    from attnbench.cli.results import print_results

    if not rows:
        click.echo("No case of the run is like that.")
        return
    print_results(rows, terminal.console())
    terminal.print_findings(found)


def _chosen(frame: pd.DataFrame, implementations: Sequence[str], statuses: Sequence[str]) -> pd.DataFrame:
    """The rows of these implementations and statuses; of all where none is given.

    Raises:
        UsageError: the run has no such implementation.
    """
    from attnbench.cli.cells import rows_of
    from attnbench.report import cells

    rows = rows_of(frame)
    names = [{row["implementation"], cells.implementation(row)} for row in rows]
    known = set().union(*names)
    for each in implementations:
        if each not in known:
            raise _no_such("implementation", each, sorted(known))
    wanted = set(implementations)
    kept = [
        (not wanted or bool(wanted & own)) and (not statuses or bool(_states(row) & set(statuses)))
        for row, own in zip(rows, names, strict=True)
    ]
    return frame[kept]


def _states(row: Row) -> set[str]:
    """Which of `STATUSES` the row has: what is too fast to be true is often wrong as well."""
    from attnbench.cli.cells import accuracy_failed

    doubts = {"wrong": accuracy_failed(row), "flagged": bool(row.get("flagged"))}
    return {name for name, holds in doubts.items() if holds} or {str(row["status"])}


def _sorted(frame: pd.DataFrame, column: str | None) -> pd.DataFrame:
    """The rows by a column, equal ones in the table's order.

    Raises:
        UsageError: the table has no such column.
    """
    if column is None:
        return frame
    if column not in frame.columns:
        raise _no_such("column", column, list(frame.columns))
    return frame.sort_values(column, kind="stable", na_position="last")


def _no_such(what: str, given: str, known: Sequence[str]) -> UsageError:
    from difflib import get_close_matches

    near = get_close_matches(given, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return UsageError(f"the run has no {what} {given!r}; {hint}")
