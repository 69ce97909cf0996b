"""What goes wrong becomes one message on stderr and an exit code; never a traceback for wrong use."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import click

from attnbench.cli.output import clean
from attnbench.errors import AttnbenchError, ScenarioError

__all__ = [
    "EXIT_FAILED_CASE",
    "EXIT_INCONCLUSIVE",
    "EXIT_INTERNAL",
    "EXIT_INTERRUPTED",
    "EXIT_WRONG_USE",
    "Complaints",
    "Interrupted",
    "terminable",
    "told",
    "told_of",
]

EXIT_FAILED_CASE = 1
EXIT_WRONG_USE = 2
#: A gate that could neither pass nor fail: too noisy, too little time.
EXIT_INCONCLUSIVE = 3
#: A fault of attnbench itself (EX_SOFTWARE of sysexits.h).
EXIT_INTERNAL = 70
#: What a shell reports of a program that SIGPIPE ended: the reader of our output has gone.
EXIT_BROKEN_PIPE = 141
#: 128 + SIGINT. A sweep ended by SIGTERM says the same: interrupted, records kept.
EXIT_INTERRUPTED = 130

#: What writing to a file without a name, which stdout is, fails with when there is no room.
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)

#: Set to 1 to see the traceback of a fault of attnbench itself.
TRACEBACK_VARIABLE = "ATTNBENCH_TRACEBACK"


class Complaints(AttnbenchError):
    """Several errors that are told together, each as it would be alone."""

    def __init__(self, errors: Sequence[AttnbenchError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, errors)))


class Interrupted(Exception):
    """The work was interrupted; the text says what was kept and how to go on."""


@contextmanager
def told() -> Iterator[None]:
    """Turn whatever is raised inside into a message and an exit code.

    Raises:
        SystemExit: something was raised that is neither click's nor asked for by `TRACEBACK_VARIABLE`.
    """
    _replace_missing_streams()
    _accept_any_text()
    try:
        yield
        # What is still buffered is written here, where a reader that has gone can be dealt with.
        sys.stdout.flush()
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except BrokenPipeError:
        _give_up_stdout()
        sys.exit(EXIT_BROKEN_PIPE)
    except AttnbenchError as error:
        for each in error.errors if isinstance(error, Complaints) else (error,):
            # Editors find `path:line:column:` at the beginning of a line only.
            _say(str(each) if isinstance(each, ScenarioError) else f"Error: {each}")
        _leave(EXIT_WRONG_USE)
    except OSError as error:
        _fail(told_of(error), EXIT_WRONG_USE)
    except Interrupted as interruption:
        _say(str(interruption))
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE) == "1":
            raise
        _fail(
            f"attnbench itself failed: {type(error).__name__}: {error}\n"
            f"This is a bug: please report it with what `{TRACEBACK_VARIABLE}=1 attnbench …` prints.",
            EXIT_INTERNAL,
        )


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends what runs inside as Ctrl-C does: what was measured is kept, processes are ended."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's affair
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _replace_missing_streams() -> None:
    """Say nothing where a stream was closed before we started (`>&-`), instead of failing over it.

    Descriptors 0 to 2 are taken, lest a file of ours gets one of them and whatever is printed there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it lives as long as the process


def _accept_any_text() -> None:
    """Let a terminal of few characters show `?` for others: no sweep ends over a `×` it cannot print."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def told_of(error: OSError) -> str:
    """What went wrong, and with which file: where none is named, it is standard output that has no room."""
    unnamed = "standard output" if error.errno in _NO_ROOM else None
    where = error.filename or unnamed
    return f"{where}: {error.strerror}" if where else str(error.strerror or error)


def _fail(message: str, exit_code: int) -> None:
    _say(f"Error: {message}")
    _leave(exit_code)


def _leave(exit_code: int) -> NoReturn:
    """Exit; what stdout has no room for is dropped, lest the interpreter's last flush changes the code."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _give_up_stdout()
    sys.exit(exit_code)


def _say(message: str) -> None:
    click.echo(clean(message, keep_lines=True), err=True)


def _give_up_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it lives as long as the process
