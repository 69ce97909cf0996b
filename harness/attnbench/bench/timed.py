"""The timed call of a case, with the clock, the flush and the GPU's word that go with its device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from attnbench.bench import clock
from attnbench.bench.clock import Call
from attnbench.bench.cuda_clock import CudaClock
from attnbench.bench.cuda_graph import capture
from attnbench.bench.devices import cuda_uuid, waiting_for
from attnbench.bench.energy import energy_per_call_j
from attnbench.bench.flush import Flush, last_level_cache_bytes
from attnbench.bench.kernel import LoadedCase
from attnbench.nvml import Gpu
from attnbench.protocol import SampleReply

__all__ = ["Instruments", "Timed"]


class Instruments:
    """What the cases of a bench share: what flushes each device's cache, and each GPU to be asked."""

    def __init__(self) -> None:
        self._flushes: dict[str, Flush] = {}
        self._gpus: dict[str, Gpu | None] = {}

    def flush(self, device: str) -> Flush:
        """The device's, made when it is first asked for."""
        if device not in self._flushes:
            self._flushes[device] = Flush(device)
        return self._flushes[device]

    def gpu(self, device: str) -> Gpu | None:
        """The GPU that `device` is; None for a CPU, or where the driver tells nothing."""
        if device not in self._gpus:
            self._gpus[device] = Gpu.open(cuda_uuid(device)) if _is_cuda(device) else None
        return self._gpus[device]


class Timed:
    """One case's timed call: the same from its first sample until it is forgotten."""

    def __init__(self, case: LoadedCase, instruments: Instruments) -> None:
        self._case = case
        self._instruments = instruments
        self._call: Callable[[], Any] | None = None
        self._sample = CudaClock(case.device).sample if _is_cuda(case.device) else _on_cpu(case)

    def call(self, *, cuda_graph: bool = False) -> Callable[[], Any]:
        """The call, made when it is first asked for: with `cuda_graph`, on a GPU, the replay of a graph.

        Raises:
            CaptureFailed: it cannot be captured.
            Exception: whatever the kernel raises.
        """
        if self._call is None:
            prepare, device = self._case.prepare_call, self._case.device
            with self._case.grad_mode():
                self._call = capture(prepare, device) if cuda_graph and _is_cuda(device) else prepare()
        return self._call

    def forget(self) -> None:
        """Let go of the call, and of the graph of a backward pass that it holds."""
        self._call = None

    def sample(self, calls: int, *, cold: bool = False, cuda_graph: bool = False) -> SampleReply:
        """One sample of `calls` calls, with what the GPU says of itself right after it.

        Other accelerators are waited for after every call, which is part of their time.

        Raises:
            Exception: as `call`.
        """
        call, device = self.call(cuda_graph=cuda_graph), self._case.device
        wait = waiting_for(device)
        if wait is not None and not _is_cuda(device):
            call = _awaited(call, wait)
        flush = self._instruments.flush(device) if cold else None
        with self._case.grad_mode():
            reply = self._sample(call, calls, flush)
        gpu = self._instruments.gpu(device)
        if gpu is not None:
            reply["gpu"] = gpu.state().to_reply()
        return reply

    def energy_j(self, *, cuda_graph: bool = False) -> float | None:
        """Joules of one call by the GPU's own meter; None where there is none.

        Raises:
            Exception: as `call`.
        """
        gpu, wait = self._instruments.gpu(self._case.device), waiting_for(self._case.device)
        if gpu is None or wait is None:
            return None
        call = self.call(cuda_graph=cuda_graph)
        with self._case.grad_mode(), clock.no_garbage_collection():
            return energy_per_call_j(call, wait, gpu)


def _awaited(call: Callable[[], Any], wait: Callable[[], object]) -> Callable[[], Any]:
    def called_and_done() -> Any:
        result = call()
        wait()
        return result

    return called_and_done


def _on_cpu(case: LoadedCase) -> Callable[[Call, int, Flush | None], SampleReply]:
    """The CPU's clock, with as many priming calls as the case's data want."""
    return partial(clock.sample, primings=clock.priming_calls(case.data_bytes, last_level_cache_bytes()))


def _is_cuda(device: str) -> bool:
    return device.split(":")[0] == "cuda"
