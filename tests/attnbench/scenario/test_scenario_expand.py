"""From axes to blocks of cases."""

from __future__ import annotations

import os
from itertools import product
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench.case import Block
from attnbench.errors import ScenarioError, UsageError
from attnbench.protocol import ImplementationInfo
from attnbench.scenario import Measure, Scenario, parse
from builders import make_info


def info(name: str, operation: str = "attention", **options: Any) -> ImplementationInfo:
    return make_info(name, options, operation=operation)


CATALOGUE = [
    info("naive"),
    info("sdpa"),
    info("numpy"),
    info("chunked", block=128),
    info("every", whole=1, real=1.0, flag=True, text="a"),
    info("torch_mha", "mha"),
]

HEAD = "name: t\noperation: attention\nimplementations: [naive, {chunked: {block: [64, 256]}}, sdpa]\n"


def scenario(rest: str, head: str = HEAD, **options: Any) -> Scenario:
    return parse(head + rest, "s.yaml", **options)


def ids(blocks: list[Block]) -> list[str]:
    return [case.case_id.removeprefix("attention/") for block in blocks for case in block.cases]


def test_blocks_follow_the_file_and_the_last_axis_is_fastest() -> None:
    blocks = scenario(
        """
devices: [cuda:0, cpu]
matrix:
  mask: [none, causal]
  shape: [{heads: 2, head_dim: 8}, {heads: 4, kv_heads: 2, head_dim: 16}]
  seq_len: [16, 32]
"""
    ).expand(CATALOGUE)
    shapes = ["B1-H2-L16-D8", "B1-H2-L32-D8", "B1-H4kv2-L16-D16", "B1-H4kv2-L32-D16"]
    assert [block.block_id for block in blocks] == [
        f"attention/{shape}/float32/{mask}/forward/{device}"
        for device in ("cuda:0", "cpu")
        for mask in ("none", "causal")
        for shape in shapes
    ]
    assert [case.variant.label for case in blocks[0].cases] == [
        "naive",
        "chunked(block=64)",
        "chunked(block=256)",
        "sdpa",
    ]
    assert blocks[0].anchor is blocks[0].cases[0]
    assert blocks[0].scenario == "t"


def test_single_values_and_defaults() -> None:
    (block,) = scenario("matrix: {heads: 2, head_dim: 8, seq_len: 16}\n").expand(CATALOGUE)
    workload = block.workload
    assert (workload.mask, workload.dtype, workload.pass_, workload.inputs) == (
        "none",
        "float32",
        "forward",
        "normal",
    )
    assert (workload.shape.batch, workload.shape.kv_heads) == (1, 2)
    assert block.device == "cpu"


def test_an_excluded_anchor_leaves_its_block_without_one() -> None:
    blocks = scenario(
        """
anchor: chunked(block=256)
matrix: {heads: 2, head_dim: 8, seq_len: [16, 32]}
exclude: [{implementation: chunked( block = 256 ), seq_len: 32}, {implementation: sdpa}]
"""
    ).expand(CATALOGUE)
    assert [block.anchor and block.anchor.variant.label for block in blocks] == ["chunked(block=256)", None]
    assert [len(block.cases) for block in blocks] == [3, 2]


def test_exclude_knows_seq_len_only_where_lengths_are_equal() -> None:
    blocks = scenario(
        """
matrix: {heads: 2, head_dim: 8, q_len: [16, 32], kv_len: [32], pass: [forward, backward]}
exclude: [{seq_len: 32, pass: backward}, {kv_heads: [2], q_len: 16, implementation: [naive, chunked]}]
"""
    ).expand(CATALOGUE)
    assert [(block.workload.shape.q_len, block.workload.pass_, len(block.cases)) for block in blocks] == [
        (16, "forward", 1),
        (16, "backward", 1),
        (32, "forward", 4),
    ]


def test_include_appends_whole_cases_and_merges_what_is_there() -> None:
    blocks = scenario(
        """
matrix: {heads: 2, head_dim: 8, seq_len: [16, 32]}
exclude: [{seq_len: 16, implementation: [sdpa, naive]}]
include:
  - {heads: 2, head_dim: 8, seq_len: 16, implementation: naive}
  - {heads: 2, head_dim: 8, q_len: 1, kv_len: 64, mask: causal, dtype: bfloat16, implementation: chunked}
  - {heads: 2, head_dim: 8, q_len: 1, kv_len: 64, mask: causal, dtype: bfloat16, implementation: chunked}
"""
    ).expand(CATALOGUE)
    assert [len(block.cases) for block in blocks] == [3, 4, 2]
    assert [case.variant.implementation for case in blocks[0].cases] == ["naive", "chunked", "chunked"]
    assert ids(blocks)[-1] == "B1-H2-Lq1-Lk64-D8/bfloat16/causal/forward/cpu/chunked(block=256)"
    assert blocks[2].anchor is None


def test_a_scenario_of_included_cases_alone() -> None:
    blocks = scenario("include: [{heads: 2, head_dim: 8, seq_len: 16}]\n").expand(CATALOGUE)
    assert len(ids(blocks)) == 4


SIZES = st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_the_product_minus_the_excluded(data: st.DataObject) -> None:
    axes: dict[str, list[Any]] = {"heads": data.draw(SIZES), "head_dim": data.draw(SIZES)}
    for axis in data.draw(st.sampled_from([["seq_len"], ["q_len", "kv_len"]])):
        axes[axis] = data.draw(SIZES)
    if data.draw(st.booleans()):
        axes["batch"] = data.draw(SIZES)
    choices = {
        "dtype": ["float64", "float32", "bfloat16", "float16"],
        "mask": ["none", "causal"],
        "pass": ["forward", "backward", "forward_backward"],
        "inputs": ["normal", "uniform", "large_logits", "extreme_logits", "outliers"],
    }
    for axis, values in choices.items():
        if data.draw(st.booleans()):
            axes[axis] = data.draw(st.lists(st.sampled_from(values), min_size=1, unique=True))
    order = data.draw(st.permutations(list(axes)))
    picked = data.draw(st.lists(st.sampled_from(order), max_size=2, unique=True))
    excluded = {axis: data.draw(st.sampled_from(axes[axis])) for axis in picked}
    text = "matrix: {" + ", ".join(f"{axis}: {axes[axis]}" for axis in order) + "}\n"
    text += (
        "exclude: [{implementation: sdpa, "
        + ", ".join(f"{axis}: {value}" for axis, value in excluded.items())
        + "}]\n"
    )
    found = ids(scenario(text.replace("'", "")).expand(CATALOGUE))
    combinations = [dict(zip(order, values, strict=True)) for values in product(*(axes[a] for a in order))]
    gone = sum(all(each[axis] == value for axis, value in excluded.items()) for each in combinations)
    assert len(combinations) == prod(map(len, axes.values()))
    assert len(found) == len(set(found)) == 4 * len(combinations) - gone
    assert sum(case_id.endswith("/sdpa") for case_id in found) == len(combinations) - gone


def test_the_catalogue_is_asked_for_names_options_and_types() -> None:
    head = """name: t
operation: attention
implementations:
  - nave
  - chunked: {blok: [1, 2]}
  - every: {whole: true, real: 2, flag: 1, text: 3}
  - torch_mha
  - every: {whole: 2.0}
matrix: {heads: 2, head_dim: 8, seq_len: 16}
"""
    with pytest.raises(ScenarioError) as caught:
        scenario("", head).expand(CATALOGUE)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        f"s.yaml:{where}" for where in ("4:5", "5:15", "6:13", "6:35", "6:44", "7:5", "8:13")
    ]
    assert "implementations[0]: 'nave' is no implementation of attention" in lines[0]
    assert lines[0].endswith("did you mean 'naive'?")
    assert "chunked has no option 'blok'; its options are block; did you mean 'block'?" in lines[1]
    assert "whole: expected a whole number (the default is 1), got true" in lines[2]
    assert "flag: expected true or false" in lines[3]
    assert "text: expected text" in lines[4]
    assert "is an implementation of mha, not of attention" in lines[5]


def test_what_impl_names_is_looked_up_as_the_command_line_s() -> None:
    chosen = scenario("matrix: {heads: 2, head_dim: 8, seq_len: 16}\n", implementations=["numpi"])
    with pytest.raises(UsageError, match=r"^--impl numpi: 'numpi' is no implementation.*mean 'numpy'\?$"):
        chosen.expand(CATALOGUE)


def test_processes_and_threads() -> None:
    measure = Measure()
    assert (measure.processes_on("cpu"), measure.processes_on("cuda:1")) == (5, 1)
    assert Measure(processes=3).processes_on("cpu") == 3
    assert Measure(threads=2).threads_count() == 2
    assert 1 <= measure.threads_count() <= (os.cpu_count() or 1)
