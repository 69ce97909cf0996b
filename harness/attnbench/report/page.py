"""What pages of runs are made of: a template, the script and style it holds, figures, sortable tables."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from attnbench.plots.rows import Row
from attnbench.report import cells
from attnbench.report.columns import Column
from attnbench.report.inline import inline_svg

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

    from attnbench.plots import Plot

__all__ = ["figures_of", "filters_of", "is_tall", "rendered", "rows_of_data"]

#: Columns that a page offers to filter by, where they hold more than one value.
_FILTERS = (
    "run",
    "scenario",
    "operation",
    "implementation",
    "shape",
    "mask",
    "dtype",
    "pass",
    "inputs",
    "device",
    "status",
)

#: Longer tables scroll in a box of their own.
_ROWS_IN_FULL = 120


def rendered(template: str, **values: Any) -> str:
    """The page of a template: one file, no request to anywhere, everything in `values` escaped."""
    import jinja2

    folder = files("attnbench.report") / "template"

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    script = text("report.js")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(text),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return (
        environment.get_template(template).render(
            css=text("report.css"),
            js=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            **values,
        )
        + "\n"
    )


def filters_of(columns: Sequence[Column], rows: Sequence[Row]) -> list[tuple[Column, list[str]]]:
    """The columns that the page offers to filter by, each with its values."""
    found = []
    for column in columns:
        values = list(dict.fromkeys(column.text(row) for row in rows))
        if column.key in _FILTERS and len(values) > 1:
            found.append((column, values))
    return found


def is_tall(lines: Sequence[object]) -> bool:
    """Whether a table of so many lines scrolls in a box of its own."""
    return len(lines) > _ROWS_IN_FULL


def figures_of(drawings: Sequence[tuple[Plot, str]]) -> list[tuple[Plot, Markup, dict[str, Any]]]:
    """Figures with their SVG documents, as a page shows them: the drawing inline, the data behind it."""
    return [(plot, inline_svg(plot, document), _data(plot)) for plot, document in drawings]


def _data(plot: Plot) -> dict[str, Any]:
    rows = rows_of_data(plot.data)
    names = [str(name) for name in plot.data.columns]
    return {"names": names, "lines": [[cells.value(name, row[name]) for name in names] for row in rows]}


def rows_of_data(data: pd.DataFrame) -> list[dict[str, Any]]:
    """A figure's data with null as None."""
    return [
        {str(name): None if value is None or value != value else value for name, value in record.items()}
        for record in data.to_dict("records")
    ]
