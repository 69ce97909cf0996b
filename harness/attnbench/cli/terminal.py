"""What a terminal shows: a sweep's progress while it runs, and grids of texts.

Progress goes to stderr, answers to stdout. Nothing is drawn but when something has happened: a display
that redraws itself would take a core from what is being measured.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, TextIO

import click

from attnbench.cli import cells
from attnbench.cli.bar import TransientBar
from attnbench.cli.cells import Row
from attnbench.cli.output import clean
from attnbench.cli.results import results_table
from attnbench.units import counted

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable

    from attnbench.case import Block
    from attnbench.ceilings import Ceilings
    from attnbench.record import Record
    from attnbench.report.findings import Finding

__all__ = [
    "LiveProgress",
    "PlainProgress",
    "Progress",
    "console",
    "print_findings",
    "print_grid",
    "progress_display",
]

#: Columns for a table that no terminal bounds (a pipe, a file), unless COLUMNS says otherwise.
UNBOUNDED_WIDTH = 200


def console(stream: TextIO | None = None) -> Console:
    """A console on `stream` (stdout), which respects COLUMNS, NO_COLOR and what is no terminal."""
    from rich.console import Console

    class OurConsole(Console):
        def on_broken_pipe(self) -> None:
            # Rich would exit with 1, which means something else here; `failures` knows what to do.
            raise BrokenPipeError

    target = stream or sys.stdout
    bounded = target.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return OurConsole(
        file=target, width=None if bounded else UNBOUNDED_WIDTH, highlight=False, markup=False, emoji=False
    )


# While it runs


class Progress(ABC):
    """Counts what is done and reckons the time left; the two displays build on it."""

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        ceilings: Mapping[str, Ceilings] = MappingProxyType({}),
    ) -> None:
        self._clock = clock
        self._ceilings = {(device, found.device_name): found for device, found in ceilings.items()}
        self._began = clock()
        self.cases = 0
        self.finished = 0
        self.done_s = 0.0
        self.total_s = 0.0
        self.running = ""

    def sweep_started(self, blocks: int, cases: int, budget_s: float) -> None:
        """So many cases are to be measured, in at most about `budget_s` seconds."""
        # Imported before anything is measured, so that it takes no time from what is.
        import attnbench.table  # noqa: F401

        self._began = self._clock()
        self.cases = cases
        self.total_s = budget_s
        self.show_start(blocks)

    def block_started(self, block: Block, index: int) -> None:
        """A block begins."""
        self.running = clean(f"{block.scenario}: {block.block_id}")

    def progress(self, done_s: float, total_s: float) -> None:
        """Of the work reckoned at `total_s` seconds, `done_s` are done."""
        self.done_s, self.total_s = done_s, total_s

    def block_finished(self, block: Block, records: Sequence[Record]) -> None:
        """The block's records are on disk."""
        from attnbench import table

        rows = cells.rows_of(table.from_records(records, "", self._ceilings))
        self.finished += len(rows)
        self.show_rows(rows)

    @property
    def left_s(self) -> float:
        """Seconds that what is left will take, at the pace so far; at the start the whole budget."""
        if self.done_s <= 0:
            return self.total_s
        return max(0.0, self.total_s - self.done_s) * (self._clock() - self._began) / self.done_s

    @abstractmethod
    def show_start(self, blocks: int) -> None:
        """Show that a sweep of so many blocks begins."""

    @abstractmethod
    def show_rows(self, rows: Sequence[Row]) -> None:
        """Show the cases of a finished block."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        del exception  # nothing to take down, unless a display put something up


class PlainProgress(Progress):
    """One line a finished case, on stderr, written at once: for logs."""

    def show_start(self, blocks: int) -> None:
        """Say what is to come."""
        if self.cases == 0:
            click.echo("nothing is left to measure", err=True)
            return
        what = f"{counted(self.cases, 'case')} in {counted(blocks, 'block')}"
        click.echo(f"{what}, at most about {cells.duration(self.total_s)}", err=True)

    def show_rows(self, rows: Sequence[Row]) -> None:
        """A line a case."""
        width = len(str(self.cases))
        first = self.finished - len(rows) + 1
        for number, row in enumerate(rows, first):
            click.echo(f"[{number:>{width}}/{self.cases}] {cells.case_line(row)}", err=True)
        sys.stderr.flush()


class LiveProgress(Progress):
    """The table growing as blocks finish, with a bar below that tells the time left; gone at the end."""

    def __init__(
        self,
        console: Console,
        clock: Callable[[], float] = monotonic,
        ceilings: Mapping[str, Ceilings] = MappingProxyType({}),
    ) -> None:
        super().__init__(clock, ceilings)
        self._console = console
        self._rows: list[Row] = []
        self._bar = TransientBar(console)

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show_start(self, blocks: int) -> None:
        """Draw the empty table and the bar."""
        self._draw()

    def show_rows(self, rows: Sequence[Row]) -> None:
        """Draw the table with these rows added."""
        self._rows += rows
        self._draw()

    def block_started(self, block: Block, index: int) -> None:
        """Name the block below the bar."""
        super().block_started(block, index)
        self._draw()

    def progress(self, done_s: float, total_s: float) -> None:
        """Move the bar."""
        super().progress(done_s, total_s)
        self._draw()

    def _draw(self) -> None:
        above = [self._newest()] if self._rows else []
        text = f"{self.finished}/{self.cases} cases, about {cells.duration(self.left_s)} left"
        self._bar.draw(self.done_s, max(self.total_s, 1e-9), text, above=above, below=self.running)

    def _newest(self) -> ConsoleRenderable:
        """As many of the newest rows as fit above the bar; the whole table comes at the end."""
        room = max(3, self._console.height - 4)
        shown = self._rows[-room:]
        while True:
            table = results_table(shown, self._console)
            excess = len(self._console.render_lines(table)) - room
            if excess <= 0 or len(shown) == 1:
                return table
            shown = shown[min(excess, len(shown) - 1) :]


def progress_display(
    ceilings: Mapping[str, Ceilings] = MappingProxyType({}),
) -> LiveProgress | PlainProgress:
    """The display that suits stderr; `ceilings` are those of the devices of which they are known."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveProgress(console(sys.stderr), ceilings=ceilings)
    return PlainProgress(ceilings=ceilings)


# Answers


def print_grid(rows: Sequence[Mapping[str, str]], *, right: Collection[str] = ()) -> None:
    """Rows of texts under their keys as headers, on stdout; columns named in `right` are aligned there."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for header in rows[0]:
        table.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(text) for text in row.values()))
    console().print(table)


def print_findings(found: Sequence[Finding]) -> None:
    """What was found, on stdout, what is serious marked."""
    click.echo("\nFindings")
    print_points([("!" if each.serious else "·", each.text) for each in found])


def print_points(points: Sequence[tuple[str, str]]) -> None:
    """Marks and texts, on stdout, long texts wrapped beside their marks."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for mark, text in points:
        table.add_row(Text(f" {mark}"), Text(clean(text)))
    console().print(table)
