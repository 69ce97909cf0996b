"""A bench that is a process, seen from the parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from attnbench.driver.death import Death, explain
from attnbench.driver.memory import OomCounter
from attnbench.driver.output import Output
from attnbench.protocol import FAILURES, BenchFailed, BenchLost, Channel, ChannelClosed, DeadlineExceeded

__all__ = ["ProcessBench", "kill_group"]


class ProcessBench:
    """Asks one process, which leads its own process group, and kills the whole group in the end.

    `reap` waits for the process, which is dead or dying, and tells how it ended.
    """

    def __init__(
        self,
        channel: Channel,
        pid: int,
        start: str,
        *,
        reap: Callable[[], Death],
        output: Output,
        oom: OomCounter,
    ) -> None:
        self.start = start
        self.pid = pid
        self._channel = channel
        self._reap = reap
        self._output = output
        self._oom = oom
        self._last_id = 0
        self._death: Death | None = None

    def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """The answer to one verb.

        Raises:
            BenchFailed: the verb answered with a failure; the bench can go on.
            BenchLost: the bench died, took longer than `deadline_s`, or is beyond use.
        """
        if self._death is not None:
            raise BenchLost("error", f"{verb} was asked of a bench that has ended")
        mark = self._output.mark()
        try:
            answer = self._exchange(verb, parameters, deadline_s)
        except DeadlineExceeded:
            self.close()
            reason = f"{verb} took longer than {deadline_s:g} s (limits.seconds_per_case)"
            raise BenchLost("timeout", reason) from None
        except ChannelClosed:
            death = self._end()
            status, reason = explain(death, verb, self._output.since(mark), self._oom.risen())
            raise BenchLost(status, reason) from None
        if answer.pop("ok", False):
            return answer
        reason = str(answer.get("reason", "no reason given"))
        status = str(answer.get("status"))
        if status not in FAILURES:
            status = "error"
        if answer.get("fatal"):
            self.close()
            raise BenchLost(status, reason)
        raise BenchFailed(status, reason)

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self._death is not None

    def close(self) -> None:
        """Kill the process and all of its group, and reap it. Can be called twice."""
        if self._death is None:
            kill_group(self.pid)
            self._end()

    def _exchange(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        self._last_id += 1
        until = monotonic() + deadline_s
        self._channel.send({**parameters, "id": self._last_id, "verb": verb})
        while True:
            answer = self._channel.receive(max(0.0, until - monotonic()))
            if answer.pop("id", None) == self._last_id:
                return answer

    def _end(self) -> Death:
        self._channel.close()
        self._death = self._reap()
        kill_group(self.pid)
        return self._death


def kill_group(pid: int) -> None:
    """Kill the process `pid`, whether it leads its group yet or not, and its group."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
