"""The summary for a pull request: findings, one line a case, failures, environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnbench.plots.rows import clean, failed_accuracy, rows_of, shorten, varying
from attnbench.report import cells
from attnbench.report.facts import environment, runs_of
from attnbench.report.findings import Finding
from attnbench.report.html import reasons

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["escape", "summary"]

_HEADINGS = (
    "implementation",
    "shape",
    "mask",
    "dtype",
    "pass",
    "latency [95%]",
    "speed-up [95%]",
    "peak memory",
    "error (ratio)",
    "status",
)
_KEYS = (
    "implementation",
    "shape",
    "mask",
    "dtype",
    "pass",
    "latency",
    "speedup",
    "memory",
    "error",
    "status",
)
# Underscores inside a word and brackets around an interval are no markup, and read better bare.
_SPECIAL = re.compile(r"[\\`*#|~$]|(?<!\w)_|_(?!\w)|\[(?![-0-9.,e+ ]+\](?!\())")


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


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(headings)} |",
        f"|{'---|' * len(headings)}",
        *(f"| {' | '.join(line)} |" for line in lines),
    ]


def summary(frame: pd.DataFrame, headers: Sequence[Mapping[str, Any]], found: Sequence[Finding]) -> str:
    """The whole of summary.md."""
    rows = rows_of(frame)
    runs = runs_of(rows, headers)
    lines = [f"# attnbench: {escape(', '.join(run.name for run in runs))}", ""]
    for run in runs:
        machines = ", ".join(run.machines) or "nothing was measured"
        lines.append(
            f"- {escape(run.name)}: {escape(machines)}; started {escape(run.started_at)}; cases: {run.cases}"
        )
    lines += ["", "## Findings", "", *(f"- {escape(finding.text)}" for finding in found)]

    names = [name for name in ("run_id", "scenario", "device") if name in varying(rows)]
    table = []
    for row in rows:
        cell = cells.cells(row)
        line = [escape(clean(row.get(name) or cells.DASH)) for name in names]
        line += [escape(cell[key]) for key in _KEYS]
        if failed_accuracy(row):
            line = [f"~~{text}~~" if text != cells.DASH else text for text in line[:-1]] + [f"**{line[-1]}**"]
        table.append(line)
    lines += ["", "## Results", ""]
    lines += _table([*names, *_HEADINGS], table) if table else ["No case was recorded."]

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
        lines += ["", "<details><summary>Environment</summary>", ""]
        lines += _table(
            ["what", *(escape(run.name) for run in runs)],
            [[escape(fact.name), *(escape(shorten(value, 200)) for value in fact.values)] for fact in facts],
        )
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"
