"""The timed call as a CUDA graph: captured once, then replayed by a single launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnbench.bench.clock import Call
from attnbench.bench.failures import BeyondUse

__all__ = ["CaptureFailed", "capture"]

#: Calls before the capture, in which libraries allocate, tune and load: what cannot be captured.
WARM_UP_CALLS = 3


class CaptureFailed(BeyondUse):
    """A call cannot be captured. The process' CUDA state is in doubt from then on."""


def capture(prepare: Callable[[], Call], device: str) -> Call:
    """The call that `prepare` makes, as one that replays its kernels and returns the same tensors each time.

    It is prepared, warmed up and captured in one stream beside the usual one, as capturing demands; so the
    graph of a backward pass, whose kernels run in the stream of their forward, is captured as well.

    Raises:
        CaptureFailed: the call waits for the device, copies to the host or otherwise cannot be captured.
        torch.OutOfMemoryError: there is no memory for what the graph keeps.
        Exception: whatever the call raises before it is captured.
    """
    import torch
    from torch import cuda

    with cuda.device(device):
        stream = cuda.Stream()  # type: ignore[no-untyped-call]  # torch left it so
        stream.wait_stream(cuda.current_stream())
        graph = cuda.CUDAGraph()
        with cuda.stream(stream):  # entered here, so that it is left even if ending the capture fails
            call = prepare()
            for _ in range(WARM_UP_CALLS):
                call()
            try:
                with cuda.graph(graph, stream=stream):
                    results = call()
            except Exception as error:
                cause = _first(error)
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
                raise CaptureFailed(
                    "the call cannot be captured into a CUDA graph; it may neither wait for the GPU nor copy "
                    f"to the host, else set measure.cuda_graph=false: {type(cause).__name__}: {cause}"
                ) from error
        cuda.current_stream().wait_stream(stream)
        cuda.synchronize(device)

    # The call is kept because it holds memory that the graph reads: that of a backward pass' forward.
    def replay(_kept: Call = call) -> Any:
        graph.replay()
        return results

    return replay


def _first(error: BaseException) -> BaseException:
    """What was raised first: ending a capture that failed raises over it."""
    while error.__context__ is not None:
        error = error.__context__
    return error
