"""From what was typed to blocks ready to be measured: every mistake is found here, before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attnbench.cli.failures import Complaints
from attnbench.cli.output import clean
from attnbench.driver import Sources
from attnbench.errors import (
    AttnbenchError,
    MeasuringError,
    PluginError,
    RunError,
    ScenarioError,
    UsageError,
)

if TYPE_CHECKING:
    from attnbench.case import Block
    from attnbench.ceilings import Ceilings
    from attnbench.protocol import HelloReply, ImplementationInfo
    from attnbench.scenario import Scenario

__all__ = [
    "Selection",
    "Sources",
    "compiled_in",
    "known_ceilings",
    "plugin_header",
    "prepare",
    "read_scenarios",
    "warn_of_problems",
]

#: The kinds of devices of which `attnbench doctor` measures the ceilings.
MEASURED_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Selection:
    """The scenarios asked for, and what narrows or changes them."""

    scenarios: tuple[str, ...]
    devices: tuple[str, ...] = ()
    implementations: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    plugins: tuple[Path, ...] = ()


def prepare(
    selection: Selection, sources: Sources, texts: Mapping[str, str] | None = None
) -> list[tuple[Scenario, list[Block]]]:
    """Every scenario asked for with its blocks; with `texts` (by path) not from files but as a run kept them.

    Says on stderr what could not be loaded: it may be why an implementation is missing.

    Raises:
        ScenarioError: the mistakes of all files together, with those of the options.
        UsageError: a name that is no scenario, a wrong option, or two scenarios of one name.
        PluginError: a plug-in cannot be loaded.
        MeasuringError: the zygote cannot be started.
        Complaints: several of these.
    """
    scenarios = read_scenarios(selection, sources, texts)
    _require_names_apart(scenarios)
    hello = sources(scenarios[0]).hello
    warn_of_problems(hello)
    blocks, complaints = _tried([partial(each.expand, hello["catalogue"]) for each in scenarios])
    if complaints:
        raise _together(complaints)
    return list(zip(scenarios, blocks, strict=True))


def read_scenarios(
    selection: Selection, sources: Sources | None, texts: Mapping[str, str] | None = None
) -> list[Scenario]:
    """Every scenario asked for, as `prepare` reads them; which implementations there are is not looked up.

    But where there are mistakes `sources` (if any) are asked, so that unknown names are told with the others.

    Raises:
        ScenarioError: the mistakes of all files together, with those of the options.
        UsageError: a name that is no scenario, or a wrong option.
        Complaints: several of these, a catalogue that cannot be asked among them.
    """
    from attnbench import scenario

    asked = None if sources is None else _Catalogue(sources)
    changes: dict[str, Any] = {
        "sets": selection.sets,
        "implementations": selection.implementations,
        "devices": selection.devices,
        "catalogue": asked,
    }
    makers = (
        [partial(scenario.read, name, **changes) for name in selection.scenarios]
        if texts is None
        else [partial(scenario.parse, text, path, **changes) for path, text in texts.items()]
    )
    scenarios: list[Scenario]
    scenarios, complaints = _tried(makers)
    if complaints:
        # What is sound so far may still name implementations that there are not.
        known = asked() if asked and scenarios else None
        if known is not None:
            complaints += _tried([partial(each.expand, known) for each in scenarios])[1]
        raise _together([*complaints, *([asked.problem] if asked and asked.problem else [])])
    return scenarios


class _Catalogue:
    """Asks once which implementations there are; `problem` is why that could not be found out."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._known: list[ImplementationInfo] | None = None
        self.problem: AttnbenchError | None = None

    def __call__(self) -> list[ImplementationInfo] | None:
        if self._known is None and self.problem is None:
            try:
                hello = self._sources.any().hello
            except (PluginError, MeasuringError) as error:
                self.problem = error
                return None
            warn_of_problems(hello)
            self._known = hello["catalogue"]
        return self._known


def _require_names_apart(scenarios: Sequence[Scenario]) -> None:
    by_name: dict[str, Scenario] = {}
    for each in scenarios:
        if each.name in by_name:
            raise UsageError(
                f"two scenarios are called {each.name!r}: {by_name[each.name].path} and {each.path}; "
                "rows are told apart by the scenario's name, so give each its own `name:`"
            )
        by_name[each.name] = each


def _tried(makers: Sequence[Callable[[], Any]]) -> tuple[list[Any], list[AttnbenchError]]:
    """What the makers make, and the complaints of those that cannot."""
    made: list[Any] = []
    complaints: list[AttnbenchError] = []
    for maker in makers:
        try:
            made.append(maker())
        except (ScenarioError, UsageError) as error:
            complaints.append(error)
    return made, complaints


def _together(complaints: Sequence[AttnbenchError]) -> AttnbenchError:
    """One error for all: mistakes in scenarios first, each thing said once."""
    mistakes = [each.mistakes for each in complaints if isinstance(each, ScenarioError)]
    of_files = [ScenarioError(list(dict.fromkeys(chain(*mistakes))))] if mistakes else []
    others = {str(each): each for each in complaints if not isinstance(each, ScenarioError)}
    several: list[AttnbenchError] = [*of_files, *others.values()]
    return several[0] if len(several) == 1 else Complaints(several)


def compiled_in(hello: HelloReply) -> frozenset[str]:
    """The implementations that are compiled for each workload."""
    return frozenset(info["name"] for info in hello["catalogue"] if info["compiles"])


def known_ceilings(
    matrix: Sequence[tuple[Scenario, Sequence[Block]]], hello: HelloReply, fingerprint: Mapping[str, Any]
) -> dict[str, Ceilings]:
    """What the devices of `matrix` were measured to reach, by their names in it.

    Says on stderr of which it is not known, of those that are here and that `attnbench doctor` measures, and
    of which the figures may be too low.
    """
    from attnbench import ceilings

    here = {each["device"] for kind in MEASURED_DEVICES for each in hello["devices"].get(kind, ())}
    here |= {device.removesuffix(":0") for device in here}
    named = dict.fromkeys(block.device for _, blocks in matrix for block in blocks)
    devices = [device for device in named if device in here]
    known = {device: found for device in devices if (found := ceilings.load(fingerprint, device))}
    unknown = [device for device in devices if device not in known]
    if unknown:
        click.echo(
            f"Note: no ceilings are known of {clean(', '.join(unknown))}: run `attnbench doctor` once, and "
            "rows say how near they come to what this machine can do, or that they cannot be.",
            err=True,
        )
    for device, found in known.items():
        if found.disturbed is not None:
            click.echo(
                f"Note: the ceilings of {clean(device)} may be too low ({clean(found.disturbed)} when they "
                "were measured): run `attnbench doctor` again when nothing else runs.",
                err=True,
            )
    return known


def warn_of_problems(*hellos: HelloReply) -> None:
    """Say on stderr which installed plug-ins could not be loaded, each once."""
    for problem in dict.fromkeys(problem for hello in hellos for problem in hello["problems"]):
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
