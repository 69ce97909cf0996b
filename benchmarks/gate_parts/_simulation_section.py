"""What the page says of simulated gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_parts import Store, exact_interval
from gate_parts.simulation import PART, rule_of
from gate_parts.streams import SITUATIONS
from published.page import Aim, Section, markdown_table
from published.prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["section"]

Entry = Mapping[str, Any]


class Simulated:
    """The entries by gate, situation, cases and effect."""

    def __init__(self, store: Store) -> None:
        self.settings = store.settings
        self.entries = list(store.values())
        self._by_key = dict(store.items())

    def get(self, gate: float, situation: str, cases: int, effect: float) -> Entry | None:
        """One job's entry, None where it was not played."""
        return self._by_key.get(f"{gate:g}/{situation}/{cases}/{effect:g}")

    def alarms(self) -> list[Entry]:
        """Where failing is a false alarm."""
        return [entry for entry in self.entries if entry["forgiven"]]


def section(folder: Path) -> Section:
    """False alarms, power and pairs of simulated gates, in tables and a figure."""
    store = Store.read(folder, PART)
    data = Simulated(store)
    if len(data.entries) < _jobs(data.settings):
        return Section("Simulated machines", "Not all of it has been simulated yet.")
    parts = [_what(data)]
    for gate in data.settings["gates"]:
        parts += [_table(data, gate), _many(data, gate)]
    parts += ["![How often a simulated gate fails, by slow-down](gate-simulation.png)"]
    parts += [_conclusion(data), _computed(data)]
    return Section("Simulated machines", "\n\n".join(parts), {"simulation": _figure(data)}, _aims(data))


def _jobs(settings: Mapping[str, Any]) -> int:
    """How many entries a complete simulation has."""
    situations = len(settings["situations"])
    each = len(settings["gates"]) * len(settings["effects"])
    return each * sum(situations if int(cases) < 20 else min(2, situations) for cases in settings["cases"])


def _aims(data: Simulated) -> tuple[Aim, ...]:
    alpha = rule_of(0.10, 1).alpha
    equal = [entry for entry in data.alarms() if entry["effect"] == 0]
    worst = max(equal, key=lambda entry: entry["fails"] / entry["gates"])
    return (
        Aim(
            f"simulated: equal arms fail in at most {alpha:.0%} of gates on every machine (1, 3, 20 cases)",
            f"{_rate(worst)} at most ({_told(worst)})",
            worst["fails"] <= alpha * worst["gates"],
        ),
        _forgiven(data, "where pairs are independent", independent=True),
        _forgiven(data, "on machines with drift, bursts, or zygotes that differ", independent=False),
        *_power_aims(data),
    )


def _forgiven(data: Simulated, where: str, *, independent: bool) -> Aim:
    """Of slow-downs that are forgiven, the margin itself included."""
    alpha = rule_of(0.10, 1).alpha
    machines = {each.name for each in SITUATIONS if each.independent == independent}
    forgiven = [each for each in data.alarms() if each["effect"] > 0 and each["situation"] in machines]
    within = [each for each in forgiven if each["fails"] <= alpha * each["gates"]]
    worst = max(forgiven, key=lambda entry: entry["fails"] / entry["gates"])
    return Aim(
        f"simulated: what is as slow as the margin, or less, fails in at most {alpha:.0%} {where}",
        f"{len(within)} of {len(forgiven)} cells; {_rate(worst)} at most ({_told(worst)})",
        len(within) == len(forgiven),
    )


def _power_aims(data: Simulated) -> tuple[Aim, ...]:
    """Of independent pairs: is what was drawn as powerful as what was computed?"""
    computed = [entry for entry in data.entries if "computed" in entry and not entry["forgiven"]]
    short = [
        entry
        for entry in computed
        if exact_interval(entry["fails"], entry["gates"], 0.999)[1] < entry["computed"]
    ]
    met = f"{len(computed) - len(short)} of {len(computed)} as computed or more, within 99.9% intervals"
    return (Aim("simulated: power at least as computed where pairs are independent", met, not short),)


def _told(entry: Entry) -> str:
    cases = f", {entry['cases']} cases" if entry["cases"] > 1 else ""
    return f"{entry['situation']}, {entry['gate']:.0%} gate, {entry['effect']:+.1%}{cases}"


def _rate(entry: Entry) -> str:
    return f"{entry['fails'] / entry['gates']:.2%}"


def _what(data: Simulated) -> str:
    counts = ", ".join(f"{gates} of {cases}" for cases, gates in data.settings["cases"].items())
    return paragraph(
        f"""**Question.** Real gates are of one machine, and of three slow-downs. What does the rule come to
        on machines that behave worse, where the truth is known? Drawn are whole gates, with their repetition
        and control: logarithms of times, sums of an offset of each process, of what all processes of a zygote
        have in common, of a drift of each arm's own and of bursts
        ([streams.py](../benchmarks/gate_parts/streams.py)); what hits both arms alike cancels in d and is
        left out. Gates a cell: {counts} case(s). Of several cases all are slower if that is forgiven, else
        only one is, and it counts whether that one is found."""
    )


def _table(data: Simulated, gate: float) -> str:
    effects: Sequence[float] = data.settings["effects"]
    rule = rule_of(gate, 1)
    rows = []
    for name, situation in data.settings["situations"].items():
        entries = [data.get(gate, name, 1, effect) for effect in effects]
        fails = [_cell(entry) for entry in entries]
        undecided = _share(entries[0], "undecided")
        rows.append([f"{name}: {situation['told']}", *fails, undecided, _pairs(entries)])
    header = ["one case", *(f"{effect:+.1%}" for effect in effects), "undecided at +0%", "pairs at +0%"]
    text = paragraph(
        f"""**A {gate:.0%} gate** (margin {rule.margin:.0%}): gates that FAIL, by slow-down; in brackets where
        it differs what the first test alone would have failed. Up to {rule.margin:.0%} it is a false
        alarm."""
    )
    return f"{text}\n\n{markdown_table(header, rows)}"


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return "–"
    final, first = (entry[key] / entry["gates"] for key in ("fails", "first_fails"))
    shown, other = _percent(final), _percent(first)
    return shown if shown == other else f"{shown} ({other})"


def _percent(rate: float) -> str:
    return f"{rate:.0%}" if rate in (0, 1) else f"{rate:.2%}" if rate < 0.1 else f"{rate:.1%}"


def _share(entry: Entry | None, key: str) -> str:
    return "–" if entry is None else _percent(entry[key] / entry["gates"])


def _pairs(entries: Sequence[Entry | None]) -> str:
    return "–" if entries[0] is None else f"{entries[0]['pairs']:.0f}"


def _many(data: Simulated, gate: float) -> str:
    effects: Sequence[float] = data.settings["effects"]
    names = list(data.settings["situations"])
    rows = []
    for name in dict.fromkeys((names[0], names[-1])):
        for cases in map(int, data.settings["cases"]):
            entries = [data.get(gate, name, cases, effect) for effect in effects]
            rows.append([f"{name}, {cases}", *map(_cell, entries), _share(entries[0], "undecided")])
    header = ["machine, cases", *(f"{effect:+.1%}" for effect in effects), "undecided at +0%"]
    return markdown_table(header, rows)


def _conclusion(data: Simulated) -> str:
    """What α is promised of, and what it takes to find what is beyond the gate."""
    beyond = [each for each in data.alarms() if each["fails"] > rule_of(0.10, 1).alpha * each["gates"]]
    first = sum(each["first_fails"] for each in beyond)
    final = sum(each["fails"] for each in beyond)
    text = [
        """**What that means.** α is promised of pairs that are independent, and kept there up to the margin
        itself. Where zygotes differ, or a drift lasts over many pairs, a head that is just as slow as the
        margin is slower than it in half of the tests; repetition with fresh zygotes and a control is what
        stands against that."""
    ]
    if beyond:
        at_margin = sum(each["effect"] > 0.75 * rule_of(each["gate"], 1).margin for each in beyond)
        text.append(
            f"""In the {len(beyond)} cells where more than α fail ({at_margin} at the margin), it takes
            {1 - final / first:.0%} of the first test's failures back."""
        )
    at_gate = [each for each in data.entries if each["effect"] == each["gate"] and each["cases"] == 1]
    low, high = (pick(each["fails"] / each["gates"] for each in at_gate) for pick in (min, max))
    text.append(f"Exactly at the gate {low:.0%} to {high:.0%} of one case's slow-downs are found, by noise.")
    quarter_more = [each for each in data.entries if each["effect"] == 1.25 * each["gate"]]
    if quarter_more:
        worst = min(quarter_more, key=lambda each: each["fails"] / each["gates"])
        text.append(f"Of those a quarter beyond it: {_rate(worst)} at least ({_told(worst)}).")
    return paragraph(" ".join(text))


def _computed(data: Simulated) -> str:
    rows = []
    for entry in data.entries:
        if "computed" in entry and entry["cases"] == 1 and entry["effect"] in (0.0, 0.05, 0.08, 0.10):
            rows.append(
                [
                    _told(entry),
                    f"{entry['computed_first']:.2%}",
                    f"{entry['first_fails'] / entry['gates']:.2%}",
                    f"{entry['computed']:.2%}",
                    _rate(entry),
                    f"{entry['computed_pairs']:.1f}",
                    f"{entry['pairs']:.1f}",
                ]
            )
    rows.sort()
    text = paragraph(
        """**Computed and drawn.** Where pairs are independent, what the first test comes to is computed
        exactly, look by look ([power.py](../benchmarks/gate_parts/power.py)); a gate fails when two of them
        do and the control is clean."""
    )
    header = ["", "first, computed", "drawn", "gate, computed", "drawn", "pairs, computed", "drawn"]
    return f"{text}\n\n{markdown_table(header, rows)}"


def _figure(data: Simulated) -> Figure:
    from matplotlib.figure import Figure as NewFigure

    from attnbench.plots.style import MUTED, drawing, looks

    effects: Sequence[float] = data.settings["effects"]
    with drawing():
        figure = NewFigure(figsize=(8.6, 4.0), layout="constrained")
        panels = figure.subplots(1, len(data.settings["gates"]), sharey=True, squeeze=False)[0]
        names = list(data.settings["situations"])
        styles = looks(names)
        for panel, gate in zip(panels, data.settings["gates"], strict=True):
            rule = rule_of(gate, 1)
            for name in names:
                look = styles[name]
                entries = [data.get(gate, name, 1, effect) for effect in effects]
                rates = [0.0 if entry is None else entry["fails"] / entry["gates"] for entry in entries]
                panel.plot(effects, rates, marker=look.marker, color=look.color, markersize=4, label=name)
            for line, dash in ((rule.margin, ":"), (rule.gate, "--")):
                panel.axvline(line, color=MUTED, linewidth=0.9, linestyle=dash)
            panel.set_title(f"gate {gate:.0%} (dashed), margin {rule.margin:.0%} (dotted)")
            panel.set_xlabel("slow-down")
            panel.set_xticks([number / 20 for number in range(5)])
            panel.xaxis.set_major_formatter(lambda x, _: f"{x:+.0%}")
            panel.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
        panels[0].set_ylabel("gates that FAIL, one case")
        panels[0].legend(loc="lower right")
    return figure
