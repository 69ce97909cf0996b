"""What the page says of the time to verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from gate_parts import Store
from gate_parts.duration import PART
from published.page import Aim, Section
from published.prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["section"]

#: Seconds until three cases of which nothing changed are decided.
AIM_S = 60.0


def section(folder: Path) -> Section:
    """Median and worst, and what becomes of an arm that lacks a case."""
    store = Store.read(folder, PART)
    same = [entry for entry in store.values() if entry["run"] == "same"]
    missing = [entry for entry in store.values() if entry["run"] == "missing"]
    text, aims, figures = [], [], {}
    if same:
        walls = [entry["wall_s"] for entry in same]
        outcomes = Counter(entry["outcome"] for entry in same)
        lengths = ", ".join(map(str, store.settings["three cases"]["matrix"]["seq_len"]))
        told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        text += [
            paragraph(
                f"""`attnbench check SCENARIO --base base.py --head head.py` as a user starts it, on a quiet
                machine: the kernel of the real gates at 8 heads and {lengths} queries and keys, the same in
                both files. Runs: {len(same)}; median {median(walls):.1f} s, worst {max(walls):.1f} s, from
                the command's start to its end ({told}). {store.described()}"""
            ),
            "![How long the command takes](gate-duration.png)",
        ]
        met = f"median {median(walls):.1f} s, worst {max(walls):.1f} s"
        aims.append(
            Aim(f"verdict on three unchanged cases within {AIM_S:g} s on two cores", met, max(walls) <= AIM_S)
        )
        figures["duration"] = _figure(walls)
    if missing:
        caught = sum(entry["outcome"] == "ERROR" for entry in missing)
        aims.append(
            Aim(
                "a case that only one arm has: always an ERROR",
                f"{caught} of {len(missing)}",
                caught == len(missing),
            )
        )
        text.append(
            paragraph(
                f"""A case list that shrank is never a pass: where the scenario names an implementation that
                the base's file no longer defines, the command ended with exit code 2 in {caught} of
                {len(missing)} runs."""
            )
        )
    return Section("Time to verdict", "\n\n".join(text), figures, tuple(aims))


def _figure(walls: Sequence[float]) -> Figure:
    from matplotlib.figure import Figure as NewFigure

    from attnbench.plots.style import DANGER, PALETTE, drawing

    with drawing():
        figure = NewFigure(figsize=(8.6, 1.5), layout="constrained")
        panel = figure.subplots()
        panel.plot(sorted(walls), [0.5] * len(walls), "|", color=PALETTE[0], markersize=22, markeredgewidth=2)
        panel.axvline(AIM_S, color=DANGER, linestyle="--", linewidth=1.2)
        panel.annotate(
            "aim", (AIM_S, 0.85), xytext=(-4, 0), textcoords="offset points", ha="right", color=DANGER
        )
        panel.set_xlim(0, max(AIM_S * 1.05, max(walls) * 1.05))
        panel.set_ylim(0, 1)
        panel.set_yticks([])
        panel.set_xlabel("seconds from start to verdict, three cases, each run a stroke")
    return figure
