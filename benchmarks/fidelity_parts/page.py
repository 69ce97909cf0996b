"""The page of the proof: what was aimed at, what was measured, each part's section; from the data alone."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fidelity_parts import MEASURED_PARTS, DataError, Section, Store
from published.page import summary, write_page
from published.prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NAME", "assembled", "write"]

#: The page is `<NAME>.md`, its figures are `<NAME>-<figure>.png` beside it.
NAME = "fidelity"


def write(folder: Path, docs: Path) -> None:
    """Write the page of the data in `folder` and its figures into `docs`; figures that it had before go.

    Raises:
        DataError: no data, or corrupted data.
    """
    write_page(docs, NAME, *assembled(folder))


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
        summary(aims),
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
