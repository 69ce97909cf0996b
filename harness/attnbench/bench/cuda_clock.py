"""How long calls take on an NVIDIA GPU: the device's time by events, the host's launch time apart.

An event is recorded when the device gets to it. If it gets to the first while the host is still launching,
what lies between the events is the host's time, not the device's: then every short kernel takes as long as
its launch. So the device is kept busy first, by a kernel that only waits (the **head start**), and all
calls of a sample are in the queue before it gets to the first event. Whether it held is asked of that event
after the last launch; if not, the sample is taken again with a longer head start. What the host cannot run
ahead of at all, it says so: `launch_bound`.

Events know of one stream. A call that leaves work in another, which nothing makes the first wait for, ends by
the last event before it is done; so the device must be idle as soon as the last event is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter_ns, process_time_ns
from typing import Any

from attnbench.bench.clock import Call, no_garbage_collection
from attnbench.protocol import SampleReply
from attnbench.units import format_seconds

__all__ = ["CudaClock", "NotWaitedFor"]

#: Cycles a second of a GPU's clock, about. One that runs faster waits for less long than it was told to, one
#: that runs slower for longer, which is harmless.
CYCLES_PER_S = 2e9

#: How much longer than the launches that it covers a head start lasts, how much longer one that was too
#: short is made, and how much shorter the next after one that held.
MARGIN = 1.5
LENGTHENED, SHORTENED = 2.0, 0.97

#: Head starts are at least as long as a few launches that the host was disturbed in, and never so long that
#: waiting for them is most of what a sweep does.
SHORTEST_HEAD_START_S = 50e-6
LONGEST_HEAD_START_S = 0.1

#: The queue holds some 1000 launches; the next blocks the host until the device has worked off one. How
#: many a call makes is not known, but none takes the host less than 2 µs: so launches that take 1.8 ms are
#: 900 at most.
LONGEST_LAUNCHING_S = 900 * 2e-6

#: What launching a call is taken to need before one was launched: some torch operations.
FIRST_GUESS_S = 30e-6

#: After so many head starts of the same calls that did not hold, fewer calls are enqueued at a time.
TRIES = 3
FEWER = 4

#: Batches of a sample are taken anew at most so often, and while launching those in vain took no longer.
RETRIES = 12
RETRYING_S = 0.25

#: The device may be busy for so long after the last event, or for this share of the time between the events:
#: asking for its end takes the host some 10 µs. What is beyond that so many times in a row is no disturbance.
LATE_S = 100e-6
LATE_SHARE = 0.05
LATE_TRIES = 3


class NotWaitedFor(RuntimeError):
    """A call left work behind in streams that the current one does not wait for."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Calls enqueued together; `ahead`: all of them were, before the device got to the first.

    The device was busy for `late_s` after the last event.
    """

    calls: int
    elapsed_s: float
    cpu_s: float
    launch_s: float
    late_s: float
    ahead: bool

    @property
    def late(self) -> bool:
        """Whether the device worked on after the last event."""
        return self.late_s > max(LATE_S, LATE_SHARE * self.elapsed_s)


class CudaClock:
    """Times the calls of one case on one GPU; what it has learnt of its launches serves the next sample."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._launch_s: float | None = None  # a call's, at its fastest
        self._margin = MARGIN
        self._most = math.inf  # calls that were found to fit into the queue
        self._bound = False

    def sample(self, call: Call, calls: int, flush: Callable[[], object] | None = None) -> SampleReply:
        """One sample of `calls` calls: warm, after an untimed priming call; cold when there is a `flush`.

        Cold calls are timed singly, each after a flush that the device works off before the first event, and
        their times added. Warm calls are timed together, in as many batches as the queue needs.

        Raises:
            ValueError: `calls` is less than 1.
            NotWaitedFor: the device works on when the calls are over by the current stream's events.
            Exception: whatever `call` raises.
        """
        from torch import cuda

        if calls < 1:
            raise ValueError(f"a sample needs at least one call, got {calls}")
        with cuda.device(self._device), no_garbage_collection():
            batches = self._on_time(call, calls, flush)
        self._bound = not all(batch.ahead for batch in batches)
        return SampleReply(
            elapsed_s=sum(batch.elapsed_s for batch in batches),
            cpu_s=sum(batch.cpu_s for batch in batches),
            launch_s=sum(batch.launch_s for batch in batches),
            launch_bound=self._bound,
        )

    def _on_time(self, call: Call, calls: int, flush: Callable[[], object] | None) -> list[_Batch]:
        """Batches of `calls` calls altogether, not all of which left the device busy."""
        for _ in range(LATE_TRIES):
            batches = self._ahead(call, calls, flush)
            if not all(batch.late for batch in batches):
                return batches
        late_s = max(batch.late_s for batch in batches)
        raise NotWaitedFor(
            f"the GPU was busy for {format_seconds(late_s)} after the call was over in the current stream, "
            "whose time is not the call's, then: let it wait for what runs in others "
            "(torch.cuda.current_stream().wait_stream(other))"
        )

    def _ahead(self, call: Call, calls: int, flush: Callable[[], object] | None) -> list[_Batch]:
        """Batches of `calls` calls altogether, all of them ahead of the device where that can be."""
        done: list[_Batch] = []
        # What could not be run ahead of is tried once a sample: it may have been a disturbance.
        retries = 0 if self._bound else RETRIES
        tries, retried_s = 0, 0.0
        while (left := calls - sum(batch.calls for batch in done)) > 0:
            launch_s = FIRST_GUESS_S if self._launch_s is None else max(self._launch_s, 1e-9)
            fitting = max(1, int(LONGEST_LAUNCHING_S / launch_s))
            size = 1 if flush is not None else int(min(left, fitting, self._most))
            covered_s = (size + 1) * launch_s * self._margin  # the priming call is launched as well
            head_start_s = min(LONGEST_HEAD_START_S, max(SHORTEST_HEAD_START_S, covered_s))
            batch = self._enqueue(call, size, flush, head_start_s)
            if self._launch_s is None or (batch.ahead and batch.launch_s < size * self._launch_s):
                self._launch_s = batch.launch_s / size
            if batch.ahead:
                done.append(batch)
                if not tries:
                    self._margin = max(MARGIN, SHORTENED * self._margin)
                tries = 0
                continue
            retried_s += batch.launch_s
            if retries == 0 or retried_s > RETRYING_S:
                self._most, self._margin = math.inf, MARGIN
                return [batch] if size == calls else self._bare(call, calls, flush)
            retries -= 1
            tries += 1
            self._margin *= LENGTHENED
            if tries == TRIES and size > 1:
                self._most, tries = max(1, size // FEWER), 0
        return done

    def _bare(self, call: Call, calls: int, flush: Callable[[], object] | None) -> list[_Batch]:
        """`calls` calls as the host comes to launch them, its time included."""
        if flush is None:
            return [self._enqueue(call, calls, None, 0.0)]
        return [self._enqueue(call, 1, flush, 0.0) for _ in range(calls)]

    def _enqueue(
        self, call: Call, calls: int, flush: Callable[[], object] | None, head_start_s: float
    ) -> _Batch:
        """Time `calls` calls between two events, behind a head start and the flush or a priming call."""
        from torch import cuda

        times = repeat(None, calls)
        first, last = _event(), _event()
        cuda.synchronize(self._device)
        if head_start_s > 0:
            cuda._sleep(int(head_start_s * CYCLES_PER_S))  # type: ignore[no-untyped-call]  # torch left it so
        if flush is None:
            call()
        else:
            flush()
        cpu = process_time_ns()
        first.record()
        began = perf_counter_ns()
        for _ in times:
            call()
        launched = perf_counter_ns()
        last.record()
        ahead = not first.query()
        cpu = process_time_ns() - cpu  # before waiting, which keeps a core busy and is nobody's work
        last.synchronize()
        over = perf_counter_ns()
        cuda.synchronize(self._device)
        late = perf_counter_ns() - over
        return _Batch(
            calls=calls,
            elapsed_s=first.elapsed_time(last) / 1e3,
            cpu_s=cpu / 1e9,
            launch_s=(launched - began) / 1e9,
            late_s=late / 1e9,
            ahead=ahead,
        )


def _event() -> Any:
    from torch import cuda

    return cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch left it untyped
