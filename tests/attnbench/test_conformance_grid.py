"""The grid's promise, by brute force: every legal combination of values is in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.conformance.attention import AXES, MOST_WORK, PER_SCORE
from attnbench.conformance.covering import covering
from attnbench.conformance.grid import GRIDS, full_grid, pairwise_grid
from attnbench.masks import canonical, parse
from attnbench.workload import DISTRIBUTIONS, DTYPES, PASSES, SHAPES, Workload

NARROW = ("none", "causal")


def row(workload: Workload) -> tuple[Any, ...]:
    """A workload's value on each axis."""
    shape = workload.shape
    return (
        workload.mask,
        (shape.batch, shape.heads, shape.kv_heads),
        (shape.q_len, shape.kv_len),
        (shape.head_dim, shape.v_head_dim),
        workload.dtype,
        workload.pass_,
        workload.inputs,
    )


def is_legal(mask: str, heads: tuple[int, ...], lengths: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    documents = dict(parse(mask)).get("document", (0,))[0]
    scores = heads[0] * heads[1] * lengths[0] * lengths[1]
    return documents <= lengths[1] and scores * (PER_SCORE + sum(dims)) <= MOST_WORK


def occurring(
    rows: Sequence[tuple[Any, ...]], axes: Sequence[int], strength: int
) -> set[tuple[tuple[int, Any], ...]]:
    return {
        tuple((axis, each[axis]) for axis in chosen)
        for each in rows
        for chosen in combinations(axes, strength)
    }


def expected(values: Sequence[Sequence[Any]], strength: int) -> Iterator[tuple[tuple[int, Any], ...]]:
    """Every combination of values that some legal workload has: only the first four axes restrict another."""
    bound = [each for each in product(*values[:4]) if is_legal(*each)]
    for size in range(strength + 1):
        restricted = occurring(bound, range(4), size) if size else {()}
        for part in restricted:
            for free in combinations(range(4, len(values)), strength - size):
                for chosen in product(*(values[axis] for axis in free)):
                    yield (*part, *zip(free, chosen, strict=True))


def core() -> list[tuple[Any, ...]]:
    return [axis.core for axis in AXES]


def test_every_legal_pair_of_core_values_occurs() -> None:
    wanted = set(expected(core(), 2))
    assert len(wanted) > 800
    assert wanted <= occurring([row(each) for each in pairwise_grid()], range(7), 2)


def test_every_legal_triple_of_all_values_occurs() -> None:
    wanted = set(expected([axis.core + axis.more for axis in AXES], 3))
    assert len(wanted) > 10_000
    assert wanted <= occurring([row(each) for each in full_grid()], range(7), 3)


@pytest.mark.parametrize(("grid", "least", "most"), [(pairwise_grid, 90, 115), (full_grid, 2300, 2800)])
def test_grids_hold_legal_workloads_once_each(grid: Any, least: int, most: int) -> None:
    workloads = grid()
    assert least <= len(workloads) <= most
    assert len({workload.label for workload in workloads}) == len(workloads)
    for workload in workloads:
        assert is_legal(*row(workload)[:4])
        assert workload.mask == canonical(workload.mask)
        assert Workload.from_json(workload.to_json()) == workload


def test_the_full_grid_begins_with_the_pairwise_one() -> None:
    assert full_grid()[: len(pairwise_grid())] == pairwise_grid()


def test_the_axes_have_what_decides_over_right_and_wrong() -> None:
    masks, heads, lengths, dims, dtypes, passes, inputs = core()
    assert set(dtypes) == set(DTYPES)
    assert set(passes) == set(PASSES)
    assert set(inputs) == set(DISTRIBUTIONS)
    kinds = {name for mask in masks for name, _ in parse(mask)}
    assert kinds == {"causal", "sliding_window", "padding", "document"}
    # A group of its own for each: neither the head's number nor that modulo the key heads will do.
    assert any(1 < kv_heads < heads and heads // kv_heads != kv_heads for _, heads, kv_heads in heads)
    assert {(1, 1), (2, 2)} <= set(lengths)
    assert any(q_len == 1 < kv_len for q_len, kv_len in lengths)
    assert any(q_len > kv_len for q_len, kv_len in lengths)
    assert any(q_len > 256 for q_len, _ in lengths)
    assert {True, False} == {v_head_dim == head_dim for head_dim, v_head_dim in dims}


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype_is_seen_at_the_size_that_shows_one_per_cent(dtype: str) -> None:
    large = [each for each in pairwise_grid() if each.dtype == dtype and each.inputs == "normal"]
    assert any(each.shape.heads >= 8 and each.shape.head_dim >= 64 and each.mask == "none" for each in large)


def narrow(workload: Workload) -> bool:
    """A first kernel of somebody's own."""
    shape = workload.shape
    return (
        workload.mask in NARROW
        and workload.dtype in ("float32", "bfloat16")
        and workload.pass_ == "forward"
        and shape.heads == shape.kv_heads
        and shape.head_dim == shape.v_head_dim
    )


def test_what_a_kernel_supports_is_covered_pair_by_pair() -> None:
    default, completed = pairwise_grid(), pairwise_grid(narrow)
    assert completed[: len(default)] == default
    assert all(narrow(each) for each in completed[len(default) :])
    _, heads, lengths, dims, *_, inputs = core()
    values = [
        NARROW,
        [each for each in heads if each[1] == each[2]],
        lengths,
        [each for each in dims if each[0] == each[1]],
        ("float32", "bfloat16"),
        ("forward",),
        inputs,
    ]
    covered = occurring([row(each) for each in completed if narrow(each)], range(7), 2)
    assert set(expected(values, 2)) <= covered


def test_nothing_is_added_for_a_kernel_that_supports_all_or_nothing() -> None:
    for answer in (True, False):
        assert pairwise_grid(lambda workload, answer=answer: answer) == pairwise_grid()  # type: ignore[misc]  # binds it


def test_what_only_one_workload_in_many_satisfies_is_found() -> None:
    def picky(workload: Workload) -> bool:
        shape = workload.shape
        return (
            workload.mask == "causal"
            and workload.dtype == "bfloat16"
            and workload.pass_ == "forward"
            and shape.head_dim == shape.v_head_dim == 128
            and shape.q_len == shape.kv_len
            and shape.q_len % 64 == 0
            and shape.heads == shape.kv_heads
        )

    assert not any(map(picky, pairwise_grid()))
    found = [workload for workload in pairwise_grid(picky) if picky(workload)]
    assert {workload.inputs for workload in found} == set(DISTRIBUTIONS)
    assert len({workload.shape.heads for workload in found}) > 1


def test_the_grid_is_the_same_everywhere_and_needs_no_framework() -> None:
    program = (
        "import sys; from attnbench.conformance.grid import pairwise_grid; "
        "print(*(workload.label for workload in pairwise_grid())); "
        "assert not {'torch', 'pandas', 'scipy'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", program]
    hashing = {**os.environ, "PYTHONHASHSEED": "1"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=hashing)
    assert said.stdout.split() == [workload.label for workload in pairwise_grid()]


@st.composite
def legal_rows(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, ...]]]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=3, max_size=5))
    every = list(product(*map(range, sizes)))
    return sizes, draw(st.lists(st.sampled_from(every), min_size=1, unique=True))


@given(legal_rows(), st.integers(2, 3), st.integers(0, 2))
def test_covering_arrays_cover_what_is_legal_and_hold_nothing_else(
    drawn: tuple[list[int], list[tuple[int, ...]]], strength: int, given_rows: int
) -> None:
    sizes, legal = drawn
    first = legal[:given_rows]

    def is_part(part: Any) -> bool:
        return any(all(each[axis] == value for axis, value in part.items()) for each in legal)

    rows = covering(sizes, strength, is_part, first)
    assert rows[: len(first)] == first
    assert set(rows) <= set(legal)
    assert occurring(rows, range(len(sizes)), strength) == occurring(legal, range(len(sizes)), strength)
    assert len(rows) <= len(legal)


MODULES = sorted(set(GRIDS) - {"attention"})


def shape_axes(workload: Workload) -> dict[str, Any]:
    """What a workload says of each axis that it could have been given."""
    conditions = {"mask": workload.mask, "dtype": workload.dtype, "pass": workload.pass_}
    return {**workload.shape.to_json(), **conditions, "inputs": workload.inputs}


@pytest.mark.parametrize("operation", MODULES)
def test_the_grid_of_a_module_has_every_value_of_every_axis(operation: str) -> None:
    workloads = pairwise_grid(operation=operation)
    assert len({each.label for each in workloads}) == len(workloads)
    axes = SHAPES[operation].AXES
    seen = {axis: {shape_axes(each)[axis] for each in workloads} for axis in shape_axes(workloads[0])}
    assert seen["dtype"] == set(DTYPES)
    assert seen["pass"] == set(PASSES)
    assert seen["inputs"] == set(DISTRIBUTIONS)
    for name, axis in axes.items():
        if axis.kind == "switch":
            assert seen[name] == {True, False}, name
        elif axis.kind == "choice":
            assert seen[name] == set(axis.choices), name
        elif axis.kind == "mask":
            assert len(seen[name]) > 1, name
    if "mask" in seen and operation != "positional_encoding":
        assert {name for mask in seen["mask"] for name, _ in parse(mask)} >= {"causal", "padding", "document"}


@pytest.mark.parametrize("operation", MODULES)
def test_every_legal_pair_of_values_of_a_modules_axes_occurs(operation: str) -> None:
    grid = GRIDS[operation]
    values = [axis.core for axis in grid.axes]
    made = [grid.workload(row) for row in grid._pairwise_rows]
    assert made == pairwise_grid(operation=operation)
    found = occurring(grid._pairwise_rows, range(len(values)), 2)
    for one, other in combinations(range(len(values)), 2):
        for a, b in product(values[one], values[other]):
            legal = grid.legal({grid.axes[one].name: a, grid.axes[other].name: b})
            assert (((one, a), (other, b)) in found) == legal
