"""Sources of benches for several scenarios: one for each environment that they ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from attnbench.protocol import BenchSource
    from attnbench.scenario import Scenario

__all__ = ["Sources"]

#: The share of memory that a bench which only answers questions may take.
QUESTIONS_MEMORY_FRACTION = 0.8


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
