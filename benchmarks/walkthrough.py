"""What each step of an encoder layer costs, as a share of the whole layer, beside its share of the FLOPs.

Steps take turns in rounds, in several fresh processes; shares are formed per round. Writes what it measured
to `<out>/steps.jsonl`, and from that the table between the markers of docs/walkthrough.md. What was measured
before is measured anew, unless `--page` says only to write the page. Takes two to three minutes on a quiet
machine with two cores.

    python benchmarks/walkthrough.py [--page | --render] [--quick] [--out FOLDER]

`--render` only runs the page's code: what it prints goes below each block, its pictures beside the page.
`--quick` is a rehearsal with short sequences: it needs an `--out` of its own and writes its page there.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import monotonic

import walkthrough_steps
from attnbench import stats
from attnbench.costs import costs
from attnbench.driver import ZygoteSource
from attnbench.files import replace_file
from attnbench.implementation import declared_in
from attnbench.protocol import BenchFailed, BenchSource
from attnbench.rounds import Entrant, play
from attnbench.sampling import Pace
from attnbench.shapes import EncoderLayerShape
from attnbench.units import format_seconds
from attnbench.workload import Workload
from published.blocks import blocks, printed, with_outputs
from published.page import markdown_table
from published.prose import paragraph
from published.store import DataError, Store, machine

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "walkthrough.md"
#: What is measured stands between these, on its own lines or within one.
BEGIN, END = "<!-- measured: {} -->", "<!-- end -->"

EMBED_DIM, HEADS = 512, 8
STEPS: Mapping[str, str] = {each.name: each.summary for each in declared_in(vars(walkthrough_steps))}
WHOLE = walkthrough_steps.LAYER.name
ATTENTION = (walkthrough_steps.SCORES.name, walkthrough_steps.WEIGHTED_SUM.name)

#: How long preparing a step, or a sample of it, may take.
DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """`rounds` by length, in each of so many processes; `warm_up_s` is what each step warms up for."""

    rounds: Mapping[str, int]
    processes: int
    warm_up_s: float


#: At 6 · embed_dim the FLOPs of attention are as many as all others.
FULL = Settings({"64": 20, "256": 15, "1024": 5, "3072": 2}, processes=5, warm_up_s=0.1)
QUICK = Settings({"16": 3, "64": 3}, processes=2, warm_up_s=0.01)


class Steps(Store):
    """The samples of each length and process."""

    command = "python benchmarks/walkthrough.py"


# Measuring


def workload_of(length: int) -> Workload:
    """The encoder layer whose steps are timed."""
    axes = {"embed_dim": EMBED_DIM, "heads": HEADS, "seq_len": length}
    return Workload("encoder_layer", EncoderLayerShape.from_axes(axes))


def seconds(
    source: BenchSource, length: int, rounds: int, warm_up_s: float, seed: int
) -> dict[str, list[float]]:
    """Seconds per call of each step, a value a round, in a process of their own."""
    bench = source.bench()
    try:
        entrants = [Entrant(name, bench) for name in STEPS]
        for name in STEPS:
            parameters = {
                "case": name,
                "implementation": name,
                "options": {},
                "workload": workload_of(length).to_json(),
                "device": "cpu",
                "seed": 0,
                "threads": len(os.sched_getaffinity(0)),
            }
            bench.request("prepare", parameters, DEADLINE_S)
        outcome = play(
            entrants,
            # Warming up ends after a quarter of the budget.
            pace=Pace(4 * warm_up_s, DEADLINE_S),
            stop=lambda per_call_s, spent_s: len(per_call_s) >= rounds,
            rng=Random(seed),
            clock=monotonic,
        )
        if outcome.failures:
            raise outcome.failures[0][1]
        return {entrant.case_id: entrant.per_call_s for entrant in entrants}
    finally:
        bench.close()


def measure(folder: Path, settings: Settings) -> None:
    """All lengths in fresh processes by turns; once all are there, in place of what was measured before."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(dir=folder, prefix=".measuring-") as fresh,
        ZygoteSource([Path(walkthrough_steps.__file__)], threads="all") as source,
    ):
        told = {"embed_dim": EMBED_DIM, "heads": HEADS, **asdict(settings)}
        store = Steps.open(Path(fresh), "steps", told)
        for process in range(settings.processes):
            for length, rounds in settings.rounds.items():
                found = seconds(source, int(length), rounds, settings.warm_up_s, process)
                store.append(f"{length}/{process}", {"seconds": found})
                print(f"length {length}, process {process + 1} of {settings.processes}", flush=True)
        store.path.replace(folder / store.path.name)


# What is made of it


def flops_of(length: int) -> dict[str, int]:
    """Floating-point operations of each step's matrix products; steps without any are left out."""
    parts = costs(workload_of(length)).parts
    product = parts["attention"] // 2  # Q·Kᵀ, and weights·V
    whole = sum(parts.values())
    return {
        walkthrough_steps.SCORES.name: product,
        walkthrough_steps.WEIGHTED_SUM.name: product,
        walkthrough_steps.PROJECTIONS.name: parts["projections"],
        walkthrough_steps.MHA.name: parts["projections"] + parts["attention"],
        walkthrough_steps.FEED_FORWARD.name: parts["feed_forward"],
        walkthrough_steps.LAYER.name: whole,
        walkthrough_steps.LAYER_SDPA.name: whole,
    }


def samples_of(store: Steps, length: str) -> list[Mapping[str, Sequence[float]]]:
    """Seconds per call of each step in each round, a mapping a process."""
    return [entry["seconds"] for key, entry in store.items() if key.split("/")[0] == length]


def share(store: Steps, length: str, steps: Sequence[str]) -> stats.Estimate:
    """Time of `steps` together, as a share of the whole layer's."""
    ratios = [
        [
            sum(parts) / whole
            for *parts, whole in zip(*(samples[step] for step in (*steps, WHOLE)), strict=True)
        ]
        for samples in samples_of(store, length)
    ]
    estimate = stats.hierarchical_interval(ratios)
    if estimate is None:
        raise DataError(f"{store.path}: nothing of length {length}; run `{Steps.command}`")
    return estimate


def percent(estimate: stats.Estimate) -> str:
    """`17% (16–18)`."""
    interval = estimate.interval
    spread = "" if interval is None else f" ({100 * interval.low:.0f}–{100 * interval.high:.0f})"
    return f"{estimate.value:.0%}{spread}"


def took(store: Steps, length: str) -> str:
    """The whole layer's time: the median of the processes' medians."""
    medians = [stats.median(samples[WHOLE]) for samples in samples_of(store, length)]
    return format_seconds(stats.median(medians))


def crossing(shares: Mapping[int, float]) -> int | None:
    """The length from which on a share is above a half, between those measured; None if there is none.

    Between two lengths the odds of a share are taken for a power of the length, as those of FLOPs are.
    """
    odds = {length: math.log(value / (1 - value)) for length, value in shares.items()}
    for (short, before), (long, after) in pairwise(sorted(odds.items())):
        if before < 0 <= after:
            return round(short * math.pow(long / short, before / (before - after)))
    return None


def table(store: Steps) -> str:
    """Shares of time, with their intervals, beside shares of FLOPs; a row a step; the whole layer's time."""
    lengths = list(store.settings["rounds"])
    rows = []
    for step, told in STEPS.items():
        row = [told]
        for length in lengths:
            flops = flops_of(int(length))
            of_all = f"{flops[step] / flops[WHOLE]:.0%}" if step in flops else "–"
            time = took(store, length) if step == WHOLE else percent(share(store, length, [step]))
            row += [time, of_all]
        rows.append(row)
    header = ["step", *(cell for length in lengths for cell in (f"L {length}: time", "FLOPs"))]
    return markdown_table(header, rows)


def told(store: Steps, step: str) -> str:
    """A step's shares in a sentence."""
    lengths = list(store.settings["rounds"])
    first, *others = [f"{share(store, length, [step]).value:.0%}" for length in lengths]
    times = ", ".join(
        [f"{first} of the whole layer's at length {lengths[0]}"]
        + [f"{each} at {length}" for each, length in zip(others, lengths[1:], strict=True)]
    )
    flops = [flops_of(int(length)) for length in lengths]
    if step not in flops[0] or flops[0][step] == flops[0][WHOLE]:
        return f"{times}."
    return f"{times}; of its FLOPs {', '.join(f'{each[step] / each[WHOLE]:.0%}' for each in flops)}."


def all_steps(store: Steps) -> str:
    """The table, and what is to be said of it."""
    lengths = list(store.settings["rounds"])
    embed_dim, processes = store.settings["embed_dim"], len(samples_of(store, lengths[-1]))
    cross = crossing({int(length): share(store, length, ATTENTION).value for length in lengths})
    where = (
        f"at no length up to {lengths[-1]}"
        if cross is None
        else f"from about {round(cross, -2)} positions on"
    )
    text = f"""Each step's time as a share of the whole layer's, with its 95% interval, beside its share of
    the FLOPs: E {embed_dim}, {store.settings["heads"]} heads, feed-forward {4 * embed_dim}, batch 1, float32,
    forward. Scores, softmax and weighted sum take more than half of its time
    {where}; by FLOPs they would from {6 * embed_dim} on. {store.described()} Steps took turns in {processes}
    fresh processes."""
    return f"\n\n{table(store)}\n\n{paragraph(text)}\n\n"


def page(written: str, store: Steps) -> str:
    """The page `written`, with what `store` holds between its markers.

    Raises:
        DataError: the page has a marker of something else, or nothing was measured.
    """

    def measured(found: re.Match[str]) -> str:
        name = f"walkthrough_{found[1]}"
        if found[1] != "table" and name not in STEPS:
            known = ", ".join(["table", *(each.removeprefix("walkthrough_") for each in STEPS)])
            raise DataError(f"{PAGE}: {found[0]!r}: nothing is measured under this name; known: {known}")
        text = all_steps(store) if found[1] == "table" else told(store, name)
        return f"{BEGIN.format(found[1])}{text}{END}"

    return re.sub(f"{BEGIN.format('([a-z_]+)')}.*?{END}", measured, written, flags=re.DOTALL)


def rendered(written: str, folder: Path) -> str:
    """The page `written`, with what its code prints now; its pictures go to `folder`."""
    return with_outputs(written, printed(blocks(written), str(PAGE), folder))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--page", action="store_true", help="only write the page, from what was measured")
    only.add_argument("--render", action="store_true", help="only run the page's code")
    parser.add_argument("--quick", action="store_true", help="a rehearsal with short sequences")
    parser.add_argument("--out", type=Path, help="folder of the data")
    options = parser.parse_args(arguments)
    if options.quick and options.out is None:
        parser.error("a rehearsal needs an --out of its own")
    folder = options.out or CHECKOUT / "results" / "reference" / machine()["machine"] / "walkthrough"
    target = PAGE if options.out is None else folder / PAGE.name
    written = PAGE.read_text(encoding="utf-8")
    if options.render:
        replace_file(target, rendered(written, target.parent).encode())
        print(target)
        return 0
    try:
        if not options.page:
            measure(folder, QUICK if options.quick else FULL)
        store = Steps.read(folder, "steps")
        replace_file(target, page(written, store).encode())
        print(all_steps(store))
        print(target)
    except (BenchFailed, DataError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
