"""The parent's side of the guardian: a temporary folder, and commands run where nothing outlives us."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attnbench.errors import MeasuringError
from attnbench.protocol import Channel, ChannelClosed, DeadlineExceeded

__all__ = ["Guard", "guarded", "how_it_ended", "tail"]

#: How long an interpreter may take to start the guardian, on the busiest of machines.
START_S = 60.0

#: How much of a command's output is told when it fails.
TAIL_LINES, TAIL_BYTES = 20, 8192


class Guard:
    """A guardian at work. `folder` and all in it is removed at the end, or when this process ends."""

    def __init__(self, channel: Channel, folder: Path) -> None:
        self._channel = channel
        self.folder = folder
        self._commands = 0

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        leaves: Sequence[Path] = (),
    ) -> tuple[int, str]:
        """Run a command to its end: its exit code (−n: ended by signal n) and the end of what it printed.

        What it starts ends with it. `leaves` are folders that it makes elsewhere: they are removed in the
        end, and so is the folder that holds them, if that is empty then.

        Raises:
            MeasuringError: it cannot be started, or the guardian was ended by somebody else.
        """
        self._commands += 1
        output = self.folder / f"output-{self._commands}"
        try:
            self._channel.send(
                {
                    "command": list(command),
                    "cwd": str(cwd),
                    "environment": dict(environment),
                    "output": str(output),
                    "leaves": [str(path) for path in leaves],
                }
            )
            answer = self._channel.receive()
        except ChannelClosed as error:
            raise MeasuringError(f"the process that runs {command[0]} was ended by somebody else") from error
        if "problem" in answer:
            raise MeasuringError(f"{command[0]} cannot be started: {answer['problem']}")
        return int(answer["code"]), tail(output)


@contextmanager
def guarded() -> Iterator[Guard]:
    """A guardian, until the end of the block, which waits until it has removed everything.

    Raises:
        MeasuringError: it cannot be started, or there is no temporary folder.
    """
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    with theirs:
        command = [sys.executable, "-P", "-m", "attnbench.gate.arms.guardian"]
        try:
            process = subprocess.Popen(
                [*command, "--socket-fd", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            channel.close()
            raise MeasuringError(f"{sys.executable} cannot be started: {error}") from error
    try:
        yield Guard(channel, _folder(channel))
    finally:
        channel.close()  # the one way in which cleaning begins, whether we close it or the system does
        process.wait()


def _folder(channel: Channel) -> Path:
    try:
        answer = channel.receive(START_S)
    except (ChannelClosed, DeadlineExceeded) as error:
        raise MeasuringError(
            f"the process that cleans up cannot be started by {sys.executable}: {error}"
        ) from error
    if "problem" in answer:
        raise MeasuringError(f"{answer['problem']}; set TMPDIR to a folder that can be written to")
    return Path(answer["folder"])


def tail(output: Path) -> str:
    """The last lines of a file."""
    with open(output, "rb") as file:
        file.seek(max(0, output.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").rstrip().splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def how_it_ended(code: int) -> str:
    """`exited with status 1`, or `was ended by SIGKILL`."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
