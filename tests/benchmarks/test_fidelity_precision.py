"""The part `precision` of the proof: when a tool stops, and what is said of data made up here."""

from __future__ import annotations

from math import exp
from pathlib import Path
from random import Random

import pytest

from attnbench.stats import Estimate, Interval
from fidelity_parts import Store, precision
from fidelity_parts._peer_process import first_precise

CASES = [f"attention/B1-H8-L128-D64/float32/{mask}/forward/cpu/sdpa" for mask in ("none", "causal")]


def made_up(
    folder: Path, scatter: dict[str, float], wall_s: dict[str, float], repetitions: int = 200
) -> Store:
    """Data as `precision.measure` writes them, the logarithms of the results normal."""
    store = Store.open(folder, "precision", precision.settings(quick=False))
    store.append("start", {"torch_s": 1.5, "attnbench_s": 2.0})
    rng = Random(0)
    for repetition in range(repetitions):
        for tool in precision.TOOLS:

            def result(value: float, tool: str = tool) -> dict[str, object]:
                value *= exp(rng.gauss(0, scatter[tool]))
                return {"value": value, "reached": tool != "attnbench", "wall_s": wall_s[tool]}

            cases = {case: {"latency": result(1e-3), "speedup": result(2)} for case in CASES}
            entry = {"repetition": repetition, "tool": tool, "cases": cases}
            store.append(f"{repetition}/{tool}", entry)
    return store


def test_values_are_precise_from_the_first_count_whose_interval_is_narrow() -> None:
    rng = Random(0)
    values = [rng.gauss(1, 0.05) for _ in range(2000)]
    count = first_precise(values, 0.02)
    assert count is not None
    # 2 · 1.96 · 1.2533 · 0.05 / √n = 0.02
    assert 60 < count < 400
    assert first_precise(values[: count // 2], 0.02) is None
    assert first_precise([1.0] * 5, 0.02) is None, "five values have no interval"


def test_a_sweep_stops_after_the_first_process_but_one_that_is_narrow_enough() -> None:
    def estimate(width: float) -> Estimate:
        return Estimate(1.0, Interval(1 - width / 2, 1 + width / 2))

    estimates = [estimate(0.001), estimate(0.05), None, estimate(0.019), estimate(0.001)]
    stopped = precision._narrow(estimates, [1.0, 2.0, 3.0, 4.0, 5.0], 0.02)
    assert stopped == {"value": 1.0, "reached": True, "wall_s": 4.0}
    stopped = precision._narrow(estimates[:2], [1.0, 2.0], 0.02)
    assert stopped == {"value": 1.0, "reached": False, "wall_s": 2.0}


def test_a_peer_that_stops_early_costs_what_it_used() -> None:
    rng = Random(0)
    values = [rng.gauss(1, 0.05) for _ in range(2000)]
    count = first_precise(values, 0.02)
    assert count is not None
    stopped = precision._stopped({"per_call_s": values, "calls": 3, "wall_s": 3 * sum(values) + 7}, 0.02)
    assert stopped["reached"]
    assert stopped["wall_s"] == pytest.approx(3 * sum(values[:count]) + 7)
    unfinished = precision._stopped({"per_call_s": values[:20], "calls": 3, "wall_s": 70.0}, 0.02)
    assert unfinished["wall_s"] == 70.0
    assert not unfinished["reached"]


def test_the_time_until_it_holds_grows_with_the_square_of_the_scatter(tmp_path: Path) -> None:
    sd = 0.01 / 1.959964  # of which 95% lie within ±1%
    made_up(
        tmp_path,
        {"attnbench": sd, "torch_timer": 3 * sd, "pytest_benchmark": 4 * sd},
        {"attnbench": 2.0, "torch_timer": 1.0, "pytest_benchmark": 1.0},
    )
    section = precision.section(tmp_path)
    assert [aim.met for aim in section.aims] == [None, None], "none was set"
    rows = [line.split("|") for line in section.markdown.splitlines() if line.startswith("| latency")]
    own, torch_timer, pytest_benchmark = ([cell.strip() for cell in row[2:-1]] for row in rows)
    assert own[0] == "attnbench"
    assert own[1] == "0%"
    assert torch_timer[1] == "100%"
    assert float(own[2]) == 4.0  # two cases
    assert float(own[5]) == pytest.approx(4 + 2, rel=0.25)  # its start counts once
    assert float(torch_timer[5]) == pytest.approx(9 * (2 + 1.5), rel=0.25)
    assert float(pytest_benchmark[5]) == pytest.approx(16 * (2 + 1.5), rel=0.25)
    assert list(section.figures) == ["precision"]


def test_a_slower_tool_is_said_to_be_slower(tmp_path: Path) -> None:
    scatter = {"attnbench": 0.01, "torch_timer": 0.01, "pytest_benchmark": 0.05}
    made_up(tmp_path, scatter, {"attnbench": 9.0, "torch_timer": 1.0, "pytest_benchmark": 1.5}, 20)
    section = precision.section(tmp_path)
    told = " ".join(section.markdown.split())
    assert "For latency, attnbench takes 9.0 times as long as torch.utils.benchmark" in told
    assert all("attnbench: stops after 18.0 s" in aim.measured for aim in section.aims)
    figure = section.figures["precision"]
    figure.canvas.draw()
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            told = [label.get_text() for label in (*axis.get_majorticklabels(), *axis.get_minorticklabels())]
            assert not any("$" in text for text in told)  # no source of mathematics


@pytest.mark.rehearsal
def test_a_rehearsal_measures_the_cases_that_all_tools_can(tmp_path: Path) -> None:
    precision.measure(tmp_path, quick=True)
    store = Store.read(tmp_path, "precision")
    entries = {entry["tool"]: entry for key, entry in store.items() if key != "start"}
    assert set(entries) == set(precision.TOOLS)
    cases = [set(entry["cases"]) for entry in entries.values()]
    assert cases[0] == cases[1] == cases[2]
    assert cases[0]
    for entry in entries.values():
        for found in entry["cases"].values():
            assert found["latency"]["value"] > 0
            assert found["latency"]["wall_s"] > 0
    assert not precision.section(tmp_path).aims, "one repetition shows no scatter"
