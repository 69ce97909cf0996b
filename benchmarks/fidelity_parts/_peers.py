"""The tools that attnbench is compared with, each repetition in a fresh interpreter."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attnbench.driver.bench import kill_group
from attnbench.protocol import Channel

__all__ = ["PEERS", "Peer"]

#: Names as the child knows them, and as they are called.
PEERS: Mapping[str, str] = {"torch_timer": "torch.utils.benchmark", "pytest_benchmark": "pytest-benchmark"}

CHILD = Path(__file__).with_name("_peer_process.py")

#: pytest starts in a tenth of the time without what else may be installed.
NO_OTHER_PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

#: Importing torch and pytest takes seconds, on a loaded machine many.
START_S = 120.0


class Peer:
    """A fresh interpreter that has imported what the peers need; it measures once. A context manager."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(CHILD), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**_without_pytest(environment), **NO_OTHER_PLUGINS},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._channel = Channel(ours)

    def wait(self) -> None:
        """Return when it is ready."""
        self._channel.receive(START_S)

    def measure(self, request: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """Its answer: `times`, the seconds per call of each kernel, and `wall_s`, how long measuring took.

        Raises:
            ChannelClosed: it failed; why stands on stderr.
            DeadlineExceeded: it took too long.
        """
        self._channel.send(request)
        return self._channel.receive(deadline_s)

    def close(self) -> None:
        """End it. Can be called twice."""
        self._channel.close()
        kill_group(self._process.pid)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _without_pytest(environment: Mapping[str, str]) -> dict[str, str]:
    """What a test suite that we may be part of leaves for its workers is not meant for a pytest of ours."""
    return {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
