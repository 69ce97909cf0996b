"""The part `ratios` of the proof: its rehearsal, its spreads, and what it says of data made up here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import exp
from pathlib import Path
from random import Random
from time import monotonic, sleep
from typing import Any

import pytest

from attnbench.driver.pinned import process_environment
from fidelity_parts import Store, ratios
from fidelity_parts._peers import PEERS
from fidelity_parts._spreads import central_80, spread_interval, spread_ratio
from published.competitor import PHASE_S, competing, phases

SPREADS = {"attnbench": 0.01, "torch_timer": 0.05, "pytest_benchmark": 0.03}

#: Of the ratios of the fastest.
FASTEST = {"attnbench": 0.02, "torch_timer": 0.005, "pytest_benchmark": 0.04}


def made_up(folder: Path, spreads: dict[str, float], repetitions: int = 20) -> Store:
    """Data as `ratios.measure` writes them, the logarithms normal around that of 2."""
    store = Store.open(folder, "ratios", {**ratios.settings(quick=False), "repetitions": repetitions})
    rng = Random(0)
    for repetition in range(repetitions):
        for shape in ratios.SHAPES:
            for load in ("idle", "loaded"):
                for tool in ratios.TOOLS:
                    entry = {
                        "repetition": repetition,
                        "shape": shape,
                        "load": load,
                        "tool": tool,
                        "ratio": 2 * exp(rng.gauss(0, spreads[tool])),
                        "ratio_of_fastest": 2 * exp(rng.gauss(0, FASTEST[tool])),
                        "anchor_s": 2e-3,
                        "case_s": 1e-3,
                        "wall_s": 1.5,
                        "calls": 500 if tool == "attnbench" else 1000,
                    }
                    store.append(f"{repetition}/{shape}/{load}/{tool}", entry)
    return store


def test_the_spread_is_half_the_central_80_percent_of_the_logarithms() -> None:
    values = [exp(step / 100) for step in range(-50, 51)]
    assert central_80(values) == pytest.approx(0.40)
    assert spread_ratio(values, [value**2 for value in values])[0] == pytest.approx(0.5)


def test_resamples_without_a_spread_are_no_error() -> None:
    share, low, high = spread_ratio([1.0, 1.1, 1.2], [1.0, 1.0, 1.0, 1.0, 2.0])
    assert 0 <= low <= share <= high


def test_intervals_of_spreads_hold_them_and_narrow() -> None:
    few = [spread_interval(_normal(seed, 40)) for seed in range(10)]
    truth = 0.1 * 1.2816  # the 90th percentile of a normal
    assert sum(low < truth < high for low, high in few) >= 8
    low, high = spread_interval(_normal(0, 640))
    assert high - low < (few[0][1] - few[0][0]) / 2


def _normal(seed: int, count: int) -> list[float]:
    rng = Random(seed)
    return [exp(rng.gauss(0, 0.1)) for _ in range(count)]


def test_a_met_aim_is_said_to_be_met(tmp_path: Path) -> None:
    made_up(tmp_path, SPREADS)
    section = ratios.section(tmp_path)
    assert [aim.met for aim in section.aims] == [True] * 4
    assert all("pytest-benchmark" in aim.measured for aim in section.aims)  # the better peer
    assert "The aim is met at each" in section.markdown
    assert list(section.figures) == ["ratios"]
    assert "fidelity-ratios.png" in section.markdown


def test_a_missed_aim_is_said_to_be_missed_and_why(tmp_path: Path) -> None:
    made_up(tmp_path, {**SPREADS, "attnbench": 0.03})
    section = ratios.section(tmp_path)
    assert [aim.met for aim in section.aims] == [False] * 4
    assert "The aim is missed" in section.markdown
    assert "50% as many calls" in " ".join(section.markdown.split())


def test_a_peer_that_is_steadier_by_its_fastest_calls_is_told(tmp_path: Path) -> None:
    store = made_up(tmp_path, SPREADS, repetitions=10)
    best = central_80([each["ratio_of_fastest"] for each in _loaded(store, "decode", "torch_timer")])
    own = central_80([each["ratio"] for each in _loaded(store, "decode", "attnbench")])
    *_, cells = [
        line for line in ratios.section(tmp_path).markdown.splitlines() if "| decode | loaded" in line
    ][:2]
    assert own > best
    assert cells.endswith(f"| {own / best:.2f} |")


def _loaded(store: Store, shape: str, tool: str) -> list[Mapping[str, Any]]:
    keys = (f"{number}/{shape}/loaded/{tool}" for number in range(10))
    entries = dict(store.items())
    return [entries[key] for key in keys]


def test_too_few_repetitions_are_no_spread(tmp_path: Path) -> None:
    made_up(tmp_path, SPREADS, repetitions=2)
    section = ratios.section(tmp_path)
    assert not section.aims
    assert not section.figures
    assert "Too few repetitions" in section.markdown


def test_phases_are_drawn_by_the_seed_and_begin_with_work() -> None:
    drawn = [list(zip(phases(seed), range(200), strict=False)) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    seen = [phase for phase, _ in drawn[0]]
    assert seen[0][0] != "pause"
    assert {kind for kind, _ in seen} == {"compute", "memory", "pause"}
    assert all(PHASE_S[0] <= seconds <= PHASE_S[1] for _, seconds in seen)


def test_the_competitor_works_and_is_gone_afterwards() -> None:
    with competing(0, process_environment(1, "pinned")) as pid:
        begun, until = _cpu_ticks(pid), monotonic() + 30
        while _cpu_ticks(pid) == begun:
            assert monotonic() < until, "it does nothing"
            sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_competitor_is_gone_whatever_goes_wrong_meanwhile() -> None:
    pids = []

    def fail() -> None:
        with competing(0, process_environment(1, "pinned")) as pid:
            pids.append(pid)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.rehearsal
def test_a_rehearsal_measures_every_tool_and_is_not_repeated(tmp_path: Path) -> None:
    ratios.measure(tmp_path, quick=True)
    store = Store.read(tmp_path, "ratios")
    found = [entry for key, entry in store.items() if not key.startswith("beside/")]
    assert {(entry["load"], entry["tool"]) for entry in found} == {("loaded", tool) for tool in ratios.TOOLS}
    assert all(entry["ratio"] > 0 and entry["calls"] > 0 for entry in found)
    # The peers have all the time that they are given.
    assert all(entry["wall_s"] >= store.settings["seconds"] for entry in found if entry["tool"] in PEERS)
    began = monotonic()
    ratios.measure(tmp_path, quick=True)
    assert monotonic() - began < 1
    assert len(Store.read(tmp_path, "ratios")) == len(store)
