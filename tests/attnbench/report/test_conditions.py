from __future__ import annotations

from typing import Any

import pytest

from attnbench.report.conditions import conditions

TEXT = """name: {name}
operation: attention
implementations: [naive]
matrix: {{heads: 2, head_dim: 8, seq_len: 16}}
devices: [{device}]
"""


def header(*scenarios: dict[str, Any]) -> dict[str, Any]:
    return {"scenarios": list(scenarios)}


def scenario(name: str = "one", *sets: str, device: str = "cpu") -> dict[str, Any]:
    return {"name": name, "text": TEXT.format(name=name, device=device), "sets": list(sets)}


def test_what_is_as_usual_is_not_told() -> None:
    assert conditions([header(scenario())]) == []
    assert conditions([{}]) == []


def test_cold_figures_are_told_to_be_cold_wherever_that_was_set() -> None:
    (found,) = conditions([header(scenario("one", "measure.cache=cold"))])
    assert (found.kind, found.serious) == ("conditions", False)
    assert found.text.startswith("Timed cold: before each call the cache is flushed.")
    in_file = scenario()
    in_file["text"] += "measure: {cache: cold}\n"
    assert conditions([header(in_file)]) == [found]


@pytest.mark.parametrize("apart", [False, True])
def test_scenarios_are_named_where_not_all_are_so(apart: bool) -> None:
    cold, graphs = (
        scenario("cold one", "measure.cache=cold", device="cuda"),
        scenario("graphs", "measure.cuda_graph=true", device="cuda"),
    )
    cold["text"] = cold["text"].replace("cold one", "cold-one")
    headers = [header(cold), header(graphs)] if apart else [header(cold, graphs)]
    assert [found.text.split(":")[0] for found in conditions(headers)] == ["cold-one", "graphs"]


def test_a_scenario_of_another_version_tells_nothing() -> None:
    assert conditions([header({"name": "old", "text": "name: [", "sets": []})]) == []
