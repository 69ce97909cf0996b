"""What --base and --head may name: the present environment, a plug-in, an interpreter or a git revision."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from attnbench.errors import UsageError
from attnbench.gate.arms.checkout import Checkout

__all__ = ["Interpreter", "Plugin", "Present", "Request", "Revision", "resolve"]


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for by `option`; `title` says it in words. `plugins` are those of both arms."""

    kind: ClassVar[str]

    option: str
    title: str
    plugins: tuple[Path, ...]

    @property
    def role(self) -> str:
        """What errors begin with."""
        return f"{self.option} {self.title}"


@dataclass(frozen=True, slots=True)
class Present(Request):
    """The environment of this process."""

    kind: ClassVar[str] = "present"


@dataclass(frozen=True, slots=True)
class Plugin(Request):
    """The environment of this process, with one more plug-in."""

    kind: ClassVar[str] = "plugin"

    file: Path


@dataclass(frozen=True, slots=True)
class Interpreter(Request):
    """Another Python, with the packages that it has."""

    kind: ClassVar[str] = "interpreter"

    python: Path


@dataclass(frozen=True, slots=True)
class Revision(Request):
    """This Python, with the code of another commit; `revision` as it was typed."""

    kind: ClassVar[str] = "revision"

    checkout: Checkout
    revision: str
    commit: str


def resolve(text: str | None, *, option: str, plugins: Sequence[Path] = ()) -> Request:
    """What `text`, given as `option`, means; None is the present environment. Nothing is run but git.

    In this order: an existing Python file is a plug-in, an executable file or a folder with bin/python an
    interpreter, everything else a git revision of the checkout around the current folder. Paths become
    absolute.

    Raises:
        UsageError: it is none of these.
    """
    common = tuple(path.resolve() for path in plugins)
    if text is None:
        return Present(option, "this environment", common)
    path = Path(text)
    if path.suffix == ".py" and path.is_file():
        return Plugin(option, text, common, path.resolve())
    python = _python(path)
    if python is not None:
        return Interpreter(option, text, common, python)
    return _revision(text, option, common)


def _python(path: Path) -> Path | None:
    """The interpreter that `path` names; links are not followed, because they are how a venv is known."""
    for candidate in (path, path / "bin" / "python"):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return Path(os.path.abspath(candidate))
    return None


def _revision(text: str, option: str, plugins: tuple[Path, ...]) -> Revision:
    where = Path.cwd()
    checkout = Checkout.around(where)
    if checkout is None:
        raise UsageError(
            f"{option}: {text!r} is no Python file and no interpreter{_is_what(text)}, and cannot be a git "
            f"revision, since {where} is not in a checkout; give the path of a .py file, the path of an "
            "interpreter (or of its venv), or run this in the repository"
        )
    commit = checkout.commit(text)
    if commit is None:
        raise UsageError(
            f"{option}: {text!r} is no Python file, no interpreter{_is_what(text)} and no git revision of "
            f"{checkout.root}. {_advice(text, checkout)}"
        )
    short = checkout.short(commit)
    # Of a hash (`git merge-base` gives all of one) its beginning says as much as the whole.
    title = short if len(text) >= len(short) and commit.startswith(text.lower()) else f"{text} ({short})"
    return Revision(option, title, plugins, checkout, text, commit)


def _is_what(text: str) -> str:
    """What there is by that name, in parentheses; empty if nothing."""
    path = Path(text)
    if path.is_dir():
        return " (it is a folder without bin/python)"
    if path.is_file():
        return " (it is a file that is neither *.py nor executable)"
    found = shutil.which(text) if text and os.sep not in text else None
    return f" (the command of this name is {found}: give its path)" if found else ""


def _advice(text: str, checkout: Checkout) -> str:
    if checkout.is_shallow():
        return (
            "The checkout is shallow: older commits and other branches were not fetched. Fetch them "
            "(actions/checkout: `fetch-depth: 0`; by hand: git fetch --unshallow, and git fetch origin "
            "<branch>)"
        )
    similar = checkout.similar(text)
    if similar:
        return f"Did you mean {', '.join(similar)}?"
    newest = checkout.newest()
    return f"Branches and tags: {', '.join(newest)}, …" if newest else "It has no branch and no tag"
