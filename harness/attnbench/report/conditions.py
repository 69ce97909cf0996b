"""How the cases were timed, where that is not as usual: a reader must not take cold figures for warm ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnbench.plots.plot import listed
from attnbench.plots.rows import clean
from attnbench.report.facts import scenarios_of
from attnbench.report.findings import Finding

if TYPE_CHECKING:
    from attnbench.scenario import Scenario

__all__ = ["conditions"]

#: What is told of a scenario that was measured so.
_TOLD: tuple[tuple[Callable[[Scenario], bool], str], ...] = (
    (
        lambda scenario: scenario.measure.cache == "cold",
        "Timed cold: before each call the cache is flushed. On a CPU that takes the code of kernels and "
        "framework out of it as well as the inputs, which is most of the time of small workloads.",
    ),
    (
        lambda scenario: scenario.measure.cuda_graph,
        "On GPUs replays of CUDA graphs were timed, not calls: a call takes its launching besides.",
    ),
)


def conditions(headers: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """A finding for each thing that is out of the ordinary, which names scenarios where not all are so."""
    scenarios = list(scenarios_of(headers))
    found = []
    for applies, text in _TOLD:
        names = list(dict.fromkeys(clean(each.name) for each in scenarios if applies(each)))
        if names:
            of_some = not all(applies(each) for each in scenarios)
            found.append(Finding("conditions", f"{listed(names)}: {text}" if of_some else text))
    return found
