"""Options that several commands share, each said once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "json_option",
    "matrix_options",
    "plugin_option",
    "report_directory",
    "require_scenarios",
    "run_argument",
    "run_options",
]

Command = TypeVar("Command", bound=Callable[..., Any])

plugin_option = click.option(
    "--plugin",
    "plugins",
    metavar="FILE",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="A Python file with implementations of your own. Repeatable.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, and nothing else there."
)

run_argument = click.argument(
    "run", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="RUN"
)


def matrix_options(command: Command) -> Command:
    """What narrows or changes a scenario: --device, --impl, --set, --plugin."""
    for option in reversed(
        (
            click.option(
                "--device",
                "devices",
                metavar="DEVICE",
                multiple=True,
                help="Measure on this device (cpu, cuda, cuda:1) instead of the scenario's. Repeatable.",
            ),
            click.option(
                "--impl",
                "implementations",
                metavar="NAME",
                multiple=True,
                help="Measure this implementation instead of the scenario's. Repeatable.",
            ),
            click.option(
                "--set",
                "sets",
                metavar="KEY=VALUE",
                multiple=True,
                help="Override a setting: --set measure.precision=0.01. Repeatable.",
            ),
            plugin_option,
        )
    ):
        command = option(command)
    return command


def report_directory(*names: str) -> Callable[[Command], Command]:
    """Where the report goes."""
    return click.option(
        *names,
        "report_directory",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="The folder of the report.  [default: ./reports/<run name>]",
    )


def run_options(command: Command) -> Command:
    """Where a run goes and how it ends: --resume, --report, --strict, --executor, --out, --name, -o."""
    for option in reversed(
        (
            click.option(
                "--resume",
                metavar="RUN",
                type=click.Path(exists=True, file_okay=False, path_type=Path),
                help="Go on with an interrupted run, with the scenarios and settings that it holds.",
            ),
            click.option("--report", "with_report", is_flag=True, help="Write the report of the run, too."),
            click.option(
                "--strict", is_flag=True, help="Exit with 1 when a case failed or its answer is wrong."
            ),
            click.option(
                "--executor",
                type=click.Choice(["local"]),
                default="local",
                show_default=True,
                help="Where benches run. This version knows this machine alone.",
            ),
            click.option(
                "--out",
                metavar="DIR",
                type=click.Path(file_okay=False, path_type=Path),
                help="The folder of all runs.  [default: ./results]",
            ),
            click.option(
                "--name", metavar="NAME", help="The run's name.  [default: <scenario>-<UTC date and time>]"
            ),
            report_directory("-o", "--report-out"),
        )
    ):
        command = option(command)
    return command


def require_scenarios(context: click.Context, scenarios: Sequence[str]) -> None:
    """Refuse a command without a scenario.

    Raises:
        click.UsageError: there is none.
    """
    if not scenarios:
        raise click.UsageError(
            "Missing argument 'SCENARIO...'. `attnbench list scenarios` shows those that are shipped.",
            context,
        )
