"""The page of the gate: what was aimed at, what was measured, each part's sections; from the data alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gate_parts import (
    PARTS,
    DataError,
    Store,
    _duration_section,
    _gates_section,
    _rules_section,
    _simulation_section,
)
from published.page import Section, summary, write_page
from published.prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NAME", "assembled", "write"]

#: The page is `<NAME>.md`, its figures are `<NAME>-<figure>.png` beside it.
NAME = "gate"

#: What is made of each part's data; the simulated power stands beside the real gates'.
SECTIONS: Mapping[str, tuple[Callable[[Path], Section], ...]] = {
    "gates": (_gates_section.section, _rules_section.section),
    "duration": (_duration_section.section,),
    "simulation": (_simulation_section.section,),
}


def write(folder: Path, docs: Path) -> None:
    """Write the page of the data in `folder` and its figures into `docs`; figures that it had before go.

    Raises:
        DataError: no data, or corrupted data.
    """
    write_page(docs, NAME, *assembled(folder))


def assembled(folder: Path) -> tuple[str, dict[str, Figure]]:
    """The page of the data in `folder`, and its figures by name.

    Raises:
        DataError: no data, or corrupted data.
    """
    measured = [part for part in PARTS if (folder / f"{part}.jsonl").exists()]
    if not measured:
        raise DataError(f"{folder}: no data; run `{Store.command}` first")
    sections = [section(folder) for part in measured for section in SECTIONS[part]]
    missing = [part for part in PARTS if part not in measured]
    parts = [
        "# How often is the gate wrong?",
        _introduction(folder, measured[0], missing),
        summary([aim for section in sections for aim in section.aims]),
        *(f"## {section.title}\n\n{section.markdown.strip()}" for section in sections),
    ]
    figures = {name: figure for section in sections for name, figure in section.figures.items()}
    return "\n\n".join(parts) + "\n", figures


def _introduction(folder: Path, part: str, missing: list[str]) -> str:
    """What this page is about, and where its figures come from."""
    machine = Store.read(folder, part).header["machine"]
    text = [
        paragraph(
            f"""A gate in CI is worth what its two error rates are: how often it fails a change that is
            innocent, and how often it lets a regression pass. Here are those of `attnbench check`, measured.
            `python benchmarks/gate.py` measures it all anew, in about an hour of a machine that does nothing
            else, and writes this page from its data: the page is not edited by hand. What stands here is of
            one machine ({machine["machine"]}: {machine["cores_usable"]} cores of
            {machine["cpu"]}{", virtual" if machine.get("hypervisor") else ""}); on others it will differ.
            How the gate decides is told in [method.md](method.md). Rates have 95% intervals after Clopper
            and Pearson, in brackets, in per cent."""
        )
    ]
    if missing:
        text.append(paragraph(f"Not measured yet: {', '.join(missing)}."))
    return "\n\n".join(text)
