"""What the page says of the wall time to 1%, from the data alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, sqrt
from statistics import fmean, median, variance
from typing import TYPE_CHECKING, Any

from fidelity_parts import Aim, Section, Store, markdown_table
from fidelity_parts._peers import PEERS
from fidelity_parts._prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["section"]

TOOLS: Mapping[str, str] = {"attnbench": "attnbench", **PEERS}

#: Fewer repetitions say nothing of how far apart results lie.
FEWEST = 3

#: The 95% interval of a normal, in standard deviations from end to end.
WIDTH_95 = 2 * 1.959964


@dataclass(frozen=True, slots=True)
class Found:
    """One tool and case: seconds until it stopped (median), how often it reached its aim, and its results."""

    wall_s: float
    reached: int
    medians_s: tuple[float, ...]

    @property
    def variance(self) -> float:
        """Of the logarithms of the results."""
        return variance(map(log, self.medians_s))

    @property
    def achieved(self) -> float:
        """How wide an interval must be to hold 95% of such results: its width as a share of them."""
        return WIDTH_95 * sqrt(self.variance)


class Precisions:
    """What each tool found of each case that all of them could measure, in every repetition."""

    def __init__(self, store: Store) -> None:
        self.settings = store.settings
        runs: dict[str, list[Mapping[str, Any]]] = {tool: [] for tool in TOOLS}
        for entry in store.values():
            runs[entry["tool"]].append(entry)
        self.repetitions = min(map(len, runs.values()))
        shared = [set(run["cases"]) for of_tool in runs.values() for run in of_tool]
        first = runs["attnbench"][0]["cases"] if runs["attnbench"] else {}
        self.cases = [case for case in first if all(case in each for each in shared)]
        self.start_s = {
            tool: median(run["start_s"] for run in of_tool) for tool, of_tool in runs.items() if of_tool
        }
        self._found: dict[tuple[str, str], Found] = {}
        for tool, of_tool in runs.items():
            for case in self.cases:
                each = [run["cases"][case] for run in of_tool]
                if each:
                    self._found[tool, case] = Found(
                        median(one["wall_s"] for one in each),
                        sum(one["reached"] for one in each),
                        tuple(one["median_s"] for one in each),
                    )

    def of(self, tool: str, case: str) -> Found:
        """What `tool` found of `case`."""
        return self._found[tool, case]

    def total_s(self, tool: str) -> float:
        """Seconds until it stopped, all cases together."""
        return sum(self.of(tool, case).wall_s for case in self.cases)

    def achieved(self, tool: str) -> float:
        """As `Found.achieved`, of all cases: from the mean of their variances."""
        return WIDTH_95 * sqrt(fmean(self.of(tool, case).variance for case in self.cases))

    def repeats(self, tool: str) -> float:
        """How many of its results must be averaged to lie as close together as the precision it stopped at.

        As if they were independent: then the variance of a mean falls with their number.
        """
        wanted: float = self.settings["precision"]
        return max(1.0, (self.achieved(tool) / wanted) ** 2)

    def holding_s(self, tool: str) -> float:
        """Seconds until results lie as close together as was asked for, all cases together."""
        return self.total_s(tool) * self.repeats(tool)


def section(store: Store) -> Section:
    """The section, with its figure once there are enough repetitions."""
    data = Precisions(store)
    title = f"Wall time to {data.settings['precision']:.0%} precision"
    if data.repetitions < FEWEST:
        return Section(title, f"Too few repetitions yet: {FEWEST} are the least.\n")
    return Section(title, _markdown(data, store), {"precision": _figure(data)}, _aims(data))


def _aims(data: Precisions) -> tuple[Aim, ...]:
    quickest = min(PEERS, key=data.holding_s)
    own_s, theirs_s = data.holding_s("attnbench"), data.holding_s(quickest)
    return (
        Aim(
            f"wall time until results lie within {data.settings['precision']:.0%}: less than either peer's",
            f"{own_s:.0f} s; {theirs_s:.0f} s with {TOOLS[quickest]}",
            own_s < theirs_s,
        ),
    )


def _markdown(data: Precisions, store: Store) -> str:
    chosen = data.settings
    wanted = f"{chosen['precision']:.0%}"
    cap_s = max(chosen["peer_seconds"])
    aim = paragraph(
        f"""**Aim**: less wall time than `torch.utils.benchmark` or pytest-benchmark takes until results are
        known to {wanted}: the 95% interval of a case's median is, from end to end, as narrow as {wanted} of
        it."""
    )
    measured = paragraph(
        f"""**Measured**: the {len(data.cases)} cases of the scenario `{chosen["scenario"]}` whose workloads
        take fewer than {chosen["fewer_flops"] / 1e9:g} GFLOP, on as many threads as it asks for,
        {data.repetitions} times anew with each tool. Each stops a case as soon as its own interval is
        narrow enough. For the peers, which give none, that is the interval between order statistics of all
        that they timed of the case in a fresh process, for {cap_s:g} s at most. For attnbench it is the
        interval that it reports, between processes, of up to {chosen["processes"]} of them; the wall time
        of a block, with all that its processes cost, is shared by its cases. Starting interpreters is not
        counted (a median of {data.start_s["torch_timer"]:.1f} s for Python and torch,
        {data.start_s["attnbench"]:.1f} s for attnbench, once a run). {store.described()}"""
    )
    holding = paragraph(
        f"""An interval from one process knows nothing of what differs from process to process: where memory
        happens to lie, which core one runs on. So beside the time at which a tool says {wanted} stands what
        that is worth: how wide an interval holds 95% of the results at which it stopped, measured by
        repeating (of all cases together, from the mean of their variances). Whoever wants results that lie
        within {wanted} has to average several of them, from fresh processes, and more the wider they
        scatter: the last column is the time to stop times that number, (achieved ÷ {wanted})², if the
        results were independent."""
    )
    figure = (
        "![When each tool stops at each case, against how far apart its results then lie]"
        "(fidelity-precision.png)"
    )
    details = paragraph(
        f"""Each case: seconds until the tool stops, and what was achieved; \\* where it did not say {wanted}
        in every repetition, and was stopped by its cap."""
    )
    parts = [aim, measured, holding, _totals(data), _conclusion(data), figure, details, _cases(data)]
    return "\n\n".join(parts)


def _totals(data: Precisions) -> str:
    rows = []
    for tool, name in TOOLS.items():
        reached = sum(data.of(tool, case).reached for case in data.cases)
        rows.append(
            [
                name,
                f"{reached / (len(data.cases) * data.repetitions):.0%}",
                f"{data.total_s(tool):.1f}",
                f"{data.achieved(tool):.1%}",
                f"{data.repeats(tool):.1f}",
                f"{data.holding_s(tool):.0f}",
            ]
        )
    wanted = f"{data.settings['precision']:.0%}"
    header = [
        "tool",
        f"says {wanted}",
        "stops after, s",
        "achieved",
        "results to average",
        f"s until within {wanted}",
    ]
    return markdown_table(header, rows)


def _conclusion(data: Precisions) -> str:
    quickest = min(PEERS, key=data.holding_s)
    soonest = min(PEERS, key=data.total_s)
    share = data.holding_s("attnbench") / data.holding_s(quickest)
    verdict = "The aim is met" if share < 1 else "The aim is missed"
    wider = data.achieved(soonest) / data.achieved("attnbench")
    longer = data.total_s("attnbench") / data.total_s(soonest)
    text = f"""{verdict}: attnbench needs {share:.2f} of the wall time of {TOOLS[quickest]} until results lie
        within {data.settings["precision"]:.0%}. To stop, it needs
        {longer:.1f} times as long as {TOOLS[soonest]},
        whose results at that point scatter {wider:.1f} times as widely."""
    if share >= 1:
        text += """ Starting and preparing a process costs attnbench more than it then samples, which pays
        where what differs from process to process is large."""
    return paragraph(text)


def _cases(data: Precisions) -> str:
    rows = []
    for case in data.cases:
        cells = []
        for tool in TOOLS:
            found = data.of(tool, case)
            mark = "" if found.reached == len(found.medians_s) else "\\*"
            cells.append(f"{found.wall_s:.2f}{mark} ({found.achieved:.1%})")
        rows.append([_shown(case), *cells])
    return markdown_table(["case", *TOOLS.values()], rows)


def _shown(case: str) -> str:
    """A case id without what all of them share."""
    _, shape, _, mask, _, _, label = case.split("/")
    return f"{shape} {label}" if mask == "none" else f"{shape} {mask} {label}"


def _figure(data: Precisions) -> Figure:
    from matplotlib.figure import Figure as NewFigure

    from attnbench.plots.style import DANGER, drawing, looks

    wanted = data.settings["precision"]
    with drawing():
        figure = NewFigure(figsize=(7.6, 4.4), layout="constrained")
        panel = figure.subplots()
        for (tool, name), look in zip(TOOLS.items(), looks(list(TOOLS)).values(), strict=True):
            found = [data.of(tool, case) for case in data.cases]
            panel.plot(
                [each.wall_s for each in found],
                [100 * each.achieved for each in found],
                look.marker,
                color=look.color,
                alpha=0.8,
                markeredgewidth=0,
                label=name,
            )
        panel.axhline(100 * wanted, color=DANGER, linewidth=1.2)
        panel.annotate(
            f"what each says: {wanted:.0%}",
            (1, 100 * wanted),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=DANGER,
        )
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_xlabel("wall time until the tool stops at a case, s")
        panel.set_ylabel("width of what holds 95% of its results, %")
        figure.legend(loc="outside lower center", ncols=len(TOOLS))
    return figure
