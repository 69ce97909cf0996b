"""From what was typed to blocks ready to be measured: every mistake is found here, before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from attnbench.cli.output import clean
from attnbench.errors import RunError, ScenarioError, UsageError

if TYPE_CHECKING:
    from attnbench.case import Block
    from attnbench.protocol import BenchSource, HelloReply
    from attnbench.scenario import Scenario

__all__ = ["Selection", "Sources", "expand", "plugin_header", "read_scenarios", "warn_of_problems"]

#: The share of memory that a bench which only answers questions may take.
QUESTIONS_MEMORY_FRACTION = 0.8


@dataclass(frozen=True, slots=True)
class Selection:
    """The scenarios asked for, and what narrows or changes them."""

    scenarios: tuple[str, ...]
    devices: tuple[str, ...] = ()
    implementations: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    plugins: tuple[Path, ...] = ()


class Sources:
    """One source of benches (a zygote) for each distinct environment that scenarios ask for.

    Opened when first needed, closed together: a context manager.
    """

    def __init__(self, plugins: Sequence[Path]) -> None:
        self.plugins = tuple(path.resolve() for path in plugins)
        self._open: dict[tuple[int, str, float], BenchSource] = {}

    def __call__(self, scenario: Scenario) -> BenchSource:
        """The source whose benches have the environment that `scenario` asks for.

        Raises:
            PluginError: a plug-in cannot be loaded.
            MeasuringError: the zygote cannot be started.
        """
        measure = scenario.measure
        return self._source(measure.threads_count(), measure.malloc, scenario.limits.memory_fraction)

    def any(self) -> BenchSource:
        """A source for questions about which no scenario decides.

        Raises:
            PluginError: a plug-in cannot be loaded.
            MeasuringError: the zygote cannot be started.
        """
        return next(iter(self._open.values()), None) or self._source(1, "pinned", QUESTIONS_MEMORY_FRACTION)

    def _source(self, threads: int, malloc: str, memory_fraction: float) -> BenchSource:
        from attnbench import driver

        key = (threads, malloc, memory_fraction)
        if key not in self._open:
            self._open[key] = driver.ZygoteSource(
                plugins=self.plugins,
                threads=threads,
                malloc=malloc,
                memory_limit_bytes=driver.memory_limit(memory_fraction),
            )
        return self._open[key]

    def close(self) -> None:
        """End every zygote and its benches. Can be called twice."""
        while self._open:
            _, source = self._open.popitem()
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_scenarios(selection: Selection, texts: Mapping[str, str] | None = None) -> list[Scenario]:
    """Every scenario asked for; with `texts` (by path) not from files but as a run has kept them.

    Raises:
        ScenarioError: the mistakes of all files together.
        UsageError: a name that is no scenario, or two scenarios of one name.
    """
    from attnbench import scenario

    changes = {
        "sets": selection.sets,
        "implementations": selection.implementations,
        "devices": selection.devices,
    }
    if texts is None:
        scenarios = _all_of([partial(scenario.read, name, **changes) for name in selection.scenarios])
    else:
        scenarios = _all_of([partial(scenario.parse, text, path, **changes) for path, text in texts.items()])
    by_name: dict[str, Scenario] = {}
    for each in scenarios:
        if each.name in by_name:
            raise UsageError(
                f"two scenarios are called {each.name!r}: {by_name[each.name].path} and {each.path}; "
                "rows are told apart by the scenario's name, so give each its own `name:`"
            )
        by_name[each.name] = each
    return scenarios


def expand(scenarios: Sequence[Scenario], sources: Sources) -> list[tuple[Scenario, list[Block]]]:
    """The blocks of every scenario, with what the first one's source has in its catalogue.

    Says on stderr what could not be loaded: it may be why an implementation is missing.

    Raises:
        ScenarioError: the mistakes of all scenarios together.
        PluginError: a plug-in cannot be loaded.
        MeasuringError: the zygote cannot be started.
    """
    hello = sources(scenarios[0]).hello
    warn_of_problems(hello)
    blocks = _all_of([partial(each.expand, hello["catalogue"]) for each in scenarios])
    return list(zip(scenarios, blocks, strict=True))


def _all_of(makers: Sequence[Callable[[], Any]]) -> list[Any]:
    """What every maker makes, or all their complaints at once."""
    made: list[Any] = []
    complaints: list[ScenarioError | UsageError] = []
    for maker in makers:
        try:
            made.append(maker())
        except (ScenarioError, UsageError) as error:
            complaints.append(error)
    if not complaints:
        return made
    if all(isinstance(complaint, ScenarioError) for complaint in complaints):
        raise ScenarioError(
            [mistake for each in complaints if isinstance(each, ScenarioError) for mistake in each.mistakes]
        )
    raise UsageError("\n".join(str(complaint) for complaint in complaints))


def warn_of_problems(hello: HelloReply) -> None:
    """Say on stderr which installed plug-ins could not be loaded."""
    for problem in hello["problems"]:
        click.echo(f"Warning: {clean(problem)}", err=True)


def plugin_header(plugins: Sequence[Path]) -> list[dict[str, str]]:
    """What a run's header says of plug-ins: where they were, and a digest of what they were.

    Raises:
        RunError: a file cannot be read any more.
    """
    try:
        return [
            {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in dict.fromkeys(path.resolve() for path in plugins)
        ]
    except OSError as error:
        raise RunError(f"the plug-in {error.filename} cannot be read: {error.strerror}") from error
