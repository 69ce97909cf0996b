"""The parent's side of the measuring processes: starting them, asking them, and telling how they ended."""

from __future__ import annotations

from attnbench.driver.bench import ProcessBench
from attnbench.driver.memory import available_bytes, memory_limit
from attnbench.driver.pinned import bench_environment, thread_count
from attnbench.driver.source import ZygoteSource
from attnbench.driver.sources import Sources

__all__ = [
    "ProcessBench",
    "Sources",
    "ZygoteSource",
    "available_bytes",
    "bench_environment",
    "memory_limit",
    "thread_count",
]
