"""How the parent speaks with the processes that measure: JSON lines over a socket. Standard library only.

A request is `{"id": 7, "verb": "sample", …}`; the answer has the same id and either `"ok": true` with the
verb's figures, or `"ok": false` with a `status` and a `reason`. This is the seam for tests: whatever
answers these verbs (`Bench` below) can be driven, a scripted one as well as a process.

Verbs of a zygote: `hello`, `fork`, `reap`. Verbs of a bench: `prepare`, `memory`, `reference`, `accuracy`,
`sample`, `energy`, `verify`, `weights`, `release`; `describe` and `ceiling`, which need no case. Their
parameters and answers are the TypedDicts below.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Mapping
from time import monotonic
from typing import Any, NotRequired, Protocol, TypedDict

__all__ = [
    "FAILURES",
    "MOST_WEIGHTS",
    "PROTOCOL_VERSION",
    "WEIGHTED",
    "AccuracyReply",
    "Bench",
    "BenchFailed",
    "BenchLost",
    "BenchSource",
    "CeilingReply",
    "Channel",
    "ChannelClosed",
    "DeadlineExceeded",
    "DescribeReply",
    "EnergyReply",
    "GpuReply",
    "HelloReply",
    "ImplementationInfo",
    "MemoryReply",
    "PrepareParameters",
    "PrepareReply",
    "SampleReply",
    "VerifyReply",
    "WeightsReply",
    "finite_or_none",
]

PROTOCOL_VERSION = 1

#: A message longer than this is a fault, not an answer.
LONGEST_MESSAGE_BYTES = 16 * 1024 * 1024

#: The operations whose cases can be asked for attention weights.
WEIGHTED = ("attention", "mha")

#: Attention weights that one answer may hold: 4 bytes each, as text a third more.
MOST_WEIGHTS = 2**21

#: What a verb can answer instead of figures.
FAILURES = ("unsupported", "unavailable", "oom", "timeout", "crashed", "error")


class ImplementationInfo(TypedDict):
    """One entry of the catalogue; what it says of an implementation is as `Implementation` has it.

    `file` is the path of the Python file that its kernel is written in, or None where that cannot be told.
    """

    name: str
    operation: str
    framework: str
    summary: str
    memory: str
    flops: str
    source: str
    compiles: bool
    precision: str
    options: dict[str, Any]
    origin: str
    file: str | None


class HelloReply(TypedDict):
    """What a zygote says of itself.

    `devices` maps each device kind that was looked for to what is there of it
    (`{"cpu": [{"device": "cpu", "name": "AMD EPYC"}], "cuda": []}`);
    `problems` are entry points that could not be loaded; `fork_unsafe` says why benches must be spawned.
    """

    protocol_version: int
    pid: int
    python: str
    libraries: dict[str, str]
    devices: dict[str, list[dict[str, Any]]]
    catalogue: list[ImplementationInfo]
    problems: list[str]
    fork_unsafe: str | None


class PrepareParameters(TypedDict):
    """`prepare`: load a case, check that it can run, draw its inputs, call it once.

    `case` is the key by which the other verbs name it. Benches that are told the same `scope` share what
    compilers keep of a case; those of another find nothing of it. With `capability_only` nothing is drawn or
    called. With `capable` nobody is asked whether the case can run: another bench has found that out, and
    asking may call the very kernel whose first call is to be timed.
    With `poisoned` the bench fills uninitialised memory from then on (see `accuracy`); with `deterministic`
    it only enters torch's deterministic mode, which that entails.
    """

    case: str
    implementation: str
    options: dict[str, Any]
    workload: dict[str, Any]
    device: str
    seed: int
    threads: int | None
    scope: NotRequired[str]
    capability_only: NotRequired[bool]
    capable: NotRequired[bool]
    poisoned: NotRequired[bool]
    deterministic: NotRequired[bool]


class PrepareReply(TypedDict):
    """What `prepare` found; `first_call_s` is without the time that building the mask took."""

    framework: str
    first_call_s: float | None
    resolved_backend: str | None
    device_name: str | None
    output_bytes: int | None


class MemoryReply(TypedDict):
    """Peaks above what was held before the call. `peak_alloc_partial` says why the first figure is blind."""

    peak_alloc_bytes: int | None
    peak_alloc_partial: str | None
    peak_rss_bytes: int | None
    peak_rss_is_lower_bound: bool


class AccuracyReply(TypedDict):
    """Error figures and the verdict; not finite ones are null. `reason` says why a case failed."""

    accuracy: str
    reason: str | None
    error_max_abs: float | None
    error_rel_l2: float | None
    error_rmse: float | None
    error_floor: float | None
    error_yardstick: float | None
    error_ratio: float | None
    bitwise_repeatable: bool | None
    error_dq_max_abs: float | None
    error_dk_max_abs: float | None
    error_dv_max_abs: float | None


class GpuReply(TypedDict):
    """How a GPU was right after a sample; what it does not tell is null (see `attnbench.nvml.GpuState`)."""

    sm_clock_hz: float | None
    temperature_c: float | None
    power_w: float | None
    reasons: list[str] | None


class SampleReply(TypedDict):
    """One sample: `calls` calls took `elapsed_s` on the device's clock and `cpu_s` of process time together.

    On a GPU `launch_s` is the host's time to launch them, and `cpu_s` its process time while it did so.
    `launch_bound` says that the device had to wait for the host, whose time is in `elapsed_s` then.
    """

    elapsed_s: float
    cpu_s: float
    launch_s: float | None
    launch_bound: NotRequired[bool]
    gpu: NotRequired[GpuReply | None]


class EnergyReply(TypedDict):
    """What one call takes by the device's own meter; null without one."""

    energy_j: float | None


class VerifyReply(TypedDict):
    """Why the call that was timed does not compute what it returns, or null.

    `verify` is asked of a bench that has sampled the case, about the very call that it timed.
    """

    reason: str | None


class WeightsReply(TypedDict):
    """The attention weights of one batch element (`weights`, with `element` and the `heads` wanted, from 0).

    `weights` are little-endian float32 in base64, `shape` `[heads, q_len, keys]`, at most `MOST_WEIGHTS`.
    Query i may see the keys from `start[i]` to before `stop[i]`, and the last `appended` keys, which no mask
    is over (those that `add_bias_kv` and `add_zero_attn` bring).
    """

    weights: str
    shape: list[int]
    start: list[int]
    stop: list[int]
    appended: int


class DescribeReply(TypedDict):
    """What a bench says of itself (`describe`, which needs no case); what it cannot find out is null.

    `threads` and `interop_threads` are torch's, `numpy_threads` those of NumPy's BLAS. `allocator` is the
    file whose malloc is in force, `kept_share` how much of a freed large block it keeps for later.
    """

    threads: int
    interop_threads: int
    matmul_precision: str
    torch_blas: str | None
    numpy_blas: str | None
    numpy_threads: int | None
    thread_libraries: list[str]
    libc: str | None
    allocator: str | None
    kept_share: float | None
    affinity: list[int] | None


class CeilingReply(TypedDict):
    """The most that this process reached (`ceiling`, which needs no case), and the way that reached it.

    FLOP/s where matrices were multiplied. Bytes a second where memory was read or copied: then with what the
    last-level cache holds, of which the buffer is a multiple.
    """

    per_s: float
    way: str
    cache_bytes: int | None


class ChannelClosed(Exception):
    """The other end is gone."""


class DeadlineExceeded(Exception):
    """No answer within the time allowed."""


class BenchFailed(Exception):
    """A verb answered with a failure; the bench lives on. `status` is one of `FAILURES`."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


class BenchLost(BenchFailed):
    """The bench died, hung or must be replaced; `status` and `reason` are for the case outstanding."""


class Bench(Protocol):
    """What the runner drives: a process, or a script standing in for one."""

    #: How it came to be: `forked`, `spawned` or `scripted`.
    start: str

    def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """The answer to one verb.

        Raises:
            BenchFailed: the verb answered with a failure; the bench can go on.
            BenchLost: the bench is gone; ask for another.
        """
        ...

    def close(self) -> None:
        """End the bench and everything it started. Can be called twice."""
        ...


class BenchSource(Protocol):
    """Where benches come from: a zygote, or a script standing in for one."""

    @property
    def hello(self) -> HelloReply:
        """What it says of itself.

        Raises:
            PluginError: a plug-in cannot be loaded, where that was not waited for when the source was opened.
            MeasuringError: it cannot be started, likewise.
        """
        ...

    def bench(self) -> Bench:
        """A fresh bench.

        Raises:
            MeasuringError: none can be had.
        """
        ...

    def close(self) -> None:
        """End the source and its benches. Can be called twice."""
        ...


def finite_or_none(value: float) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return value if value == value and abs(value) != float("inf") else None


class Channel:
    """JSON lines over a stream socket, with deadlines."""

    def __init__(self, endpoint: socket.socket) -> None:
        self.socket = endpoint
        self._buffer = bytearray()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.socket.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Write one message.

        Raises:
            ChannelClosed: the other end is gone.
            ValueError: a value JSON has no form for (NaN and the infinities among them).
        """
        data = json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self, deadline_s: float | None = None) -> dict[str, Any]:
        """The next message; waits at most `deadline_s` seconds (None: for ever).

        Raises:
            ChannelClosed: the other end is gone, or sent what is no message.
            DeadlineExceeded: nothing came in time.
        """
        until = None if deadline_s is None else monotonic() + deadline_s
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > LONGEST_MESSAGE_BYTES:
                raise ChannelClosed(f"a message longer than {LONGEST_MESSAGE_BYTES} bytes")
            remaining = None if until is None else max(0.0, until - monotonic())
            ready, _, _ = select.select([self.socket], [], [], remaining)
            if not ready:
                raise DeadlineExceeded(f"no answer within {deadline_s:g} s")
            try:
                chunk = self.socket.recv(65536)
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if not chunk:
                raise ChannelClosed("end of file")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except ValueError as error:
            raise ChannelClosed(f"not JSON: {line[:80]!r}") from error
        if not isinstance(message, dict):
            raise ChannelClosed(f"not a message: {line[:80]!r}")
        return message

    def close(self) -> None:
        """Close this end."""
        self.socket.close()
