"""A bench's process: what is set once, before the first verb, however the process came to be."""

from __future__ import annotations

import faulthandler
import gc
import os
import socket
from dataclasses import dataclass

from attnbench.bench.limits import limit_memory, take_the_blame
from attnbench.bench.server import BenchServer
from attnbench.protocol import Channel
from attnbench.registry import Registry, use

__all__ = ["Settings", "run"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a bench may use: torch's threads, and bytes beyond what it holds at its start (None: no end)."""

    threads: int | None = None
    memory_limit_bytes: int | None = None


def run(endpoint: socket.socket, registry: Registry, settings: Settings) -> None:
    """Answer verbs on `endpoint` until its other end is gone."""
    take_the_blame()
    # A child that a kernel forks must not hold the connection open when the bench has died.
    os.register_at_fork(after_in_child=endpoint.close)
    faulthandler.enable(2, all_threads=False)  # tells the parent which line a crash was in
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)
    if settings.memory_limit_bytes is not None:
        limit_memory(settings.memory_limit_bytes)
    # What was imported stays: collecting among it would cost a tenth of a second before every sample, and
    # sweep the caches.
    gc.freeze()
    gc.enable()
    use(registry)  # for kernels that have another implementation inside
    BenchServer(registry).serve(Channel(endpoint))
