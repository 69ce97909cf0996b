"""Where benches come from: a zygote that forks them, or an interpreter each where forking is not safe."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, Self, cast

from attnbench.driver.bench import ProcessBench, kill_group
from attnbench.driver.compiled import CompilerCache
from attnbench.driver.death import Death, last_words
from attnbench.driver.memory import OomCounter
from attnbench.driver.output import Output
from attnbench.driver.pinned import process_environment, thread_count
from attnbench.errors import MeasuringError, PluginError
from attnbench.protocol import PROTOCOL_VERSION, Channel, ChannelClosed, DeadlineExceeded, HelloReply

__all__ = ["ZygoteSource"]

#: How long importing torch, or asking for the devices, may take.
START_S = 180.0

#: How long importing one plug-in may take.
PLUGIN_S = 60.0

#: How long a zygote may take to fork or to reap; both are a matter of milliseconds.
ANSWER_S = 30.0

#: How long a zygote whose socket is closed may take to end its benches and itself.
LEAVE_S = 3.0


class ZygoteSource:
    """Benches with `threads` threads (a number or `all`) under one malloc policy (`pinned` or `default`).

    `memory_limit_bytes` is what each bench may take beyond what the zygote holds. Use it from one thread that
    lives as long as the source: its processes are killed when the thread that started them ends. They are
    in sessions of their own, so a Ctrl-C in the terminal reaches this process only. With `spawn` every bench
    is a fresh interpreter, also where it could be forked.

    The processes run `python` (by default this process's), with `path` first on their PYTHONPATH, with the
    values of `instead` where their `sys.path` has its keys, and with `variables` in their environment. What
    compilers keep is in `scratch` (by default the folder for temporary files). Errors begin with `role`,
    which tells one source from another. Without `wait` the zygote imports its libraries while the caller
    goes on: `hello` and `bench` wait for it, and raise what is listed below.

    Raises:
        PluginError: a plug-in cannot be loaded, hangs, or ends the interpreter.
        MeasuringError: the zygote could not be started.
        ValueError: `threads` or `malloc` is none.
    """

    def __init__(
        self,
        plugins: Sequence[Path] = (),
        threads: int | str = "all",
        malloc: str = "pinned",
        memory_limit_bytes: int | None = None,
        *,
        python: Path | None = None,
        path: Sequence[Path] = (),
        instead: Mapping[Path, Path] | None = None,
        variables: Mapping[str, str] | None = None,
        scratch: Path | None = None,
        role: str = "",
        wait: bool = True,
        plugin_deadline_s: float = PLUGIN_S,
        spawn: bool = False,
    ) -> None:
        self._plugins = [Path(plugin) for plugin in plugins]
        self._threads = thread_count(threads)
        self._python = str(python or sys.executable)
        self._instead = dict(instead or {})
        self._role = role
        environment = {**_with_path(process_environment(threads, malloc), path), **(variables or {})}
        self._memory_limit_bytes = memory_limit_bytes
        self._plugin_deadline_s = plugin_deadline_s
        self._spawn = spawn
        self._oom = OomCounter()
        self._compiled = CompilerCache(scratch)
        self._environment = {**environment, **self._compiled.environment}
        self._output = Output()
        self._zygote: _Zygote | None = None
        self._hello: HelloReply | None = None
        self._benches: list[ProcessBench] = []
        try:
            self._zygote = self._launched()
        except BaseException:
            self.close()
            raise
        if wait:
            _ = self.hello

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def hello(self) -> HelloReply:
        """What the zygote says of itself, once it has imported everything. An error ends the source.

        Raises:
            PluginError: a plug-in cannot be loaded, hangs, or ends the interpreter.
            MeasuringError: the zygote could not be started, or the source was closed before.
        """
        if self._hello is None:
            if self._zygote is None:
                raise MeasuringError(f"{self._prefix}the source of benches is closed")
            try:
                self._hello = self._greeted(self._zygote)
            except BaseException:
                self.close()
                raise
        return self._hello

    def bench(self) -> ProcessBench:
        """A fresh bench. A zygote that has died is started again, once.

        Raises:
            PluginError: as `hello`, where it was not waited for.
            MeasuringError: none can be had.
        """
        self._benches = [bench for bench in self._benches if not bench.ended]
        bench = self._spawned() if self._spawn or self.hello["fork_unsafe"] else self._forked()
        self._benches.append(bench)
        return bench

    def close(self) -> None:
        """End all benches and the zygote. Can be called twice."""
        for bench in self._benches:
            bench.close()
        self._benches.clear()
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None
        self._output.close()
        self._compiled.close()

    @property
    def _prefix(self) -> str:
        return f"{self._role}: " if self._role else ""

    def _launched(self) -> _Zygote:
        """A zygote that has begun to import."""
        return _Zygote(*self._launch("attnbench.zygote", []))

    def _greeted(self, zygote: _Zygote) -> HelloReply:
        """What a zygote says when it has imported everything."""
        loading, deadline_s = "the interpreter", START_S
        try:
            zygote.channel.send({"id": 0, "verb": "hello"})
            while "loading" in (message := zygote.channel.receive(deadline_s)):
                loading = str(message["loading"])
                deadline_s = self._plugin_deadline_s if self._is_plugin(loading) else START_S
        except DeadlineExceeded:
            zygote.kill()
            raise self._failed_start(loading, f"was not loaded within {deadline_s:g} s") from None
        except ChannelClosed:
            death = zygote.close()
            words = last_words(self._output.since())
            said = f"; last words: {words}" if words else ""
            raise self._failed_start(loading, f"ended the interpreter: {death}{said}") from None
        if not message.get("ok"):
            raise PluginError(f"{self._prefix}{message.get('reason')}")
        version = message.get("protocol_version")
        if version != PROTOCOL_VERSION:
            raise MeasuringError(
                f"{self._prefix}the attnbench that {self._python} imports speaks protocol {version}, this "
                f"one {PROTOCOL_VERSION}, so it is another version. See to it that nothing puts another "
                "attnbench before this one (a .pth file, an editable install, a sitecustomize)"
            )
        return cast(HelloReply, {key: value for key, value in message.items() if key not in ("id", "ok")})

    def _is_plugin(self, loading: str) -> bool:
        return loading in map(str, self._plugins)

    def _failed_start(self, loading: str, what: str) -> PluginError | MeasuringError:
        if self._is_plugin(loading):
            return PluginError(
                f"{self._prefix}the plug-in {loading} {what}; importing it must be quick and harmless"
            )
        return MeasuringError(
            f"{self._prefix}the measuring process cannot be started by {self._python}: {loading} {what}"
        )

    def _forked(self) -> ProcessBench:
        for attempt in ("first", "again"):
            zygote = self._zygote
            try:
                if zygote is None:
                    raise ChannelClosed("no zygote")
                channel, pid = zygote.fork(self._threads, self._memory_limit_bytes)
            except (ChannelClosed, DeadlineExceeded) as error:
                if attempt == "again":
                    break
                self._restart(error)
            else:
                return ProcessBench(
                    channel,
                    pid,
                    "forked",
                    reap=lambda zygote=zygote, pid=pid: zygote.reap(pid),  # type: ignore[misc]  # binds both
                    output=self._output,
                    oom=self._oom,
                )
        raise MeasuringError(f"{self._prefix}the zygote ended twice before it could fork a bench")

    def _restart(self, error: Exception) -> None:
        if self._zygote is not None:
            self._zygote.close()
        try:
            self._zygote = self._launched()
            self._hello = self._greeted(self._zygote)
        except PluginError as nested:
            raise MeasuringError(
                f"{self._prefix}the zygote ended ({error}) and cannot be started again: {nested}"
            ) from None

    def _spawned(self) -> ProcessBench:
        arguments = ["--threads", str(self._threads)]
        if self._memory_limit_bytes is not None:
            arguments += ["--memory-limit", str(self._memory_limit_bytes)]
        process, channel = self._launch("attnbench.bench", arguments)

        def reap() -> Death:
            return _wait(process, ANSWER_S)

        bench = ProcessBench(channel, process.pid, "spawned", reap=reap, output=self._output, oom=self._oom)
        try:
            channel.receive(START_S)
        except (ChannelClosed, DeadlineExceeded) as error:
            bench.close()
            words = last_words(self._output.since())
            raise MeasuringError(
                f"{self._prefix}a bench could not be started by {self._python}: {error}; last words: {words}"
            ) from None
        return bench

    def _launch(self, module: str, arguments: Sequence[str]) -> tuple[subprocess.Popen[bytes], Channel]:
        """Start `python -m module` on one end of a socket pair; nothing else of ours is inherited."""
        ours, theirs = socket.socketpair()
        plugins = [part for plugin in self._plugins for part in ("--plugin", str(plugin))]
        instead = [part for pair in self._instead.items() for part in ("--instead", *map(str, pair))]
        with theirs:
            command = [
                *(self._python, "-P", "-m", module),
                *("--socket-fd", str(theirs.fileno())),
                *("--parent", str(os.getpid())),
                *plugins,
                *instead,
                *arguments,
            ]
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._output.writer,
                    stderr=self._output.writer,
                    env=self._environment,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise MeasuringError(f"{self._prefix}{self._python} cannot be started: {error}") from error
        return process, Channel(ours)


class _Zygote:
    """The zygote's process and the channel to it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self._process = process
        self.channel = channel
        self._last_id = 0
        self._death: Death | None = None

    def fork(self, threads: int, memory_limit_bytes: int | None) -> tuple[Channel, int]:
        """A new bench's channel and process id.

        Raises:
            ChannelClosed: the zygote is gone.
            DeadlineExceeded: it does not answer.
            MeasuringError: it cannot fork.
        """
        answer, descriptors = self._ask(
            {"verb": "fork", "threads": threads, "memory_limit_bytes": memory_limit_bytes}
        )
        if not answer.get("ok") or len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            raise MeasuringError(f"the zygote could not fork a bench: {answer.get('reason')}")
        return Channel(socket.socket(fileno=descriptors[0])), int(answer["pid"])

    def reap(self, pid: int) -> Death:
        """How the bench `pid`, which is dead or dying, ended."""
        try:
            answer, _ = self._ask({"verb": "reap", "pid": pid})
        except (ChannelClosed, DeadlineExceeded):
            self.close()
            return Death(orphaned=True)
        return Death(answer.get("signal"), answer.get("exit_code"), bool(answer.get("lingered")))

    def kill(self) -> None:
        """End it and its group at once; `close` tells how."""
        kill_group(self._process.pid)

    def close(self) -> Death:
        """Let it end its benches and itself, or kill it; how it ended. Can be called twice."""
        if self._death is None:
            self.channel.close()
            self._death = _wait(self._process, LEAVE_S)
        return self._death

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """The answer to a request, and the descriptors that came with it."""
        if self._death is not None:
            raise ChannelClosed(str(self._death))
        self._last_id += 1
        self.channel.send({**request, "id": self._last_id})
        return _receive(self.channel.socket, ANSWER_S)


def _with_path(environment: dict[str, str], path: Sequence[Path]) -> dict[str, str]:
    """`environment` with `path` before what its PYTHONPATH holds."""
    if not path:
        return environment
    inherited = environment.get("PYTHONPATH")
    parts = [*map(str, path), *([inherited] if inherited else [])]
    return {**environment, "PYTHONPATH": os.pathsep.join(parts)}


def _receive(endpoint: socket.socket, deadline_s: float) -> tuple[dict[str, Any], list[int]]:
    """One message with the descriptors that came with it, which a `Channel` would leave behind.

    Nothing else can be under way: a zygote speaks only when it is asked.

    Raises:
        ChannelClosed: the other end is gone.
        DeadlineExceeded: nothing came in time.
    """
    until = monotonic() + deadline_s
    data, descriptors = b"", list[int]()
    while not data.endswith(b"\n"):
        if not select.select([endpoint], [], [], max(0.0, until - monotonic()))[0]:
            raise DeadlineExceeded(f"no answer within {deadline_s:g} s")
        try:
            chunk, received, _, _ = socket.recv_fds(endpoint, 65536, 1)
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if not chunk:
            raise ChannelClosed("end of file")
        data += chunk
        descriptors += received
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    answer: dict[str, Any] = json.loads(data)
    return answer, descriptors


def _wait(process: subprocess.Popen[bytes], patience_s: float) -> Death:
    """How a process that leads its own group ended; it is killed when it does not end in time."""
    lingered = False
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        lingered = True
    kill_group(process.pid)
    with suppress(ChildProcessError):
        process.wait()
    code = process.returncode
    return Death(-code, None, lingered) if code < 0 else Death(None, code, lingered)
