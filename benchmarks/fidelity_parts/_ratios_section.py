"""What the page says of repeatability, from the data alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from statistics import median, stdev
from typing import TYPE_CHECKING, Any

from fidelity_parts import Aim, Section, Store, markdown_table
from fidelity_parts._peers import PEERS
from fidelity_parts._spreads import central_80, spread_interval, spread_ratio
from published.prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AIM", "section"]

#: The spread under load that is aimed at, as a share of the better peer's.
AIM = 0.5

TOOLS: Mapping[str, str] = {"attnbench": "attnbench", **PEERS}

LOADS = ("idle", "loaded")

#: In the place of a shape: all of them.
TOGETHER = "together"

#: Fewer repetitions say nothing of a spread.
FEWEST = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """At one shape: the better peer, and attnbench's spread as a share of its with the 95% interval."""

    peer: str
    share: float
    low: float
    high: float


class Ratios:
    """The reported ratios by shape, load and tool."""

    def __init__(self, store: Store) -> None:
        self.settings = store.settings
        self._entries: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for key, entry in store.items():
            if key.startswith("beside/"):
                continue  # what is not a repetition
            self._entries.setdefault((entry["shape"], entry["load"], entry["tool"]), []).append(entry)
        self.shapes = [
            shape
            for shape in self.settings["shapes"]
            if all(len(self.of(shape, load, tool)) >= FEWEST for load in LOADS for tool in TOOLS)
        ]

    def of(self, shape: str, load: str, tool: str, column: str = "ratio") -> list[float]:
        """One figure of each repetition; `TOGETHER`, of all shapes, each relative to its shape's median."""
        if shape == TOGETHER:
            columns = [self.of(each, load, tool, column) for each in self.shapes]
            return [value / median(values) for values in columns for value in values]
        return [entry[column] for entry in self._entries.get((shape, load, tool), [])]

    def verdict(self, shape: str, load: str) -> Verdict:
        """attnbench against the peer whose spread is the least."""
        better = min(PEERS, key=lambda peer: central_80(self.of(shape, load, peer)))
        return Verdict(better, *spread_ratio(self.of(shape, load, "attnbench"), self.of(shape, load, better)))


def section(store: Store) -> Section:
    """The section, with its figure once there are enough repetitions."""
    data = Ratios(store)
    title = "Repeatability of a reported ratio"
    if not data.shapes:
        return Section(title, f"Too few repetitions yet: {FEWEST} are the least.\n")
    return Section(title, _markdown(data, store), {"ratios": _figure(data)}, _aims(data))


def _aims(data: Ratios) -> tuple[Aim, ...]:
    aims = []
    for shape in (*data.shapes, TOGETHER):
        found = data.verdict(shape, "loaded")
        aims.append(
            Aim(
                f"repeatability under load, {shape}: at most {AIM:g} of the better peer's spread",
                f"{found.share:.2f} ({found.low:.2f}–{found.high:.2f}) of {TOOLS[found.peer]}'s",
                found.share <= AIM,
            )
        )
    return tuple(aims)


def _markdown(data: Ratios, store: Store) -> str:
    chosen = data.settings
    keys = [(shape, load, tool) for shape in data.shapes for load in LOADS for tool in TOOLS]
    least = min(len(data.of(*key)) for key in keys)
    shapes = "; ".join(f"*{shape}* is {chosen['shapes'][shape].split('/')[1]}" for shape in data.shapes)
    low_s, high_s = chosen["phase_s"]
    question = paragraph(
        """**Question.** Who measures the same ratio again, with nothing changed, should read the same. How
        far apart are two reports? The aim: under load, attnbench's results spread at most half as far as
        those of the better of `torch.utils.benchmark` and pytest-benchmark."""
    )
    measured = paragraph(
        f"""**Measured** is how many times faster SDPA pinned to its flash kernel is than the textbook
        algorithm, on {chosen["threads"]} thread, {least} times anew with each tool, from fresh processes,
        in {chosen["seconds"]:g} s of wall time. {shapes}, all float32. *Loaded* is another process that
        computes, moves 64 MiB or pauses, by turns at random, each for {low_s * 1e3:g} ms to {high_s:g} s;
        it begins anew for every tool with the same sequence (of which attnbench, which inspects and judges
        first, samples in a later part). Repetitions of all tools, shapes and loads are interleaved in
        random order. The spread is half the width of the central 80% of the logarithms of the ratios (1% is
        ±1% about), with its 95% interval by bootstrap; *together* are all shapes, ratios relative to their
        shape's median. The better peer is the one whose spread turned out smaller."""
    )
    fair = paragraph(
        f"""**Fair to the peers.** They time the very calls on the very numbers that attnbench times, in the
        environment that attnbench pins for its own processes (malloc, threads), which their users do not
        have by default. Starting the interpreter, importing, making the inputs and warming up are not
        counted for them. `Timer.blocked_autorange` and pytest-benchmark's fixture get half of the time for
        each kernel, one after the other, as they are used, without garbage collection, and their ratio is
        that of the two medians; that of the fastest calls, which pytest-benchmark sorts by, is below.
        pytest-benchmark is told how many rounds fill its time, since by itself it takes the first call for
        typical, and often stops early. For attnbench everything that sampling costs is counted (starting
        and ending {chosen["processes"]} processes, preparing the kernels in each, warming up, verifying),
        and its ratio is the table's `speedup`."""
    )
    figure = "![The ratios that each tool reports, with the other core idle and loaded](fidelity-ratios.png)"
    parts = [question, measured, fair, paragraph(store.described())]
    return "\n\n".join([*parts, _table(data), _conclusion(data), figure, _fastest(data), _levels(data)])


def _table(data: Ratios) -> str:
    rows = []
    for shape in (*data.shapes, TOGETHER):
        for load in LOADS:
            cells = []
            for tool in TOOLS:
                values = data.of(shape, load, tool)
                low, high = spread_interval(values)
                cells.append(f"{central_80(values):.1%} ({low:.1%}–{high:.1%})")
            found = data.verdict(shape, load)
            cells.append(f"{found.share:.2f} ({found.low:.2f}–{found.high:.2f})")
            rows.append([shape, load, *cells])
    return markdown_table(
        ["shape", "other core", *TOOLS.values(), "attnbench ÷ better peer"], rows, text_columns=2
    )


def _conclusion(data: Ratios) -> str:
    verdicts = {shape: data.verdict(shape, "loaded") for shape in data.shapes}
    met = [f"*{shape}*" for shape, found in verdicts.items() if found.share <= AIM]
    missed = [shape for shape, found in verdicts.items() if found.share > AIM]
    if not missed:
        return paragraph(f"The aim is met at each of the {len(met)} shapes.")
    named = ", ".join(f"*{shape}*" for shape in missed)
    text = [f"The aim is met at {', '.join(met)}, and missed at {named}." if met else "The aim is missed."]
    text.append(f"Of all shapes together the share is {data.verdict(TOGETHER, 'loaded').share:.2f}.")
    for shape in missed:
        loaded, idle = (central_80(data.of(shape, load, "attnbench")) for load in ("loaded", "idle"))
        calls = [median(data.of(shape, "loaded", tool, "calls")) for tool in TOOLS]
        text.append(
            f"""At *{shape}* attnbench's spread is {loaded:.1%} under load and {idle:.1%} without it; it
            times {calls[0] / max(calls[1:]):.0%} as many calls as a peer in the same wall time, for the
            rest goes into starting processes, preparing and warming up in each, and priming calls before
            each sample."""
        )
    return paragraph(" ".join(text))


def _fastest(data: Ratios) -> str:
    """Another statistic that people report: it may be the better one, for the peers or for all."""
    rows = []
    for shape in (*data.shapes, TOGETHER):
        for load in LOADS:
            spreads = {tool: central_80(data.of(shape, load, tool, "ratio_of_fastest")) for tool in TOOLS}
            own, best = central_80(data.of(shape, load, "attnbench")), min(spreads[peer] for peer in PEERS)
            share = f"{own / best:.2f}" if best > 0 else "–"
            rows.append([shape, load, *(f"{spread:.1%}" for spread in spreads.values()), share])
    text = paragraph(
        """**By the fastest calls.** Load only ever slows down, so the ratio of the two shortest times (of
        samples of attnbench and blocks of torch.utils.benchmark, which hold many calls, of single rounds of
        pytest-benchmark) can be the steadier one. It is no typical time, and one lucky call decides it; but
        who compares by it should see its spread, and what attnbench's `speedup` spreads as a share of the
        better peer's by this statistic."""
    )
    header = ["shape", "other core", *TOOLS.values(), "`speedup` ÷ better peer's fastest"]
    return f"{text}\n\n{markdown_table(header, rows, text_columns=2)}"


def _levels(data: Ratios) -> str:
    """The ratios themselves, which need not agree."""
    rows = []
    for shape in data.shapes:
        for load in LOADS:
            ratios = [f"{median(data.of(shape, load, tool)):.3f}" for tool in TOOLS]
            deviations = [f"{stdev(map(log, data.of(shape, load, tool))):.1%}" for tool in TOOLS]
            walls = [f"{median(data.of(shape, load, tool, 'wall_s')):.2f}" for tool in TOOLS]
            rows.append([shape, load, *(" / ".join(cells) for cells in (ratios, deviations, walls))])
    text = paragraph(
        f"""What they report, in the order {" / ".join(TOOLS.values())}. The standard deviation, of the
        logarithms, is what single repetitions far out dominate. The wall time of pytest-benchmark includes
        some of pytest's own, which is not counted. The ratios need not agree: taking turns, each kernel
        finds the caches as the other has left them, but for some priming calls; alone, it finds its
        own."""
    )
    header = ["shape", "other core", "median ratio", "standard deviation", "wall time, s"]
    return f"{text}\n\n{markdown_table(header, rows, text_columns=2)}"


def _figure(data: Ratios) -> Figure:
    from matplotlib.figure import Figure as NewFigure

    from attnbench.plots.style import INK, MUTED, PALETTE, drawing

    with drawing():
        figure = NewFigure(figsize=(8.6, 3.6), layout="constrained")
        panels: Sequence[Any] = figure.subplots(1, len(data.shapes), squeeze=False)[0]
        for panel, shape in zip(panels, data.shapes, strict=True):
            panel.set_title(f"{shape}: {data.settings['shapes'][shape].split('/')[1]}")
            for at, load in enumerate(LOADS):
                for offset, (tool, color) in enumerate(zip(TOOLS, PALETTE, strict=False)):
                    x = at + (offset - 1) * 0.27
                    values = data.of(shape, load, tool)
                    _strip(panel, x, values, color, INK)
            panel.yaxis.set_major_formatter("{x:.2f}")
            panel.set_xticks(range(len(LOADS)), [f"other core\n{load}" for load in LOADS])
            panel.set_xlim(-0.5, len(LOADS) - 0.5)
            panel.grid(axis="x", visible=False)
            panel.axvline(0.5, color=MUTED, linewidth=0.6)
        panels[0].set_ylabel("reported ratio, textbook ÷ flash")
        handles = [
            panels[0].plot([], [], "o", color=color, label=name)[0]
            for name, color in zip(TOOLS.values(), PALETTE, strict=False)
        ]
        handles.append(panels[0].plot([], [], "-", color=INK, linewidth=2.2, label="central 80%")[0])
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _strip(panel: Any, x: float, values: Sequence[float], color: str, ink: str) -> None:
    """Dots side by side in the order of measuring, and a bar over their central 80%."""
    from attnbench import stats

    width = 0.16
    steps = [x + width * (number / max(1, len(values) - 1) - 0.5) for number in range(len(values))]
    panel.plot(steps, values, "o", color=color, markersize=3.6, alpha=0.75, markeredgewidth=0)
    low, high = (stats.percentile(values, percent) for percent in (10, 90))
    panel.plot([x + width * 0.72] * 2, [low, high], "-", color=ink, linewidth=2.2)
