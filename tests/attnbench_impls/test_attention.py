"""Every built-in attention, over dtypes, masks, shapes and passes, against the reference."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch

import attnbench_impls
from attnbench.bench.accuracy import assess
from attnbench.bench.kernel import load_case, why_unsupported
from attnbench.bench.poison import poisoned
from attnbench.implementation import declared_in
from attnbench.inputs import InputPool
from attnbench.masks import Mask
from attnbench.workload import DTYPES, AttentionShape, Workload
from attnbench_impls.chunked import key_blocks

IMPLEMENTATIONS = {each.name: each for each in declared_in(vars(attnbench_impls))}
OPTIONS = {"chunked": {"block": 16}}

SHAPES = {
    "equal": AttentionShape(2, 2, 2, 33, 33, 16),
    "grouped": AttentionShape(1, 4, 2, 20, 50, 8),
    "multi-query": AttentionShape(1, 3, 1, 7, 7, 5),
    "decoding": AttentionShape(2, 4, 2, 1, 40, 16),
    "blind queries": AttentionShape(1, 2, 1, 40, 18, 8),
    "smallest": AttentionShape(1, 1, 1, 1, 1, 1),
}


def test_all_are_declared():
    sdpa = {"sdpa", "sdpa_math", "sdpa_flash", "sdpa_efficient", "sdpa_cudnn"}
    assert set(IMPLEMENTATIONS) == {"naive", "chunked", "numpy", *sdpa}
    assert {each.operation for each in IMPLEMENTATIONS.values()} == {"attention"}


def test_importing_them_imports_no_framework():
    program = "import attnbench_impls, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", ["none", "causal"])
@pytest.mark.parametrize(
    "name", [name for name, each in IMPLEMENTATIONS.items() if not each.available("cpu")]
)
def test_right_in_every_dtype_and_pass(name, mask, shape):
    pool, options = InputPool(), OPTIONS.get(name, {})
    for dtype, pass_ in product(DTYPES, ("forward", "forward_backward")):
        workload = Workload("attention", SHAPES[shape], mask=mask, dtype=dtype, pass_=pass_)
        if why_unsupported(IMPLEMENTATIONS[name], options, workload, "cpu"):
            assert name == "numpy"
            assert dtype == "bfloat16" or pass_ == "forward_backward"
            continue
        case = load_case(IMPLEMENTATIONS[name], options, workload, "cpu", 0, pool)
        reply = assess(case)
        assert reply["accuracy"] == "pass", f"{workload.label}: {reply['reason']}"
        with poisoned():
            assert assess(case)["accuracy"] == "pass"


@pytest.mark.parametrize("name", ["chunked", "naive", "sdpa"])
def test_beyond_the_sampled_rows(name):
    shape = AttentionShape(1, 2, 1, 600, 600, 8)
    workload = Workload("attention", shape, mask="causal", pass_="forward_backward")
    case = load_case(IMPLEMENTATIONS[name], OPTIONS.get(name, {}), workload, "cpu", 0)
    assert assess(case)["accuracy"] == "pass"


@pytest.mark.parametrize("block", [0, -1, True, 2.5, "all"])
def test_chunked_wants_a_whole_block(block):
    workload = Workload("attention", SHAPES["equal"])
    assert "at least 1" in why_unsupported(IMPLEMENTATIONS["chunked"], {"block": block}, workload, "cpu")


@pytest.mark.parametrize(("q_len", "kv_len"), [(8, 8), (3, 10), (10, 3), (1, 7)])
@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_blocks_cover_what_is_seen_and_skip_what_is_not(q_len, kv_len, size):
    mask = Mask("causal", 1, q_len, kv_len, framework="numpy")
    allowed = mask.to_bool()[0, 0]
    covered = np.zeros_like(allowed)
    for block in key_blocks(mask, size):
        covered[block.queries, block.keys] = True
        part = allowed[block.queries, block.keys]
        assert part.any(axis=1).all()
        whole = np.ones(len(part), bool)
        if block.partial is not None:
            whole[block.partial] = False
        assert part[whole].all()
    assert covered[allowed].all()


@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_chunked_never_holds_all_scores(pass_):
    workload = Workload("attention", AttentionShape(1, 2, 2, 512, 512, 8), pass_=pass_)
    sizes = {}
    for name in ("chunked", "naive"):
        case = load_case(IMPLEMENTATIONS[name], OPTIONS.get(name, {}), workload, "cpu", 0)
        call = case.prepare_call()
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            call()
        sizes[name] = max(event.cpu_memory_usage for event in profile.function_events)
    scores_bytes = 2 * 512 * 512 * 4
    assert sizes["naive"] >= scores_bytes
    assert sizes["chunked"] < scores_bytes / 4
