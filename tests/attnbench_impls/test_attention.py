"""Every built-in attention is right, over the grid that `attnbench conformance` checks anybody's by."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import attnbench_impls
from attnbench.conformance.grid import pairwise_grid
from attnbench.implementation import Implementation, declared_in
from attnbench.testing import NotRun, assert_conforms, supported_grid
from attnbench.workload import Workload

#: Compiling takes seconds a case: flex has tests of its own.
COMPILED = ("flex",)

IMPLEMENTATIONS = {
    each.name: each for each in declared_in(vars(attnbench_impls)) if each.operation == "attention"
}
HERE = {
    name: each
    for name, each in IMPLEMENTATIONS.items()
    if name not in COMPILED and each.available("cpu") is None
}

#: Those that support every workload that there is.
COMPLETE = {"naive", "chunked", "sdpa", "sdpa_math"}


def settings_of(implementation: Implementation) -> list[dict[str, Any]]:
    """The options to check: the defaults and, of what goes block by block, blocks that every mask cuts."""
    small = {name: 16 for name in implementation.options if name.endswith("block")}
    return [{}, small] if small else [{}]


def test_all_are_declared() -> None:
    sdpa = {"sdpa", "sdpa_math", "sdpa_flash", "sdpa_efficient", "sdpa_cudnn"}
    assert set(IMPLEMENTATIONS) >= {"naive", "chunked", "flex", "numpy", *sdpa}
    assert set(HERE) >= COMPLETE | {"numpy", "sdpa_flash"}


def test_importing_them_imports_no_framework() -> None:
    program = "import attnbench_impls, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("workload", pairwise_grid(), ids=lambda workload: workload.label)
def test_all_that_support_it_are_right(workload: Workload) -> None:
    """One test a workload, so that its reference is computed once."""
    problems = []
    for name, implementation in HERE.items():
        for options in settings_of(implementation):
            try:
                assert_conforms(implementation, workload, options=options)
            except NotRun as refusal:
                problems += [f"{name}: {refusal}"] if name in COMPLETE else []
            except Exception as error:  # of one implementation, which is not to hide the others'
                problems.append(f"{name} {options}: {type(error).__name__}: {error}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", HERE)
def test_each_is_right_on_all_that_it_supports(name: str) -> None:
    """What the grid is completed by for an implementation that supports only a part of it."""
    grid = supported_grid(HERE[name])
    assert len(grid) > 50
    everyones = pairwise_grid()
    for workload in grid:
        if workload not in everyones:
            assert_conforms(HERE[name], workload)
