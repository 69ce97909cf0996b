"""The self-test must pass on an honest pipeline and fail on a broken one: both are scripted here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import pytest

from attnbench.blocks import Clocks
from attnbench.doctor import truths
from attnbench.doctor.check import Check
from attnbench.doctor.experiments import CYCLES
from attnbench.doctor.selftest import TRUTHS, run
from attnbench.protocol import BenchFailed
from attnbench.registry import load_plugin
from attnbench.units import MIB
from scripted import ACCURATE, FakeClock

FLOOR = 3e-8
SM_CLOCK_HZ = 2e9

KERNELS = {kernel.name: kernel for kernel in load_plugin(TRUTHS, "truths_under_test")}


@dataclass
class Pipeline:
    """What benches of a pipeline answer about the truths; honest unless a field says otherwise.

    `clock` multiplies times, `cpu` the processor's; `alloc`, `rss` take the true peak; `other` multiplies the
    times of one of the two equals, `noise` is the spread of all times; `accuracy` and `status` go by name.
    """

    clock: float = 1.0
    cpu: float = 1.0
    alloc: Callable[[int], int] = lambda peak: peak + 32
    rss: Callable[[int], int] = lambda peak: peak - 100_000
    lower_bound: bool = False
    partial: str | None = "not seen"
    other: float = 1.0
    noise: float = 0.002
    sm_clock_hz: float | None = SM_CLOCK_HZ
    accuracy: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    status: Mapping[str, str] = field(default_factory=dict)

    time: FakeClock = field(default_factory=FakeClock)
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def hello(self) -> Any:
        fields = ("name", "operation", "framework", "options")
        catalogue = [{name: getattr(kernel, name) for name in fields} for kernel in KERNELS.values()]
        return {"catalogue": [{**info, "compiles": False} for info in catalogue], "devices": {}}

    def bench(self) -> ScriptedBench:
        return ScriptedBench(self)

    def close(self) -> None:
        pass


class ScriptedBench:
    start = "scripted"

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.cases: dict[str, Mapping[str, Any]] = {}
        self.random = Random(next(pipeline.numbers))

    def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        if verb == "reference":
            return {}
        if verb == "prepare":
            self.cases[parameters["case"]] = parameters
        case = self.cases[parameters["case"]]
        if verb == "prepare" and case["implementation"] in self.pipeline.status:
            raise BenchFailed(self.pipeline.status[case["implementation"]], "so it is written")
        answer: dict[str, Any] = getattr(self, f"_{verb}")(case, parameters)
        return answer

    def close(self) -> None:
        pass

    def _prepare(self, case: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        framework = KERNELS[case["implementation"]].framework
        return {
            "framework": framework,
            "first_call_s": 0.01,
            "resolved_backend": None,
            "device_name": None,
            "output_bytes": 32,
        }

    def _memory(self, case: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        pipeline = self.pipeline
        foreign = case["implementation"] == "truth_foreign_memory"
        unseen = foreign or case["implementation"] == "truth_kept_memory"
        peak = 0 if unseen else known_peak(case)
        on_cpu = case["device"] == "cpu"
        return {
            "peak_alloc_bytes": pipeline.alloc(peak),
            "peak_alloc_partial": pipeline.partial if unseen else None,
            "peak_rss_bytes": pipeline.rss(48 * MIB if foreign else peak) if on_cpu else None,
            "peak_rss_is_lower_bound": pipeline.lower_bound,
        }

    def _accuracy(self, case: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        known = {
            "truth_exact": {"error_rel_l2": FLOOR, "error_floor": FLOOR},
            "truth_wrong": {
                "accuracy": "fail",
                "reason": "o: relative L2 0.01 is 1e+04 times its bound",
                "error_rel_l2": truths.KNOWN_REL_L2 * (1 + 1e-6),
                "error_max_abs": truths.KNOWN_MAX_ABS * (1 - 1e-6),
            },
        }
        name = case["implementation"]
        return {**ACCURATE, **known.get(name, {}), **self.pipeline.accuracy.get(name, {})}

    def _sample(self, case: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        pipeline = self.pipeline
        options = case["options"]
        true_s = options.get("microseconds", 100) / 1e6
        if "cycles" in options:
            true_s = options["cycles"] / SM_CLOCK_HZ
        if case["implementation"] == "truth_other":
            true_s *= pipeline.other
        true_s *= 1 + self.random.gauss(0, pipeline.noise)
        seconds = parameters["calls"] * true_s
        pipeline.time.spend(seconds + 0.01)
        on_gpu = case["device"] != "cpu"
        state = {"sm_clock_hz": pipeline.sm_clock_hz, "temperature_c": None, "power_w": None, "reasons": []}
        return {
            "elapsed_s": pipeline.clock * seconds,
            "cpu_s": pipeline.cpu * seconds,
            "launch_s": 1e-6 if on_gpu else None,
            "launch_bound": False,
            "gpu": state if on_gpu else None,
        }

    def _energy(self, case: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"energy_j": None}

    def _verify(self, case: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"reason": None}

    def _release(self, case: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {}


def known_peak(case: Mapping[str, Any]) -> int:
    """By hand: 1 and 0.5 at once, then 0.5 and 1.25, then 1.25 and 0.25; half as much again in a backward."""
    base = case["options"].get("mib", 0) * MIB
    if case["workload"]["pass"] == "forward":
        return int(1.75 * base)
    kept = 0.5 * base if case["implementation"] == "truth_torch_memory" else 0
    return int(kept + 1.5 * 1.75 * base)


def told(pipeline: Pipeline, devices: tuple[str, ...] = ("cpu",)) -> list[Check]:
    clocks = Clocks(pipeline.time.monotonic, pipeline.time.utc_now)
    return run(devices, open_source=lambda _: pipeline, clocks=clocks)


def failed(pipeline: Pipeline) -> list[str]:
    return [check.name for check in told(pipeline) if check.verdict == "fail"]


def test_an_honest_pipeline_passes_every_check() -> None:
    shares: list[float] = []
    pipeline = Pipeline()
    clocks = Clocks(pipeline.time.monotonic, pipeline.time.utc_now)
    checks = run(["cpu"], open_source=lambda _: pipeline, clocks=clocks, progressed=shares.append)
    assert [check.verdict for check in checks] == ["pass"] * 19
    assert len({(check.name, check.device) for check in checks}) == len(checks)
    assert all(check.device == "cpu" for check in checks)
    assert all(abs(check.deviation or 0) <= (check.tolerance or 0) for check in checks)
    assert shares == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert checks[0].to_json()["verdict"] == "pass"


LATENCIES = ["latency of a kernel that lasts " + text for text in ("20.0 µs", "200 µs", "2.00 ms")]
PEAKS = [
    f"{framework}, {pass_}"
    for pass_ in ("forward", "forward and backward")
    for framework in ("torch", "NumPy")
]
ALLOCATED = ["peak of the allocator: " + what for what in PEAKS]
RESIDENT = ["peak of resident memory: " + what for what in PEAKS]


@pytest.mark.parametrize(
    ("broken", "names"),
    [
        (Pipeline(clock=1.03), LATENCIES),
        (Pipeline(clock=0.97), LATENCIES),
        # Both clocks at fault: nobody kept the kernel waiting.
        (Pipeline(clock=1.03, cpu=1.03), LATENCIES),
        # A reading that misses the smaller one of the two tensors that make the peak.
        (Pipeline(alloc=lambda peak: int(peak * 1.25 / 1.75)), ALLOCATED),
        (Pipeline(alloc=lambda peak: int(peak * 1.011)), ALLOCATED),
        (Pipeline(rss=lambda peak: int(peak * 1.01) + 3 * MIB), RESIDENT),
        (Pipeline(rss=lambda peak: peak // 2), RESIDENT),
        (
            Pipeline(partial=None),
            ["memory past the framework's allocator is told", "memory kept from call to call is told"],
        ),
        (Pipeline(other=1.03), ["ratio of a kernel to itself"]),
        (Pipeline(other=0.97), ["ratio of a kernel to itself"]),
        (
            Pipeline(accuracy={"truth_exact": {"error_rel_l2": 1.02 * FLOOR}}),
            ["error of an exact answer, over the floor"],
        ),
        (
            Pipeline(accuracy={"truth_exact": {"accuracy": "fail", "reason": "o: too strict"}}),
            ["an exact answer passes"],
        ),
        (
            Pipeline(accuracy={"truth_wrong": {"error_rel_l2": 0.00995}}),
            ["error_rel_l2 of an answer off by 0.0100"],
        ),
        (
            Pipeline(accuracy={"truth_wrong": {"error_max_abs": 0.0302}}),
            ["error_max_abs of an answer off by 0.0300"],
        ),
        (
            Pipeline(accuracy={"truth_wrong": {"accuracy": "pass", "reason": None}}),
            ["that answer fails"],
        ),
    ],
)
def test_a_broken_pipeline_fails_where_it_is_broken(broken: Pipeline, names: list[str]) -> None:
    assert sorted(failed(broken)) == sorted(names)


def test_a_duration_that_was_off_once_is_measured_again() -> None:
    attempts = count()

    def sources(scenario: Any) -> Pipeline:
        return pipeline

    class Settling(Pipeline):
        def bench(self) -> ScriptedBench:
            self.clock = 1.5 if next(attempts) < 9 else 1.0  # the benches of one attempt at the first block
            return ScriptedBench(self)

    pipeline = Settling()
    clocks = Clocks(pipeline.time.monotonic, pipeline.time.utc_now)
    checks = run(["cpu"], open_source=sources, clocks=clocks)
    assert {check.verdict for check in checks} == {"pass"}
    # And that is told, beside the figure that passed.
    assert all("measured 2 times; before: off by +50." in check.note for check in checks[:3])
    assert not any("before" in check.note for check in checks[3:])


def test_a_kernel_that_was_kept_waiting_for_the_processor_says_nothing_of_the_clock() -> None:
    checks = told(Pipeline(clock=1.6, cpu=0.9))[:3]
    assert [check.verdict for check in checks] == ["skipped"] * 3
    assert "only 56% of that time" in checks[0].note
    # But a clock that is slow is no matter of waiting.
    assert {check.verdict for check in told(Pipeline(clock=0.9, cpu=0.9))[:3]} == {"fail"}


def test_equals_that_vary_widely_are_told_apart_by_nobody() -> None:
    (check,) = [each for each in told(Pipeline(noise=0.9)) if each.unit == "×"]
    assert check.verdict == "skipped"
    assert "vary too much" in check.note


def test_the_interval_by_which_equals_are_judged_and_the_tables_are_both_shown() -> None:
    check = told(Pipeline())[-1]
    assert "at 95%" in check.note
    assert "1 doctor in 1000" in check.note
    two = [check for check in told(Pipeline(), ("cpu", "cuda:0")) if check.unit == "×"]
    assert [check.device for check in two] == ["cpu", "cuda:0"]
    # The more pairs there are, the wider each interval: together they cry wolf no more often.
    assert (two[0].tolerance or 0) > (check.tolerance or 0) > 0


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("unavailable", "skipped"),
        ("unsupported", "skipped"),
        ("oom", "skipped"),
        ("timeout", "skipped"),
        ("error", "fail"),
        ("crashed", "fail"),
    ],
)
def test_truths_that_do_not_run(status: str, verdict: str) -> None:
    checks = told(Pipeline(status=dict.fromkeys(KERNELS, status)))
    assert {check.verdict for check in checks} == {verdict}
    assert all(check.measured is None and status in check.note for check in checks)
    # One check a case, but for the pair of equals, of which one is enough.
    assert len(checks) == 3 + 4 + 2 + 2 + 1


def test_where_resident_memory_is_polled_its_peak_is_not_judged() -> None:
    resident = [each for each in told(Pipeline(lower_bound=True)) if "resident" in each.name]
    assert len(resident) == 4
    assert all(check.verdict == "skipped" and "polled" in check.note for check in resident)


@pytest.mark.parametrize(("clock", "verdict"), [(1.0, "pass"), (1.1, "fail"), (0.9, "fail")])
def test_a_gpus_kernel_lasts_its_cycles(clock: float, verdict: str) -> None:
    (check,) = [check for check in told(Pipeline(clock=clock), ("cuda:0",)) if check.unit == "s"]
    assert (check.device, check.verdict) == ("cuda:0", verdict)
    assert check.truth == CYCLES / SM_CLOCK_HZ


def test_without_nvml_nobody_knows_how_long_cycles_last() -> None:
    (check,) = [check for check in told(Pipeline(sm_clock_hz=None), ("cuda",)) if check.unit == "s"]
    assert check.verdict == "skipped"
    assert "NVML" in check.note


def test_on_a_gpu_there_is_nothing_to_say_of_resident_memory_and_numpy() -> None:
    checks = told(Pipeline(), ("cuda",))
    assert all(check.device == "cuda" for check in checks)
    assert not [check for check in checks if "resident" in check.name or "NumPy" in check.name]
    assert [check.verdict for check in checks if "allocator" in check.name] == ["pass"] * 2
    assert [check.verdict for check in checks] == ["pass"] * 9
