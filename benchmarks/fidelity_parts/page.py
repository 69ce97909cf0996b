"""The page of the proof: what was aimed at, what was measured, each part's section; from the data alone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.files import replace_file
from fidelity_parts import MEASURED_PARTS, Aim, DataError, Section, Store, markdown_table, png
from fidelity_parts._prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PAGE", "assembled", "write"]

#: The page's name in its folder; its figures are `fidelity-<name>.png` beside it.
PAGE = "fidelity.md"

#: Whether an aim is met, in a table.
MET: Mapping[bool | None, str] = {True: "yes", False: "**no**", None: "–"}


def write(folder: Path, docs: Path) -> None:
    """Write the page of the data in `folder` and its figures into `docs`; figures that it had before go.

    Raises:
        DataError: no data, or corrupted data.
    """
    markdown, figures = assembled(folder)
    docs.mkdir(parents=True, exist_ok=True)
    drawn = {f"fidelity-{name}.png": png(figure) for name, figure in figures.items()}
    for stale in set(docs.glob("fidelity-*.png")) - {docs / name for name in drawn}:
        stale.unlink()
    for name, data in drawn.items():
        replace_file(docs / name, data)
    replace_file(docs / PAGE, markdown.encode())


def assembled(folder: Path) -> tuple[str, dict[str, Figure]]:
    """The page of the data in `folder`, and its figures by name.

    Raises:
        DataError: no data, corrupted data, or two sections with a figure of the same name.
    """
    measured = [part for part in MEASURED_PARTS if (folder / f"{part}.jsonl").exists()]
    if not measured:
        raise DataError(f"{folder}: no data; run `python benchmarks/fidelity.py all` first")
    sections = {part: _section(part, folder) for part in measured}
    figures: dict[str, Figure] = {}
    for part, section in sections.items():
        if repeated := figures.keys() & section.figures.keys():
            raise DataError(f"the part {part} has figures of names taken: {', '.join(sorted(repeated))}")
        figures |= section.figures
    missing = [part for part in MEASURED_PARTS if part not in sections]
    aims = [aim for section in sections.values() for aim in section.aims]
    parts = [
        "# Are the figures true?",
        _introduction(folder, measured, missing),
        _summary(aims),
        *(f"## {section.title}\n\n{section.markdown.strip()}" for section in sections.values()),
    ]
    return "\n\n".join(parts) + "\n", figures


def _section(part: str, folder: Path) -> Section:
    section: Section = import_module(f"fidelity_parts.{part}").section(folder)
    return section


def _introduction(folder: Path, measured: list[str], missing: list[str]) -> str:
    """Where the figures come from."""
    machine = Store.read(folder, measured[0]).header["machine"]
    text = [
        paragraph(
            f"""attnbench's own figures, held against known truths and beside what the tools that people use
            report. `python benchmarks/fidelity.py all` measures it all anew, in about 40 minutes of a machine
            that does nothing else, and writes this page from its data: the page is not edited by hand. What
            stands here is of one machine ({machine["machine"]}: {machine["cores_usable"]} cores of
            {machine["cpu"]}{", virtual" if machine.get("hypervisor") else ""}); on others it will differ."""
        )
    ]
    if missing:
        text.append(paragraph(f"Not measured yet: {', '.join(missing)}."))
    return "\n\n".join(text)


def _summary(aims: list[Aim]) -> str:
    """All aims at a glance."""
    if not aims:
        return "No part has an aim to report on yet."
    return markdown_table(
        ["aim", "measured", "met"], [[aim.aim, aim.measured, MET[aim.met]] for aim in aims], text_columns=3
    )
