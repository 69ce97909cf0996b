from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from attnbench.bench import clock
from attnbench.bench.flush import FALLBACK_CACHE_BYTES, Flush, last_level_cache_bytes
from attnbench.units import MIB


def test_the_flush_is_twice_the_cache() -> None:
    flush = Flush("cpu", cache_bytes=3 * MIB)
    flush()
    assert flush.buffer_bytes == 6 * MIB


def write_cache(folder: Path, level: int, size: str, sharers: str) -> None:
    folder.mkdir(parents=True)
    (folder / "level").write_text(f"{level}\n")
    (folder / "size").write_text(f"{size}\n")
    (folder / "shared_cpu_list").write_text(f"{sharers}\n")


def test_last_level_caches_of_several_dies_are_added_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    for cpu, die in ((0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")):
        write_cache(tmp_path / f"cpu{cpu}/cache/index0", 1, "32K", str(cpu))
        write_cache(tmp_path / f"cpu{cpu}/cache/index3", 3, "16M", die)
    assert last_level_cache_bytes(tmp_path) == 32 * MIB


def test_an_unknown_cache_is_taken_to_be_a_large_one(tmp_path: Path) -> None:
    assert last_level_cache_bytes(tmp_path / "nothing") == FALLBACK_CACHE_BYTES


def test_on_a_gpu_it_is_twice_the_level_2_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = []

    def zeros(elements: int, **where: object) -> object:
        made.append({"elements": elements, **where})
        return None

    class Properties:
        L2_cache_size = 50 * MIB

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    monkeypatch.setattr(torch, "zeros", zeros)
    Flush("cuda:1")
    assert made == [{"elements": 25 * MIB, "dtype": torch.int32, "device": "cuda:1"}]


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_what_was_in_the_cache_is_read_from_memory_after_a_flush(framework: str) -> None:
    # A sixteenth of the cache: others on this machine may hold most of it, which this must not depend on.
    numbers = np.ones(last_level_cache_bytes() // 16 // 4, dtype=np.float32)
    tensor = torch.from_numpy(numbers)
    # (What waits for memory: numpy's sum is as slow from the cache.)
    read: Callable[[], object] = tensor.sum if framework == "torch" else numbers.max
    flush = Flush()
    warm, cold = [], []
    for _ in range(15):
        warm.append(clock.sample(read, 1)["elapsed_s"])
        cold.append(clock.sample(read, 1, flush)["elapsed_s"])
    assert statistics.median(cold) > 1.2 * statistics.median(warm)
