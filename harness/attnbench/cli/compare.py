"""`attnbench compare`: runs case by case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnbench.cli.options import json_option
from attnbench.cli.output import clean
from attnbench.errors import UsageError

if TYPE_CHECKING:
    from attnbench.compare import Comparison

__all__ = ["compare"]


@click.command(short_help="Compare runs case by case: ratios with intervals, changes.")
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--impl",
    "implementations",
    metavar="NAME",
    multiple=True,
    help="Compare this implementation only, by name or as it is labelled. Repeatable.",
)
@click.option(
    "--sort",
    type=click.Choice(["latency", "memory", "error"]),
    help="Sort the terminal's table by this ratio, the worst first.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["markdown", "csv", "json"]),
    help="Print this on stdout in place of the terminal's tables.",
)
@json_option
@click.option(
    "-o",
    "--out",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a page, a summary, figures and tables into this folder as well.",
)
def compare(
    runs: tuple[Path, ...],
    implementations: tuple[str, ...],
    sort: str | None,
    format_: str | None,
    as_json: bool,
    directory: Path | None,
) -> None:
    """Compare every RUN (a folder that a sweep wrote) with the first one, case by case.

    First what differs around the runs, then the ratios after / before of latency, memory and error, and
    what appeared, disappeared or changed its status. Runs of different machines are compared by their
    speed-ups over the anchor.

    Runs were not measured side by side, so a machine that has drifted looks like a slower kernel: this
    informs and always exits with 0. `attnbench check` measures both at once and decides.

    \b
    Examples:
      attnbench compare results/monday results/tuesday
      attnbench compare results/main results/branch-a results/branch-b -o reports/branches
      attnbench compare results/monday results/tuesday --format markdown > comparison.md
    """
    if as_json and format_ not in (None, "json"):
        raise UsageError(f"--json and --format {format_} contradict each other; leave one of them out")
    from attnbench import store
    from attnbench.compare import compare as comparison_of

    found = comparison_of([store.read(run) for run in runs], implementations)
    for run in filter(store.being_written, runs):
        click.echo(f"{clean(str(run))} is being written: what it lacks may yet come", err=True)
    page = None if directory is None else _write(found, directory)
    answer = "json" if as_json else format_
    if answer is None:
        from attnbench.cli.comparison import print_comparison

        print_comparison(found, sort)
    else:
        click.echo(_document(found, answer), nl=False)
    if page is not None:
        click.echo(clean(str(page)), err=answer is not None)


def _write(found: Comparison, directory: Path) -> Path:
    from attnbench.report.comparison import write

    return write(found, directory)


def _document(found: Comparison, answer: str) -> str:
    from attnbench.report.comparison import document, summary, to_csv

    if answer == "markdown":
        return summary(found)
    if answer == "csv":
        return to_csv(found)
    return json.dumps(document(found), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
