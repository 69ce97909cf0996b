from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attnbench.bench import memory
from attnbench.driver.pinned import PINNED_MALLOC
from attnbench.units import KIB, MIB

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel keeps the peak on Linux only")

#: Peaks at 2.5 times its size: a whole, a half and the output at once; then the whole goes, and a half comes.
KNOWN_CALLS = """
import gc, json, sys, threading
import numpy as np
import torch
from attnbench.bench import memory

gc.freeze()  # as in a bench, where collecting costs nothing

def known(ones, size):
    def call():
        whole, half = ones(size), ones(size // 2)
        output = whole * 2
        del whole
        another = ones(size // 2)
        return output
    return call

figures = []
for framework, ones in (("torch", torch.ones), ("numpy", lambda n: np.ones(n, np.float32))):
    for mib in (1, 16, 100):
        call = known(ones, mib << 18)
        call()
        reply = memory.measure(lambda: call, framework, "cpu")
        figures.append([framework, int(2.5 * mib * 2**20), reply])

def foreign():
    thread = threading.Thread(target=np.ones, args=(40 << 20, np.uint8))
    thread.start()
    thread.join()

foreign()
figures.append(["foreign", 40 << 20, memory.measure(lambda: foreign, "torch", "cpu")])
json.dump(figures, sys.stdout)
"""


@linux
@pytest.mark.parametrize("malloc", ["pinned", "default"])
def test_known_allocations_are_read_exactly_whatever_malloc_does(malloc: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in PINNED_MALLOC}
    if malloc == "pinned":
        environment |= PINNED_MALLOC
    done = subprocess.run(
        [sys.executable, "-c", KNOWN_CALLS], env=environment, capture_output=True, check=True, timeout=60
    )
    figures = json.loads(done.stdout)
    # What a thread held in the first call stays resident in its arena, from where the next thread takes it.
    _, expected, reply = figures.pop()
    assert abs(reply["peak_rss_bytes"] - expected) < 2 * MIB + 0.01 * expected
    assert reply["peak_alloc_partial"] is not None
    assert len(figures) == 6
    for framework, expected, reply in figures:
        assert reply["peak_alloc_bytes"] == pytest.approx(expected, rel=0.01), framework
        assert abs(reply["peak_rss_bytes"] - expected) < 2 * MIB + 0.01 * expected, framework
        assert reply["peak_alloc_partial"] is None
        assert reply["peak_rss_is_lower_bound"] is False


def test_the_output_and_a_passing_intermediate_count() -> None:
    def call() -> torch.Tensor:
        torch.empty(3 * MIB, dtype=torch.uint8)  # freed at once
        intermediate = torch.empty(2 * MIB, dtype=torch.uint8)
        output = torch.empty(4 * MIB, dtype=torch.uint8)
        del intermediate
        return output

    assert memory.peak_alloc_bytes(call, "torch") == 6 * MIB


def test_what_was_held_before_does_not_count() -> None:
    held = [torch.empty(8 * MIB, dtype=torch.uint8)]

    def call() -> None:
        held.clear()
        torch.empty(MIB, dtype=torch.uint8)

    assert memory.peak_alloc_bytes(call, "torch") <= MIB
    assert memory.peak_alloc_bytes(lambda: np.ones(MIB, dtype=np.uint8), "numpy") == pytest.approx(
        MIB, rel=0.01
    )


def test_a_backward_pass_is_seen_on_a_fresh_graph_each_time() -> None:
    leaf = torch.ones(256, 256, requires_grad=True)
    graphs: list[int] = []

    def prepare_call() -> Any:
        graphs.append(1)
        output = (leaf @ leaf).relu()
        return lambda: torch.autograd.grad(output, leaf, torch.ones_like(output))

    reply = memory.measure(prepare_call, "torch", "cpu")
    assert len(graphs) >= 2
    matrix = 256 * 256 * 4
    assert reply["peak_alloc_bytes"] is not None
    assert 3 * matrix <= reply["peak_alloc_bytes"] <= 6 * matrix


def in_a_thread(allocate: Callable[[], object]) -> None:
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()


@linux
@pytest.mark.parametrize(
    ("framework", "call", "seen", "told"),
    [
        ("torch", lambda: np.ones(32 * MIB, dtype=np.uint8), 0, True),
        ("torch", lambda: in_a_thread(lambda: np.ones(32 * MIB, dtype=np.uint8)), 0, True),
        ("torch", lambda: in_a_thread(lambda: torch.ones(32 * MIB, dtype=torch.uint8)), 0, True),
        ("numpy", lambda: torch.ones(32 * MIB, dtype=torch.uint8), 0, True),
        # NumPy tells whatever thread it allocates in.
        ("numpy", lambda: in_a_thread(lambda: np.ones(32 * MIB, dtype=np.uint8)), 32 * MIB, False),
    ],
)
def test_memory_past_the_framework_makes_the_allocators_peak_partial(
    framework: str, call: Callable[[], object], seen: int, told: bool
) -> None:
    reply = memory.measure(lambda: call, framework, "cpu")
    assert reply["peak_alloc_bytes"] == pytest.approx(seen, rel=0.01, abs=64 * KIB)
    assert reply["peak_rss_bytes"] == pytest.approx(32 * MIB, abs=2 * MIB)
    assert (reply["peak_alloc_partial"] is not None) is told


@pytest.mark.parametrize(
    ("alloc", "rss", "partial"),
    [
        (100 * MIB, 117 * MIB, False),
        (100 * MIB, 119 * MIB, True),
        (0, 8 * MIB, False),
        (0, 9 * MIB, True),
        (100 * MIB, 0, False),
        (100 * MIB, None, False),
    ],
)
def test_when_the_allocators_peak_is_called_partial(alloc: int, rss: int | None, partial: bool) -> None:
    assert (memory.alloc_is_partial(alloc, rss) is not None) is partial


def test_where_the_system_keeps_no_peak_memory_is_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "sys", SimpleNamespace(platform="darwin"))

    def call() -> None:
        block = np.ones(64 * MIB, dtype=np.uint8)
        time.sleep(0.05)
        del block

    peak, is_lower_bound = memory.peak_rss_bytes(call)
    assert is_lower_bound
    assert peak == pytest.approx(64 * MIB, rel=0.25)


def test_tracing_stops_when_the_call_raises() -> None:
    import tracemalloc

    with pytest.raises(ZeroDivisionError):
        memory.peak_alloc_bytes(lambda: 1 / 0, "numpy")
    assert not tracemalloc.is_tracing()


def test_an_accelerator_whose_allocator_is_not_asked_has_no_peaks() -> None:
    reply = memory.measure(lambda: list, "torch", "mps")
    assert (reply["peak_alloc_bytes"], reply["peak_rss_bytes"], reply["peak_alloc_partial"]) == (None,) * 3
