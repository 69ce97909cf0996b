"""A fresh interpreter in which a peer measures one repetition, then ends.

    python _peer_process.py SOCKET_FD PARENT_PID

It imports what both peers need, says so, and waits for a request; then it prepares the kernels with the very
code that prepares them for attnbench, so that the same calls on the same numbers are timed.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

#: The test that pytest-benchmark runs, once a kernel.
TESTS = Path(__file__).with_name("_peer_tests.py")

#: Each kernel is called for this long before measuring, and it counts against nobody.
WARM_UP_S = 0.05


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is timed, and about how long it takes."""

    call: Callable[[], Any]
    about_s: float


Kernels = Mapping[str, Kernel]

#: Of each kernel `per_call_s`, a value a block or round, how many `calls` each value is of, and how long the
#: tool took for it in all (`wall_s`).
Measured = dict[str, dict[str, Any]]


def torch_timer(kernels: Kernels, seconds: float, threads: int) -> Measured:
    """`torch.utils.benchmark`: each kernel timed in blocks of calls."""
    from torch.utils.benchmark import Timer

    measured = {}
    for name, kernel in kernels.items():
        timer = Timer("call()", globals={"call": kernel.call}, num_threads=threads)
        began = perf_counter()
        found = timer.blocked_autorange(min_run_time=seconds)
        wall_s = perf_counter() - began
        measured[name] = {
            "per_call_s": list(found.times),
            "calls": found.number_per_run,
            "wall_s": wall_s,
        }
    return measured


def pytest_benchmark(kernels: Kernels, seconds: float, threads: int) -> Measured:
    """pytest-benchmark: a test a kernel, timed in rounds.

    By itself it chooses how many rounds fill `seconds` by the first call that it times, and often far too
    few; so it is told how many they must be at least.
    """
    import pytest

    del threads  # set for the process
    measured: Measured = {}

    class Given:
        """The kernels as the test's parameters, and where it leaves what was measured."""

        def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
            cases = [
                pytest.param(
                    name,
                    kernel.call,
                    id=name,
                    marks=pytest.mark.benchmark(min_rounds=ceil(seconds / kernel.about_s)),
                )
                for name, kernel in kernels.items()
            ]
            metafunc.parametrize(("name", "call"), cases)

        @pytest.fixture
        def measured(self) -> Measured:
            return measured

    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, "pytest.ini")
        configuration.write_text("[pytest]\n")
        options = [
            *(str(TESTS), "-q", "-c", str(configuration), "--rootdir", folder, "--noconftest"),
            *("-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider", "--import-mode=importlib"),
            *("-o", f"pythonpath={TESTS.parents[1]}"),  # the package of TESTS imports from there
            *(f"--benchmark-max-time={seconds}", "--benchmark-disable-gc"),
        ]
        code = pytest.main(options, plugins=[Given()])
    if code != 0:
        raise RuntimeError(f"pytest ended with {code!r}")
    return measured


PEERS: Mapping[str, Callable[[Kernels, float, int], Measured]] = {
    "torch_timer": torch_timer,
    "pytest_benchmark": pytest_benchmark,
}


def prepared(request: Mapping[str, Any], modes: ExitStack) -> dict[str, Kernel]:
    """The kernels by name, warmed up, to be called while `modes` is open."""
    from attnbench.bench.kernel import load_case
    from attnbench.inputs import InputPool
    from attnbench.registry import Registry
    from attnbench.workload import Workload

    registry, pool = Registry.discover(), InputPool()
    kernels = {}
    for name, (shown, implementation, options) in request["kernels"].items():
        workload = Workload.from_json(shown)
        case = load_case(registry.get(implementation), options, workload, "cpu", request["seed"], pool)
        modes.enter_context(case.grad_mode())
        call = case.prepare_call()
        kernels[name] = Kernel(call, _typical_s(call))
    return kernels


def _typical_s(call: Callable[[], Any]) -> float:
    """Warm up; the median seconds of a call: by the fastest, rounds would last longer than asked."""
    lasted = []
    end = perf_counter() + WARM_UP_S
    while (began := perf_counter()) < end:
        call()
        lasted.append(perf_counter() - began)
    return median(lasted)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the peer asked for has `Measured` of the kernels, and how long that took.

    `seconds` is how long each kernel is timed, or several durations, ascending: then each is timed again with
    the next one until its interval is as narrow as `precision`, or there is none left.
    """
    import torch

    torch.set_num_threads(request["threads"])
    with ExitStack() as modes:
        kernels: Kernels = prepared(request, modes)
        began = perf_counter()
        measured: Measured = {}
        for seconds in request["seconds"]:
            measured |= PEERS[request["peer"]](kernels, seconds, request["threads"])
            kernels = {
                name: kernel
                for name, kernel in kernels.items()
                if first_precise(measured[name]["per_call_s"], request["precision"]) is None
            }
            if not kernels:
                break
        return {"kernels": measured, "wall_s": perf_counter() - began}


def first_precise(values: Sequence[float], precision: float) -> int | None:
    """After how many values the 95% interval of their median is as narrow as `precision` of it, or None.

    It is looked for after 6 values, and then each time that there are 2% more.
    """
    from attnbench import stats

    count = stats.FEWEST_FOR_INTERVAL
    while count <= len(values):
        interval = stats.median_interval(values[:count])
        if interval is not None and interval.high - interval.low <= precision * stats.median(values[:count]):
            return count
        count = max(count + 1, ceil(1.02 * count))
    return None


def main(arguments: Sequence[str]) -> None:
    # What is imported here is imported on nobody's time.
    import pytest  # noqa: F401
    import pytest_benchmark.plugin  # noqa: F401
    import torch.utils.benchmark  # noqa: F401

    from attnbench.bench.lifeline import die_with
    from attnbench.protocol import Channel

    descriptor, parent = map(int, arguments)
    die_with(parent)
    channel = Channel(socket.socket(fileno=descriptor))
    os.set_inheritable(descriptor, False)
    channel.send({"ready": True})
    channel.send(answer(channel.receive()))


if __name__ == "__main__":
    main(sys.argv[1:])
