"""What pytest-benchmark is given to run; `_peer_process` makes it one test for each kernel."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any


def test_kernel(
    benchmark: Any, name: str, call: Callable[[], Any], measured: dict[str, dict[str, Any]]
) -> None:
    began = perf_counter()
    benchmark(call)
    wall_s = perf_counter() - began
    # Its statistics hold a value a round, divided by the calls in it.
    measured[name] = {
        "per_call_s": list(benchmark.stats.stats.data),
        "calls": benchmark.stats.iterations,
        "wall_s": wall_s,
    }
