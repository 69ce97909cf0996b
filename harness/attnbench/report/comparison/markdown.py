"""The summary of a comparison for a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from attnbench.compare import Comparison, Row, rows
from attnbench.compare.comparison import Against
from attnbench.plots.rows import clean, shorten
from attnbench.report import cells
from attnbench.report.columns import common
from attnbench.report.comparison.columns import ABSENT, columns_for, in_a_line, line_state, places, reasons
from attnbench.report.comparison.findings import cautions, findings
from attnbench.report.facts import runs_of
from attnbench.report.findings import Finding
from attnbench.report.markdown import ROWS_IN_SIGHT, escape, folded, table

__all__ = ["summary"]


def summary(comparison: Comparison) -> str:
    """The whole of summary.md."""
    everything = rows(comparison)
    names = [comparison.base.name, *(against.after.name for against in comparison.against)]
    lines = [f"# attnbench compare: {escape(' → '.join(map(clean, names)))}", ""]
    lines += [_run(comparison, index) for index in range(len(names))]
    for against in comparison.against:
        own = [row for row in everything if row["after"] == against.after.name]
        lines += _section(against, own, titled=len(comparison.against) > 1)
    return "\n".join(lines) + "\n"


def _run(comparison: Comparison, index: int) -> str:
    run = comparison.base if index == 0 else comparison.against[index - 1].after
    (told,) = runs_of([side.row for side in run.cases.values()], [run.header])
    what = f"{told.machine}; {told.software}" if told.software else told.machine
    when = "before" if index == 0 else "after"
    return f"- {when}: {escape(clean(run.name))}: {escape(what)}; started {escape(told.started_at)}"


def _section(against: Against, own: Sequence[Row], *, titled: bool) -> list[str]:
    first = cautions(against)
    lines = ["", f"## {escape(clean(against.after.name))}"] if titled else []
    if first:
        lines += ["", *(f"> **{escape(finding.text)}**\n>" for finding in first)]
        lines[-1] = lines[-1].removesuffix("\n>")
    if against.environment:
        differing = [
            [escape(clean(key)), *(escape(shorten(clean(_shown(each)), 120)) for each in (a, b))]
            for key, a, b in against.environment
        ]
        title = f"Differences of environment: {len(differing)}"
        lines += ["", *folded(title, table(["what", "before", "after"], differing))]
    lines += ["", *(f"- {_point(finding)}" for finding in findings(against))]
    # What either run has alone has no ratios: the findings tell of it.
    shown = [row for row in own if row["verdict"] not in ABSENT]
    columns = [column for column in columns_for(shown) if not column.more]
    body = []
    for row in shown:
        texts = [escape(in_a_line(column, row)) for column in columns]
        if line_state(row) == "wrong":
            texts = [
                f"~~{text}~~" if column.key != "status" and text != cells.DASH else text
                for column, text in zip(columns, texts, strict=True)
            ]
        body.append(texts)
    shared = common(shown)
    lines += ["", *([escape(shared), ""] if shared else [])]
    told = [
        f"- **{escape(name)}** at {escape(places(group))}: {escape(verdict)}: {escape(shorten(text, 400))}"
        for name, verdict, text, group in reasons(own)
    ]
    drawn = table([escape(column.heading) for column in columns], body)
    lines += drawn if len(body) <= ROWS_IN_SIGHT else folded(f"{len(body)} cases", drawn)
    return (
        [*lines, "", "What else is different, and why cases are not comparable:", "", *told]
        if told
        else lines
    )


def _shown(value: object) -> str:
    return cells.DASH if value is None else str(value)


def _point(finding: Finding) -> str:
    text = escape(finding.text)
    return f"**{text}**" if finding.serious else text
