"""A GPU that is scripted: one queue, worked off on the device's own time while the host goes on.

The host's clock moves when the host does something, or waits; the device starts a launch when it has
reached it and is done with those before it. An event takes its time when the device gets to it. So kernels
that take less time than their launch, head starts, full queues, flushes and kernels that wait for the
device themselves can all be played. `install` puts it in place of `torch.cuda`, and the host's clocks of a
module with it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class FakeTime:
    """Both of the host's clocks; the CPU's runs at twice the wall's pace, as with two busy threads."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def spend(self, ns: float) -> None:
        self.now_ns += round(ns)

    def install(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> FakeTime:
        for module in modules:
            monkeypatch.setattr(module, "perf_counter_ns", lambda: self.now_ns, raising=False)
            monkeypatch.setattr(module, "process_time_ns", lambda: 2 * self.now_ns, raising=False)
            monkeypatch.setattr(module, "perf_counter", lambda: self.now_ns / 1e9, raising=False)
        return self


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.at_ns: float | None = None

    def record(self) -> None:
        self.at_ns = self.cuda.launch(200, 0)

    def query(self) -> bool:
        assert self.at_ns is not None, "an event was asked before it was recorded"
        self.cuda.time.spend(100)
        return self.at_ns <= self.cuda.time.now_ns

    def synchronize(self) -> None:
        assert self.at_ns is not None, "an event was waited for before it was recorded"
        self.cuda.time.spend(1_000)
        self.cuda.time.now_ns = max(self.cuda.time.now_ns, math.ceil(self.at_ns))

    def elapsed_time(self, last: FakeEvent) -> float:
        assert self.at_ns is not None
        assert last.at_ns is not None
        assert last.at_ns <= self.cuda.time.now_ns, "nobody waited for the event"
        return (last.at_ns - self.at_ns) / 1e6


class FakeCuda:
    """Stands in for `torch.cuda`, with one device of the given queue and clock (GHz)."""

    OutOfMemoryError = torch.OutOfMemoryError

    def __init__(self, time: FakeTime, *, queue: int = 1024, ghz: float = 1.7) -> None:
        self.time = time
        self.queue = queue
        self.ghz = ghz
        self.pending: deque[float] = deque()  # when each launch that is not yet worked off will be
        self.free_ns = 0.0  # when the device will have done all that was launched
        self.elsewhere_ns = 0.0  # when it will have done what was launched beside the queue
        self.sleeps: list[int] = []
        self.kernels = 0
        self.capturing: list[tuple[float, float]] | None = None
        self.streams: list[str] = ["default"]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
        monkeypatch.setattr(torch, "cuda", self)
        return self

    def launch(self, host_ns: float, device_ns: float) -> float:
        """One kernel; returns when the device will be done with it."""
        if self.capturing is not None:
            self.time.spend(host_ns)
            self.capturing.append((host_ns, device_ns))
            return 0.0
        self.time.spend(host_ns)
        self._work_off()
        while len(self.pending) >= self.queue:
            self.time.now_ns = max(self.time.now_ns, math.ceil(self.pending[0]))
            self._work_off()
        self.free_ns = max(self.free_ns, self.time.now_ns) + device_ns
        self.pending.append(self.free_ns)
        return self.free_ns

    def _work_off(self) -> None:
        while self.pending and self.pending[0] <= self.time.now_ns:
            self.pending.popleft()

    def kernel(self, host_ns: float, device_ns: float, launches: int = 1) -> Callable[[], Any]:
        """A call of so many launches, each of which takes the host and the device so long."""

        def call() -> object:
            self.kernels += 1
            for _ in range(launches):
                self.launch(host_ns, device_ns)
            return object()

        return call

    def beside(self, host_ns: float, device_ns: float) -> Callable[[], Any]:
        """A call whose only kernel runs in a stream that waits for the queue, and that nothing waits for."""

        def call() -> object:
            self.time.spend(host_ns)
            self.elsewhere_ns = max(self.elsewhere_ns, self.free_ns, self.time.now_ns) + device_ns
            return object()

        return call

    # What torch.cuda has

    def synchronize(self, device: object = None) -> None:
        if self.capturing is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self.time.spend(1_000)
        self.time.now_ns = max(self.time.now_ns, math.ceil(max(self.free_ns, self.elsewhere_ns)))

    def _sleep(self, cycles: int) -> None:
        self.sleeps.append(cycles)
        self.launch(3_000, cycles / self.ghz)

    @contextmanager
    def device(self, device: str) -> Iterator[None]:
        assert device.startswith("cuda")
        yield

    def Event(self, *, enable_timing: bool) -> FakeEvent:  # noqa: N802  # torch's name, as those that follow
        assert enable_timing
        return FakeEvent(self)

    def Stream(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(name="side", wait_stream=lambda other: None)

    def current_stream(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.streams[-1], wait_stream=lambda other: None)

    @contextmanager
    def stream(self, stream: SimpleNamespace) -> Iterator[None]:
        self.streams.append(stream.name)
        try:
            yield
        finally:
            self.streams.pop()

    def CUDAGraph(self) -> SimpleNamespace:  # noqa: N802
        graph = SimpleNamespace(nodes=[])
        # One launch of the host, then every kernel that was captured, end to end.
        graph.replay = lambda: self.launch(5_000, sum(device_ns for _, device_ns in graph.nodes))
        return graph

    @contextmanager
    def graph(self, graph: SimpleNamespace, stream: SimpleNamespace) -> Iterator[None]:
        """Like torch's, it ends the capture whatever happens, and raises another error over the first."""
        assert self.streams[-1] == stream.name == "side", "capture on the stream that was warmed up"
        self.synchronize()
        self.capturing = graph.nodes
        try:
            yield
        except BaseException:
            raise RuntimeError("CUDA error: operation failed in capture")  # noqa: B904  # as torch does
        finally:
            self.capturing = None
