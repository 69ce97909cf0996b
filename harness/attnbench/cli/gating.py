"""What a gate shows: its progress on stderr, and in the end what became of each case."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from attnbench.cli.bar import TransientBar
from attnbench.cli.cells import duration
from attnbench.cli.output import clean
from attnbench.cli.terminal import console, print_points
from attnbench.gate.verdict import Outcome

if TYPE_CHECKING:
    from rich.console import Console

    from attnbench.case import Case
    from attnbench.gate.pairing import Times
    from attnbench.gate.verdict import Report

__all__ = ["Display", "LiveDisplay", "PlainDisplay", "display", "print_report"]

#: Differences of the environment that are printed; --json has all.
MOST_DIFFERENCES = 12

#: Characters of a value that is printed.
MOST_CHARACTERS = 60

STYLES = {Outcome.PASS: "green", Outcome.INCONCLUSIVE: "yellow", Outcome.FAIL: "bold red"}


# While it runs


class Display(ABC):
    """Shows how a gate gets on; a context manager, and the observer of a gate."""

    def __init__(self) -> None:
        self.now = ""
        self.done = self.total = 0
        self.outcomes: dict[str, Outcome] = {}

    def phase(self, text: str) -> None:
        """What begins now."""
        self.now, self.done, self.total = clean(text), 0, 0
        self.show_phase()

    def progress(self, done: int, total: int) -> None:
        """Of at most `total` pairs of processes `done` have been played."""
        self.done, self.total = done, total
        self.show_progress()

    def pair(self, case: Case, times: Times) -> None:
        """What one pair gave of one case: too little to be told."""
        del case, times

    def decided(self, case: Case, outcome: Outcome, text: str) -> None:
        """What became of a case, in words."""
        self.outcomes[case.case_id] = outcome
        self.show_decided(outcome, clean(text))

    @abstractmethod
    def show_phase(self) -> None:
        """Show what begins now."""

    @abstractmethod
    def show_progress(self) -> None:
        """Show how far it is."""

    @abstractmethod
    def show_decided(self, outcome: Outcome, text: str) -> None:
        """Show what became of a case."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exception: object) -> None:
        del exception  # nothing to take down, unless a display put something up


class PlainDisplay(Display):
    """A line for each phase and each case that is decided, on stderr, written at once: for logs."""

    def show_phase(self) -> None:
        """A line."""
        self._say(self.now)

    def show_progress(self) -> None:
        """Nothing: a log needs no line a pair."""

    def show_decided(self, outcome: Outcome, text: str) -> None:
        """A line."""
        self._say(f"{outcome:<12}  {text}")

    def _say(self, text: str) -> None:
        click.echo(text, err=True)
        sys.stderr.flush()


class LiveDisplay(Display):
    """A bar of the pairs played, with the phase beside it; gone at the end, when the verdicts are printed."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._bar = TransientBar(console)

    def __enter__(self) -> LiveDisplay:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show_phase(self) -> None:
        """Name it beside the bar."""
        self._draw()

    def show_progress(self) -> None:
        """Move the bar."""
        self._draw()

    def show_decided(self, outcome: Outcome, text: str) -> None:
        """Count it beside the bar."""
        self._draw()

    def _draw(self) -> None:
        tally = Counter(self.outcomes.values())
        told = ", ".join(f"{number} {outcome}" for outcome, number in tally.items())
        text = f"{self.done} of at most {self.total} pairs" + (f"; {told}" if told else "")
        self._bar.draw(self.done, self.total, text, below=self.now)


def display() -> Display:
    """The display that suits stderr."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveDisplay(console(sys.stderr))
    return PlainDisplay()


# Afterwards


def print_report(report: Report, told: str) -> None:
    """The outcome, what sets base and head apart, and a sentence a case, on stdout; `told` is the tally."""
    _print_line([(str(report.outcome), STYLES[report.outcome]), f"  {clean(report.scenario)}: {told}"])
    _print_line([f"  base  {clean(report.base)}"])
    _print_line([f"  head  {clean(report.head)}"])
    _print_differences(report.environment)
    click.echo()
    width = max(len(verdict.outcome) for verdict in report.cases)
    for verdict in report.cases:
        _print_line([(f"{verdict.outcome:<{width}}", STYLES[verdict.outcome]), f"  {clean(verdict.text)}"])
    if report.notes:
        click.echo()
        print_points([("·", note) for note in report.notes])
    timing = f", {duration(report.timed_s)} of them timing" if report.timed_s else ""
    click.echo(f"\n{duration(report.duration_s)}{timing}")


def _print_line(parts: Sequence[str | tuple[str, str]]) -> None:
    """One line, however long it is, of texts and of texts with their styles."""
    from rich.text import Text

    line = Text()
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        line.append(text, style=style)
    console().print(line, soft_wrap=True)


def _print_differences(environment: Sequence[tuple[str, Any, Any]]) -> None:
    """What differs between the environments of base and head, a line each."""
    if not environment:
        return
    click.echo("\nThe environments differ (base → head):")
    for key, base, head in environment[:MOST_DIFFERENCES]:
        click.echo(f"  {clean(key)}: {_short(base)} → {_short(head)}")
    if len(environment) > MOST_DIFFERENCES:
        click.echo(f"  … and {len(environment) - MOST_DIFFERENCES} more (--json)")


def _short(value: object) -> str:
    text = "–" if value is None else clean(str(value))
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
