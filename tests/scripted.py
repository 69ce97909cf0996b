"""A scripted bench: answers the protocol's verbs from a script, on a clock that only it moves.

With it the whole pipeline (runner, rounds, sampling, records, table) runs deterministically, without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from attnbench.protocol import (
    PROTOCOL_VERSION,
    BenchFailed,
    BenchLost,
    GpuReply,
    HelloReply,
    ImplementationInfo,
)

ACCURATE = {
    "accuracy": "pass",
    "reason": None,
    "error_max_abs": 1e-6,
    "error_rel_l2": 1e-7,
    "error_rmse": 1e-7,
    "error_floor": 5e-8,
    "error_yardstick": 2e-7,
    "error_ratio": 0.1,
    "bitwise_repeatable": True,
    "error_dq_max_abs": None,
    "error_dk_max_abs": None,
    "error_dv_max_abs": None,
}


@dataclass
class FakeClock:
    """Seconds that pass only when somebody spends them."""

    now_s: float = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        self.now_s += seconds

    def utc_now(self) -> str:
        return f"2026-01-01T00:00:{self.now_s % 60:06.3f}+00:00"


def steady(seconds: float) -> Callable[[int, int], float]:
    """A kernel whose every call takes the same time, in every process."""
    return lambda process, sample: seconds


def never(verb: str, bench: int, sample: int) -> BenchFailed | None:
    """A kernel that does not fail."""
    return None


def failing(
    verb: str, failure: BenchFailed, *, from_bench: int = 0, from_sample: int = 0
) -> Callable[[str, int, int], BenchFailed | None]:
    """A kernel that fails at `verb`, from the given bench and sample on."""

    def fails(asked: str, bench: int, sample: int) -> BenchFailed | None:
        return failure if asked == verb and bench >= from_bench and sample >= from_sample else None

    return fails


@dataclass
class Script:
    """How one implementation behaves.

    `time_s(bench, sample)` is the time of one call in the given bench and sample (counted from 0);
    `fails(verb, bench, sample)` is what a verb raises there, or None. `poisoned` is the reason for which the
    case fails when uninitialised memory is filled, `replays` that for which it fails after it was timed.
    `gpu(bench, sample)`, `launch_bound(bench, sample)` and `energy_j` are what only a GPU says.
    """

    time_s: Callable[[int, int], float] = field(default_factory=lambda: steady(1e-3))
    fails: Callable[[str, int, int], BenchFailed | None] = never
    poisoned: str | None = None
    replays: str | None = None
    gpu: Callable[[int, int], GpuReply] | None = None
    launch_bound: Callable[[int, int], bool] | None = None
    energy_j: float | None = None
    framework: str = "torch"
    compiles: bool = False
    precision: str = ""


class ScriptedSource:
    """Benches that follow `scripts`, by implementation; keeps a log of every verb."""

    def __init__(self, scripts: Mapping[str, Script], clock: FakeClock | None = None) -> None:
        self.scripts = scripts
        self.clock = clock or FakeClock()
        self.log: list[tuple[int, str, str]] = []
        self.benches: list[ScriptedBench] = []
        self.closed = False
        self.reference_failure: BenchFailed | None = None
        self.hello: HelloReply = {
            "protocol_version": PROTOCOL_VERSION,
            "pid": 0,
            "python": "3.11.0",
            "libraries": {"torch": "2.13.0", "numpy": "2.4.6"},
            "devices": {"cpu": [{"device": "cpu", "name": "Scripted CPU"}], "cuda": []},
            "catalogue": [
                ImplementationInfo(
                    name=name,
                    operation="attention",
                    framework=script.framework,
                    summary=f"{name}, scripted",
                    memory="O(1)",
                    flops="O(1)",
                    source="",
                    compiles=script.compiles,
                    precision=script.precision,
                    options={"block": 128} if name == "chunked" else {},
                    origin="scripted",
                    file=None,
                )
                for name, script in scripts.items()
            ],
            "problems": [],
            "fork_unsafe": None,
        }

    def bench(self) -> ScriptedBench:
        bench = ScriptedBench(self, len(self.benches))
        self.benches.append(bench)
        return bench

    def close(self) -> None:
        self.closed = True


class ScriptedBench:
    """One bench of a `ScriptedSource`."""

    start = "scripted"

    def __init__(self, source: ScriptedSource, number: int) -> None:
        self.source = source
        self.number = number
        self.closed = False
        self.lost = False
        self.poisoned = False
        self._prepared: dict[str, Script] = {}
        self._samples = {name: count() for name in source.scripts}

    def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        assert not self.closed, "a closed bench was asked"
        assert not self.lost, "a lost bench was asked"
        if verb == "reference":
            self.source.log.append((self.number, verb, ""))
            if self.source.reference_failure is not None:
                self.lost = isinstance(self.source.reference_failure, BenchLost)
                raise self.source.reference_failure
            return {}
        case = parameters["case"]
        if verb == "prepare":
            name = parameters["implementation"]
            self._prepared[case] = self.source.scripts[name]
            self.poisoned = parameters.get("poisoned", False)
        script = self._prepared[case]
        name = next(name for name, other in self.source.scripts.items() if other is script)
        self.source.log.append((self.number, verb, name))
        sample = next(self._samples[name]) if verb == "sample" else 0
        failure = script.fails(verb, self.number, sample)
        if failure is not None:
            self.lost = isinstance(failure, BenchLost)
            raise failure
        return getattr(self, f"_{verb}")(script, parameters, sample)

    def close(self) -> None:
        self.closed = True

    def _prepare(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
        self.source.clock.spend(0.01)
        return {
            "framework": script.framework,
            "first_call_s": None if parameters.get("capability_only") else 0.01,
            "resolved_backend": None,
            "device_name": None,
            "output_bytes": 4096,
        }

    def _memory(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
        return {
            "peak_alloc_bytes": 1 << 20,
            "peak_alloc_partial": None,
            "peak_rss_bytes": (1 << 20) + 4096,
            "peak_rss_is_lower_bound": False,
        }

    def _accuracy(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
        if self.poisoned and script.poisoned:
            return {**ACCURATE, "accuracy": "fail", "reason": script.poisoned}
        return dict(ACCURATE)

    def _sample(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
        calls = parameters["calls"]
        seconds = script.time_s(self.number, sample)
        self.source.clock.spend(seconds * (calls + 1))
        reply: dict[str, Any] = {"elapsed_s": seconds * calls, "cpu_s": seconds * calls, "launch_s": None}
        if script.launch_bound is not None:
            reply |= {
                "launch_s": 0.9 * seconds * calls,
                "launch_bound": script.launch_bound(self.number, sample),
            }
        if script.gpu is not None:
            reply["gpu"] = script.gpu(self.number, sample)
        return reply

    def _energy(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
        self.source.clock.spend(0.6)
        return {"energy_j": script.energy_j}

    def _verify(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
        return {"reason": script.replays}

    def _release(self, script: Script, parameters: Mapping[str, Any], sample: int) -> dict[str, Any]:
        return {}
