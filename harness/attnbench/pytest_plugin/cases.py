"""The tests themselves: a case each, measured in benches and told to pytest-benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from attnbench.case import Block, Case
from attnbench.errors import AttnbenchError
from attnbench.export.pytest_benchmark import COLLECTION, extra_info, parameters, why_left_out
from attnbench.testing.conformance import figures

if TYPE_CHECKING:
    from attnbench.ceilings import Known
    from attnbench.protocol import BenchSource
    from attnbench.record import Record
    from attnbench.scenario import Scenario

__all__ = ["COLLECTION", "CaseFailed", "CaseTest", "Measuring", "Replay", "ScenarioCollector", "measured"]

#: Statuses for which a test is skipped: the case is not meant to run here.
SKIPPED = ("unsupported", "unavailable")


class CaseFailed(AssertionError):
    """What a case failed of; told without a traceback, which would show nothing but this plug-in."""


class BenchmarkFixture(Protocol):
    """What is used of pytest-benchmark's fixture `benchmark`."""

    enabled: bool
    has_error: bool
    extra_info: dict[str, Any]
    param: str | None
    params: dict[str, Any] | None
    stats: Any

    def pedantic(
        self, target: Callable[[], None], *, setup: Callable[[], None], rounds: int, iterations: int
    ) -> None:
        """Time `rounds` times `iterations` calls of `target`, each after a call of `setup`."""
        ...


class Replay:
    """Samples that were taken elsewhere, played to pytest-benchmark: its timer and what it times.

    Between two looks at this clock exactly one sample passes, in seconds per call.
    """

    #: What pytest-benchmark calls the timer in its documents.
    __name__ = "attnbench"

    def __init__(self) -> None:
        self._now_s = 0.0
        self._samples: Iterator[float] = iter(())

    def load(self, per_call_s: Iterable[float]) -> None:
        """Play these from now on."""
        self._samples = iter(per_call_s)

    def __call__(self) -> float:
        """The time, in seconds."""
        return self._now_s

    def rewind(self) -> None:
        """Set the clock back to 0, where no digit of a short sample is lost."""
        self._now_s = 0.0

    def play(self) -> None:
        """Let one sample pass; none, once all have."""
        self._now_s += next(self._samples, 0.0)


@dataclass(frozen=True, slots=True)
class Measuring:
    """How the cases of one scenario are measured: its settings, its benches, what their machine can do."""

    scenario: Scenario
    source: BenchSource
    ceilings: Known

    def measure(self, case: Case, *, timed: bool) -> tuple[Record, dict[str, Any]]:
        """The case's record and its row, measured as a sweep measures a block with nothing else in it.

        Raises:
            MeasuringError: no benches can be had.
        """
        from attnbench import table
        from attnbench.blocks import inspect_block, measure_block
        from attnbench.export.table import rows_of

        alone = Block(self.scenario.name, case.workload, case.device, (case,))
        (record,) = (measure_block if timed else inspect_block)(self.scenario, alone, self.source)
        (row,) = rows_of(table.from_records([record], "", self.ceilings))
        return record, row


class ScenarioCollector(pytest.Collector):
    """A scenario: the parent of its cases' tests."""

    measuring: Measuring
    blocks: Sequence[Block]

    @classmethod
    def of(cls, session: pytest.Session, measuring: Measuring, blocks: Sequence[Block]) -> ScenarioCollector:
        """The collector of a scenario's blocks, a child of pytest's root."""
        scenario = measuring.scenario
        name = f"{COLLECTION}{scenario.name}"
        collector: ScenarioCollector = cls.from_parent(
            session, name=name, nodeid=name, path=scenario.path.resolve()
        )
        collector.measuring, collector.blocks = measuring, blocks
        return collector

    def collect(self) -> Iterator[pytest.Item]:
        """A test a case, block by block."""
        for block in self.blocks:
            for case in block.cases:
                yield CaseTest.of(self, case)


class CaseTest(pytest.Function):
    """One case; grouped by its block, so that pytest-benchmark's tables compare a workload's cases."""

    @classmethod
    def of(cls, parent: ScenarioCollector, case: Case) -> CaseTest:
        """The test of a case."""
        replay = Replay()

        def run(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
            measured(benchmark, request.node, parent.measuring, case, replay)

        test: CaseTest = cls.from_parent(parent, name=case.case_id, callobj=run)
        test.add_marker(pytest.mark.benchmark(group=case.block_id, timer=replay))
        return test

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: Any) -> Any:
        """What went wrong, in words."""
        if isinstance(excinfo.value, CaseFailed | AttnbenchError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Any, int, str]:
        """The scenario's file, and the case; a line must be named for tests that are skipped by a mark."""
        return self.path, 0, self.name


def measured(
    benchmark: BenchmarkFixture, test: pytest.Item, measuring: Measuring, case: Case, replay: Replay
) -> None:
    """Measure a case and hand its samples to pytest-benchmark, whose timer is `replay`.

    Raises:
        CaseFailed: it is wrong, or could not be measured.
        MeasuringError: no benches can be had.
        pytest.skip.Exception: it is not meant to run here.
    """
    try:
        record, row = measuring.measure(case, timed=benchmark.enabled)
    except BaseException as error:
        _play_failure(benchmark, error)
        raise
    if record.status in SKIPPED:
        pytest.skip(f"{record.status}: {record.reason}")
    if record.accuracy is None and record.status == "ok":
        test.warn(pytest.PytestWarning(f"{case.case_id}: {record.reason or 'accuracy is unchecked'}"))
    benchmark.param, benchmark.params = case.variant.label, parameters(case)
    benchmark.extra_info.update(extra_info(record, row, interleaved=False))
    samples = [value for process in record.processes for value in process.per_call_s]
    replay.load(samples)

    def play() -> None:
        # In here, so that pytest-benchmark knows that there is nothing to show of a case that failed.
        if (why := _why_failed(record, row, timed=benchmark.enabled)) is not None:
            raise CaseFailed(f"{case.case_id}\n{why}")
        replay.play()

    benchmark.pedantic(play, setup=replay.rewind, rounds=max(1, len(samples)), iterations=1)
    if benchmark.enabled:
        # So many calls each sample is made of; what was played are seconds per call.
        benchmark.stats.iterations = row["calls_per_sample"]


def _play_failure(benchmark: BenchmarkFixture, failure: BaseException) -> None:
    """Raise what ended the measuring (Ctrl-C, say) from within the benchmark, which has nothing to show.

    A fixture that was not used warns of it as the test is torn down; where warnings are errors, its warning
    would end pytest with a traceback and hide what happened.
    """

    def fail() -> None:
        raise failure

    benchmark.has_error = True
    benchmark.pedantic(fail, setup=lambda: None, rounds=1, iterations=1)


def _why_failed(record: Record, row: dict[str, Any], *, timed: bool) -> str | None:
    """Why the case failed, with the figures of its error where it has any; None if it did not."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    if record.accuracy is not None and record.accuracy["accuracy"] == "fail":
        return f"the answer is wrong: {record.accuracy['reason']}\n{figures(record.accuracy)}"
    why = why_left_out(row) if timed else None
    return None if why is None else f"{why}: {row['reason']}"
