"""What the page says of the wall time to 1%, from the data alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from statistics import median, stdev
from typing import TYPE_CHECKING, Any

from fidelity_parts import Aim, Section, Store, markdown_table
from fidelity_parts._peers import PEERS
from published.prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["section"]

TOOLS: Mapping[str, str] = {"attnbench": "attnbench", **PEERS}

#: Fewer repetitions say nothing of how far apart results lie.
FEWEST = 3

#: Half of the 95% interval of a normal, in standard deviations.
HALF_95 = 1.959964

#: What is known of a case: its own time, and how many times faster it is than the anchor.
QUANTITIES: Mapping[str, str] = {"latency": "latency", "speedup": "speed-up"}


@dataclass(frozen=True, slots=True)
class Found:
    """One tool, case and quantity: seconds until it stopped (median), how often by itself, its results."""

    wall_s: float
    reached: int
    values: tuple[float, ...]

    @property
    def achieved(self) -> float:
        """±this, as a share, holds 95% of such results, if their logarithms are normal."""
        return HALF_95 * stdev(map(log, self.values))


class Precisions:
    """What each tool found of each case that all of them could measure, in every repetition."""

    def __init__(self, store: Store) -> None:
        self.settings = store.settings
        self.wanted: float = store.settings["precision"] / 2
        runs: dict[str, list[Mapping[str, Any]]] = {tool: [] for tool in TOOLS}
        self.start_s: Mapping[str, float] = {}
        for key, entry in store.items():
            if key == "start":
                self.start_s = dict(entry)
            else:
                runs[entry["tool"]].append(entry)
        self.repetitions = min(map(len, runs.values()))
        everyones = [run["cases"] for each in runs.values() for run in each]
        self._cases: dict[str, list[str]] = {
            quantity: [
                case
                for case, found in (everyones[0] if everyones else {}).items()
                if quantity in found and all(quantity in cases.get(case, {}) for cases in everyones)
            ]
            for quantity in QUANTITIES
        }
        self._found: dict[tuple[str, str, str], Found] = {}
        for tool, each in runs.items():
            for quantity, cases in self._cases.items():
                for case in cases:
                    found = [run["cases"][case][quantity] for run in each]
                    self._found[tool, quantity, case] = Found(
                        median(one["wall_s"] for one in found),
                        sum(one["reached"] for one in found),
                        tuple(one["value"] for one in found),
                    )

    def cases(self, quantity: str) -> list[str]:
        """The ids of the cases of which all tools know `quantity`."""
        return self._cases[quantity]

    def of(self, tool: str, quantity: str, case: str) -> Found:
        """What `tool` found of `case`."""
        return self._found[tool, quantity, case]

    def all_of(self, tool: str, quantity: str) -> list[Found]:
        """What `tool` found of each case."""
        return [self.of(tool, quantity, case) for case in self.cases(quantity)]

    def total_s(self, tool: str, quantity: str) -> float:
        """Seconds until it stopped, all cases together."""
        return sum(found.wall_s for found in self.all_of(tool, quantity))

    def achieved(self, tool: str, quantity: str) -> float:
        """As `Found.achieved`, of the median case: a few that were disturbed would outweigh all others."""
        return median(found.achieved for found in self.all_of(tool, quantity))

    def repeats(self, tool: str, quantity: str) -> float:
        """How many of its results must be averaged for 95% of the averages to lie within what was asked for.

        As if they were independent: then the variance of a mean falls with their number.
        """
        return max(1.0, (self.achieved(tool, quantity) / self.wanted) ** 2)

    def holding_s(self, tool: str, quantity: str) -> float:
        """Seconds until averages lie as close together as was asked for, all cases together.

        Each result of a peer is of an interpreter that has to start; attnbench forks its processes from one.
        """
        starts = 1.0 if tool == "attnbench" else self.repeats(tool, quantity)
        start_s = self.start_s["attnbench_s" if tool == "attnbench" else "torch_s"]
        return self.repeats(tool, quantity) * self.total_s(tool, quantity) + starts * start_s


def section(store: Store) -> Section:
    """The section, with its figure once there are enough repetitions."""
    data = Precisions(store)
    title = f"Wall time to {data.wanted:.0%} precision"
    if data.repetitions < FEWEST:
        return Section(title, f"Too few repetitions yet: {FEWEST} are the least.\n")
    return Section(title, _markdown(data, store), {"precision": _figure(data)}, _aims(data))


def _aims(data: Precisions) -> tuple[Aim, ...]:
    """No aim was set, so none is met or missed: what was measured is told."""
    return tuple(
        Aim(
            f"wall time to ±{data.wanted:.0%}, {shown} (no aim was set)",
            "; ".join(
                f"{name}: stops after {data.total_s(tool, quantity):.1f} s, "
                f"holds after {data.holding_s(tool, quantity):.0f} s"
                for tool, name in TOOLS.items()
            ),
            None,
        )
        for quantity, shown in QUANTITIES.items()
    )


def _markdown(data: Precisions, store: Store) -> str:
    chosen = data.settings
    wanted = f"±{data.wanted:.0%}"
    question = paragraph(
        f"""**Question.** How long does it take until the cases of a scenario are known to {wanted}, and is
        it so? Here is attnbench beside `torch.utils.benchmark` and pytest-benchmark; no aim was set."""
    )
    measured = paragraph(
        f"""**Measured** are the {len(data.cases("latency"))} cases of the scenario `{chosen["scenario"]}`
        whose workloads take fewer than {chosen["fewer_flops"] / 1e9:g} GFLOP, on {chosen["threads"]}
        thread, {data.repetitions} times anew with each tool, which stops at a case as soon as its own 95%
        interval is within {wanted} of the value. None of the tools stops so by itself (attnbench does
        within a process, but how many processes there are is set beforehand): when it would have stopped is
        read off what it had measured. For the peers, which give none, that is the interval
        between order statistics of all that they timed of the case in a fresh process, for
        {max(chosen["peer_seconds"]):g} s at most; a speed-up is the ratio of two such medians. For
        attnbench it is the interval that it reports, between processes, of up to {chosen["processes"]} of
        them; the wall time of a block, with all that its processes cost, is shared by its cases. Until it
        stops, neither starting interpreters is counted nor what attnbench inspects and judges, which no
        peer does."""
    )
    holding = paragraph(
        f"""**What it is worth.** An interval from one process knows nothing of what differs from process to
        process: where memory happens to lie, which core one runs on, what the machine does meanwhile. So
        beside the time at which a tool says {wanted} stands what that is worth: ±how much holds 95% of the
        results at which it stopped, found by repeating (of the median case). Whoever wants {wanted} that
        hold has to average several results of fresh processes, (achieved ÷ {wanted[1:]})² of them if they
        are independent. From {data.repetitions} results a scatter is known to
        ±{(2 * (data.repetitions - 1)) ** -0.5:.0%} or so, its square to twice that; over all cases the
        errors mostly cancel, in a single one they do not. The last column is the time to stop times that
        number, and the time that interpreters take to start ({data.start_s["torch_s"]:.1f} s with torch, for
        each result of a peer; {data.start_s["attnbench_s"]:.1f} s, once, for attnbench, which forks its
        processes from one)."""
    )
    figure = (
        "![When each tool stops at each case, against how far apart its results then lie]"
        "(fidelity-precision.png)"
    )
    details = paragraph(
        f"""Latency of each case: seconds until the tool stops, and what was achieved; \\* where it did not
        say {wanted} in every repetition, and was stopped by its cap."""
    )
    parts = [
        question,
        measured,
        paragraph(store.described()),
        holding,
        _totals(data),
        _conclusion(data),
        figure,
        details,
        _cases(data),
    ]
    return "\n\n".join(parts)


def _totals(data: Precisions) -> str:
    wanted = f"±{data.wanted:.0%}"
    rows = []
    for quantity, shown in QUANTITIES.items():
        for tool, name in TOOLS.items():
            all_of = data.all_of(tool, quantity)
            reached = sum(found.reached for found in all_of)
            rows.append(
                [
                    shown,
                    name,
                    f"{reached / (len(all_of) * data.repetitions):.0%}",
                    f"{data.total_s(tool, quantity):.1f}",
                    f"±{data.achieved(tool, quantity):.1%}",
                    f"{data.repeats(tool, quantity):.1f}",
                    f"{data.holding_s(tool, quantity):.0f}",
                ]
            )
    header = [
        *("", "tool", f"says {wanted}", "stops after, s"),
        *("achieved", "results to average", f"s until {wanted} holds"),
    ]
    return markdown_table(header, rows, text_columns=2)


def _conclusion(data: Precisions) -> str:
    text = []
    for quantity, shown in QUANTITIES.items():
        peer = min(PEERS, key=lambda tool: data.holding_s(tool, quantity))
        share = data.holding_s("attnbench", quantity) / data.holding_s(peer, quantity)
        longer = data.total_s("attnbench", quantity) / data.total_s(peer, quantity)
        wider = data.achieved(peer, quantity) / data.achieved("attnbench", quantity)
        text.append(
            f"""For {shown}, attnbench takes {longer:.1f} times as long as {TOOLS[peer]}, the quicker peer,
            to say ±{data.wanted:.0%} or to give up; the peer's results then scatter {wider:.1f} times as
            far, and until ±{data.wanted:.0%} holds attnbench takes {share:.2f} times as long."""
        )
    text.append(
        """Each of attnbench's processes is started and prepared anew, which a peer does once. That pays
        where processes differ; it does not where the machine's slow drift is what scatters, which no run of
        seconds averages out."""
    )
    return paragraph(" ".join(text))


def _cases(data: Precisions) -> str:
    rows = []
    for case in data.cases("latency"):
        cells = []
        for tool in TOOLS:
            found = data.of(tool, "latency", case)
            mark = "" if found.reached == len(found.values) else "\\*"
            cells.append(f"{found.wall_s:.2f}{mark} (±{found.achieved:.1%})")
        rows.append([_shown(case), *cells])
    return markdown_table(["case", *TOOLS.values()], rows)


def _shown(case: str) -> str:
    """A case id without what all of them share."""
    _, shape, _, mask, _, _, label = case.split("/")
    return f"{shape} {label}" if mask == "none" else f"{shape} {mask} {label}"


def _figure(data: Precisions) -> Figure:
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.ticker import LogLocator, NullFormatter

    from attnbench.plots.style import DANGER, drawing, looks

    wanted = 100 * data.wanted
    with drawing():
        figure = NewFigure(figsize=(8.6, 4.0), layout="constrained")
        panels = figure.subplots(1, len(QUANTITIES), sharex=True, sharey=True)
        for panel, (quantity, shown) in zip(panels, QUANTITIES.items(), strict=True):
            panel.set_title(shown)
            for (tool, name), look in zip(TOOLS.items(), looks(list(TOOLS)).values(), strict=True):
                all_of = data.all_of(tool, quantity)
                panel.plot(
                    [found.wall_s for found in all_of],
                    [100 * found.achieved for found in all_of],
                    look.marker,
                    color=look.color,
                    alpha=0.8,
                    markeredgewidth=0,
                    label=name if panel is panels[0] else None,
                )
            panel.axhline(
                wanted,
                color=DANGER,
                linewidth=1.2,
                label=f"what each says: ±{wanted:g}%" if panel is panels[0] else None,
            )
            panel.set_xlabel("wall time until it stops at a case, s")
        panels[0].set_xscale("log")
        panels[0].set_yscale("log")
        for axis in (panels[0].xaxis, panels[0].yaxis):  # less than a decade has few powers of ten in it
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        panels[0].set_ylabel("± what holds 95% of its results, %")
        figure.legend(loc="outside lower center", ncols=len(TOOLS) + 1)
    return figure
