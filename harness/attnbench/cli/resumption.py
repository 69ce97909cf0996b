"""Going on with a run: with what it was started, and what of it is left to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.cli.preparation import Selection, plugin_header
from attnbench.errors import RunError, UsageError

if TYPE_CHECKING:
    from attnbench.case import Block
    from attnbench.scenario import Scenario

__all__ = ["refuse_beside_resume", "stored_selection", "unfinished"]


def refuse_beside_resume(selection: Selection, out: Path | None, name: str | None) -> None:
    """Refuse options that would make it another run.

    Raises:
        UsageError: one of them was given.
    """
    given = [
        option
        for option, value in (
            ("--device", selection.devices),
            ("--impl", selection.implementations),
            ("--set", selection.sets),
            ("--out", out),
            ("--name", name),
        )
        if value
    ]
    if given:
        raise UsageError(
            f"--resume goes on with the run as it was started: leave out {', '.join(given)}, or start a run "
            "of its own without --resume"
        )


def stored_selection(run: Path, given: Selection) -> tuple[Selection, dict[str, str]]:
    """What the run was started with, and the text of each of its scenarios by path.

    Raises:
        RunError: it is no run, or one whose header lacks what is needed to go on.
        UsageError: a scenario or plug-in was given that is not the run's.
    """
    from attnbench import scenario, store

    header = store.read(run).header
    try:
        stored = [(str(each["path"]), str(each["text"])) for each in header["scenarios"]]
        first = header["scenarios"][0]
        plugins = {str(each["path"]): str(each["sha256"]) for each in header.get("plugins", ())}
        selection = Selection(
            scenarios=tuple(path for path, _ in stored),
            devices=tuple(first.get("devices", ())),
            implementations=tuple(first.get("implementations", ())),
            sets=tuple(first.get("sets", ())),
            plugins=tuple(Path(path) for path in plugins),
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise RunError(
            f"{run}/run.json: does not say what was to be measured ({type(error).__name__}: {error}); "
            "it cannot be gone on with"
        ) from error
    kept = set(plugins.values())
    if given.plugins:
        # They may have moved since; what counts is what is in them.
        selection = replace(selection, plugins=given.plugins)
    now = plugin_header(selection.plugins)
    for each in now:
        if each["sha256"] not in kept:
            raise UsageError(
                f"the plug-in {each['path']} is not what it was when {run} was started; bring it back, or "
                "start a run of its own without --resume"
            )
    if {each["sha256"] for each in now} != kept:
        raise UsageError(
            f"{run} was started with {', '.join(plugins)}: give all of them, or none with --resume"
        )
    texts = dict(stored)
    for name in given.scenarios:
        path = scenario.resolve(name)
        if path.read_text(encoding="utf-8") not in texts.values():
            raise UsageError(
                f"{path} is not the scenario that {run} was started with; leave SCENARIO out to go on with "
                "the stored one, or start a run of its own without --resume"
            )
    return selection, texts


def unfinished(
    run: Path, matrix: Sequence[tuple[Scenario, Sequence[Block]]]
) -> list[tuple[Scenario, list[Block]]]:
    """What of `matrix` the run lacks: blocks of which its latest attempt has not every case.

    Raises:
        RunError: it is no run, or cannot be read.
    """
    from attnbench import store

    records = store.read(run).records
    latest: dict[tuple[str, str], int] = {}
    for each in records:
        key = (each.scenario, each.block_id)
        latest[key] = max(latest.get(key, 0), each.attempt)
    finished = {
        (each.scenario, each.case_id)
        for each in records
        if each.attempt == latest[each.scenario, each.block_id]
    }
    return [
        (
            scenario,
            [
                block
                for block in blocks
                if not {(scenario.name, case.case_id) for case in block.cases} <= finished
            ],
        )
        for scenario, blocks in matrix
    ]
