from __future__ import annotations

from attnbench.case import Case, Variant, format_options
from attnbench.workload import AttentionShape, Workload

WORKLOAD = Workload("attention", AttentionShape(1, 8, 8, 512, 512, 64), "causal")


def test_a_case_id_is_its_block_and_its_variant() -> None:
    case = Case(Variant.of("chunked", {"block": 256}), WORKLOAD, "cpu")
    assert case.block_id == "attention/B1-H8-L512-D64/float32/causal/forward/cpu"
    assert case.case_id == case.block_id + "/chunked(block=256)"


def test_the_order_of_options_does_not_matter() -> None:
    assert Variant.of("x", {"b": 1, "a": 2}) == Variant.of("x", {"a": 2, "b": 1})
    assert Variant.of("x", {"b": 1, "a": 2}).label == "x(a=2,b=1)"


def test_options_read_like_a_scenario() -> None:
    assert format_options({"fast": True, "block": 256}) == "block=256, fast=true"
    assert format_options({}) == ""
