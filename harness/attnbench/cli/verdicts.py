"""What a conformance check shows: its progress on stderr, and in the end who passed and what failed."""

from __future__ import annotations

import os
import shlex
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from attnbench.cli.bar import TransientBar
from attnbench.cli.output import clean, without_figures
from attnbench.cli.terminal import console, print_grid
from attnbench.units import counted, significant

if TYPE_CHECKING:
    from rich.console import Console

    from attnbench.conformance.check import Result

__all__ = [
    "Display",
    "LiveDisplay",
    "PlainDisplay",
    "Tally",
    "display",
    "print_failures",
    "print_precisions",
    "print_tallies",
]

#: Distinct failures of one implementation that are printed; --json has all.
MOST_FAILURES = 10

#: Failures of one implementation that a log tells as they come.
MOST_TOLD = 5

#: Parts of the way after each of which a log gets a line.
PARTS = 10


# While it runs


class Display(ABC):
    """Shows how a check gets on; a context manager."""

    def __init__(self) -> None:
        self.cases = 0
        self.done = 0
        self.failures: Counter[str] = Counter()

    def begin(self, cases: int) -> None:
        """So many cases are to come."""
        self.cases = cases
        self.show()

    def add(self, result: Result) -> None:
        """One more is known."""
        self.done += 1
        if result.failed:
            self.failures[result.implementation] += 1
            self.show_failure(result)
        self.show()

    @property
    def state(self) -> str:
        """`12/90 cases, 1 failed`."""
        failed = self.failures.total()
        return f"{self.done}/{counted(self.cases, 'case')}" + (f", {failed} failed" if failed else "")

    @abstractmethod
    def show(self) -> None:
        """Show how far it is."""

    @abstractmethod
    def show_failure(self, result: Result) -> None:
        """Show a failure, which is counted already."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exception: object) -> None:
        del exception  # nothing to take down, unless a display put something up


class PlainDisplay(Display):
    """A line for each implementation's first failures, and one at each tenth of the way: for logs."""

    def show(self) -> None:
        """A line, where another tenth is done."""
        if self.done * PARTS // max(1, self.cases) > (self.done - 1) * PARTS // max(1, self.cases):
            click.echo(self.state, err=True)
            sys.stderr.flush()

    def show_failure(self, result: Result) -> None:
        """A line, if it is one of the first."""
        if self.failures[result.implementation] <= MOST_TOLD:
            where = f"{result.implementation} on {result.case.workload.label}"
            click.echo(clean(f"{where}: {_told(result)}"), err=True)


class LiveDisplay(Display):
    """A bar, gone at the end; failures are told there."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._bar = TransientBar(console)

    def __enter__(self) -> LiveDisplay:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show(self) -> None:
        """Move the bar."""
        self._bar.draw(self.done, max(1, self.cases), self.state)

    def show_failure(self, result: Result) -> None:
        """Nothing: the bar counts it."""


def display() -> Display:
    """The display that suits stderr."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveDisplay(console(sys.stderr))
    return PlainDisplay()


# Afterwards


@dataclass(frozen=True)
class Tally:
    """What one implementation's results come to; `precision` is what it declares to compute in, if less."""

    implementation: str
    results: Sequence[Result]
    precision: str = ""

    @property
    def statuses(self) -> Counter[str]:
        """How often each status was found."""
        return Counter(result.status for result in self.results)

    @property
    def failed(self) -> int:
        """How many cases show that it does not conform."""
        return sum(result.failed for result in self.results)

    @property
    def checked(self) -> bool:
        """Whether any case was tried at all."""
        return any(result.failed or result.status == "pass" for result in self.results)

    @property
    def worst(self) -> Result | None:
        """The result of the largest error, one that is not finite before all; None where none was found."""
        judged = [result for result in self.results if result.status in ("pass", "fail")]
        return max(judged, key=_error, default=None)

    @property
    def why_unchecked(self) -> str:
        """Why nothing was tried: the commonest status and its reason."""
        common = Counter((result.status, result.reason) for result in self.results).most_common(1)
        ((status, reason), _) = common[0] if common else (("unsupported", "no workload was chosen"), 0)
        return f"{status}: {reason}"

    def to_json(self) -> dict[str, Any]:
        """Its entry in the document of --json."""
        worst = self.worst
        return {
            "implementation": self.implementation,
            "precision": self.precision or None,
            "cases": len(self.results),
            "failed": self.failed,
            "statuses": dict(self.statuses),
            "worst_error_ratio": None if worst is None else worst.error_ratio,
            "worst_workload": None if worst is None else worst.case.workload.label,
        }


def _error(result: Result) -> float:
    if result.error_ratio is not None:
        return result.error_ratio
    return float("inf") if result.status == "fail" else 0.0


def print_tallies(tallies: Sequence[Tally]) -> None:
    """One row an implementation, on stdout; where its largest error is stands below if there is no room."""
    rows = []
    for tally in tallies:
        statuses, worst = tally.statuses, tally.worst
        rows.append(
            {
                "implementation": clean(tally.implementation),
                "passed": str(statuses["pass"]),
                "failed": str(tally.failed),
                "unsupported": str(statuses["unsupported"]),
                "unavailable": str(statuses["unavailable"]),
                "worst error": "–" if worst is None else f"{significant(_error(worst))} of 2",
                "where": "–" if worst is None else worst.case.workload.label,
            }
        )
    needed = sum(max(len(name), *(len(row[name]) for row in rows)) + 1 for name in rows[0])
    below = [] if needed <= console().width else [(row["implementation"], row.pop("where")) for row in rows]
    print_grid(rows, right=("passed", "failed", "unsupported", "unavailable", "worst error"))
    for implementation, where in below:
        if where != "–":
            click.echo(f"worst of {implementation}: {where}")


def print_precisions(tallies: Sequence[Tally]) -> None:
    """Who is not judged by the dtype of its inputs, on stdout."""
    for tally in tallies:
        if tally.precision and tally.checked:
            click.echo(
                f"{clean(tally.implementation)} computes in {tally.precision} and is judged by that, "
                "not by its inputs' dtype"
            )


def print_failures(tallies: Sequence[Tally], command: Sequence[str]) -> None:
    """Each distinct failure, on stdout: the first workload that shows it, the reason, how to see it again.

    `command` is what is typed to check, but for which implementation and workload.
    """
    for tally in tallies:
        distinct: dict[tuple[str, str], list[Result]] = {}
        for result in tally.results:
            if result.failed:
                distinct.setdefault((result.status, without_figures(result.reason or "")), []).append(result)
        for number, alike in enumerate(distinct.values()):
            if number == MOST_FAILURES:
                click.echo(f"\n{clean(tally.implementation)}: … and {len(distinct) - number} more (--json)")
                break
            first = alike[0]
            more = f" (and {counted(len(alike) - 1, 'more workload')})" if len(alike) > 1 else ""
            again = [*command, "--impl", first.implementation, "--only", first.case.workload.label]
            click.echo(f"\n{clean(tally.implementation)}  {first.case.workload.label}{more}")
            click.echo(f"  {clean(_told(first))}")
            click.echo(f"  {clean(shlex.join(again))}")


def _told(result: Result) -> str:
    return f"{result.status}: {result.reason or 'no reason given'}"
