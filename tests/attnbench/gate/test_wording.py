from __future__ import annotations

import math
from typing import Any

import pytest

from attnbench.case import Case, Variant
from attnbench.gate.contest import Contest
from attnbench.gate.sequential import Rule
from attnbench.gate.verdict import Change, Latency, Outcome
from attnbench.gate.wording import case_names, per_cent, sentence, slow_down
from attnbench.scenario import Check
from attnbench.stats import Interval
from attnbench.workload import SHAPES, AttentionShape, Workload

RULE = Rule(0.10, 0.05, 0.01, 0.05, (20, 40))


def case(head_dim: int = 64, implementation: str = "sdpa", **conditions: str) -> Case:
    shape = AttentionShape.from_axes({"heads": 8, "seq_len": 2048, "head_dim": head_dim})
    return Case(Variant.of(implementation), Workload("attention", shape, **conditions))


def names(*cases: Case) -> list[str]:
    return list(case_names(cases).values())


def test_a_case_is_called_by_its_shape() -> None:
    assert names(case()) == ["sdpa B1 H8 L2048"]


def test_what_is_not_the_default_is_told() -> None:
    assert names(case(mask="causal", dtype="bfloat16", pass_="backward")) == [
        "sdpa B1 H8 L2048 causal bfloat16 backward"
    ]


def test_sizes_of_heads_are_told_where_they_differ() -> None:
    assert names(case(64), case(128)) == ["sdpa B1 H8 L2048 D64", "sdpa B1 H8 L2048 D128"]


def test_names_tell_all_cases_apart() -> None:
    cases = [
        case(size, name, mask=mask)
        for size in (8, 16)
        for name in ("sdpa", "naive")
        for mask in ("none", "causal")
    ]
    assert len(set(names(*cases))) == len(cases)


@pytest.mark.parametrize(
    ("ratio", "ends", "text"),
    [
        (1.079, (1.068, 1.091), "7.9% slower [6.8, 9.1]"),
        (0.97, (0.95, 1.01), "3.0% faster [−1.0, 5.0]"),
        (1.0, (1.0, 1.0), "0.0% slower [0.0, 0.0]"),
        (3.5, (3.0, 4.0), "250% slower [200, 300]"),
    ],
)
def test_a_ratio_in_words(ratio: float, ends: tuple[float, float], text: str) -> None:
    assert slow_down(ratio, Interval(*ends)) == text


def test_a_ratio_without_an_interval() -> None:
    assert slow_down(1.2, None) == "20.0% slower"


def test_settings_are_told_as_they_were_set() -> None:
    assert [per_cent(share) for share in (0.1, 0.05, 0.025)] == ["10%", "5%", "2.5%"]


def latency(d: float) -> Latency:
    contest = Contest(RULE)
    for _ in range(40 if d else 20):
        contest.add([(1.0, math.exp(d))])
    ratio, interval = contest.ratio()
    series = contest.series()
    return Latency(series.verdict, None, ratio, interval, 1.0, 1.0, series)


def test_what_decided_comes_first() -> None:
    more = Change("memory", Outcome.FAIL, "more memory")
    less = Change("memory", Outcome.PASS, "less memory")
    told = sentence("sdpa", Outcome.FAIL, [less], latency(math.log(1.2)), Check())
    assert told == "sdpa: 20.0% slower [20.0, 20.0], 40 of 40 pairs beyond 5%; less memory"
    told = sentence("sdpa", Outcome.FAIL, [more], latency(0.0), Check())
    assert told == "sdpa: more memory; 0.0% slower [0.0, 0.0], 20 of 20 pairs within 10%"


def test_nothing_to_tell() -> None:
    assert sentence("sdpa", Outcome.PASS, [], None, Check()) == "sdpa: as before"


def test_modules_are_called_by_all_that_is_not_as_usual() -> None:
    def module(**axes: Any) -> Case:
        usual = {"embed_dim": 512, "heads": 8, "seq_len": 64}
        shape = SHAPES["encoder_layer"].from_axes({**usual, **axes})
        return Case(Variant.of("ours"), Workload("encoder_layer", shape))

    assert names(module(), module(norm_first=True, dropout=1e-5)) == [
        "ours B1 L64 E512 H8 F2048",
        "ours B1 L64 E512 H8 F2048 drop1e-05 prenorm",
    ]
