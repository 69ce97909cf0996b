"""`attnbench export`: a run for other tools."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from attnbench.errors import UsageError
from attnbench.units import counted

__all__ = ["export"]


#: The formats of `attnbench.export`, which is imported when it is used.
FORMATS = ("csv", "parquet", "json", "pytest-benchmark")


@click.command(short_help="Write a run for other tools: tables, or pytest-benchmark's JSON.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--format", "format_", type=click.Choice(FORMATS), help="What to write.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "-o",
    "--out",
    "target",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; without it all goes to stdout.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@click.pass_context
def export(
    context: click.Context, run: Path, format_: str | None, as_json: bool, target: Path | None, force: bool
) -> None:
    """Write the table of RUN (a folder that a sweep wrote): a row a case, units in the columns' names.

    csv has a header line; json is a list of objects, with null for what is not known; parquet is binary and
    does not go to a terminal. pytest-benchmark is a JSON document for `pytest-benchmark compare` and for
    `pytest --attnbench SCENARIO --benchmark-compare=FILE`; it leaves out cases that have no time to compare.

    \b
    Examples:
      attnbench export results/quick-20260102-030405 --format csv > quick.csv
      attnbench export results/quick-20260102-030405 --json | jq '.[].latency_median_s'
      attnbench export results/quick-20260102-030405 --format parquet -o quick.parquet
      attnbench export results/quick-20260102-030405 --format pytest-benchmark -o quick.json
    """
    if as_json and format_ not in (None, "json"):
        raise UsageError(f"--json and --format {format_} contradict each other; leave one of them out")
    if format_ is None and not as_json:
        raise click.UsageError(f"Missing option '--format': one of {', '.join(FORMATS)}.", context)
    if format_ == "parquet" and target is None and sys.stdout.isatty():
        raise UsageError(
            f"parquet is binary and does not go to a terminal: name a file, such as -o {run.name}.parquet"
        )
    if format_ == "pytest-benchmark":
        data = _pytest_benchmark(run, target, overwrite=force)
    else:
        from attnbench import table
        from attnbench.export import export as convert

        data = convert(table.load(run), format_ or "json", target, overwrite=force)
    if target is None:
        click.echo(data, nl=False)


def _pytest_benchmark(run: Path, target: Path | None, *, overwrite: bool) -> bytes:
    """The run's document; says on stderr how many cases are not in it."""
    from attnbench import store
    from attnbench.export import write
    from attnbench.export.pytest_benchmark import document

    made = document(store.read(run))
    data = made.to_json()
    if target is not None:
        write(target, data, overwrite=overwrite)
    if made.left_out:
        told = ", ".join(f"{count} {why}" for why, count in made.left_out.items())
        click.echo(f"Left out: {counted(sum(made.left_out.values()), 'case')} ({told})", err=True)
    return data
