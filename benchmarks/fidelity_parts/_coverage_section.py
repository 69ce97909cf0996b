"""What the page says of coverage, from the data of `coverage`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from statistics import fmean, median, variance
from typing import TYPE_CHECKING, Any

from fidelity_parts import Aim, Section, Store, markdown_table, proportion_interval
from published.prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["section_of"]

#: How often a 95% interval should contain the truth.
BAND = (0.93, 0.97)

#: Figures begin here; what is less is written at the edge.
LEAST_SHOWN = 0.86

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` out of `trials`."""

    hits: int
    trials: int

    @property
    def value(self) -> float:
        return self.hits / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        return proportion_interval(self.hits, self.trials)

    @property
    def within(self) -> bool:
        return BAND[0] <= self.value <= BAND[1]

    def __str__(self) -> str:
        return f"{self.value:.1%}"

    @property
    def told(self) -> str:
        """With its own interval: `95.3% (90.7 to 97.7)`."""
        low, high = self.interval
        return f"{self.value:.1%} ({100 * low:.1f} to {100 * high:.1f})"


@dataclass(frozen=True, slots=True)
class Real:
    """What the real blocks of one shape came to; `drift` is how much more they vary than by chance."""

    shape: str
    ratio: Share
    told_apart: Share
    latency: Share
    ratio_width: float
    latency_width: float
    drift: float


def section_of(store: Store) -> Section:
    """The section, with whatever has been measured of it."""
    simulated = [entry for key, entry in store.items() if key.startswith("simulated/")]
    order = store.settings["simulated"]["situations"]
    trials = sorted(
        (entry for entry in simulated if entry["rule"] == "twice"),
        key=lambda entry: (-entry["processes"], order.index(entry["situation"])),
    )
    real = _real([entry for key, entry in store.items() if key.startswith("real/")])
    parts = [
        *_introduction(store),
        "![Coverage of the 95% intervals by situation](fidelity-coverage.png)",
        *_simulated(store, trials),
        *_stopping(simulated),
        *_equals(store, real),
    ]
    return Section(
        title="Coverage of the 95% intervals",
        markdown="\n\n".join(parts),
        figures={"coverage": _figure(trials, real)},
        aims=tuple(_aims(trials, real)),
    )


def _share(entry: Entry, quantity: str, count: str = "hits") -> Share:
    return Share(entry[quantity][count], entry["trials"])


def _of(trials: Sequence[Entry], several: bool) -> list[Entry]:
    """The situations, in order, as seen from several processes or from one."""
    return [entry for entry in trials if (entry["processes"] > 1) == several]


def _real(entries: Sequence[Entry]) -> list[Real]:
    """By shape. The truth of a latency is the median that the processes of every other block came to."""
    found = []
    for shape in dict.fromkeys(entry["shape"] for entry in entries):
        blocks = [entry for entry in entries if entry["shape"] == shape]
        halves = [
            [median_s for block in blocks[parity::2] for median_s in block["latency"][0]["process_medians_s"]]
            for parity in (0, 1)
        ]
        intervals = [block["ratio_interval"] for block in blocks]
        latencies = [block["latency"][0]["interval_s"] for block in blocks]
        hits = 0
        for number, (low, high) in enumerate(latencies):
            others = halves[1 - number % 2]
            hits += bool(others) and low is not None and low <= median(others) <= high
        apart = [block["ratio_interval_99"] for block in blocks]
        found.append(
            Real(
                shape=shape,
                ratio=Share(sum(low <= 1 <= high for low, high in _known(intervals)), len(blocks)),
                told_apart=Share(sum(not low <= 1 <= high for low, high in _known(apart)), len(blocks)),
                latency=Share(hits, len(blocks)),
                ratio_width=median(high - low for low, high in _known(intervals)),
                latency_width=median(
                    (high - low) / block["latency"][0]["median_s"]
                    for block, (low, high) in zip(blocks, latencies, strict=True)
                    if low is not None
                ),
                drift=_drift(blocks) if len(blocks) > 1 else 1.0,
            )
        )
    return found


def _drift(blocks: Sequence[Entry]) -> float:
    """The variance between blocks over what processes alone, differing as within blocks, would make of it.

    Of logarithms, of blocks' means; 1 where the machine is in every block the same (an F ratio).
    """
    logarithms = [
        [log(median_s) for median_s in block["latency"][0]["process_medians_s"]] for block in blocks
    ]
    within = fmean(variance(each) / len(each) for each in logarithms)
    between = variance([fmean(each) for each in logarithms])
    return between / within if within else inf


def _known(intervals: Sequence[Sequence[float | None] | None]) -> list[tuple[float, float]]:
    """Those that there are; without an interval nothing is claimed."""
    return [
        (pair[0], pair[1])
        for pair in intervals
        if pair is not None and pair[0] is not None and pair[1] is not None
    ]


def _all(real: Sequence[Real], what: str) -> Share:
    shares: list[Share] = [getattr(each, what) for each in real]
    return Share(sum(share.hits for share in shares), sum(share.trials for share in shares))


# Aims ----------------------------------------------------------------------------------------------------


def _aims(trials: Sequence[Entry], real: Sequence[Real]) -> Iterator[Aim]:
    for several, who in ((True, "several processes"), (False, "one process")):
        entries = _of(trials, several)
        aim = f"95% intervals contain the truth in {BAND[0]:.0%} to {BAND[1]:.0%}: simulated, {who}"
        if not entries:
            yield Aim(aim, "not measured", None)
            continue
        shares = {
            f"{entry['situation']} ({quantity})": _share(entry, quantity)
            for entry in entries
            for quantity in ("latency", "ratio")
        }
        values = [share.value for share in shares.values()]
        inside = sum(share.within for share in shares.values())
        below = sum(share.value < BAND[0] for share in shares.values())
        measured = f"{min(values):.1%} to {max(values):.1%}; {inside} of {len(shares)} within, {below} below"
        yield Aim(aim, measured, inside == len(shares))
    aim = f"95% intervals of ratios contain 1 in {BAND[0]:.0%} to {BAND[1]:.0%}: one kernel under two names"
    if not real:
        yield Aim(aim, "not measured", None)
        return
    share = _all(real, "ratio")
    yield Aim(aim, f"{share.hits} of {share.trials}: {share.told}", share.within)


# Words ---------------------------------------------------------------------------------------------------


def _introduction(store: Store) -> Iterator[str]:
    settings = store.settings["simulated"]
    yield paragraph(
        "**Question.** Of a hundred 95% intervals, do 95 contain the truth? Fewer would be false certainty, "
        f"more would be wasted time. The aim is {BAND[0]:.0%} to {BAND[1]:.0%}, on a simulated machine, "
        "whose truth is known, and on the real one."
    )
    yield paragraph(
        "**The simulated machine** ([simulated.py](../benchmarks/fidelity_parts/simulated.py)) has process "
        "offsets, noise, drift, load that comes and goes, a coarse clock. Everything else is the harness's "
        "own: warm-up, calibration, rounds, the rule that stops them (precision "
        f"{settings['precision']:.0%}, {settings['max_seconds']:g} s a case), and the intervals. Each figure "
        f"is of {settings['trials']} seeded blocks of two cases; its own 95% interval is about "
        f"±{_error(settings['trials']):.1%}. The truth of a latency is **the median over the population of "
        "processes of the median that a process has in the long run**; of a ratio, the same of the ratio. "
        "Where the machine drifts, a latency is judged by the level that it had meanwhile, and by the long "
        "run in a column of its own: no two seconds can tell how the machine is on average. A single "
        "process is judged by its own median at the level and load that it met, and by all processes in the "
        "long run beside."
    )
    yield paragraph(store.described())


def _error(trials: int) -> float:
    """Half the width of the interval of a share of 95%."""
    low, high = proportion_interval(round(0.95 * trials), trials)
    return (high - low) / 2


def _simulated(store: Store, trials: Sequence[Entry]) -> Iterator[str]:
    several, one = _of(trials, True), _of(trials, False)
    if several:
        yield f"**{several[0]['processes']} processes** (the default on a CPU):"
        header = [
            "situation",
            "the machine",
            "latency",
            "ratio",
            "latency, long run",
            "width",
            "width, ratio",
        ]
        rows = [
            [
                entry["situation"],
                entry["told"],
                _marked(_share(entry, "latency")),
                _marked(_share(entry, "ratio")),
                str(_share(entry, "latency", "long_run_hits")),
                f"{entry['latency']['width']:.1%}",
                f"{entry['ratio']['width']:.1%}",
            ]
            for entry in several
        ]
        yield markdown_table(header, rows, text_columns=2)
    if one:
        yield "**One process** (the default on a GPU):"
        header = ["situation", "latency", "ratio", "latency, all processes", "ratio, all processes", "width"]
        rows = [
            [
                entry["situation"],
                _marked(_share(entry, "latency")),
                _marked(_share(entry, "ratio")),
                str(_share(entry, "latency", "long_run_hits")),
                str(_share(entry, "ratio", "long_run_hits")),
                f"{entry['latency']['width']:.1%}",
            ]
            for entry in one
        ]
        yield markdown_table(header, rows)
    if trials:
        yield from _outside(trials)
    if one:
        beyond = [_share(entry, "latency", "long_run_hits").value for entry in one]
        yield paragraph(
            "**What one process cannot know.** Its interval is that of *its* median, while it ran. Of the "
            f"processes that others will start it says little: it contains their median in {min(beyond):.0%} "
            f"to {max(beyond):.0%} of these blocks, whose processes differ by more than samples do. They are "
            "made to differ as those on a CPU do; where they do so on a GPU, ask for more there, too "
            "(`measure.processes: 5`)."
        )


def _marked(share: Share) -> str:
    """In bold where it is outside the band."""
    return str(share) if share.within else f"**{share}**"


def _outside(trials: Sequence[Entry]) -> Iterator[str]:
    """Which shares are outside the band, and what is known of why."""

    def listed(low: float, high: float) -> str:
        return "; ".join(
            f"{entry['situation']} ({quantity}, "
            f"{'one process' if entry['processes'] == 1 else 'several'}, {share})"
            for entry in trials
            for quantity in ("latency", "ratio")
            if low <= (share := _share(entry, quantity)).value < high
        )

    if below := listed(0, BAND[0]):
        yield paragraph(
            f"**Too narrow**, below {BAND[0]:.0%}: {below}. The interval between processes is Student's t on "
            "the logarithms of their medians: exact where offsets are normal. Where they are skewed, it is "
            "centred on their mean, and the median of the population lies off that; five processes cannot "
            "tell."
        )
    if above := listed(BAND[1] + 1e-12, 2):
        yield paragraph(
            f"**Wider than need be**, above {BAND[1]:.0%}: {above}. Known reasons: heavy tails (t is "
            "cautious there); drift within a block, which spreads the processes' medians, though the level "
            "that it is judged by is the very one that they saw; a coarse clock, by whose steps intervals "
            "are widened; and few samples, from whose ranks no interval of exactly 95% can be made (seven "
            "samples: 98.4%)."
        )


def _stopping(simulated: Sequence[Entry]) -> Iterator[str]:
    """What stopping at the first narrow interval would do."""
    first = next((entry for entry in simulated if entry["rule"] == "first"), None)
    if first is None:
        return
    for entry in simulated:
        alike = (first["situation"], first["processes"]) == (entry["situation"], entry["processes"])
        if entry["rule"] == "twice" and alike:
            yield paragraph(
                "**Stopping early.** A case leaves the rounds when its interval is narrow twice in a row. "
                "Leaving at the first time, which is often luck, a single process's interval would contain "
                f"the truth in {_share(first, 'latency').told} ({first['situation']}, {first['samples']:g} "
                f"samples); twice in a row it does in {_share(entry, 'latency').told}, at "
                f"{entry['samples']:g} samples."
            )


def _width(share: float) -> str:
    return f"{share:.1%}" if share < 10 else "over 1000%"


def _equals(store: Store, real: Sequence[Real]) -> Iterator[str]:
    if not real:
        return
    settings = store.settings["real"]["measure"]
    ratio, apart, latency = (_all(real, what) for what in ("ratio", "told_apart", "latency"))
    yield paragraph(
        f"**The real machine.** One kernel under two names, {ratio.trials} blocks through the whole pipeline "
        f"({settings['processes']} processes, {settings['max_seconds']:g} s a case), the shapes taking "
        f"turns. The interval of the ratio contained 1 in {ratio.hits} of {ratio.trials}: {ratio.told}. "
        f"Findings, which ask for a 99% interval, would have told the two names apart in {apart.hits} of "
        f"{apart.trials}."
    )
    yield markdown_table(
        [
            "shape",
            "ratio contains 1",
            "told apart (99%)",
            "latency contains the others' median",
            "width",
            "ratio's",
        ],
        [
            [
                each.shape,
                f"{each.ratio.hits} of {each.ratio.trials}",
                f"{each.told_apart.hits} of {each.told_apart.trials}",
                f"{each.latency.hits} of {each.latency.trials}",
                _width(each.latency_width),
                _width(each.ratio_width),
            ]
            for each in real
        ],
    )
    drift = sqrt(median(each.drift for each in real))
    yield paragraph(
        "Of latencies no truth is known on a real machine. What can be asked: does a block's interval "
        "contain the median that the processes of every other block, before and after it, came to? It did "
        f"in {latency.hits} of {latency.trials}: {latency.told}. On a machine that drifts over the minutes "
        "that this took, less than 95% is what honest intervals of two seconds come to: they are of their "
        f"time. (Here blocks differed {drift:.1f} times as widely as their processes alone would have them.) "
        "Ratios of one block need no such reservation, which is why everything is compared by them."
    )


# Figure --------------------------------------------------------------------------------------------------


def _figure(trials: Sequence[Entry], real: Sequence[Real]) -> Figure:
    """Coverage by situation with binomial intervals, a panel for several processes and one for one."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from attnbench.plots.style import GRID, INK, PALETTE, drawing

    names = list(dict.fromkeys(entry["situation"] for entry in trials))
    rows = [*names, *(["real machine"] if real else [])]
    with drawing():
        figure = Figure(figsize=(9.2, 1.3 + 0.34 * max(4, len(rows))), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for panel, several in zip(panels, (True, False), strict=True):
            panel.axvspan(*BAND, color=GRID, lw=0)
            panel.axvline(0.95, color=INK, lw=0.8)
            series: dict[str, list[tuple[float, Share]]] = {"latency": [], "ratio": [], "in the long run": []}
            for entry in _of(trials, several):
                at = names.index(entry["situation"])
                series["latency"].append((at - 0.18, _share(entry, "latency")))
                series["ratio"].append((at + 0.18, _share(entry, "ratio")))
                long_run = _share(entry, "latency", "long_run_hits")
                if several and long_run != _share(entry, "latency"):
                    series["in the long run"].append((at, long_run))
            if several and real:
                series["latency"].append((len(names) - 0.18, _all(real, "latency")))
                series["ratio"].append((len(names) + 0.18, _all(real, "ratio")))
            labels = {"latency": "latency", "ratio": "ratio", "in the long run": "latency, in the long run"}
            for number, (name, points) in enumerate(series.items()):
                _draw(panel, points, PALETTE[number], "osD"[number], labels[name], hollow=number == 2)
            panel.set_xlim(LEAST_SHOWN, 1.0)
            panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0%}"))
            panel.set_xlabel("intervals that contain the truth")
            panel.set_title("several processes" if several else "one process")
        panels[0].set_yticks(range(len(rows)), rows)
        panels[0].set_ylim(max(1, len(rows)) - 0.5, -0.5)
        handles, texts = panels[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, texts, loc="outside lower center", ncols=3)
    return figure


def _draw(
    panel: Any, points: Sequence[tuple[float, Share]], color: str, marker: str, label: str, *, hollow: bool
) -> None:
    """Shares with their intervals; those off the scale as a figure at its edge."""
    shown = [(at, share) for at, share in points if share.value >= LEAST_SHOWN]
    for at, share in points:
        if share.value < LEAST_SHOWN:
            panel.annotate(
                f"◂ {share.value:.0%}",
                (LEAST_SHOWN, at),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=color,
            )
    if not points:
        return
    values = [share.value for _, share in shown]
    intervals = [share.interval for _, share in shown]
    panel.errorbar(
        values,
        [at for at, _ in shown],
        xerr=[
            [value - low for value, (low, _) in zip(values, intervals, strict=True)],
            [high - value for value, (_, high) in zip(values, intervals, strict=True)],
        ],
        fmt=marker,
        color=color,
        markerfacecolor="none" if hollow else color,
        markersize=4.5,
        capsize=2,
        lw=1.2,
        label=label,
    )
