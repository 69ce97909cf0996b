"""Swap the class name, load the state dict: outputs, weights and gradients are torch's, float64, to 1e-9."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attnbench_impls import DecoderLayer, EncoderLayer, MultiHeadAttention, Transformer

SAME: dict[type[nn.Module], type[nn.Module]] = {
    MultiHeadAttention: nn.MultiheadAttention,
    EncoderLayer: nn.TransformerEncoderLayer,
    DecoderLayer: nn.TransformerDecoderLayer,
    Transformer: nn.Transformer,
}

Draw = Callable[[st.SearchStrategy[Any]], Any]

some_bool = st.booleans()


def twins(ours: type[nn.Module], **arguments: Any) -> tuple[nn.Module, nn.Module]:
    """Ours and torch's, with the same weights, none of them zero."""
    mine, theirs = ours(**arguments), SAME[ours](**arguments)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.7)
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def assert_the_same(
    mine: nn.Module, theirs: nn.Module, tensors: tuple[Tensor, ...], arguments: Mapping[str, Any]
) -> None:
    """Both results, and the gradients of all of `tensors` (which may be one twice) and all parameters."""
    found, expected = mine(*tensors, **arguments), theirs(*tensors, **arguments)
    found, expected = (each if isinstance(each, tuple) else (each, None) for each in (found, expected))
    grads = []
    for module, results in ((mine, found), (theirs, expected)):
        given = [each for each in results if each is not None]
        torch.manual_seed(5)
        wanted = [*{id(each): each for each in tensors}.values(), *module.parameters()]
        grads.append(
            torch.autograd.grad(given, wanted, [torch.randn(each.shape, dtype=each.dtype) for each in given])
        )
    for one, other in zip((*found, *grads[0]), (*expected, *grads[1]), strict=True):
        if other is None:
            assert one is None
        else:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def hides(draw: Draw, size: tuple[int, ...], kind: str) -> Tensor | None:
    """A mask in which every query sees the first key: torch makes NaN of those that see none."""
    if kind == "none":
        return None
    hidden = torch.rand(size) < draw(st.sampled_from([0.0, 0.4, 1.0]))
    hidden[..., 0] = False
    if kind == "bool":
        return hidden
    bias = torch.randn(size, dtype=torch.float64)
    return bias.masked_fill(hidden, -math.inf)


@pytest.mark.parametrize(("ours", "theirs"), SAME.items(), ids=lambda each: each.__name__)
@pytest.mark.parametrize("method", ["__init__", "forward"])
def test_arguments_are_torchs_and_keyword_only_ones(
    ours: type[nn.Module], theirs: type[nn.Module], method: str
) -> None:
    mine = inspect.signature(getattr(ours, method)).parameters
    expected = inspect.signature(getattr(theirs, method)).parameters
    assert list(mine)[: len(expected)] == list(expected)
    for name, parameter in expected.items():
        assert mine[name].default == parameter.default, name
    assert all(mine[name].kind is inspect.Parameter.KEYWORD_ONLY for name in mine.keys() - expected.keys())


@pytest.mark.parametrize(
    ("ours", "arguments"),
    [
        (MultiHeadAttention, {"embed_dim": 8, "num_heads": 2}),
        (MultiHeadAttention, {"embed_dim": 8, "num_heads": 2, "bias": False, "add_bias_kv": True}),
        (MultiHeadAttention, {"embed_dim": 8, "num_heads": 4, "kdim": 3, "vdim": 5}),
        (EncoderLayer, {"d_model": 8, "nhead": 2, "dim_feedforward": 16}),
        (DecoderLayer, {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "bias": False}),
        (Transformer, {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "num_decoder_layers": 2}),
    ],
)
def test_the_same_random_numbers_make_the_same_parameters(
    ours: type[nn.Module], arguments: dict[str, Any]
) -> None:
    states = []
    for kind in (ours, SAME[ours]):
        torch.manual_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about its own fast path
            states.append(kind(**arguments).state_dict())
    assert list(states[0]) == list(states[1])
    for name, parameter in states[0].items():
        assert torch.equal(parameter, states[1][name]), name


@settings(max_examples=200)
@given(st.data())
def test_attention(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 1000)))
    heads, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    embed_dim = heads * head_dim
    kind = draw(st.sampled_from(["self", "cross", "apart", "kdim"]))
    arguments = {name: draw(some_bool) for name in ("bias", "add_bias_kv", "add_zero_attn", "batch_first")}
    kdim, vdim = (draw(st.integers(1, 4)) if kind == "kdim" else embed_dim for _ in range(2))
    mine, theirs = twins(
        MultiHeadAttention,
        embed_dim=embed_dim,
        num_heads=heads,
        kdim=kdim if kind == "kdim" else None,
        vdim=vdim if kind == "kdim" else None,
        dtype=torch.float64,
        **arguments,
    )

    batch = draw(st.sampled_from([None, 1, 2, 3]))
    q_len = draw(st.integers(1, 5))
    kv_len = q_len if kind == "self" else draw(st.integers(1, 5))

    def sequence(length: int, features: int) -> Tensor:
        size = (
            (length,) if batch is None else (batch, length) if arguments["batch_first"] else (length, batch)
        )
        return torch.randn(*size, features, dtype=torch.float64, requires_grad=True)

    query = sequence(q_len, embed_dim)
    key = query if kind == "self" else sequence(kv_len, kdim)
    value = key if kind in ("self", "cross") else sequence(kv_len, vdim)

    masks = st.sampled_from(["none", "bool", "float"])
    causal = (
        q_len == kv_len and not (arguments["add_bias_kv"] or arguments["add_zero_attn"]) and draw(some_bool)
    )
    one = (q_len, kv_len)
    size = one if draw(some_bool) else ((batch or 1) * heads, *one)
    attn_mask = hides(draw, size, draw(masks))
    if causal:
        attn_mask = nn.Transformer.generate_square_subsequent_mask(q_len, dtype=torch.float64)
    options = {
        "attn_mask": attn_mask,
        "key_padding_mask": hides(draw, (kv_len,) if batch is None else (batch, kv_len), draw(masks)),
        "need_weights": draw(some_bool),
        "average_attn_weights": draw(some_bool),
        "is_causal": causal,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about masks of two kinds
        assert_the_same(mine, theirs, (query, key, value), options)


@pytest.mark.parametrize(("batch", "q_len", "kv_len"), [(0, 2, 3), (2, 0, 3), (2, 3, 0)])
def test_nothing_at_all(batch: int, q_len: int, kv_len: int) -> None:
    mine, theirs = twins(MultiHeadAttention, embed_dim=4, num_heads=2, dtype=torch.float64)
    query, key = (torch.ones(n, batch, 4, dtype=torch.float64, requires_grad=True) for n in (q_len, kv_len))
    assert_the_same(mine, theirs, (query, key, key), {"need_weights": True})


def test_a_mask_can_be_learned() -> None:
    mine, theirs = twins(MultiHeadAttention, embed_dim=4, num_heads=2, dtype=torch.float64)
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    bias = torch.randn(3, 3, dtype=torch.float64)
    bias[0, 2] = -math.inf
    bias.requires_grad_()
    grads = [
        torch.autograd.grad(each(x, x, x, attn_mask=bias)[0].square().sum(), bias)[0]
        for each in (mine, theirs)
    ]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


def layer_arguments(draw: Draw) -> dict[str, Any]:
    heads = draw(st.integers(1, 3))
    return {
        "d_model": heads * draw(st.integers(1, 3)),
        "nhead": heads,
        "dim_feedforward": draw(st.integers(1, 5)),
        "dropout": 0.0,
        "activation": draw(st.sampled_from(["relu", "gelu", torch.tanh])),
        "layer_norm_eps": draw(st.sampled_from([1e-5, 1e-2])),
        "norm_first": draw(some_bool),
        "bias": draw(some_bool),
        "batch_first": draw(some_bool),
        "dtype": torch.float64,
    }


def sequences(draw: Draw, arguments: Mapping[str, Any], *lengths: int) -> tuple[int | None, list[Tensor]]:
    batch = draw(st.sampled_from([None, 1, 2]))
    made = []
    for length in lengths:
        size = (batch, length) if arguments["batch_first"] else (length, batch)
        size = (length,) if batch is None else size
        made.append(
            torch.randn(*size, arguments["d_model"], dtype=torch.float64).requires_grad_()  # type: ignore[arg-type]  # no None is left
        )
    return batch, made


def layer_mask(draw: Draw, batch: int | None, heads: int, q_len: int, kv_len: int) -> Tensor | None:
    one = (q_len, kv_len)
    size = one if draw(some_bool) else ((batch or 1) * heads, *one)
    return hides(draw, size, draw(st.sampled_from(["none", "bool", "float"])))


def padding(draw: Draw, batch: int | None, length: int) -> Tensor | None:
    size = (length,) if batch is None else (batch, length)
    return hides(draw, size, draw(st.sampled_from(["none", "bool", "float"])))


@settings(max_examples=60)
@given(st.data())
def test_encoder_layer(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 1000)))
    arguments, length = layer_arguments(draw), draw(st.integers(1, 4))
    mine, theirs = twins(EncoderLayer, **arguments)
    batch, (src,) = sequences(draw, arguments, length)
    options = {
        "src_mask": layer_mask(draw, batch, arguments["nhead"], length, length),
        "src_key_padding_mask": padding(draw, batch, length),
    }
    if draw(some_bool):
        causal = nn.Transformer.generate_square_subsequent_mask(length, dtype=torch.float64)
        options |= {"src_mask": causal, "is_causal": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about masks of two kinds
        assert_the_same(mine, theirs, (src,), options)


@settings(max_examples=60)
@given(st.data())
def test_decoder_layer(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 1000)))
    arguments = layer_arguments(draw)
    heads = arguments["nhead"]
    q_len, kv_len = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    mine, theirs = twins(DecoderLayer, **arguments)
    batch, tensors = sequences(draw, arguments, q_len, kv_len)
    options = {
        "tgt_mask": layer_mask(draw, batch, heads, q_len, q_len),
        "memory_mask": layer_mask(draw, batch, heads, q_len, kv_len),
        "tgt_key_padding_mask": padding(draw, batch, q_len),
        "memory_key_padding_mask": padding(draw, batch, kv_len),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about masks of two kinds
        assert_the_same(mine, theirs, tuple(tensors), options)


@settings(max_examples=30)
@given(st.data())
def test_transformer(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 1000)))
    arguments = layer_arguments(draw)
    heads, counts = arguments["nhead"], [draw(st.integers(1, 2)) for _ in range(2)]
    src_len, tgt_len = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own fast path
        mine, theirs = twins(
            Transformer, num_encoder_layers=counts[0], num_decoder_layers=counts[1], **arguments
        )
        batch, tensors = sequences(draw, arguments, src_len, tgt_len)
        options = {
            "src_mask": layer_mask(draw, batch, heads, src_len, src_len),
            "tgt_mask": draw(
                st.sampled_from(
                    [None, Transformer.generate_square_subsequent_mask(tgt_len, dtype=torch.float64)]
                )
            ),
            "memory_mask": layer_mask(draw, batch, heads, tgt_len, src_len),
            "src_key_padding_mask": padding(draw, batch, src_len),
            "tgt_key_padding_mask": padding(draw, batch, tgt_len),
            "memory_key_padding_mask": padding(draw, batch, src_len),
        }
        assert_the_same(mine, theirs, tuple(tensors), options)


def test_a_custom_encoder_takes_the_encoders_place() -> None:
    class Twice(nn.Module):
        def forward(self, src: Tensor, mask: Any, src_key_padding_mask: Any, is_causal: Any) -> Tensor:
            return 2 * src

    given_modules = {"custom_encoder": Twice(), "num_decoder_layers": 1, "dropout": 0.0}
    mine, theirs = twins(Transformer, d_model=4, nhead=2, dtype=torch.float64, **given_modules)
    src, tgt = (torch.randn(n, 2, 4, dtype=torch.float64, requires_grad=True) for n in (3, 2))
    assert_the_same(mine, theirs, (src, tgt), {})
    assert list(mine.state_dict()) == list(theirs.state_dict())


def test_torch_loads_what_ours_saved() -> None:
    mine, theirs = Transformer(8, 2, 1, 1, 16), nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    theirs.load_state_dict(mine.state_dict())
    for name, parameter in mine.named_parameters():
        assert torch.equal(parameter, theirs.get_parameter(name))


def test_our_layer_fits_into_torchs_encoder() -> None:
    layer = EncoderLayer(8, 2, 16, 0.0, batch_first=True)
    stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(stack(x), layer(layer(x)))


@pytest.mark.parametrize("extras", [{}, {"rotary": True}], ids=["plain", "rotary"])
def test_our_attention_fits_into_torchs_layer(extras: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True).eval()
    mine = EncoderLayer(8, 2, 16, 0.0, batch_first=True, **extras).eval()
    mine.load_state_dict(theirs.state_dict())
    theirs.self_attn = mine.self_attn
    stack = nn.TransformerEncoder(theirs, 2, enable_nested_tensor=False).eval()
    x = torch.randn(2, 3, 8)
    with torch.no_grad():  # where torch's layer would take its fast path, past our attention
        torch.testing.assert_close(theirs(x), mine(x))
        torch.testing.assert_close(stack(x), mine(mine(x)))


@pytest.mark.parametrize("core", ["naive", "sdpa"])
def test_half_precision_is_near(core: str) -> None:
    torch.manual_seed(0)
    mine = MultiHeadAttention(16, 4, batch_first=True, dtype=torch.bfloat16, core=core)
    wide = MultiHeadAttention(16, 4, batch_first=True)
    wide.load_state_dict(mine.state_dict())
    x = torch.randn(2, 6, 16).bfloat16()
    found, _ = mine(x, x, x, need_weights=False)
    assert found.dtype == torch.bfloat16
    expected, _ = wide(x.float(), x.float(), x.float())
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.02)
