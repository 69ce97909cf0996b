"""Where a gate's documents go: a folder, and the page of the GitHub job that runs it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from attnbench.cli.failures import EXIT_INTERNAL, EXIT_WRONG_USE, told_of
from attnbench.cli.output import clean, jsonable
from attnbench.errors import AttnbenchError, UsageError

__all__ = ["Publication"]

#: Where GitHub Actions shows what is appended, as Markdown, on the job's page.
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"

MARKDOWN_FILE, JSON_FILE = "check.md", "check.json"


@dataclass(frozen=True, slots=True)
class Publication:
    """The folder of `-o`, None without one, and the file that `SUMMARY_VARIABLE` names, where it does."""

    folder: Path | None

    def require_writable(self) -> None:
        """Find out before minutes of measuring that the folder cannot be written to; make it where missing.

        What an earlier gate left in it is removed: it is no answer to what is asked now.

        Raises:
            UsageError: it is a file, cannot be made, takes no files, or holds somebody else's of these names.
        """
        if self.folder is None:
            return
        probe = self.folder / f".{JSON_FILE}.probe"
        earlier = [self.folder / MARKDOWN_FILE, self.folder / JSON_FILE]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
            for path in earlier:
                if os.path.lexists(path) and not _is_ours(path):
                    raise UsageError(
                        f"-o: {path} was not written by attnbench check, and is not overwritten; choose "
                        "another folder"
                    )
            for path in earlier:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(
                f"-o: the documents cannot be written to {self.folder}: {error.strerror or error}; "
                "choose another folder, or make room and permission there"
            ) from error

    def publish(self, markdown: str, document: Mapping[str, Any]) -> None:
        """Write both documents; a job's page that cannot be appended to is only a warning.

        Raises:
            RunError: the folder cannot be written to any more.
        """
        from attnbench.files import replace_file

        _append_to_summary(markdown)
        if self.folder is not None:
            text = json.dumps(jsonable(document), ensure_ascii=False, allow_nan=False, indent=2)
            replace_file(self.folder / JSON_FILE, f"{text}\n".encode(errors="replace"))
            replace_file(self.folder / MARKDOWN_FILE, markdown.encode(errors="replace"))

    def _where_writable(self) -> Publication:
        """This one, or one without a folder where that cannot or must not be written to."""
        try:
            self.require_writable()
        except UsageError:
            return Publication(None)
        return self

    @contextmanager
    def of_errors(self) -> Iterator[None]:
        """Publish what is raised inside as an ERROR, and raise it again.

        An interruption is none: nobody asks for its page.
        """
        try:
            yield
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from attnbench.report.gate import failure_document, failure_markdown

            message, exit_code = _told(error)
            document = {**failure_document(message), "exit_code": exit_code}
            with suppress(AttnbenchError):  # what is being raised matters more
                self._where_writable().publish(failure_markdown(message), document)
            raise


def _is_ours(path: Path) -> bool:
    """Whether an earlier gate wrote the document at `path`, by how it begins."""
    beginnings = {
        MARKDOWN_FILE: "# attnbench check: ",
        JSON_FILE: '{\n  "schema": ',
    }
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as document:
        return document.read(64).startswith(beginnings[path.name])


def _told(error: Exception) -> tuple[str, int]:
    """What the command line says of `error`, and the exit code that follows."""
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, AttnbenchError):
        return str(error), EXIT_WRONG_USE
    if isinstance(error, OSError):
        return told_of(error), EXIT_WRONG_USE
    return f"attnbench itself failed: {type(error).__name__}: {error}", EXIT_INTERNAL


def _append_to_summary(markdown: str) -> None:
    summary = os.environ.get(SUMMARY_VARIABLE)
    if not summary:
        return
    try:
        with open(summary, "a", encoding="utf-8", errors="replace") as page:
            # Whatever a step before wrote, and however it ended, the heading begins a line of its own.
            page.write(f"\n{markdown}")
    except OSError as error:
        click.echo(
            f"Warning: ${SUMMARY_VARIABLE} ({clean(summary)}) cannot be appended to: "
            f"{error.strerror or error}; the verdict stands without it.",
            err=True,
        )
