"""Reading a scenario: from a file's text to a checked `Scenario`, and on to blocks of cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

from attnbench.case import Block, Case, Variant
from attnbench.errors import ScenarioError
from attnbench.protocol import ImplementationInfo
from attnbench.scenario.checks import Checked, check, operation_meant
from attnbench.scenario.files import read_text, resolve
from attnbench.scenario.matrix import cases_of
from attnbench.scenario.model import Check, Limits, Measure
from attnbench.scenario.names import shown
from attnbench.scenario.overrides import override
from attnbench.scenario.source import Finding, Place, Source, error_from, load
from attnbench.scenario.variants import Listed, look_up
from attnbench.workload import SHAPES, Workload

__all__ = ["Catalogue", "Scenario", "parse", "read"]

#: Tells which implementations there are; None when that cannot be found out.
Catalogue = Callable[[], Sequence[ImplementationInfo] | None]


class Scenario(BaseModel):
    """A checked scenario: which implementations are measured at which workloads, and how.

    `implementations` are listed with sweeps of options written out; `anchor` is the label of one of them.
    `matrix` maps axes to tuples of values in the file's order; `exclude` and `include` are its other keys.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    operation: str
    implementations: tuple[Variant, ...]
    anchor: str
    devices: tuple[str, ...]
    matrix: Mapping[str, tuple[Any, ...]]
    exclude: tuple[Mapping[str, Any], ...]
    include: tuple[Mapping[str, Any], ...]
    measure: Measure
    limits: Limits
    check: Check
    source_text: str
    path: Path

    _listed: tuple[Listed, ...] = PrivateAttr(default=())

    def expand(self, catalogue: Sequence[ImplementationInfo]) -> list[Block]:
        """The blocks of cases to measure: devices outermost, the matrix in its order, then what is included.

        Raises:
            ScenarioError: the catalogue lacks an implementation or option, or an option is of another type.
            UsageError: the same, for implementations chosen on the command line.
        """
        findings = look_up(self._listed, self.operation, catalogue)
        if findings:
            raise error_from(findings, str(self.path))
        blocks = []
        for (device, workload), cases in self._cases().items():
            anchor = next((case for case in cases if case.variant.label == self.anchor), None)
            blocks.append(Block(self.name, workload, device, cases, anchor))
        return blocks

    def _cases(self) -> dict[tuple[str, Workload], tuple[Case, ...]]:
        return cases_of(
            self.operation, self.matrix, self.exclude, self.include, self.implementations, self.devices
        )


def read(
    path_or_name: str,
    *,
    sets: Sequence[str] = (),
    implementations: Sequence[str] = (),
    devices: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Scenario:
    """The scenario in a file, given by path or by the bare name of a shipped one; the rest as `parse`.

    Raises:
        UsageError: there is no such file, it cannot be read, or an option is wrong.
        ScenarioError: the file has mistakes.
    """
    path = resolve(path_or_name)
    return parse(
        read_text(path),
        path,
        sets=sets,
        implementations=implementations,
        devices=devices,
        catalogue=catalogue,
    )


def parse(
    text: str,
    path: str | Path,
    *,
    sets: Sequence[str] = (),
    implementations: Sequence[str] = (),
    devices: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Scenario:
    """The scenario in `text`; `path` is for messages.

    The file is checked as it is written. Then `sets` (`measure.precision=0.01`) override, `implementations`
    (`sdpa`, `chunked(block=128)`) replace those listed, a bare name standing for the variants that the file
    lists under it, and `devices` replace those listed. An anchor that is not among the implementations any
    more gives way to the first of them.

    `catalogue` is asked only when there are mistakes, so that those in implementations are told with the
    others; of a sound scenario `expand` finds them.

    Raises:
        ScenarioError: the file has mistakes; those of the options are told with them.
        UsageError: an option is wrong, or contradicts the file.
    """
    source = _loaded(text, str(path))
    checked = check(source) if isinstance(source.data, dict) else None
    if checked is not None and not source.findings and not _cases(checked):
        source.find(("exclude",), "nothing left to measure: every case is excluded; drop an entry", key=True)
    command = _command(sets, implementations, devices)
    brought: list[Finding] = []
    effective = checked
    if command:
        effective, brought = _changed(source, checked, sets, implementations, devices, command)
    if effective is not None and not source.findings and not brought:
        return _scenario(effective, source.path, text)
    named = [*(checked.named if checked and source.findings else ()), *(effective.named if effective else ())]
    known = catalogue() if catalogue and named else None
    operation = operation_meant(source) if checked else ""
    unknown = [] if known is None else look_up(named, operation, known)
    raise error_from([*source.findings, *unknown], source.path, brought, command)


def _loaded(text: str, path: str) -> Source:
    """The document in `text`; what makes it unreadable is among the findings, and then it is no mapping."""
    try:
        source = load(text, path)
    except ScenarioError as error:
        source = Source(path, None, {(): Place(1, 1)})
        source.findings = [
            Finding((), Place(each.line, each.column), each.field, each.message) for each in error.mistakes
        ]
        return source
    if not isinstance(source.data, dict):
        source.find((), f"expected a mapping with the keys of a scenario, got {shown(source.data)}")
    return source


def _changed(
    source: Source,
    checked: Checked | None,
    sets: Sequence[str],
    implementations: Sequence[str],
    devices: Sequence[str],
    command: str,
) -> tuple[Checked, list[Finding]]:
    """The scenario with the options applied, and what is wrong with them.

    Of a file with mistakes of its own only what was given by an option is judged.
    """
    base = source if checked is not None else Source(source.path, {}, {(): Place(1, 1)})
    operation = checked.operation if checked is not None else next(iter(SHAPES))
    changed = override(base, operation, sets, devices)
    again = check(changed, implementations, command)
    if source.findings:
        return again, [each for each in changed.findings if each.place.option and changed.holds(each.loc)]
    if not changed.findings and not _cases(again):
        message = "nothing left to measure: exclude and include leave no case for these"
        changed.findings.append(Finding((), Place(0, 0, command), "", message))
    return again, changed.findings


def _command(sets: Sequence[str], implementations: Sequence[str], devices: Sequence[str]) -> str:
    options = (("--set", sets), ("--impl", implementations), ("--device", devices))
    return " ".join(f"{option} {text}" for option, texts in options for text in texts)


def _cases(checked: Checked) -> dict[tuple[str, Workload], tuple[Case, ...]]:
    variants = [each.variant for each in checked.variants]
    return cases_of(
        checked.operation, checked.matrix, checked.exclude, checked.include, variants, checked.file.devices
    )


def _scenario(checked: Checked, path: str, text: str) -> Scenario:
    file = checked.file
    scenario = Scenario(
        name=file.name,
        description=file.description,
        operation=file.operation,
        implementations=tuple(each.variant for each in checked.variants),
        anchor=checked.anchor,
        devices=file.devices,
        matrix=checked.matrix,
        exclude=tuple(checked.exclude),
        include=tuple(checked.include),
        measure=file.measure,
        limits=file.limits,
        check=file.check,
        source_text=text,
        path=Path(path),
    )
    scenario._listed = tuple(checked.variants)
    return scenario
