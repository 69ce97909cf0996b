"""The guardian: a process that owns what an arm needs for a while, and removes it when nobody needs it.

`python -m attnbench.gate.arms.guardian --socket-fd N` makes a temporary folder and says where it is
(`{"folder": …}`). It then runs one command after another on request (`{"command": […], "cwd": …,
"environment": {…}, "output": …, "leaves": […]}`, answered by `{"code": n}` or `{"problem": …}`). When the
other end of its socket is gone, however that came about, it ends what still runs and removes the folder and
what the commands left elsewhere. It is in a session of its own, where no Ctrl-C and no signal to its
parent's group reaches it. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attnbench.bench.lifeline import adopt_orphans, orphans
from attnbench.protocol import Channel, ChannelClosed

__all__ = ["PREFIX", "Guardian", "main", "remove"]

#: How the names of our folders begin.
PREFIX = "attnbench-arm-"

#: Between two looks whether a command has ended, while nothing comes from the parent.
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.05


class Guardian:
    """Runs commands for one parent, and cleans up behind all of them."""

    def __init__(self, channel: Channel, folder: Path) -> None:
        self._channel = channel
        self._folder = folder
        self._left: list[Path] = []

    def serve(self) -> None:
        """Answer until the parent is gone, then remove everything."""
        try:
            self._channel.send({"folder": str(self._folder)})
            while True:
                self._channel.send(self._answer(self._channel.receive()))
        except ChannelClosed:
            pass
        finally:
            _end_orphans()
            for path in reversed(self._left):
                remove(path)
                with suppress(OSError):  # as git does with its folder of worktrees when it is empty
                    path.parent.rmdir()
            remove(self._folder)

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._left += map(Path, request["leaves"])  # before it runs: it may be interrupted
        try:
            with open(request["output"], "wb") as output:
                process = subprocess.Popen(
                    request["command"],
                    cwd=request["cwd"],
                    env=request["environment"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            return {"problem": str(error)}
        try:
            self._watch(process)
        finally:
            code = _end(process)
            _end_orphans()
        return {"code": code}

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the process has ended.

        Raises:
            ChannelClosed: the parent is gone before.
        """
        pause_s = SHORTEST_PAUSE_S
        while process.poll() is None:
            if select.select([self._channel], [], [], pause_s)[0]:  # it never asks before it was answered
                raise ChannelClosed("end of file")
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kill what is left of the group that a process leads; its exit code, −n for a signal."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _end_orphans() -> None:
    """End what commands left behind, even in sessions of their own: all of it is our child now."""
    while left := orphans(set()):
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def remove(path: Path) -> None:
    """Remove a folder and what is in it, also where a build took away the permission to."""
    shutil.rmtree(path, ignore_errors=True)
    if not path.exists():
        return
    with suppress(OSError):
        path.chmod(0o700)
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = os.path.join(folder, name)
            if not os.path.islink(inner):  # what a link leads to is not ours
                with suppress(OSError):
                    os.chmod(inner, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve on an inherited socket until the parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m attnbench.gate.arms.guardian", description=__doc__)
    parser.add_argument("--socket-fd", type=int, required=True)
    options = parser.parse_args(arguments)
    # Its end is the parent's end. A handler, since what is ignored would be ignored by commands, too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    adopt_orphans()
    os.set_inheritable(options.socket_fd, False)
    channel = Channel(socket.socket(fileno=options.socket_fd))
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    except OSError as error:
        with suppress(ChannelClosed):
            channel.send({"problem": f"no temporary folder can be made: {error}"})
        return
    Guardian(channel, folder).serve()


if __name__ == "__main__":
    main()
