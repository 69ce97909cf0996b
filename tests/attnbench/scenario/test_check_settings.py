from __future__ import annotations

import pytest

from attnbench.errors import ScenarioError
from attnbench.scenario import parse

TEXT = """\
name: gated
operation: attention
implementations: [naive]
matrix: {seq_len: 16, heads: 1, head_dim: 8}
check: {gate: 0.05}
"""


@pytest.mark.parametrize(("gate", "margin"), [(0.10, 0.05), (0.05, 0.02), (0.02, 0.005), (0.2, 0.11)])
def test_the_margin_follows_from_the_gate(gate: float, margin: float) -> None:
    scenario = parse(TEXT.replace("0.05", str(gate)), "gated.yaml")
    assert scenario.check.tolerated() == pytest.approx(margin)


def test_a_margin_of_ones_own() -> None:
    scenario = parse(TEXT.replace("gate: 0.05", "gate: 0.05, margin: 0.01"), "gated.yaml")
    assert scenario.check.tolerated() == 0.01


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("margin: 0.05", "expected less than the gate, which is 0.05, got 0.05"),
        ("floor: -1", "expected a number of at least 0, got -1"),
        ("budget: 0", "expected a number above 0"),
        ("latency: 1", "expected true or false"),
    ],
)
def test_nonsense_is_refused_where_it_stands(setting: str, complaint: str) -> None:
    with pytest.raises(ScenarioError, match=complaint) as caught:
        parse(TEXT.replace("gate: 0.05", f"gate: 0.05, {setting}"), "gated.yaml")
    assert str(caught.value).startswith("gated.yaml:5:")


def test_no_floor_is_a_floor_of_zero() -> None:
    assert parse(TEXT.replace("gate: 0.05", "floor: 0"), "gated.yaml").check.floor == 0
