"""What one call takes by the GPU's own meter.

The counter of a board's energy moves every 20 to 100 ms, far too seldom for a sample. So the calls are made
for long enough, one after another as the host comes to launch them, from one tick of the counter to
another, and the joules between divided by the calls between. They are those of the whole board, its idle
power and whatever else runs on it included, and that of its waiting for launches where those take longer
than the calls.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from attnbench.bench.clock import Call
from attnbench.nvml import Gpu

__all__ = ["energy_per_call_j"]

#: Seconds between the ticks at least: the calls between are counted to within one batch at either end.
LEAST_S = 0.5

#: A counter that has not moved for so long does not count.
LONGEST_TICK_S = 0.5

#: Calls between two looks at the meter last about so long.
BATCH_S = 5e-3

#: The power that a GPU tells is its average over the last second, so the calls go on for so long before it
#: is believed, and are looked at for so long.
SETTLING_S, LOOKING_S = 0.7, 0.3


def energy_per_call_j(call: Call, wait: Callable[[], object], gpu: Gpu) -> float | None:
    """Joules of one call; None where the GPU has neither a counter nor tells its power.

    `wait` waits for all that was launched. Takes about a second, or two calls if they are longer.

    Raises:
        Exception: whatever `call` raises.
    """
    if gpu.energy_j() is None and gpu.power_w() is None:
        return None
    return _Run(call, wait, gpu).energy_j()


class _Run:
    """Calls in batches, counted, until something has happened to the meter."""

    def __init__(self, call: Call, wait: Callable[[], object], gpu: Gpu) -> None:
        self._call = call
        self._wait = wait
        self._gpu = gpu
        self._size = 1
        self._calls = 0

    def energy_j(self) -> float | None:
        self._batch()  # warm, and in the clock that it runs at
        before, began = self._gpu.energy_j(), perf_counter()
        self._batch()
        took_s, after = perf_counter() - began, self._gpu.energy_j()
        if took_s >= LEAST_S:  # one call is many ticks
            if before is not None and after is not None and after > before:
                return after - before
            power_w = self._gpu.power_w()
            return None if power_w is None else power_w * took_s
        self._size = max(1, int(BATCH_S / took_s)) if took_s > 0 else 1
        return self._by_counter() or self._by_power()

    def _batch(self) -> None:
        for _ in range(self._size):
            self._call()
        self._wait()
        self._calls += self._size

    def _by_counter(self) -> float | None:
        start_j = self._tick()
        if start_j is None:
            return None
        began, calls = perf_counter(), self._calls
        while perf_counter() - began < LEAST_S:
            self._batch()
        end_j = self._tick()
        return None if end_j is None else (end_j - start_j) / (self._calls - calls)

    def _tick(self) -> float | None:
        """What the counter shows when it has just moved; None if it does not."""
        before, began = self._gpu.energy_j(), perf_counter()
        if before is None:
            return None
        while perf_counter() - began < LONGEST_TICK_S:
            self._batch()
            now = self._gpu.energy_j()
            if now is not None and now != before:
                return now
        return None

    def _by_power(self) -> float | None:
        """The power while it runs, times the time of one call."""
        began = perf_counter()
        while perf_counter() - began < SETTLING_S:
            self._batch()
        powers_w = []
        began, calls = perf_counter(), self._calls
        while (took_s := perf_counter() - began) < LOOKING_S:
            self._batch()
            power_w = self._gpu.power_w()
            if power_w is not None:
                powers_w.append(power_w)
        if not powers_w:
            return None
        return sum(powers_w) / len(powers_w) * took_s / (self._calls - calls)
