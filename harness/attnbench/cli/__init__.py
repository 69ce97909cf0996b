"""The command line: the only code that prints or exits.

Commands are imported when they are called. What `attnbench --help` needs to know of them stands in
`COMMANDS`, so that it costs little more than importing click.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

import attnbench

__all__ = ["COMMANDS", "main"]

#: Each command's module in this package, and its line in `attnbench --help`. The function in the module
#: bears the command's name; `list` is called `listing`, as it would hide the built-in.
COMMANDS: dict[str, tuple[str, str]] = {
    "sweep": ("sweep", "Measure the cases of a scenario; the main job."),
    "plan": ("plan", "Show what a sweep would do, before anything runs."),
    "report": ("report", "Write the report of runs: HTML, Markdown, figures, tables."),
    "check": ("check", "Judge a change: slower, hungrier or more wrong? For CI."),
    "compare": ("compare", "Compare runs case by case: ratios with intervals, changes."),
    "conformance": ("conformance", "Check implementations over a grid of workloads: are they right?"),
    "draw": ("draw", "Draw attention weights or positional encodings as pictures."),
    "list": ("listing", "List implementations, scenarios or devices."),
    "doctor": ("doctor", "Is this machine fit to measure on, and are the figures true?"),
    "show": ("show", "Show a run again in the terminal, filtered and sorted."),
    "export": ("export", "Write a run for other tools: tables, or pytest-benchmark's JSON."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command `cmd_name`, imported now; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command = getattr(import_module(f"attnbench.cli.{module}"), module)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; what was typed is kept in `ctx.meta`, for a run's header."""
        ctx.meta["attnbench.arguments"] = tuple(args)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest right name when there is no such command."""
        if not ctx.resilient_parsing and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"The commands are {', '.join(COMMANDS)}."
            ctx.fail(f"No such command '{args[0]}'. {hint}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click does; what goes wrong while it shows help becomes a message and an exit code."""
        from attnbench.cli.failures import told

        with told():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong becomes a message and an exit code."""
        from attnbench.cli.failures import told

        with told():
            return super().invoke(ctx)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 good; 1 a regression, a failed case (in a sweep only under --strict) or self-test; "
    "2 wrong use, or a scenario with mistakes; 3 a check that can neither pass nor fail; 130 interrupted, "
    "with everything measured so far kept.",
)
@click.version_option(attnbench.__version__, prog_name="attnbench")
def main() -> None:
    """Measure attention implementations side by side: latency, memory and numerical error.

    \b
    Start with:
      attnbench list scenarios
      attnbench plan quick
      attnbench sweep quick --report

    `attnbench COMMAND --help` tells more, with examples.
    """
