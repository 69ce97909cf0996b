"""Memory held against what is known: sequences of allocations and frees whose peak is counted by hand."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.bench import memory
from attnbench.bench.kernel import load_case
from attnbench.doctor import truths
from attnbench.units import KIB, MIB
from attnbench.workload import AttentionShape, Workload

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel keeps the peak on Linux only")

#: A slot and the bytes that it holds from then on, whatever it held before; none empties it.
Step = tuple[int, int]
Allocate = Callable[[int], Any]


@pytest.fixture(autouse=True)
def frozen() -> None:
    """As in a bench: collecting, which every reading begins with, costs nothing."""
    gc.collect()
    gc.freeze()


def schedules(largest: int, smallest: int = 1) -> st.SearchStrategy[list[Step]]:
    size = st.one_of(st.just(0), st.integers(smallest, largest))
    return st.lists(st.tuples(st.integers(0, 3), size), min_size=1, max_size=10)


def follow(schedule: Sequence[Step], allocate: Allocate) -> None:
    held: dict[int, Any] = {}
    for slot, size in schedule:
        held.pop(slot, None)
        if size:
            held[slot] = allocate(size)


def true_peak(schedule: Sequence[Step]) -> int:
    held: dict[int, int] = {}
    peak = 0
    for slot, size in schedule:
        held[slot] = size
        peak = max(peak, sum(held.values()))
    return peak


def torch_ones(size: int) -> Any:
    return torch.ones(size, dtype=torch.uint8)


def numpy_ones(size: int) -> Any:
    return np.ones(size, dtype=np.uint8)


ONES = {"torch": torch_ones, "numpy": numpy_ones}


@settings(max_examples=40)
@given(schedules(8 * MIB))
def test_torchs_allocator_is_followed_to_the_byte(schedule: list[Step]) -> None:
    peak = memory.peak_alloc_bytes(
        lambda: follow(schedule, lambda size: torch.empty(size, dtype=torch.uint8)), "torch"
    )
    assert peak == true_peak(schedule)


@settings(max_examples=40)
@given(schedules(8 * MIB))
def test_numpys_memory_is_followed_within_a_hundredth(schedule: list[Step]) -> None:
    """But for Python's own objects."""
    peak = memory.peak_alloc_bytes(
        lambda: follow(schedule, lambda size: np.empty(size, dtype=np.uint8)), "numpy"
    )
    assert 0 <= peak - true_peak(schedule) <= 0.01 * true_peak(schedule) + 8 * KIB


@linux
@settings(max_examples=12)
@given(schedules(24 * MIB, smallest=64 * KIB), st.sampled_from(sorted(ONES)))
def test_resident_memory_is_followed(schedule: list[Step], framework: str) -> None:
    peak, is_lower_bound = memory.peak_rss_bytes(lambda: follow(schedule, ONES[framework]))
    assert not is_lower_bound
    assert abs(peak - true_peak(schedule)) <= 2 * MIB + 0.01 * true_peak(schedule)


@linux
@pytest.mark.parametrize("framework", sorted(ONES))
def test_large_memory_is_read_as_well_as_small(framework: str) -> None:
    schedule = [(0, 300 * MIB), (1, 200 * MIB), (0, 0), (2, 250 * MIB), (1, 0), (3, 350 * MIB)]
    reply = memory.measure(lambda: lambda: follow(schedule, ONES[framework]), framework, "cpu")
    assert reply["peak_alloc_bytes"] == pytest.approx(600 * MIB, rel=1e-4)
    assert reply["peak_rss_bytes"] == pytest.approx(600 * MIB, rel=0.01)
    assert reply["peak_alloc_partial"] is None


@pytest.mark.parametrize(
    ("pass_", "of_torch", "of_numpy"),
    [
        # What torch keeps for the backward was there before the backward alone is called.
        ("forward", 1.75, 1.75),
        ("backward", 1.5 * 1.75, 1.5 * 1.75),
        ("forward_backward", 0.5 + 1.5 * 1.75, 1.5 * 1.75),
    ],
)
@pytest.mark.parametrize("framework", sorted(ONES))
def test_every_pass_is_seen(framework: str, pass_: str, of_torch: float, of_numpy: float) -> None:
    implementation = truths.TORCH_MEMORY if framework == "torch" else truths.NUMPY_MEMORY
    workload = Workload("attention", AttentionShape(1, 1, 1, 1, 1, 8), pass_=pass_)
    case = load_case(implementation, {"mib": 16}, workload, "cpu", 0)
    expected = 16 * MIB * (of_torch if framework == "torch" else of_numpy)
    with case.grad_mode():
        case.prepare_call()()
        reply = memory.measure(case.prepare_call, framework, "cpu")
    assert reply["peak_alloc_bytes"] == pytest.approx(expected, rel=0.01)
    assert reply["peak_alloc_partial"] is None
    if sys.platform == "linux":
        assert abs((reply["peak_rss_bytes"] or 0) - expected) <= 2 * MIB + 0.01 * expected


class Cuda:
    """What of `torch.cuda` tells of memory, over an allocator that hands out multiples of 512 bytes."""

    def __init__(self, held: int) -> None:
        self.now = self.peak = held
        self.synchronized = 0

    def synchronize(self, device: str) -> None:
        self.synchronized += 1

    def reset_peak_memory_stats(self, device: str) -> None:
        self.peak = self.now

    def memory_allocated(self, device: str) -> int:
        return self.now

    def max_memory_allocated(self, device: str) -> int:
        return self.peak

    @contextmanager
    def block(self, size: int) -> Iterator[None]:
        rounded = -(-size // 512) * 512
        self.now += rounded
        self.peak = max(self.peak, self.now)
        try:
            yield
        finally:
            self.now -= rounded

    def allocate(self, size: int) -> Any:
        block = self.block(size)
        block.__enter__()
        return SimpleNamespace(close=lambda: block.__exit__(None, None, None))


@given(schedules(600 * MIB, smallest=MIB), st.integers(0, 10**10), st.integers(0, 10**10))
def test_on_cuda_the_peak_is_that_of_the_call_alone(schedule: list[Step], before: int, earlier: int) -> None:
    cuda = Cuda(before)
    cuda.peak += earlier  # what was held once, by anybody

    def call() -> None:
        held: dict[int, Any] = {}
        for slot, size in schedule:
            if slot in held:
                held.pop(slot).close()
            if size:
                held[slot] = cuda.allocate(size)
        for block in held.values():
            block.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "cuda", cuda)
        reply = memory.measure(lambda: call, "torch", "cuda:1")
    alloc = reply["peak_alloc_bytes"]
    assert alloc is not None
    assert 0 <= alloc - true_peak(schedule) <= 0.01 * true_peak(schedule)
    assert reply["peak_rss_bytes"] is None
    assert cuda.synchronized == 2  # what was launched before is done, and so is the call
