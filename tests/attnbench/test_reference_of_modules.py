"""The textbook of modules against torch's own, in float64, and against the papers' definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnbench import reference
from attnbench.bench.kernel import load_case
from attnbench.inputs import draw
from attnbench.reference import answer, modules, yardstick
from attnbench.reference.steps import Steps
from attnbench.workload import SHAPES, Workload
from plugins.modules import EncoderLayer, Mha, by_torch, implementation

CLOSE = 1e-12


def workload(operation, *, mask="none", dtype="float64", pass_="forward_backward", inputs="normal", **axes):
    return Workload(operation, SHAPES[operation].from_axes(axes), mask, dtype, pass_, inputs)


def exact(asked, seed=1):
    return modules.run(draw(asked, seed), torch.float64, Steps())


def computed(kernel, asked, seed=1):
    case = load_case(implementation(asked.operation, kernel), {}, asked, "cpu", seed)
    return case.results(case.prepare_call())


def furthest(found, expected):
    assert found.keys() == expected.keys()
    return max(float((each - expected[name]).abs().max()) for name, each in found.items())


@st.composite
def workloads(draw_from):
    """Whatever torch's modules can compute, with every query seeing a key."""
    flag = st.booleans()
    operation = draw_from(st.sampled_from(list(SHAPES)[1:]))
    q_len, kv_len = sorted((draw_from(st.integers(1, 6)), draw_from(st.integers(1, 6))))
    axes = {"batch": draw_from(st.integers(1, 2)), "embed_dim": 12, "batch_first": draw_from(flag)}
    masks = st.sampled_from(["none", "causal", "sliding_window(1)", "padding(0.5)", "causal+padding(0.5)"])
    if operation == "positional_encoding":
        return workload(operation, seq_len=kv_len, **{**axes, "embed_dim": draw_from(st.integers(1, 5))})
    axes |= {"heads": draw_from(st.sampled_from([1, 2, 3])), "bias": draw_from(flag)}
    if operation == "mha":
        axes |= {
            "q_len": q_len,
            "kv_len": kv_len,
            "need_weights": draw_from(st.sampled_from(["none", "averaged", "per_head"])),
            "add_bias_kv": draw_from(flag),
            "add_zero_attn": draw_from(flag),
        }
        if draw_from(flag):
            axes |= {"attention": "cross", "kdim": draw_from(st.sampled_from([5, 12])), "vdim": 7}
        return workload(operation, mask=draw_from(masks), **axes)
    axes |= {"ff_dim": 8, "norm_first": draw_from(flag)}
    if operation == "encoder_layer":
        return workload(operation, mask=draw_from(masks), seq_len=kv_len, **axes)
    axes |= {"q_len": q_len, "kv_len": kv_len, "memory_mask": draw_from(masks)}
    if operation == "transformer":
        axes |= {"layers": draw_from(st.integers(1, 2)), "src_mask": draw_from(masks)}
    return workload(operation, mask=draw_from(masks), **axes)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@settings(max_examples=60)
@given(asked=workloads())
def test_it_is_what_torch_computes(asked):
    assert furthest(exact(asked), computed(by_torch, asked)) < CLOSE


MORE = {"batch": 2, "embed_dim": 16, "heads": 4}


@pytest.mark.parametrize(
    "axes",
    [
        {"kv_heads": 2, "seq_len": 5},
        {"rotary": True, "q_len": 2, "kv_len": 5},
        {"qk_norm": True, "kv_heads": 1, "seq_len": 5},
        {"rotary": True, "qk_norm": True, "seq_len": 5},
        {"q_len": 2, "kv_len": 5, "mask": "causal", "need_weights": "averaged"},
    ],
    ids=str,
)
def test_what_torch_has_not_is_as_defined(axes):
    """Against a second text, in which rotations are products of complex numbers."""
    asked = workload("mha", **MORE, **axes)
    assert furthest(exact(asked), computed(Mha(), asked)) < CLOSE


def test_grouped_heads_in_a_layer_are_as_defined():
    asked = workload("encoder_layer", mask="causal", kv_heads=2, seq_len=5, **MORE)
    assert furthest(exact(asked), computed(EncoderLayer(), asked)) < CLOSE


def test_one_query_and_key_by_hand():
    """One head, one position: the weights are 1, so o = W_o·(W_v·x + b_v) + b_o."""
    drawn = draw(workload("mha", embed_dim=3, heads=1, seq_len=1, pass_="forward"), 0)
    x, p = drawn.tensors["x"][0, 0], drawn.parameters
    v = p["in_proj_weight"][6:] @ x + p["in_proj_bias"][6:]
    o = p["out_proj.weight"] @ v + p["out_proj.bias"]
    assert torch.allclose(answer(drawn).results["o"][0, 0], o, rtol=1e-14, atol=1e-14)


def test_a_query_that_sees_no_key_attends_to_nothing():
    """More queries than keys: the first ones stand before every key."""
    asked = workload(
        "mha",
        attention="cross",
        mask="causal",
        q_len=5,
        kv_len=2,
        need_weights="per_head",
        **{**MORE, "embed_dim": 8},
    )
    found, drawn = exact(asked), draw(asked, 1)
    assert torch.equal(found["o"][:, :3], drawn.parameters["out_proj.bias"].expand(2, 3, 8))
    assert int(found["weights"][:, :, :3].count_nonzero()) == 0
    assert int(found["dquery"][:, :3].count_nonzero()) == 0
    assert all(bool(each.isfinite().all()) for each in found.values())


def test_the_sinusoidal_encoding_is_the_paper_s():
    drawn = draw(workload("positional_encoding", embed_dim=5, seq_len=40, pass_="forward"), 0)
    table = (answer(drawn).results["o"] - drawn.tensors["x"])[0]
    for position in (0, 1, 39):
        for feature in range(5):
            angle = position / 10000 ** (2 * (feature // 2) / 5)
            expected = math.cos(angle) if feature % 2 else math.sin(angle)
            assert float(table[position, feature]) == pytest.approx(expected, abs=1e-13)


def test_pieces_of_rows_change_nothing(monkeypatch):
    asked = workload("mha", mask="causal", seq_len=7, need_weights="per_head", **MORE)
    whole = exact(asked)
    monkeypatch.setattr(reference.mha, "PIECE_ELEMENTS", 14)
    assert furthest(exact(asked), whole) < CLOSE


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_answers_have_what_the_pass_computes(dtype):
    for pass_ in ("forward", "backward", "forward_backward"):
        asked = workload("encoder_layer", dtype=dtype, pass_=pass_, seq_len=6, **MORE)
        found, textbook = answer(draw(asked, 0)), yardstick(draw(asked, 0))
        assert found.rows is None
        sizes = {name: tuple(each.shape) for name, each in found.results.items()}
        assert sizes == asked.results()
        for name, expected in found.results.items():
            assert expected.dtype == torch.float64
            assert textbook[name].dtype == getattr(torch, dtype)
            assert found.spreads[name].shape == textbook[name].shape == expected.shape
            assert bool((found.spreads[name] > 0).all()), name
            eps = torch.finfo(getattr(torch, dtype)).eps
            off = float((textbook[name].double() - expected).norm() / found.spreads[name].norm())
            assert off < 2 * eps, name  # spreads are for an eps of 1
            if name == "o" and asked.itemsize == 2:  # gradients allow for ReLUs that rounding decides
                assert off > eps / 50, name


def test_spreads_are_the_same_every_time():
    asked = workload("encoder_layer", dtype="float32", seq_len=6, **MORE)
    first, second = (answer(draw(asked, 0)).spreads for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_zero_in_theory_has_a_spread_of_its_own():
    """Softmax does not see what a bias of the keys adds to all scores of a query."""
    found = answer(draw(workload("mha", dtype="float32", seq_len=9, **MORE), 0))
    of_keys = found.results["din_proj_bias"][16:32]
    spread = found.spreads["din_proj_bias"]
    assert float(of_keys.abs().max()) < 1e-12
    assert float(spread[16:32].min()) > 0.01 * float(spread.max())


def test_a_column_that_no_draw_has_moved_may_still_be_moved_a_little():
    squares = torch.ones(4, 3)
    squares[:, 1] = 0
    smoothed = modules._smoothed(squares)
    assert (smoothed[:, 1] > 0).all()
    assert (smoothed[:, 1] < smoothed[:, 0] / 10).all()
    assert torch.equal(modules._smoothed(torch.zeros(4, 3)), torch.zeros(4, 3))
