"""`attnbench export`: a run's table for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from attnbench.errors import UsageError

__all__ = ["export"]


@click.command(short_help="Write a run's table for other tools: CSV, Parquet, JSON.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_", type=click.Choice(["csv", "parquet", "json"]), required=True, help="What to write."
)
@click.option(
    "-o",
    "--out",
    "target",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; without it csv and json go to stdout.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
def export(run: Path, format_: str, target: Path | None, force: bool) -> None:
    """Write the table of RUN (a folder that a sweep wrote): a row a case, units in the columns' names.

    csv has a header line; json is a list of objects, with null for what is not known; parquet is binary and
    needs -o.

    \b
    Examples:
      attnbench export results/quick-20260102-030405 --format csv > quick.csv
      attnbench export results/quick-20260102-030405 --format json | jq '.[].latency_median_s'
      attnbench export results/quick-20260102-030405 --format parquet -o quick.parquet
    """
    if format_ == "parquet" and target is None:
        raise UsageError(
            f"parquet is binary and does not go to stdout: name a file, such as -o {run.name}.parquet"
        )
    from attnbench import table
    from attnbench.export import export as convert

    data = convert(table.load(run), format_, target, overwrite=force)
    if target is None:
        click.echo(data, nl=False)
