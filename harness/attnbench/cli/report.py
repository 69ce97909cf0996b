"""`attnbench report`: the report of runs, again or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from attnbench.cli.options import json_option, report_directory
from attnbench.cli.output import clean, print_json
from attnbench.errors import RunError

__all__ = ["default_directory", "report", "write_report"]


@click.command(short_help="Write the report of runs: HTML, Markdown, figures, tables.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@report_directory("-o", "--out")
@json_option
def report(runs: tuple[Path, ...], report_directory: Path | None, as_json: bool) -> None:
    """Write the report of one or several RUNs (folders that sweeps wrote) into one folder.

    It holds index.html (all in one file, opens offline), summary.md for a pull request, the figures as SVG
    and PNG, table.csv and table.parquet. Two reports of the same runs are byte-identical.

    \b
    Examples:
      attnbench report results/quick-20260102-030405
      attnbench report results/monday results/tuesday -o reports/both
    """
    page = write_report(runs, report_directory)
    if as_json:
        print_json({"report": str(page), "runs": [str(run) for run in runs]})
    else:
        click.echo(clean(str(page)))


def default_directory(run_ids: Sequence[str]) -> Path:
    """Where the report of runs goes unless told otherwise."""
    return Path("reports") / "+".join(run_ids)


def write_report(runs: Sequence[Path], directory: Path | None) -> Path:
    """Write the report of `runs` and return the page to open.

    Raises:
        RunError: a folder is no run, holds no records, or the report cannot be written.
    """
    from attnbench import report, store, table
    from attnbench.pairs import Pairs

    read = [store.read(run) for run in runs]
    for each in read:
        if not each.records:
            raise RunError(
                f"{each.path}: holds no records yet; measure with: attnbench sweep --resume {each.path}"
            )
    target = directory or default_directory([each.run_id for each in read])
    try:
        report.write(table.from_runs(read), [each.header for each in read], target, Pairs.of(read))
    except OSError as error:
        raise RunError(
            f"the report cannot be written to {target}: {error.strerror or error}; "
            "choose another folder with -o (what was measured is safe)"
        ) from error
    return target / "index.html"
