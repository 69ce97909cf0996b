"""How far is the reported median from the truth? Kernels of 2 µs to 100 ms, through the whole pipeline.

The kernels spin on CLOCK_MONOTONIC_RAW (`attnbench.doctor.truths`); the harness reads another clock. They
are loaded as a plug-in like anybody's, measured by `blocks.measure_block`, and what is compared with the
truth is `latency_median_s` of the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench import scenario as scenarios
from attnbench import table
from attnbench.blocks import measure_block
from attnbench.doctor.experiments import TRUTHS
from attnbench.driver import ZygoteSource
from attnbench.record import CACHES
from fidelity_parts import Aim, DataError, Section, Store, markdown_table
from published.prose import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["measure", "section"]

PART = "durations"

#: The kernels, by framework.
KERNELS = {"numpy": "truth_duration", "torch": "truth_torch_duration"}
NAMES = {"numpy": "NumPy", "torch": "torch"}

MICROSECONDS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))[1:-2]

SETTINGS: Mapping[str, Any] = {
    "microseconds": MICROSECONDS,
    "caches": CACHES,
    "measure": {"precision": 0.002, "max_seconds": 0.5, "processes": 5},
}
REHEARSAL: Mapping[str, Any] = {
    "microseconds": (50, 1000),
    "caches": ("warm",),
    "measure": {"precision": 0.05, "max_seconds": 0.02, "processes": 2},
}

#: From so many microseconds on, the median may be off by this share.
AIMS = ((5, 0.05), (50, 0.01))

#: What is kept of a row of the table.
COLUMNS = (
    "framework",
    "status",
    "reason",
    "latency_median_s",
    "latency_ci_low_s",
    "latency_ci_high_s",
    "latency_min_s",
    "latency_p95_s",
    "samples",
    "processes",
    "calls_per_sample",
)


def measure(folder: Path, *, quick: bool) -> None:
    """A block for each duration and cache, with both frameworks' kernels in it.

    Raises:
        DataError: data of something else are there, or a kernel failed.
    """
    settings = REHEARSAL if quick else SETTINGS
    store = Store.open(folder, PART, settings)
    wanted = [(us, cache) for us in settings["microseconds"] for cache in settings["caches"]]
    missing = [(us, cache) for us, cache in wanted if _key(us, cache) not in store]
    if not missing:
        return
    with ZygoteSource(plugins=[TRUTHS]) as source:
        catalogue = source.hello["catalogue"]
        for us, cache in missing:
            scenario = scenarios.parse(_scenario(us, cache, settings["measure"]), "durations.yaml")
            (block,) = scenario.expand(catalogue)
            records = measure_block(scenario, block, source)
            for record in records:
                if record.status not in ("ok", "unavailable"):
                    raise DataError(f"{record.case_id}: {record.status}: {record.reason}")
            frame = table.from_records(records, PART)
            cases = json.loads(frame[list(COLUMNS)].to_json(orient="records", double_precision=15))
            store.append(_key(us, cache), {"microseconds": us, "cache": cache, "cases": cases})


def _key(us: int, cache: str) -> str:
    return f"{us} us/{cache}"


def _scenario(us: int, cache: str, settings: Mapping[str, Any]) -> str:
    """Attention over a single key returns v, which is what the kernels copy."""
    return json.dumps(
        {
            "name": PART,
            "operation": "attention",
            "implementations": [{name: {"microseconds": us}} for name in KERNELS.values()],
            "matrix": {"heads": 1, "head_dim": 8, "seq_len": 1},
            "measure": {**settings, "cache": cache},
        }
    )


def section(folder: Path) -> Section:
    """Deviations against durations, in tables and a figure."""
    store = Store.read(folder, PART)
    entries = sorted(store.values(), key=lambda entry: (entry["cache"] != "warm", entry["microseconds"]))
    parts = [
        *_introduction(store),
        "![Deviation of the reported median from known durations](fidelity-durations.png)",
        *_warm(entries),
        *_cold(entries),
        *_missing(entries),
    ]
    return Section(
        title="Known durations",
        markdown="\n\n".join(parts),
        figures={"durations": _figure(entries)},
        aims=tuple(_aim(entries, index) for index in range(len(AIMS))),
    )


def _introduction(store: Store) -> Iterator[str]:
    processes = store.settings["measure"]["processes"]
    yield paragraph(
        "**Question.** A kernel lasts a known time; what does the table say? The kernel spins until so much "
        "of `CLOCK_MONOTONIC_RAW` has passed, the hardware's counter, which is not the clock that the "
        "harness reads; what a call costs around the spinning is found when it is loaded, in a bare loop on "
        "that same counter, and taken off. It is in a plug-in file like anybody's "
        "([truths.py](../harness/attnbench/doctor/truths.py)), and goes through all of the pipeline: "
        f"zygote, {processes} measuring processes, calibration, rounds, table. The deviation is "
        "`latency_median_s` over the truth, less 1, with its 95% interval."
    )
    yield paragraph(store.described())


def _cases(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, str, Mapping[str, Any]]]:
    """Microseconds, cache, framework and row of whatever has a time."""
    for entry in entries:
        for case in entry["cases"]:
            if case["latency_median_s"] is not None:
                yield entry["microseconds"], entry["cache"], case["framework"], case


def _deviations(us: int, case: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    """The median's deviation and its interval's ends, as shares of the truth."""
    columns = ("latency_median_s", "latency_ci_low_s", "latency_ci_high_s")
    value, low, high = (None if case[name] is None else case[name] / (us * 1e-6) - 1 for name in columns)
    assert value is not None  # as `_cases` has it
    return value, low, high


def _tolerance(us: int) -> float | None:
    """By what share the median of a kernel that lasts so long may be off; None below the least aim."""
    return next((tolerance for least_us, tolerance in reversed(AIMS) if us >= least_us), None)


def _misses(us: int, case: Mapping[str, Any]) -> bool:
    """Whether the median is off by more than aimed at."""
    tolerance = _tolerance(us)
    return tolerance is not None and abs(_deviations(us, case)[0]) > tolerance


def _aim(entries: Sequence[Mapping[str, Any]], index: int) -> Aim:
    """Is the worst warm median from AIMS[index] on, up to where the next aim begins, near enough?"""
    least_us, tolerance = AIMS[index]
    below_us = AIMS[index + 1][0] if index + 1 < len(AIMS) else float("inf")
    found = [
        (abs(_deviations(us, case)[0]), us, framework)
        for us, cache, framework, case in _cases(entries)
        if cache == "warm" and least_us <= us < below_us
    ]
    aim = f"reported median within {tolerance:.0%} of known durations from {_told(least_us)} (warm)"
    if not found:
        return Aim(aim, "not measured", None)
    worst, us, framework = max(found)
    measured = f"within {_percent(worst)} (the worst: {NAMES[framework]} at {_told(us)})"
    return Aim(aim, measured, worst <= tolerance)


def _percent(share: float) -> str:
    """`0.12%`; as many digits as mean something."""
    return f"{share:.0%}" if share >= 0.1 else f"{share:.2%}"


def _told(us: int) -> str:
    """`2 µs`, `100 ms`."""
    return f"{us} µs" if us < 1000 else f"{us // 1000} ms"


def _warm(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    def shown(us: int, case: Mapping[str, Any]) -> str:
        value, low, high = _deviations(us, case)
        return f"{value:+.2%}{'' if low is None else f' ({low:+.2%} to {high:+.2%})'}"

    yield "Warm: deviation of the median, and of its interval's ends."
    yield _table(entries, "warm", shown)
    yield from _interrupted(entries)
    yield paragraph(
        f"Below {_told(AIMS[0][0])} there is no aim: the spinning loop looks at the clock every 0.1 µs or "
        "so, and nothing is taken off for the harness's own loop."
    )


def _interrupted(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why warm medians are off by more than aimed at, as far as the samples tell."""
    off = []
    for us, cache, framework, case in _cases(entries):
        if cache == "warm" and _misses(us, case):
            fastest = case["latency_min_s"] / (us * 1e-6) - 1
            told = f"{NAMES[framework]} at {_told(us)} ({fastest:+.2%})"
            off.append((told, abs(fastest) <= (_tolerance(us) or 0)))
    if not off:
        return
    explained = (
        "That is within the aim for all of them: the clock is right, but most of the time something else had "
        "the processor."
    )
    if not all(within for _, within in off):
        explained = "Where that is beyond it too, other work does not explain it."
    named = ", ".join(told for told, _ in off)
    yield paragraph(f"Beyond the aim: {named}; in brackets, the deviation of the fastest sample. {explained}")


def _cold(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    def shown(us: int, case: Mapping[str, Any]) -> str:
        beyond_us = case["latency_median_s"] * 1e6 - us
        return f"{beyond_us:+.1f} µs ({beyond_us / us:+.2%})"

    beyond_us = [
        case["latency_median_s"] * 1e6 - us
        for us, cache, _, case in _cases(entries)
        if cache == "cold" and us <= 1000
    ]
    if not beyond_us:
        return
    cold = [(us, case) for us, cache, _, case in _cases(entries) if cache == "cold"]
    held = sum(_tolerance(us) is not None for us, _ in cold)
    missed = sum(_misses(us, case) for us, case in cold)
    yield "Cold: the time beyond the truth, and as a share of it."
    yield _table(entries, "cold", shown)
    yield paragraph(
        "Cold calls are timed singly, after the caches were flushed. The kernel spins as long as ever, but "
        "its own code, the framework's and its input have to come from memory again, which the truth leaves "
        "out: that is time that a cold call really takes, so it is in the figure. (The clock's code has "
        "been brought back, by timing an empty call.) It comes with each call, however long: "
        f"{min(beyond_us):.0f} to {max(beyond_us):.0f} µs up to 1 ms here. Cold figures of kernels of a few "
        "microseconds are figures of cold calls from Python: held to the aims for warm ones, "
        f"{missed} of {held} medians would miss them."
    )


def _table(
    entries: Sequence[Mapping[str, Any]], cache: str, shown: Callable[[int, Mapping[str, Any]], str]
) -> str:
    cells: dict[int, dict[str, str]] = {}
    for us, its_cache, framework, case in _cases(entries):
        if its_cache == cache:
            cells.setdefault(us, {})[framework] = shown(us, case)
    return markdown_table(
        ["duration", *NAMES.values()],
        [[_told(us), *(row.get(name, "–") for name in NAMES)] for us, row in sorted(cells.items())],
    )


def _missing(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What could not be measured, and why."""
    for entry in entries:
        for case in entry["cases"]:
            if case["status"] != "ok":
                what = f"{_told(entry['microseconds'])}, {entry['cache']}, {case['framework']}"
                yield paragraph(f"{what}: {case['status']}: {case['reason']}.")


def _figure(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Deviation in % against duration, one panel a cache, aims shaded."""
    from matplotlib.figure import Figure

    from attnbench.plots.style import GRID, INK, PALETTE, drawing

    caches = [cache for cache in CACHES if any(entry["cache"] == cache for entry in entries)]
    with drawing():
        figure = Figure(figsize=(4.3 * max(1, len(caches)) + 0.6, 3.6), layout="constrained")
        panels = figure.subplots(1, max(1, len(caches)), sharey=True, squeeze=False)[0]
        for panel, cache in zip(panels, caches, strict=False):
            ends_us = [*(least for least, _ in AIMS[1:]), max(MICROSECONDS) * 1.5]
            for (least_us, tolerance), end_us in zip(AIMS, ends_us, strict=True):
                reach_s = [least_us * 1e-6, end_us * 1e-6]
                panel.fill_between(reach_s, -100 * tolerance, 100 * tolerance, color=GRID, lw=0)
            panel.axhline(0, color=INK, lw=0.8)
            for at, framework in enumerate(KERNELS):
                found = [
                    (us * 1e-6 * (0.96, 1.04)[at], *_deviations(us, case))
                    for us, its_cache, its_framework, case in _cases(entries)
                    if (its_cache, its_framework) == (cache, framework)
                ]
                panel.errorbar(
                    [x for x, *_ in found],
                    [100 * value for _, value, *_ in found],
                    yerr=[
                        [100 * (value - low) if low is not None else 0 for _, value, low, _ in found],
                        [100 * (high - value) if high is not None else 0 for _, value, _, high in found],
                    ],
                    fmt="os"[at],
                    color=PALETTE[at],
                    markersize=4,
                    capsize=2,
                    lw=1.2,
                    label=NAMES[framework],
                )
            panel.set_xscale("log")
            panel.set_yscale("symlog", linthresh=1, linscale=1.5)
            panel.set_title(f"{cache} cache")
            panel.set_xlabel("known duration")
            _label_durations(panel)
            panel.legend(loc="upper right")
        panels[0].set_ylabel("deviation of the reported median, %")
    return figure


def _label_durations(panel: Any) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    panel.set_xlim(min(MICROSECONDS) * 0.7e-6, max(MICROSECONDS) * 1.5e-6)
    panel.xaxis.set_major_locator(FixedLocator([1e-6 * us for us in (2, 10, 100, 1000, 10_000, 100_000)]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _told(round(x * 1e6))))
    ticks = [-20, -5, -1, -0.5, 0, 0.5, 1, 5, 20, 100, 1000]
    panel.yaxis.set_major_locator(FixedLocator(ticks))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+g}" if y else "0"))
