"""Reading a scenario: from a file's text to a checked `Scenario`, and on to blocks of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

from attnbench.case import Block, Case, Variant
from attnbench.errors import UsageError
from attnbench.protocol import ImplementationInfo
from attnbench.scenario.checks import Checked, check
from attnbench.scenario.files import read_text, resolve
from attnbench.scenario.matrix import cases_of
from attnbench.scenario.model import Check, Limits, Measure
from attnbench.scenario.names import shown
from attnbench.scenario.overrides import override
from attnbench.scenario.source import Source, error_from, load
from attnbench.scenario.variants import Listed, look_up
from attnbench.workload import Workload

__all__ = ["Scenario", "parse", "read"]


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
) -> Scenario:
    """The scenario in a file, given by path or by the bare name of a shipped one; the rest as `parse`.

    Raises:
        UsageError: there is no such file, it cannot be read, or an option is wrong.
        ScenarioError: the file has mistakes.
    """
    path = resolve(path_or_name)
    return parse(read_text(path), path, sets=sets, implementations=implementations, devices=devices)


def parse(
    text: str,
    path: str | Path,
    *,
    sets: Sequence[str] = (),
    implementations: Sequence[str] = (),
    devices: Sequence[str] = (),
) -> Scenario:
    """The scenario in `text`; `path` is for messages.

    The file is checked as it is written. Then `sets` (`measure.precision=0.01`) override, `implementations`
    (`sdpa`, `chunked(block=128)`) replace those listed, a bare name standing for the variants that the file
    lists under it, and `devices` replace those listed. An anchor that is not among the implementations any
    more gives way to the first of them.

    Raises:
        ScenarioError: the file has mistakes.
        UsageError: an option is wrong, or contradicts the file.
    """
    source = load(text, str(path))
    if not isinstance(source.data, dict):
        source.find((), f"expected a mapping with the keys of a scenario, got {shown(source.data)}")
        raise error_from(source.findings, source.path)
    scenario = _scenario(check(source), source, text)
    if not (sets or implementations or devices):
        return scenario
    changed = override(source, scenario.operation, sets, devices)
    command = _command(sets, implementations, devices)
    return _scenario(check(changed, implementations, command), changed, text, command)


def _command(sets: Sequence[str], implementations: Sequence[str], devices: Sequence[str]) -> str:
    options = (("--set", sets), ("--impl", implementations), ("--device", devices))
    return " ".join(f"{option} {text}" for option, texts in options for text in texts)


def _scenario(checked: Checked, source: Source, text: str, command: str = "") -> Scenario:
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
        path=Path(source.path),
    )
    scenario._listed = tuple(checked.variants)
    if not scenario._cases():
        if command:
            raise UsageError(
                f"{command}: nothing left to measure: exclude and include leave no case for these"
            )
        source.find(("exclude",), "nothing left to measure: every case is excluded; drop an entry", key=True)
        raise error_from(source.findings, source.path)
    return scenario
