"""What a page is made of: sections with aims, tables and figures, and their writing into docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Aim", "Section", "markdown_table", "png", "summary", "write_page"]

#: Whether an aim is met, in a table.
MET: Mapping[bool | None, str] = {True: "yes", False: "**no**", None: "–"}


@dataclass(frozen=True, slots=True)
class Aim:
    """What was aimed at, what was measured of it, and whether it is met; None where that cannot be said."""

    aim: str
    measured: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page. `figures` are by name: `![alt](<page>-<name>.png)` in `markdown` shows one."""

    title: str
    markdown: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    aims: tuple[Aim, ...] = ()


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table; all columns but the first `text_columns` are aligned right."""
    aligned = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, aligned, *rows))


def png(figure: Figure) -> bytes:
    """The figure as a PNG on white: the same data give the same bytes."""
    from attnbench.plots.render import WHITE
    from attnbench.plots.style import drawing

    buffer = BytesIO()
    with drawing():
        figure.savefig(buffer, format="png", facecolor=WHITE, dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def summary(aims: Sequence[Aim]) -> str:
    """All aims at a glance."""
    if not aims:
        return "No part has an aim to report on yet."
    return markdown_table(
        ["aim", "measured", "met"], [[aim.aim, aim.measured, MET[aim.met]] for aim in aims], text_columns=3
    )


def write_page(docs: Path, name: str, markdown: str, figures: Mapping[str, Figure]) -> None:
    """Write `<name>.md` and its figures `<name>-<figure>.png` into `docs`; figures that it had before go."""
    docs.mkdir(parents=True, exist_ok=True)
    drawn = {f"{name}-{figure}.png": png(drawing) for figure, drawing in figures.items()}
    for stale in set(docs.glob(f"{name}-*.png")) - {docs / file for file in drawn}:
        stale.unlink()
    for file, data in drawn.items():
        replace_file(docs / file, data)
    replace_file(docs / f"{name}.md", markdown.encode())
