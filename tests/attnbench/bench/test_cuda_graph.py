from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from attnbench.bench import clock, cuda_clock
from attnbench.bench.cuda_clock import CudaClock
from attnbench.bench.cuda_graph import WARM_UP_CALLS, CaptureFailed, capture
from attnbench.bench.failures import classify
from fake_cuda import FakeCuda, FakeTime


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    time = FakeTime().install(monkeypatch, clock, cuda_clock)
    return FakeCuda(time).install(monkeypatch)


def test_a_call_is_prepared_and_warmed_up_where_it_is_captured_then_replayed(cuda: FakeCuda) -> None:
    seen: list[tuple[str, bool]] = []

    def prepare() -> Callable[[], Any]:
        seen.append((cuda.streams[-1], cuda.capturing is not None))
        kernel = cuda.kernel(10_000, 3_000, launches=4)

        def call() -> Any:
            seen.append((cuda.streams[-1], cuda.capturing is not None))
            return kernel()

        return call

    replay = capture(prepare, "cuda:0")
    assert seen == [("side", False)] * (1 + WARM_UP_CALLS) + [("side", True)]
    assert cuda.streams == ["default"]
    assert replay() is replay(), "the tensors that were captured"
    assert len(seen) == 2 + WARM_UP_CALLS, "the host's code is not run again"


def test_a_replay_takes_one_launch_and_the_kernels_their_time(cuda: FakeCuda) -> None:
    replay = capture(lambda: cuda.kernel(10_000, 3_000, launches=4), "cuda")
    reply = CudaClock("cuda").sample(replay, 50)
    assert reply["elapsed_s"] == pytest.approx(50 * 12e-6)
    assert reply["launch_s"] == pytest.approx(50 * 5e-6)
    assert not reply["launch_bound"]


def waits(cuda: FakeCuda) -> Callable[[], Any]:
    def call() -> None:
        cuda.launch(10_000, 1_000)
        cuda.synchronize()

    return call


def test_what_cannot_be_captured_says_what_to_do_and_costs_the_bench(cuda: FakeCuda) -> None:
    with pytest.raises(CaptureFailed) as error:
        capture(lambda: waits(cuda), "cuda")
    assert cuda.streams == ["default"], "nobody goes on in the stream of the capture"
    failure = classify(error.value)
    assert (failure.status, failure.fatal) == ("error", True)
    assert "cannot be captured into a CUDA graph" in failure.reason
    assert "set measure.cuda_graph=false" in failure.reason
    assert "not permitted when stream is capturing" in failure.reason, "the first error, not the last"


def test_no_memory_for_the_graph_is_out_of_memory(cuda: FakeCuda) -> None:
    def call() -> None:
        if cuda.capturing is not None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(torch.OutOfMemoryError) as error:
        capture(lambda: call, "cuda")
    assert classify(error.value).status == "oom"


def test_what_fails_before_the_capture_comes_out_as_it_is(cuda: FakeCuda) -> None:
    def call() -> None:
        raise ValueError("no such shape")

    with pytest.raises(ValueError, match="no such shape"):
        capture(lambda: call, "cuda")
    assert cuda.streams == ["default"]
