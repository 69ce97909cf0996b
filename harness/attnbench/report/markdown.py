"""The summary for a pull request: findings, one line a case, failures, environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnbench.plots.plot import common_text
from attnbench.plots.rows import clean, failed_accuracy, rows_of, shorten, usual, varying
from attnbench.report import cells
from attnbench.report.columns import SETTINGS, common
from attnbench.report.facts import environment, runs_of
from attnbench.report.findings import Finding
from attnbench.report.html import reasons
from attnbench.report.work import MEANING, table_of_work
from attnbench.units import counted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["escape", "folded", "summary", "table"]

#: Columns always shown, with their headings; the settings that differ stand after the shape.
_FIGURES = {
    "latency": "latency [95%]",
    "speedup": "speed-up [95%]",
    "memory": "memory",
    "error": "error",
    "ratio": "ratio",
    "status": "status",
}

#: A longer table is folded, so that findings and failures stay in sight.
ROWS_IN_SIGHT = 30

# Underscores inside a word and brackets around an interval are no markup, and read better bare.
_SPECIAL = re.compile(r"[\\`*#|~$]|(?<!\w)_|_(?!\w)|\[(?![0-9][-0-9.,e+ µnms]*\](?!\())")


def escape(text: str) -> str:
    """`text` that Markdown shows as it is: no markup, no HTML, no table borders, no links, no mentions."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _SPECIAL.sub(r"\\\g<0>", text)
    # A word joiner keeps a mention, an issue number or an address from becoming a link.
    return re.sub(
        r"@(?=\w)|(?<=\w)://|(?<=www)\.",
        lambda match: {"@": "@\u2060", "://": ":\u2060//", ".": ".\u2060"}[match.group()],
        text,
    )


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose cells are escaped already."""
    return [
        f"| {' | '.join(headings)} |",
        f"|{'---|' * len(headings)}",
        *(f"| {' | '.join(line)} |" for line in lines),
    ]


def folded(title: str, lines: Sequence[str]) -> list[str]:
    """`lines` behind a `title` (escaped already) that opens them."""
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>"]


def summary(frame: pd.DataFrame, headers: Sequence[Mapping[str, Any]], found: Sequence[Finding]) -> str:
    """The whole of summary.md."""
    rows = rows_of(frame)
    runs = runs_of(rows, headers)
    lines = [f"# attnbench: {escape(', '.join(run.name for run in runs))}", ""]
    for run in runs:
        what = f"{run.machine}; {run.software}" if run.software else run.machine
        lines.append(
            f"- {escape(run.name)}: {escape(what)}; started {escape(run.started_at)}; cases: {run.cases}"
        )
    lines += ["", "## Findings", ""]
    told = common_text(rows, usual(rows)) if rows else ""
    lines += [escape(told), ""] if told else []
    lines += [f"- {escape(finding.text)}" for finding in found]

    names = [name for name in SETTINGS if name in varying(rows)]
    headings = ["implementation", "shape", *(SETTINGS[name].heading for name in names), *_FIGURES.values()]
    body = []
    for row in rows:
        cell = cells.cells(row)
        line = [escape(cell["implementation"]), escape(cell["shape"])]
        line += [escape(clean(row.get(name) or cells.DASH)) for name in names]
        line += [escape(cell[key]) for key in _FIGURES]
        if failed_accuracy(row):
            line = [f"~~{text}~~" if text != cells.DASH else text for text in line[:-1]] + [f"**{line[-1]}**"]
        body.append(line)
    lines += ["", "## Results", ""]
    notes = [common(rows), *(f"{meaning}." for meaning in cells.legend(rows))]
    lines += [escape(" ".join(filter(None, notes))), ""] if any(notes) else []
    if not body:
        lines += ["No case was recorded."]
    elif len(body) <= ROWS_IN_SIGHT:
        lines += table(headings, body)
    else:
        lines += folded(f"{len(body)} cases", table(headings, body))

    headings, parts = table_of_work(rows, usual(rows))
    if parts:
        drawn = table(list(map(escape, headings)), [list(map(escape, line)) for line in parts])
        title = counted(len(parts), "workload")
        lines += ["", "## Where the time should go", "", escape(MEANING), ""]
        lines += drawn if len(parts) <= ROWS_IN_SIGHT else folded(title, drawn)

    doubts = reasons(rows)
    if doubts:
        lines += ["", "## Failures and doubts", ""]
        for row, status, reason in doubts:
            cell = cells.cells(row)
            where = ", ".join(cell[key] for key in ("shape", "mask", "dtype", "pass", "device"))
            why = f"{escape(status)}: {escape(shorten(reason, 400))}"
            lines.append(f"- **{escape(cell['implementation'])}** at {escape(where)}: {why}")

    facts = environment(headers)
    if facts:
        known = [
            [escape(fact.name), *(escape(shorten(value, 200)) for value in fact.values)] for fact in facts
        ]
        lines += ["", *folded("Environment", table(["what", *(escape(run.name) for run in runs)], known))]
    return "\n".join(lines) + "\n"
