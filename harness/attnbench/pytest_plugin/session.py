"""What `--attnbench` adds to a session of pytest: scenarios read and expanded, and their tests collected."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from attnbench.ceilings import Known
from attnbench.errors import AttnbenchError
from attnbench.pytest_plugin.cases import COLLECTION, Measuring, ScenarioCollector

if TYPE_CHECKING:
    from attnbench.case import Block
    from attnbench.scenario import Scenario

__all__ = ["ScenarioTests"]


class ScenarioTests:
    """The scenarios of one session: a plug-in of pytest."""

    @classmethod
    def of(cls, config: pytest.Config) -> ScenarioTests:
        """Those that the options ask for.

        Raises:
            pytest.UsageError: pytest-benchmark is missing, or pytest-xdist would run tests side by side.
        """
        _require_pytest_benchmark(config)
        _require_one_process(config)
        return cls(config)

    def __init__(self, config: pytest.Config) -> None:
        from attnbench.driver import Sources

        self._config = config
        self._sources = Sources([Path(each) for each in config.getoption("attnbench_plugin")])
        config.add_cleanup(self._sources.close)
        self._collectors: list[pytest.Collector] = []
        #: Node ids of scenarios' tests that were asked for in place of paths.
        self._asked: list[str] = []

    def pytest_report_header(self) -> str:
        """Say what these times are not."""
        return "attnbench: each case is measured by itself, not interleaved with those beside it"

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Read the scenarios, find out what implementations there are, and keep pytest from its own search.

        Raises:
            pytest.UsageError: a scenario, an option or a plug-in has mistakes.
        """
        config = self._config
        given = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
        self._asked = [each for each in given if each.startswith(COLLECTION)]
        config.args = [each for each in given if not each.startswith(COLLECTION)]
        with _told_as_wrong_use():
            ceilings = self._ceilings()
            for problem in self._sources.any().hello["problems"]:
                config.issue_config_time_warning(pytest.PytestWarning(f"attnbench: {problem}"), stacklevel=2)
            for scenario, blocks in self._matrix:
                measuring = Measuring(scenario, self._sources(scenario), ceilings)
                self._collectors.append(ScenarioCollector.of(session, measuring, blocks))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Put the scenarios beside what pytest collects of files."""
        report = yield
        if isinstance(collector, pytest.Session) and report.passed:
            report.result.extend(self._collectors)
            self._collectors = []
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep those of the scenarios' tests that were asked for by their ids, if any were.

        Raises:
            pytest.UsageError: an id is none.
        """
        if not self._asked:
            return
        for asked in self._asked:
            if not any(_is_of(item.nodeid, asked) for item in items):
                raise pytest.UsageError(f"not found: {asked}; `--collect-only -q` lists the tests' ids")
        items[:] = [
            item
            for item in items
            if not item.nodeid.startswith(COLLECTION)
            or any(_is_of(item.nodeid, asked) for asked in self._asked)
        ]

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_generate_machine_info(self) -> dict[str, Any]:
        """The machine as an exported run describes it, so that both can be compared."""
        from attnbench.export.pytest_benchmark import machine_info

        with _told_as_wrong_use():
            return machine_info(self._fingerprint)

    @cached_property
    def _matrix(self) -> list[tuple[Scenario, list[Block]]]:
        """The scenarios with their blocks.

        Raises:
            AttnbenchError: a scenario, an option or a plug-in has mistakes.
        """
        from attnbench import scenario

        scenarios = [
            scenario.read(
                name,
                sets=self._config.getoption("attnbench_set"),
                implementations=self._config.getoption("attnbench_impl"),
                devices=self._config.getoption("attnbench_device"),
                catalogue=lambda: self._sources.any().hello["catalogue"],
            )
            for name in dict.fromkeys(self._config.getoption("attnbench"))
        ]
        names = [each.name for each in scenarios]
        for each in scenarios:
            if names.count(each.name) > 1:
                raise pytest.UsageError(
                    f"several scenarios are called {each.name!r}; tests are told apart by that name, so "
                    "give each its own `name:`"
                )
        return [(each, each.expand(self._sources(each).hello["catalogue"])) for each in scenarios]

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        """Of the machine, and of the measuring processes of the first scenario."""
        from attnbench import environment

        return environment.fingerprint(self._sources(self._matrix[0][0]).hello)

    def _ceilings(self) -> Known:
        """What the devices were measured to reach, as far as that is known."""
        from attnbench import ceilings

        devices = dict.fromkeys(block.device for _, blocks in self._matrix for block in blocks)
        found = {each: ceilings.load(self._fingerprint, each) for each in devices}
        return {(device, known.device_name): known for device, known in found.items() if known is not None}


def _is_of(nodeid: str, asked: str) -> bool:
    """Whether `asked` is the id of a test, or of the scenario that it is of."""
    return nodeid == asked or nodeid.startswith(f"{asked}::")


@contextmanager
def _told_as_wrong_use() -> Iterator[None]:
    """Have pytest say what is wrong, without a traceback.

    Raises:
        pytest.UsageError: in place of an AttnbenchError.
    """
    try:
        yield
    except AttnbenchError as error:
        raise pytest.UsageError(_with_our_options(str(error))) from error


def _with_our_options(text: str) -> str:
    """`--set x=1` as `--attnbench-set x=1`: what pytest has the options of `attnbench sweep` as."""
    return re.sub(r"(?<![\w-])--(plugin|impl|set|device)\b(?!-)", r"--attnbench-\1", text)


def _require_pytest_benchmark(config: pytest.Config) -> None:
    loaded = config.pluginmanager.get_plugins()
    if any(getattr(each, "__name__", None) == "pytest_benchmark.plugin" for each in loaded):
        return
    from importlib.util import find_spec

    if find_spec("pytest_benchmark") is None:
        raise pytest.UsageError(
            "--attnbench measures through pytest-benchmark, which is not installed here; get it with: "
            "python -m pip install pytest-benchmark"
        )
    raise pytest.UsageError(
        "--attnbench measures through pytest-benchmark, which is switched off here (`-p no:benchmark`, on "
        "the command line or in addopts); switch it on again with: -p benchmark"
    )


def _require_one_process(config: pytest.Config) -> None:
    if config.getoption("dist", default="no") != "no":
        raise pytest.UsageError(
            "--attnbench measures times, and pytest-xdist would have tests run side by side, which disturb "
            "one another; give -n0, or run these tests apart from the others"
        )
