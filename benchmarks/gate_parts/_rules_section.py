"""What the page says of others' rules, each judging the times of the same real gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.gate.verdict import Outcome
from gate_parts import Store, exact_interval, rate
from gate_parts._gates_section import Gates
from gate_parts.gates import KIND_NAMES, KINDS, PART, UNIT_S
from gate_parts.rules import RULES
from published.page import Section, markdown_table
from published.prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BASELINES", "Judged", "judged", "section"]

#: What a rule compares the head with.
BASELINES: Mapping[str, str] = {
    "stored": "the base as it was in the gate before",
    "same": "the base in the same gate",
}

#: Where the tools' sources are.
SOURCES = "https://github.com"

KINDS_JUDGED = ("aa", "aa-loaded", "plus5", "plus10", "plus10-loaded")


@dataclass(slots=True)
class Judged:
    """How many gates of a kind a rule has judged, and in how many it raised an alarm."""

    alarms: int = 0
    gates: int = 0


Table = dict[tuple[str, str, str], Judged]


def judged(data: Gates) -> Table:
    """By rule, baseline and kind. Stored is the base of the gate before, of any kind under the same load."""
    table: Table = {
        (rule, baseline, kind): Judged() for rule in RULES for baseline in BASELINES for kind in KINDS_JUDGED
    }
    before: dict[bool, list[float]] = {}
    for entry in data.entries:
        if entry["times"] is None:
            continue
        base, head = _arms(entry)
        kind = entry["kind"]
        loaded = KINDS[kind].loaded
        for name, rule in RULES.items() if kind in KINDS_JUDGED else ():
            for baseline, times in (("stored", before.get(loaded)), ("same", base)):
                if times is not None:
                    count = table[name, baseline, kind]
                    count.gates += 1
                    count.alarms += rule(times[: len(head)], head[: len(times)])
        before[loaded] = base
    return table


def _arms(entry: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Seconds a call of base and head, of all processes together: what the others' rules look at."""
    base, head = [], []
    least = entry["times"]["least"]
    for pair in entry["times"]["above"]:
        half = len(pair) // 2
        base += [UNIT_S * (least + above) for above in pair[:half]]
        head += [UNIT_S * (least + above) for above in pair[half:]]
    return base, head


def section(folder: Path) -> Section:
    """False alarms and hits, side by side."""
    data = Gates(Store.read(folder, PART))
    title = "The same data, judged by others' rules"
    if not data.streams("aa"):
        return Section(title, "No A/A gate yet.")
    table = judged(data)
    return Section(title, _markdown(data, table), {"rules": _figure(data, table)})


def _markdown(data: Gates, table: Table) -> str:
    shown = [kind for kind in KINDS_JUDGED if data.streams(kind)]
    rows = [
        [
            "**attnbench check**",
            "taking turns",
            *(rate(data.outcomes(kind)[Outcome.FAIL], len(data.of(kind))) for kind in shown),
        ]
    ]
    for rule in RULES:
        for baseline, told in BASELINES.items():
            counts = [table[rule, baseline, kind] for kind in shown]
            rows.append([rule, told, *(rate(each.alarms, each.gates) for each in counts)])
    question = paragraph(
        """**Question.** Would another rule have done as well, on the very times that these gates were decided
        by? Each rule below is given the first three rounds of every process of the first test (as pyperf
        takes three values of each), and raises an alarm or not. Two baselines: the base arm of the same gate,
        which ran in turns with the head, better than what these tools have; and that of the gate before under
        the same load, half a minute older or so, much fresher than a baseline that somebody stored."""
    )
    rules = paragraph(
        f"""The rules, written afresh with their tools' defaults: the mean more than 5% above the baseline's;
        `pyperf compare_to`, a t-test with pooled variance at 95%
        ([pyperf/_utils.py]({SOURCES}/psf/pyperf/blob/main/pyperf/_utils.py), `is_significant`), and slower;
        `asv continuous`, a median beyond the factor 1.1 and a Mann-Whitney test at 0.2%
        ([asv/_stats.py]({SOURCES}/airspeed-velocity/asv/blob/main/asv/_stats.py), `is_different`);
        criterion.rs, a bootstrapped t-test at 5% with the 95% interval of the change beyond 1%
        ([compare.rs]({SOURCES}/bheisler/criterion.rs/blob/master/src/analysis/compare.rs)). In the columns of
        A/A an alarm is false, in the others right; in brackets is of how many gates they are. asv is not
        meant to find 10%: its factor is beyond it."""
    )
    header = ["rule", "compared with", *(f"{KIND_NAMES[kind]} ({len(data.of(kind))})" for kind in shown)]
    figure = "![False alarms and hits of each rule](gate-rules.png)"
    return "\n\n".join([question, rules, markdown_table(header, rows, text_columns=2), figure])


def _figure(data: Gates, table: Table) -> Figure:
    from matplotlib.figure import Figure as NewFigure

    from attnbench.plots.style import PALETTE, drawing

    def counts(rule: str | None, baseline: str, kind: str) -> Judged:
        if rule is None:
            return Judged(data.outcomes(kind)[Outcome.FAIL], len(data.of(kind)))
        return table[rule, baseline, kind]

    lines = [(None, ""), *((rule, baseline) for rule in RULES for baseline in BASELINES)]
    names = ["attnbench check"]
    names += [f"{rule.split(' (')[0]}, {baseline}" for rule in RULES for baseline in BASELINES]
    panels_kinds = (
        ("false alarms (A/A)", ("aa", "aa-loaded")),
        ("+10% work found", ("plus10", "plus10-loaded")),
    )
    with drawing():
        figure = NewFigure(figsize=(8.6, 3.6), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (title, kinds) in zip(panels, panels_kinds, strict=True):
            panel.set_title(title)
            for kind, color, offset in zip(kinds, PALETTE, (0.14, -0.14), strict=False):
                for at, (rule, baseline) in enumerate(lines):
                    count = counts(rule, baseline, kind)
                    if not count.gates:
                        continue
                    found = count.alarms / count.gates
                    low, high = exact_interval(count.alarms, count.gates)
                    panel.plot([low, high], [-at + offset] * 2, "-", color=color, linewidth=1.2)
                    panel.plot([found], [-at + offset], "o", color=color)
                label = "loaded" if KINDS[kind].loaded else "quiet"
                panel.plot([], [], "o-", color=color, label=label)
            panel.set_xlim(-0.02, 1.02)
            panel.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
            panel.grid(axis="y", visible=False)
        panels[0].set_yticks([-at for at in range(len(lines))], names)
        panels[0].legend(loc="lower right")
    return figure
