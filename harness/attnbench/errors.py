"""What can go wrong, and whose mistake it is.

    AttnbenchError            everything raised on purpose; the command line prints it and exits 2
    ├── UsageError            a wrong option, path, name or value on the command line
    ├── ScenarioError         a scenario file with mistakes, all of them at once
    ├── PluginError           a plug-in that cannot be loaded or declares nonsense
    ├── RunError              a run folder that is missing, foreign, corrupted or in use
    └── MeasuringError        the measuring processes could not be started or understood

A kernel that fails is none of these: it is a row of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "AttnbenchError",
    "MeasuringError",
    "Mistake",
    "PluginError",
    "RunError",
    "ScenarioError",
    "UsageError",
]


class AttnbenchError(Exception):
    """Base of every error raised on purpose; its text says what, where, what was expected and what to do."""


class UsageError(AttnbenchError):
    """A wrong option, path, name or value on the command line."""


class PluginError(AttnbenchError):
    """A plug-in file that cannot be loaded, shadows a name or declares nonsense; the text names the file."""


class RunError(AttnbenchError):
    """A run folder that is missing, no run of ours, corrupted or in use."""


class MeasuringError(AttnbenchError):
    """The measuring processes could not be started, or speak another protocol."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a scenario file, with where it stands (line and column count from 1).

    For a mistake in an option of the command line, `path` is the option and `line` is 0.
    """

    path: str
    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        if self.line == 0:
            return f"{self.path}: {self.message}"
        field = f" {self.field}:" if self.field else ""
        return f"{self.path}:{self.line}:{self.column}:{field} {self.message}"


class ScenarioError(AttnbenchError):
    """A scenario file with mistakes; `mistakes` holds every one found, in the file's order.

    Those in options of the command line come after the file's.
    """

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))
