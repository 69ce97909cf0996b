"""What `attnbench doctor` shows: how far it is on stderr, and each of its parts on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from attnbench.cli.output import clean
from attnbench.cli.terminal import console
from attnbench.units import format_bytes, format_count, format_seconds, significant

if TYPE_CHECKING:
    from rich.console import Console

    from attnbench.ceilings import Ceilings
    from attnbench.doctor.check import Check
    from attnbench.doctor.diagnosis import Diagnosis
    from attnbench.doctor.finding import Finding

__all__ = ["Steps", "print_ceilings", "print_findings", "print_self_test"]

#: Lines longer than this are hard to read, however wide the terminal is.
WIDEST = 100

#: What stands before a finding, and how it looks.
MARKS = {"ok": (" ok ", "green"), "warning": (" !  ", "bold yellow"), "unknown": (" ?  ", "dim")}

#: A deviation below this is shown as none: a hundredth of the strictest tolerance.
NEGLIGIBLE = 1e-5

#: How verdicts look.
VERDICTS = {"pass": ("pass", "green"), "fail": ("FAIL", "bold red"), "skipped": ("skip", "dim")}


# While it runs


class Steps:
    """Says on stderr what is being done: on a terminal in a line that is gone afterwards, else in a log's."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._text = ""

    @contextmanager
    def step(self, name: str, lasts_s: float) -> Iterator[Steps]:
        """Within the context `name` is done, which takes about so long."""
        self._text = f"{name}: about {lasts_s:.0f} s"
        if self._live:
            self._write(self._text)
        else:
            click.echo(self._text, err=True)
        try:
            yield self
        finally:
            if self._live:
                self._write("")

    def share(self, done: float) -> None:
        """So much of the step is done; told on a terminal alone."""
        if self._live:
            self._write(f"{self._text}, {100 * done:.0f}% done")

    def _write(self, text: str) -> None:
        """The text in place of the terminal's current line."""
        click.echo(f"\r\x1b[2K{clean(text)}", err=True, nl=False)
        sys.stderr.flush()


# Findings


def print_findings(machine: str, findings: Sequence[Finding]) -> None:
    """The machine's, then each GPU's: warnings first, then what is fine, and what is not known."""
    shown = _console()
    for device in dict.fromkeys(finding.device for finding in findings):
        _print_title(shown, f"Machine {clean(machine)}" if device == "cpu" else clean(device))
        group = [finding for finding in findings if finding.device == device]
        for finding in group:
            if finding.level == "warning":
                _print_warning(shown, finding)
        _print_others(shown, group)


def _print_others(shown: Console, findings: Sequence[Finding]) -> None:
    """A row each."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column()
    for level in ("ok", "unknown"):
        for finding in findings:
            if finding.level == level:
                mark, style = MARKS[level]
                text = Text(clean(finding.text), style="dim" if level == "unknown" else "")
                if finding.effect:
                    text.append(f"\n{clean(finding.effect)}", style="dim")
                grid.add_row(Text(mark, style=style), Text(clean(finding.check)), text)
    if grid.row_count:
        shown.print(grid)


def _print_warning(shown: Console, finding: Finding) -> None:
    """A paragraph; the command of its remedy on a line of its own, so that it can be copied."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    mark, style = MARKS["warning"]
    shown.print(Text.assemble((mark, style), " ", (clean(finding.check), "bold")))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row(Text("found", style="dim"), Text(clean(finding.text)))
    grid.add_row(Text("effect", style="dim"), Text(clean(finding.effect or "")))
    shown.print(Padding(grid, (0, 0, 0, 5)))
    command, remedy = finding.command, finding.remedy or ""
    if command is not None:
        line = Text.assemble(" " * 5, ("remedy", "dim"), " ", (clean(command), "cyan"))
        shown.print(line, soft_wrap=True)
        remedy = remedy.partition("\n")[2]
    if remedy:
        label = "" if command else "remedy"
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=6)
        grid.add_column()
        grid.add_row(Text(label, style="dim"), Text(clean(remedy), style="dim" if command else ""))
        shown.print(Padding(grid, (0, 0, 0, 5)))
    shown.print()


# Self-test


def print_self_test(checks: Sequence[Check]) -> None:
    """A row a check: verdict, measured, truth, deviation, what is allowed; a note where it is no pass."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = _console()
    _print_title(shown, "Self-test: figures that are known beforehand")
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim"
    )
    table.add_column(" ", no_wrap=True)
    table.add_column("what")
    for header in ("measured", "truth", "off by", "allowed"):
        table.add_column(header, justify="right", no_wrap=True)
    devices = {check.device for check in checks}
    for check in checks:
        verdict, style = VERDICTS.get(check.verdict, (check.verdict, ""))
        what = check.name if len(devices) < 2 else f"{check.device}: {check.name}"
        table.add_row(
            Text(f" {verdict}", style=style),
            Text(clean(what)),
            *(
                Text(text)
                for text in (
                    _figure(check.measured, check.unit),
                    _figure(check.truth, check.unit),
                    _signed(check.deviation, check.unit),
                    _signed(check.tolerance, check.unit, "±"),
                )
            ),
        )
    shown.print(table)
    notes: dict[str, list[str]] = {}
    for check in checks:
        if check.note and check.verdict != "pass":
            notes.setdefault(check.note, []).append(check.name)
    for note, names in notes.items():
        whose = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        shown.print(Text(f" {clean(whose)}: {clean(note)}", style="dim"))


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "s":
        return format_seconds(value)
    if unit == "B":
        return format_bytes(value)
    if unit == "flag":
        return "yes" if value else "no"
    return f"{significant(value)}{unit}"


def _signed(share: float | None, unit: str, sign: str = "") -> str:
    """A share with its sign; of yes or no there is none."""
    if share is None or unit == "flag":
        return "–"
    if abs(share) < NEGLIGIBLE:
        return "0%"
    percent = 100 * abs(share)
    return f"{sign or ('−' if share < 0 else '+')}{percent:{'.2g' if percent < 100 else '.0f'}}%"


# Ceilings


def print_ceilings(diagnosis: Diagnosis) -> None:
    """A table a device: a row a number of threads, a column a dtype, then reading and copying."""
    from rich.text import Text

    shown = _console()
    for device, ceilings in diagnosis.ceilings.items():
        _print_title(shown, f"Ceilings of {device} ({clean(ceilings.device_name)})")
        when = f"measured {clean(ceilings.measured_at)}"
        if device in diagnosis.remembered:
            when += ", remembered; --refresh measures anew"
        shown.print(Text(f" {when}", style="dim"))
        _print_rates(shown, ceilings)
        if device in diagnosis.unkept:
            shown.print(Text(f" !   not kept: {clean(diagnosis.unkept[device])}", style="yellow"))
        elif ceilings.disturbed is not None:
            why = f"may be too low: {clean(ceilings.disturbed)}; the doctor's next run measures anew"
            shown.print(Text(f" !   {why}", style="yellow"))
    for device, reason in diagnosis.unmeasured.items():
        _print_title(shown, f"Ceilings of {clean(device)}")
        shown.print(Text(f" !   could not be measured: {clean(reason)}", style="yellow"))


def _print_rates(shown: Console, ceilings: Ceilings) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rates = {(each.threads, each.dtype): each.flops_per_s for each in ceilings.matrix}
    rates |= {(each.threads, each.kind): each.bytes_per_s for each in ceilings.bandwidth}
    columns = list(dict.fromkeys(kind for _, kind in rates))
    counts = sorted({threads for threads, _ in rates}, key=lambda threads: threads or 0)
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim"
    )
    table.add_column(" threads" if counts != [None] else "", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for threads in counts:
        cells = [format_count(rates.get((threads, column))) for column in columns]
        table.add_row(Text("" if threads is None else str(threads)), *map(Text, cells))
    shown.print(table)
    ways = {each.dtype: each.way for each in ceilings.matrix}
    told = "; ".join(f"{dtype} by {clean(way)}" for dtype, way in ways.items())
    shown.print(Text(f" FLOP/s, and B/s read and copied. {told}", style="dim"))


def _console() -> Console:
    """stdout, no wider than is good to read."""
    shown = console()
    shown.width = min(shown.width, WIDEST)
    return shown


def _print_title(shown: Console, title: str) -> None:
    from rich.text import Text

    shown.print()
    shown.print(Text(title, style="bold"))
