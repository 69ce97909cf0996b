"""mha(cache=true): the same answers from fewer projections, never from yesterday's positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import registry
from attnbench.testing import assert_conforms
from module_cases import make_workload, placed, results, why_unsupported

MHA = registry.current().get("mha")


@pytest.mark.parametrize("core", ["naive", "sdpa", "chunked"])
@pytest.mark.parametrize(
    "axes",
    [
        {},
        {"batch_first": False, "kv_heads": 2},
        {"rotary": True, "qk_norm": True},
        {"bias": False, "need_weights": "per_head"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mask", ["none", "causal", "sliding_window(3)+padding(0.5)"])
def test_it_answers_as_without(core: str, axes: dict[str, Any], mask: str) -> None:
    workload = make_workload("mha", mask, q_len=3, kv_len=11, **axes)
    expected = results("mha", workload)
    cached = results("mha", workload, {"core": core, "cache": True})
    for name, value in cached.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9)


def test_appended_keys_stand_behind_the_cache() -> None:
    workload = make_workload("mha", "causal", q_len=2, kv_len=6, add_bias_kv=True, add_zero_attn=True)
    torch.testing.assert_close(
        results("mha", workload, {"cache": True})["o"], results("mha", workload)["o"], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("batch_first", [True, False])
def test_new_positions_are_read_at_every_call(batch_first: bool) -> None:
    workload = make_workload("mha", "causal", q_len=2, kv_len=7, batch_first=batch_first)
    inputs = placed("mha", workload)
    kernel = MHA.load(workload, {"core": "naive", "cache": True})
    afresh = MHA.load(workload, {"core": "naive", "cache": False})
    with torch.no_grad():
        kernel(inputs)
        inputs.query.neg_()  # a view of x
        others = placed("mha", workload)
        others.tensors["x"].copy_(inputs.tensors["x"])
        torch.testing.assert_close(kernel(inputs), afresh(others), rtol=0, atol=1e-9)


def test_only_the_new_positions_are_projected() -> None:
    workload = make_workload("mha", q_len=1, kv_len=64)
    counted = {}
    for cache in (False, True):
        inputs = placed("mha", workload)
        kernel = MHA.load(workload, {"core": "naive", "cache": cache})
        with torch.no_grad():
            kernel(inputs)
            with FlopCounterMode(display=False) as flops:
                kernel(inputs)
        counted[cache] = flops.get_total_flops()
    batch, width, keys = 2, 16, 64
    attention = 2 * 2 * batch * width * keys
    assert counted[True] == attention + 2 * batch * width * width * 4
    assert counted[False] == attention + 2 * batch * width * width * (2 + 2 * keys)


def test_filling_it_is_in_no_calls_time() -> None:
    workload = make_workload("mha", q_len=1, kv_len=512)
    inputs = placed("mha", workload)
    with torch.no_grad():
        MHA.load(workload, {"core": "naive", "cache": True})(inputs)
    built = inputs.build_s
    with torch.no_grad():
        MHA.load(workload, {"core": "naive", "cache": True})(inputs)
    assert 0 < built == inputs.build_s


def test_where_there_is_nothing_to_keep_it_is_refused() -> None:
    cached = {"cache": True}
    assert "no past" in str(why_unsupported("mha", make_workload("mha"), options=cached))
    cross = make_workload("mha", attention="cross", q_len=2, kv_len=6)
    assert "no past" in str(why_unsupported("mha", cross, options=cached))
    decoding: dict[str, Any] = {"q_len": 2, "kv_len": 6}
    gradient = make_workload("mha", pass_="backward", **decoding)
    assert "no graph" in str(why_unsupported("mha", gradient, options=cached))
    assert why_unsupported("mha", make_workload("mha", **decoding), options=cached) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_judged_as_any_other(dtype: str) -> None:
    """The verdict changes the new positions between calls: one who answers from memory is caught."""
    workload = make_workload("mha", "causal", dtype, q_len=1, kv_len=64)
    assert_conforms("mha", workload, options={"cache": True})
