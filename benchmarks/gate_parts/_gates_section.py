"""What the page says of real gates, from their data alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from attnbench import stats
from attnbench.gate.verdict import Outcome
from gate_parts import Store, exact_interval, kernels, rate, share, simulation
from gate_parts.gates import KIND_NAMES, KINDS, PART
from gate_parts.power import normal_characteristics
from gate_parts.resampled import resampled
from gate_parts.simulation import EFFECTS, rule_of
from published.page import Aim, Section, markdown_table
from published.prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Gates", "robust_spread", "section"]

#: The aims of the issue that this answers.
FEWEST_AA, MOST_UNDECIDED, LEAST_CAUGHT = 300, 0.05, 0.95

#: How the spread of d follows from its median absolute deviation where it is normal.
MAD_TO_SPREAD = 1.4826

#: What a gate can come to; an ERROR is none that it may come to here.
OUTCOMES = ("PASS", "FAIL", "INCONCLUSIVE", "ERROR")

#: Gates that are made of real pairs, for each slow-down.
RESAMPLED = 2000

#: Kinds that are timed, and those whose failure is deterministic.
TIMED = [kind for kind in KINDS if KINDS[kind].head.defect is None]
DETERMINISTIC = [kind for kind in KINDS if KINDS[kind].head.defect is not None]

Entry = Mapping[str, Any]


class Gates:
    """The gates by kind, in the order in which they were played."""

    def __init__(self, store: Store) -> None:
        self.entries: list[Entry] = list(store.values())
        self._by_kind: dict[str, list[Entry]] = {}
        for entry in self.entries:
            self._by_kind.setdefault(entry["kind"], []).append(entry)

    def of(self, kind: str) -> list[Entry]:
        """All gates of a kind."""
        return self._by_kind.get(kind, [])

    def outcomes(self, kind: str) -> Counter[str]:
        """How many of a kind had each outcome."""
        return Counter(entry["outcome"] for entry in self.of(kind))

    def streams(self, kind: str) -> list[list[float]]:
        """The pairs of the first test of each gate of a kind that was timed."""
        return [entry["latency"]["first"]["d"] for entry in self.of(kind) if entry["latency"]]

    def ratio(self, kind: str) -> float:
        """The median over gates of the median t_head / t_base."""
        return math.exp(median(median(stream) for stream in self.streams(kind)))

    def spread(self, kind: str) -> float:
        """The typical spread of d within a gate, robustly: of the median gate."""
        return median(robust_spread(stream) for stream in self.streams(kind))


def robust_spread(d: Sequence[float]) -> float:
    """What the standard deviation of `d` would be by its median absolute deviation, were it normal."""
    return MAD_TO_SPREAD * stats.mad(d)


def section(folder: Path) -> Section:
    """Outcomes of whole gates by kind."""
    store = Store.read(folder, PART)
    data = Gates(store)
    figures = {}
    if data.streams("aa"):
        figures = {"power": _power(data, _simulated(folder)), "streams": _streams(data)}
    return Section("Real gates", _markdown(data, store, figures), figures, _aims(data))


def _simulated(folder: Path) -> dict[str, dict[float, float]]:
    """Of a 10% gate of one case, as far as it was simulated: by situation and slow-down, what share fails."""
    if not (folder / f"{simulation.PART}.jsonl").exists():
        return {}
    found: dict[str, dict[float, float]] = {}
    for entry in Store.read(folder, simulation.PART).values():
        if entry["gate"] == 0.10 and entry["cases"] == 1:
            rates = found.setdefault(entry["situation"], {})
            rates[entry["effect"]] = entry["fails"] / entry["gates"]
    return {situation: dict(sorted(rates.items())) for situation, rates in found.items()}


def _aims(data: Gates) -> tuple[Aim, ...]:
    aims = []
    if gates := len(data.of("aa")):
        outcomes = data.outcomes("aa")
        fails, undecided = outcomes[Outcome.FAIL], outcomes[Outcome.INCONCLUSIVE]
        bound = exact_interval(fails, gates, 0.90)[1]  # one-sided at 95%
        aims.append(
            Aim(
                f"no false FAIL in {FEWEST_AA} A/A gates, which bounds their rate by 1% (at 95%, one-sided)",
                f"{fails} of {gates}: at most {bound:.2%}",
                None if gates < FEWEST_AA and not fails else fails == 0,
            )
        )
        aims.append(
            Aim(
                f"at most {MOST_UNDECIDED:.0%} of A/A gates INCONCLUSIVE",
                share(undecided, gates),
                undecided <= MOST_UNDECIDED * gates,
            )
        )
    if gates := len(data.of("plus10")):
        caught = data.outcomes("plus10")[Outcome.FAIL]
        aims.append(
            Aim(
                f"+10% work caught in at least {LEAST_CAUGHT:.0%} on a quiet machine",
                share(caught, gates),
                caught >= LEAST_CAUGHT * gates,
            )
        )
    rates = [
        ("plus5", Outcome.FAIL, "+5% work: FAIL of a 10% gate (no aim was set)"),
        ("aa-gate5", Outcome.FAIL, "5% gate, A/A: false FAIL (no aim was set)"),
        ("aa-gate5", Outcome.INCONCLUSIVE, "5% gate, A/A: INCONCLUSIVE (no aim was set)"),
        ("plus10-gate5", Outcome.FAIL, "5% gate, +10% work: caught (no aim was set)"),
        ("aa-loaded", Outcome.FAIL, "loaded machine, A/A: false FAIL (no aim was set)"),
        ("aa-loaded", Outcome.INCONCLUSIVE, "loaded machine, A/A: INCONCLUSIVE (no aim was set)"),
        ("plus10-loaded", Outcome.FAIL, "loaded machine, +10% work: caught (no aim was set)"),
    ]
    for kind, outcome, told in rates:
        if gates := len(data.of(kind)):
            aims.append(Aim(told, share(data.outcomes(kind)[outcome], gates), None))
    for kind in DETERMINISTIC:
        if gates := len(data.of(kind)):
            caught = data.outcomes(kind)[Outcome.FAIL]
            aims.append(Aim(f"{KIND_NAMES[kind]}: always caught", f"{caught} of {gates}", caught == gates))
    return tuple(aims)


def _markdown(data: Gates, store: Store, figures: Mapping[str, Figure]) -> str:
    settings = store.settings
    gate = settings["check"]["gate"]
    rule = rule_of(gate, 1)
    low_s, high_s = settings["phase_s"]
    question = paragraph(
        """**Question.** Of whole gates, from starting their processes to their verdict, how many are wrong?
        Where base and head are one kernel in two files, every FAIL is false; where the head has more to do,
        every FAIL is right."""
    )
    measured = paragraph(
        f"""**Measured** is attention computed head by head in a Python loop with torch, {kernels.HEADS}
        heads, {kernels.SEQ_LEN} queries and keys, {kernels.HEAD_DIM} dimensions, float32, on
        {settings["threads"]} thread. *+10% work* computes {kernels.HEADS + 2} heads and throws two of them
        away, *+5%* one; nothing sleeps. The gate is one of {gate:.0%} where no other is named, with all other
        settings at their defaults: whatever is slower than {rule.margin:.0%} may fail, looks at
        {", ".join(map(str, rule.looks))} pairs, α = {rule.alpha:g}, β = {rule.beta:g}. Every gate starts
        zygotes of its own. *Loaded* is a process for each core that computes, moves 64 MiB or pauses, by
        turns at random, each for {low_s * 1e3:g} ms to {high_s:g} s. The kinds take turns all the while,
        each spread evenly over the whole."""
    )
    parts = [question, measured, paragraph(store.described()), _outcomes(data)]
    if figures:
        parts += [_conclusion(data), f"![{_POWER_ALT}](gate-power.png)"]
        parts += [_spreads(data), f"![{_STREAMS_ALT}](gate-streams.png)"]
        parts.append(_resampled(data, gate))
    parts.append(_deterministic(data))
    return "\n\n".join(parts)


_POWER_ALT = "How often a 10% gate fails by slow-down: computed, simulated and real"
_STREAMS_ALT = "The spread of d in each A/A gate, and the pairs of some of them"


def _outcomes(data: Gates) -> str:
    rows = []
    for kind in TIMED:
        gates = data.of(kind)
        if not data.streams(kind):
            continue
        outcomes = data.outcomes(kind)
        pairs = [len(stream) for stream in data.streams(kind)]
        walls = [entry["wall_s"] for entry in gates]
        rows.append(
            [
                KIND_NAMES[kind],
                str(len(gates)),
                *(str(outcomes[outcome]) for outcome in OUTCOMES),
                rate(outcomes["FAIL"], len(gates)),
                f"{KINDS[kind].head.work - 1:+.0%}",
                f"{data.ratio(kind) - 1:+.1%}",
                f"{data.spread(kind):.1%}",
                f"{median(pairs):g} / {max(pairs)}",
                f"{median(walls):.1f} / {max(walls):.1f}",
            ]
        )
    header = [
        "kind",
        "gates",
        *OUTCOMES,
        "FAIL, share",
        "work",
        "time, measured",
        "spread of d",
        "pairs, median / most",
        "s, median / most",
    ]
    text = paragraph(
        """Outcomes. *Work* is by how many heads more are computed, *time* the median over the gates of what
        they measured; the spread of d is that within the median gate, robustly (1.4826 × its median absolute
        deviation). Pairs are those of the first test, seconds those of a whole gate."""
    )
    return f"{text}\n\n{markdown_table(header, rows)}"


def _conclusion(data: Gates) -> str:
    text = []
    for kind in ("aa", "aa-loaded"):
        gates = [entry for entry in data.of(kind) if entry["latency"]]
        doubted = [entry for entry in gates if entry["latency"]["first"]["verdict"] == "FAIL"]
        if gates:
            acquitted = sum(entry["outcome"] != "FAIL" for entry in doubted)
            text.append(
                f"""{KIND_NAMES[kind]}: the first test failed in {share(len(doubted), len(gates))};
                repetition and control acquitted {acquitted} of {len(doubted)}."""
            )
    for kind in ("plus10", "plus10-loaded"):
        gates = [entry for entry in data.of(kind) if entry["latency"]]
        missed = [entry["latency"] for entry in gates if entry["outcome"] != "FAIL"]
        if gates:
            reasons = Counter(each["reason"] or f"{each['first']['verdict']}" for each in missed)
            why = "; ".join(f"{count} × {_short(reason)}" for reason, count in reasons.most_common())
            text.append(
                f"{KIND_NAMES[kind]}: not caught {len(missed)} of {len(gates)}{': ' + why if why else ''}."
            )
    return paragraph(" ".join(text))


def _short(reason: str) -> str:
    """A reason up to its first bracket or colon."""
    return reason.split(" (")[0].split(":")[0]


def _spreads(data: Gates) -> str:
    text = ["**How noisy are pairs?**"]
    for kind in ("aa", "aa-loaded"):
        if not (streams := data.streams(kind)):
            continue
        spreads = [robust_spread(stream) for stream in streams]
        low, high = (stats.percentile(spreads, percent) for percent in (5, 95))
        pooled = [d - median(stream) for stream in streams for d in stream]
        far = sum(abs(d) > 0.10 for d in pooled)
        medians = [median(stream) for stream in streams]
        text.append(
            f"""{KIND_NAMES[kind]}: within a gate d spreads by {median(spreads):.1%} (central 90% of gates:
            {low:.1%} to {high:.1%}); {share(far, len(pooled))} of all pairs lie more than 0.10 from their
            gate's median, where a normal d of that spread would put
            {math.erfc(0.10 / median(spreads) / math.sqrt(2)):.2%}. The gates' medians themselves lie between
            {min(medians):+.1%} and {max(medians):+.1%}."""
        )
    return paragraph(" ".join(text))


def _resampled(data: Gates, gate: float) -> str:
    """What gates of other slow-downs would come to, by the noise of the real ones."""
    rows = []
    for kind in ("aa", "aa-loaded"):
        if streams := data.streams(kind):
            rates = resampled(streams, rule_of(gate, 1), EFFECTS, gates=RESAMPLED, seed=0)
            told = "quiet" if kind == "aa" else "loaded"
            rows.append([f"FAIL, {told}", *(f"{each.fails / each.gates:.1%}" for each in rates)])
            rows.append([f"INCONCLUSIVE, {told}", *(f"{each.undecided / each.gates:.1%}" for each in rates)])
            rows.append([f"pairs of the first test, {told}", *(f"{each.pairs:.0f}" for each in rates)])
    text = paragraph(
        f"""**Other slow-downs, by the same noise.** The pairs of the A/A gates, drawn anew and shifted:
        {RESAMPLED} gates each, with repetition and control, every test from the pairs of one real gate
        ([resampled.py](../benchmarks/gate_parts/resampled.py))."""
    )
    return f"{text}\n\n{markdown_table(['slow-down', *(f'{effect:+.1%}' for effect in EFFECTS)], rows)}"


def _deterministic(data: Gates) -> str:
    rows = []
    for kind in DETERMINISTIC:
        if gates := data.of(kind):
            caught = data.outcomes(kind)[Outcome.FAIL]
            told = gates[-1]["text"]
            seconds = f"{median(entry['wall_s'] for entry in gates):.1f}"
            rows.append([KIND_NAMES[kind], told, f"{caught} of {len(gates)}", seconds])
    if not rows:
        return ""
    text = paragraph("**What needs no statistics** fails before anything is timed.")
    table = markdown_table(["head", "what the gate says", "caught", "s, median"], rows, text_columns=2)
    return f"{text}\n\n{table}"


def _power(data: Gates, simulated: Mapping[str, Mapping[float, float]]) -> Figure:
    """`simulated`: by situation and slow-down, the share of gates that fail."""
    from matplotlib.figure import Figure as NewFigure

    from attnbench.plots.style import INK, MUTED, PALETTE, drawing

    rule = rule_of(0.10, 1)
    effects = [number / 500 for number in range(101)]
    with drawing():
        figure = NewFigure(figsize=(8.6, 3.8), layout="constrained")
        panel = figure.subplots()
        spreads = [data.spread("aa"), 0.06, 0.09]
        for spread, color in zip(spreads, PALETTE, strict=False):
            fails = [normal_characteristics(rule, effect, spread).fails ** 2 for effect in effects]
            mine = " (this machine, quiet)" if spread == spreads[0] else ""
            label = f"computed, d spreads by {spread:.1%}{mine}"
            panel.plot(effects, fails, "-", color=color, label=label)
        for kind, marker in (
            ("aa", "o"),
            ("plus5", "o"),
            ("plus10", "o"),
            ("aa-loaded", "s"),
            ("plus10-loaded", "s"),
        ):
            if not data.streams(kind):
                continue
            gates, failed = len(data.of(kind)), data.outcomes(kind)[Outcome.FAIL]
            low, high = exact_interval(failed, gates)
            named = {"aa": "real gates, quiet", "aa-loaded": "real gates, loaded"}.get(kind)
            panel.errorbar(
                [data.ratio(kind) - 1],
                [failed / gates],
                [[failed / gates - low], [high - failed / gates]],
                fmt=marker,
                color=INK,
                markerfacecolor=INK if marker == "o" else "white",
                capsize=3,
                label=named,
                zorder=3,
            )
        for situation, color in (("typical", PALETTE[1]), ("noisy", PALETTE[2])):
            points = simulated.get(situation, {})
            panel.plot(list(points), list(points.values()), "x", color=color, markersize=6)
        panel.axvspan(rule.margin, rule.gate, color=PALETTE[5], alpha=0.10, linewidth=0)
        panel.annotate("margin … gate", (0.0505, 0.94), color=INK)
        panel.plot([], [], "x", color=MUTED, label="simulated")
        panel.set_xlabel("slow-down (real gates: as measured)")
        panel.set_ylabel("gates that FAIL")
        panel.set_xticks([number / 20 for number in range(5)])
        panel.xaxis.set_major_formatter(lambda x, _: f"{x:+.0%}")
        panel.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
        panel.legend(loc="lower right")
    return figure


def _streams(data: Gates) -> Figure:
    from matplotlib.figure import Figure as NewFigure

    from attnbench.plots.style import INK, MUTED, PALETTE, drawing

    with drawing():
        figure = NewFigure(figsize=(8.6, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        for kind, color in (("aa", PALETTE[0]), ("aa-loaded", PALETTE[1])):
            streams = data.streams(kind)
            if not streams:
                continue
            steps = [(number + 0.5) / len(streams) for number in range(len(streams))]
            for at, stream in zip(steps, streams, strict=True):
                ends = [stats.percentile(stream, percent) for percent in (10, 90)]
                left.plot([at, at], ends, "-", color=color, linewidth=0.9, alpha=0.6)
            medians = [median(stream) for stream in streams]
            left.plot(steps, medians, "o", color=color, markersize=2.2, label=KIND_NAMES[kind])
        left.set_title("A/A gates in turn: median and central 80% of d")
        left.set_xlim(0, 1)
        left.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        left.set_xlabel("share of all gates, in their order")
        left.set_ylabel("d = ln(t head / t base)")
        left.legend(loc="upper right", ncols=2, frameon=True, framealpha=0.9)
        for kind, color in (("aa", PALETTE[0]), ("plus10", PALETTE[2])):
            for stream in data.streams(kind)[:3]:
                right.plot(range(1, len(stream) + 1), stream, "-", color=color, linewidth=1.0, alpha=0.8)
            right.plot([], [], "-", color=color, label=KIND_NAMES[kind])
        right.set_title("pair by pair, three gates each")
        right.set_xlabel("pair")
        right.legend(loc="upper right", ncols=2, frameon=True, framealpha=0.9)
        for panel in (left, right):
            panel.set_ylim(-0.15, 0.30)
            for effect, dash in ((0.05, ":"), (0.10, "--")):
                panel.axhline(math.log1p(effect), color=MUTED, linewidth=0.8, linestyle=dash)
            panel.axhline(0, color=INK, linewidth=0.6)
    return figure
