"""The zygote: imports the heavy libraries once, then forks a bench whenever one is asked for.

`python -m attnbench.zygote --socket-fd N --parent PID [--plugin FILE …] [--instead FOLDER OTHER …]` imports
torch, NumPy, the entry points and the plug-ins, runs no tensor operation and touches no GPU, and answers
`hello`, `fork` and `reap` (see `attnbench.protocol`). Until it is ready it sends `{"loading": …}` before each
thing it loads, so that the parent can name what hung or killed it.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attnbench.bench.lifeline import adopt_orphans, die_with, orphans
from attnbench.bench.path import put_instead
from attnbench.bench.process import Settings
from attnbench.bench.process import run as run_bench
from attnbench.errors import PluginError
from attnbench.protocol import PROTOCOL_VERSION, Channel, ChannelClosed, HelloReply
from attnbench.registry import Registry

__all__ = ["Zygote", "main", "why_fork_is_unsafe"]

#: Libraries whose versions decide how fast a kernel is, where they are installed.
LIBRARIES = ("torch", "numpy", "triton", "flash-attn", "xformers", "jax", "jaxlib", "torchao", "torchtune")

#: What torch and NumPy import only when it is first needed, and every bench would pay for again: drawing
#: inputs (0.02 s), the first gradient (0.3 s), torch's deterministic mode (0.6 s). They start no threads.
LATE_IMPORTS = ("numpy.random", "torch.fx.experimental.symbolic_shapes", "torch._inductor.config")

#: How long a bench whose socket is closed may take to end by itself before it is killed.
LINGER_S = 2.0

DEVICE_PROBE_S = 120.0


class Zygote:
    """Answers one parent's requests, one after another, in one thread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._registry = Registry()
        self._hello: HelloReply | None = None
        self._refusal: str | None = None
        self._benches: set[int] = set()
        self._verbs: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "hello": self._say_hello,
            "fork": self._fork,
            "reap": self._reap,
        }

    def load(self, plugins: Sequence[Path]) -> None:
        """Import everything; a plug-in's mistake is kept as the answer to `hello`.

        Raises:
            ChannelClosed: the parent is gone.
        """
        self._announce("torch")
        threads = import_libraries()
        try:
            self._registry = Registry.discover(plugins, on_load=self._announce)
        except PluginError as error:
            self._refusal = str(error)
            return
        fork_unsafe = why_fork_is_unsafe(threads)
        self._announce("the devices")
        devices, problems = self._devices(fork_unsafe)
        self._hello = HelloReply(
            protocol_version=PROTOCOL_VERSION,
            pid=os.getpid(),
            python=platform.python_version(),
            libraries=_versions(),
            devices=devices,
            catalogue=self._registry.catalogue(),
            problems=[*self._registry.problems, *problems],
            fork_unsafe=fork_unsafe,
        )
        # Benches share these objects' pages with us as long as nobody collects (and so writes to) them.
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        """Answer until the parent is gone, then end every bench."""
        try:
            while True:
                request = self._channel.receive()
                verb = self._verbs.get(str(request.get("verb")))
                if verb is None:
                    self._refuse(request, f"there is no verb {request.get('verb')!r}")
                else:
                    verb(request)
        except ChannelClosed:
            for pid in self._benches:
                _end(pid)
            self._end_orphans()

    def leave_with(self, parent: int) -> None:
        """From now on, when the parent ends, end every bench and what they started before ending, too.

        Until then, while anybody's code is imported here, being killed at once is the only sure way.
        """

        def hang_up(*_: object) -> None:
            with suppress(OSError):  # as if the parent had: whoever waits for it hears that it is gone
                self._channel.socket.shutdown(socket.SHUT_RDWR)

        signal.signal(signal.SIGTERM, hang_up)
        die_with(parent, signal.SIGTERM)

    def _announce(self, what: str) -> None:
        self._channel.send({"loading": what})

    def _refuse(self, request: Mapping[str, Any], reason: str) -> None:
        self._channel.send({"id": request.get("id"), "ok": False, "status": "error", "reason": reason})

    def _say_hello(self, request: Mapping[str, Any]) -> None:
        if self._hello is None:
            self._refuse(request, self._refusal or "nothing is loaded yet")
        else:
            self._channel.send({"id": request.get("id"), "ok": True, **self._hello})

    def _fork(self, request: Mapping[str, Any]) -> None:
        parents_end, benchs_end = socket.socketpair()
        settings = Settings(request.get("threads"), request.get("memory_limit_bytes"))
        _flush_streams()
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_bench(zygote, parents_end, benchs_end, settings)
        self._benches.add(pid)
        benchs_end.close()
        answer = json.dumps({"id": request.get("id"), "ok": True, "pid": pid}).encode() + b"\n"
        with parents_end:
            try:
                socket.send_fds(self._channel.socket, [answer], [parents_end.fileno()])
            except OSError as error:
                raise ChannelClosed(str(error)) from error

    def _become_bench(
        self, zygote: int, parents_end: socket.socket, benchs_end: socket.socket, settings: Settings
    ) -> None:
        """The child's way: never returns, and runs none of the zygote's exit handlers."""
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            die_with(zygote)
            self._channel.close()
            parents_end.close()
            run_bench(benchs_end, self._registry, settings)
            code = 0
        except BaseException:  # nobody above may catch it: the zygote's frames are not this process's affair
            traceback.print_exc()
        finally:
            _flush_streams()
            os._exit(code)

    def _reap(self, request: Mapping[str, Any]) -> None:
        pid = request.get("pid")
        if pid not in self._benches:
            self._refuse(request, f"no bench has the process id {pid!r}")
            return
        lingered = not _ends_by_itself(pid)
        status = _end(pid)
        self._benches.discard(pid)
        self._end_orphans()
        self._channel.send(
            {
                "id": request.get("id"),
                "ok": True,
                "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                "lingered": lingered,
            }
        )

    def _end_orphans(self) -> None:
        """End what dead benches left behind, even in sessions of their own: all of it is our child now."""
        while left := orphans(self._benches):
            for pid in left:
                _end(pid)

    def _devices(self, fork_unsafe: str | None) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """The devices here, asked for in a child that ends at once: asking may start a GPU's context."""
        probe = _probe_in_interpreter if fork_unsafe else _probe_in_fork
        try:
            return json.loads(probe()), []
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            from attnbench.bench.devices import cpu_name

            problem = f"devices could not be listed, so only the CPU is known: {error}"
            return {"cpu": [{"device": "cpu", "name": cpu_name()}]}, [problem]


def import_libraries() -> int:
    """Import what benches need; how many threads there are right after torch and NumPy were imported."""
    import numpy  # noqa: F401
    import torch  # noqa: F401

    threads = _thread_count()
    for name in LATE_IMPORTS:
        with suppress(ImportError):  # other versions may not have it
            importlib.import_module(name)
    return threads


def why_fork_is_unsafe(clean_threads: int) -> str | None:
    """Why this process must not fork benches, or None.

    A child has the forking thread only: what another thread held locked stays locked. `clean_threads` is
    the number of threads right after torch and NumPy were imported; those libraries see to their own.
    """
    if sys.platform != "linux":
        return f"benches are not forked on {platform.system()}"
    threads = _thread_count()
    if threads > clean_threads:
        return f"what was loaded started threads ({threads} instead of {clean_threads})"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "what was loaded initialised CUDA, which does not survive a fork"
    return None


def _thread_count() -> int:
    """Threads of this process, those of C libraries included (Linux; 0 elsewhere)."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _probe_in_fork() -> str:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            from attnbench.bench.devices import probe

            with open(writer, "w") as pipe:
                json.dump(probe(), pipe)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def _probe_in_interpreter() -> str:
    command = [sys.executable, "-P", "-m", "attnbench.bench.devices"]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=DEVICE_PROBE_S).stdout.decode()


def _ends_by_itself(pid: int) -> bool:
    """Whether `pid`, whose socket is closed, ends within `LINGER_S`; it is left to be reaped."""
    until = time.monotonic() + LINGER_S
    pause = 0.0005
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(0.02, 2 * pause)
    return True


def _end(pid: int) -> int:
    """Kill what is left of a child and of the group that it leads, and reap it; how it ended.

    In this order, because the child's id is nobody else's until it is reaped.
    """
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _flush_streams() -> None:
    """What is buffered here must not be printed by a child again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or replaced by something else
            continue


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve on an inherited socket until the parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m attnbench.zygote", description=__doc__)
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--plugin", type=Path, action="append", default=[])
    parser.add_argument("--instead", nargs=2, action="append", default=[], metavar=("FOLDER", "OTHER"))
    options = parser.parse_args(arguments)
    die_with(options.parent)
    put_instead(options.instead)
    adopt_orphans()
    os.set_inheritable(options.socket_fd, False)
    zygote = Zygote(Channel(socket.socket(fileno=options.socket_fd)))
    try:
        zygote.load(options.plugin)
    except ChannelClosed:
        return
    zygote.leave_with(options.parent)
    zygote.serve()


if __name__ == "__main__":
    main()
