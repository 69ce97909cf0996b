"""Grouped queries, rotary positions, normalised queries and keys, and the cache."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench import Mask
from attnbench_impls import DecoderLayer, KVCache, MultiHeadAttention
from attnbench_impls.modules.norms import RMSNorm
from attnbench_impls.modules.rotary import RotaryPositions


def made(**arguments: Any) -> MultiHeadAttention:
    torch.manual_seed(0)
    arguments = {"embed_dim": 16, "num_heads": 4, "batch_first": True, "dtype": torch.float64} | arguments
    return MultiHeadAttention(**arguments).eval()


def test_grouped_queries_are_key_heads_that_are_repeated() -> None:
    grouped, whole = made(kv_heads=2), made()
    assert grouped.k_proj_weight.shape == grouped.v_proj_weight.shape == (8, 16)
    assert grouped.in_proj_bias.shape == (32,)
    assert grouped.in_proj_weight is None
    torch.nn.init.normal_(grouped.in_proj_bias)

    def repeated(rows: Tensor) -> Tensor:
        return rows.view(2, 4, -1).repeat_interleave(2, 0).reshape(16, -1)

    state = grouped.state_dict()
    q_bias, k_bias, v_bias = state["in_proj_bias"].split((16, 8, 8))
    packed = [state["q_proj_weight"], repeated(state["k_proj_weight"]), repeated(state["v_proj_weight"])]
    biases = [q_bias, repeated(k_bias).flatten(), repeated(v_bias).flatten()]
    whole.load_state_dict(
        {
            "in_proj_weight": torch.cat(packed),
            "in_proj_bias": torch.cat(biases),
            "out_proj.weight": state["out_proj.weight"],
            "out_proj.bias": state["out_proj.bias"],
        }
    )
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(grouped(x, x, x), whole(x, x, x), rtol=1e-12, atol=1e-12)


def test_parameters_of_all_extras_have_their_names() -> None:
    module = made(kv_heads=1, qk_norm=True, add_bias_kv=True, rotary=True)
    assert {name: tuple(parameter.shape) for name, parameter in module.state_dict().items()} == {
        "q_proj_weight": (16, 16),
        "k_proj_weight": (4, 16),
        "v_proj_weight": (4, 16),
        "in_proj_bias": (24,),
        "bias_k": (1, 1, 4),
        "bias_v": (1, 1, 4),
        "out_proj.weight": (16, 16),
        "out_proj.bias": (16,),
        "q_norm.scale": (4,),
        "k_norm.scale": (4,),
    }


def test_rotary_turns_each_pair_by_its_angle() -> None:
    x = torch.randn(1, 1, 7, 6, dtype=torch.float64)
    turned = RotaryPositions(6, 100.0).turn(x, first=3)
    pairs = torch.view_as_complex(x.view(1, 1, 7, 3, 2))
    angles = torch.tensor([[p * 100.0 ** (-2 * i / 6) for i in range(3)] for p in range(3, 10)]).double()
    expected = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    torch.testing.assert_close(turned, expected, rtol=1e-6, atol=1e-6)


def test_rotary_scores_depend_on_distances_alone() -> None:
    rotary = RotaryPositions(8, 10_000.0)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    near, far = (rotary.turn(q, p + 5) @ rotary.turn(k, p).mT for p in (0, 77))
    torch.testing.assert_close(near, far, rtol=1e-12, atol=1e-12)


def test_rotary_of_halves_is_computed_in_float32() -> None:
    x = torch.randn(1, 1, 300, 8).bfloat16()
    rotary = RotaryPositions(8, 10_000.0)
    assert torch.equal(rotary.turn(x, 0), rotary.turn(x.float(), 0).bfloat16())


def test_tables_made_in_inference_mode_serve_in_training() -> None:
    module = made(rotary=True)
    x = torch.randn(1, 3, 16, dtype=torch.float64)
    with torch.inference_mode():
        module(x, x, x)
    module(x, x, x)[0].sum().backward()


def test_rms_norm_is_torchs() -> None:
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    norm, theirs = RMSNorm(8, dtype=torch.float64), torch.nn.RMSNorm(8, eps=1e-6, dtype=torch.float64)
    torch.nn.init.normal_(norm.scale)
    theirs.load_state_dict({"weight": norm.scale.detach()})
    torch.testing.assert_close(norm(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_norms_come_after_the_turn() -> None:
    module = made(rotary=True, qk_norm=True, num_heads=1)
    with torch.no_grad():
        module.q_norm.scale.copy_(torch.rand(16))  # with equal scales the order would not matter
    x = torch.randn(1, 2, 16, dtype=torch.float64)
    q, k, _ = torch.nn.functional.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    q, k = (module._rotary.turn(each[None], 0) for each in (q, k))
    q, k = module.q_norm(q), module.k_norm(k)
    expected = torch.softmax(q @ k.mT / math.sqrt(16), -1)[0]
    torch.testing.assert_close(module(x, x, x)[1], expected)


@pytest.mark.parametrize("core", ["naive", "chunked(block=2)", "sdpa"])
@pytest.mark.parametrize(
    "extras",
    [
        {},
        {"kv_heads": 2, "rotary": True, "qk_norm": True},
        {"rotary": 500.0, "add_bias_kv": True, "add_zero_attn": True, "batch_first": False},
    ],
    ids=["plain", "grouped, rotary, normalised", "rotary, columns, sequence first"],
)
@pytest.mark.parametrize("chunk", [1, 3])
def test_decoding_step_by_step_equals_one_causal_pass(core: str, extras: dict[str, Any], chunk: int) -> None:
    module = made(core=core, **extras)
    axis, length = (1 if module.batch_first else 0), 7
    x = torch.randn(*((2, length) if axis else (length, 2)), 16, dtype=torch.float64)
    with torch.no_grad():
        expected, weights = module(x, x, x, mask=Mask("causal", 2, length, length), need_weights=True)
        cache = KVCache(2, module.kv_heads, length, module.head_dim, dtype=torch.float64)
        for first in range(0, length, chunk):
            new = x.narrow(axis, first, min(chunk, length - first))
            end = first + new.shape[axis]
            mask = Mask("causal", 2, end - first, end)
            found, found_weights = module(new, new, new, mask=mask, cache=cache)
            torch.testing.assert_close(found, expected.narrow(axis, first, end - first))
            assert weights is not None
            torch.testing.assert_close(found_weights[..., :end], weights[:, first:end, :end])
            assert cache.length == end


def test_a_single_query_of_longer_keys_is_the_last_of_them() -> None:
    module = made(rotary=True)
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    whole, _ = module(x, x, x, mask=Mask("causal", 2, 6, 6))
    torch.testing.assert_close(module(x[:, 4:], x, x, mask=Mask("causal", 2, 2, 6))[0], whole[:, 4:])
    with pytest.raises(ValueError, match="got 6 queries and 4 keys"):
        module(x, x[:, :4], x[:, :4])


def test_decoder_layers_decode_with_a_cache() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(8, 2, 16, batch_first=True, dtype=torch.float64, rotary=True).eval()
    tgt, memory = torch.randn(2, 4, 8, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(tgt, memory, Mask("causal", 2, 4, 4))
        cache = KVCache(2, 2, 4, 4, dtype=torch.float64)
        steps = [layer(tgt[:, i : i + 1], memory, cache=cache) for i in range(4)]
    torch.testing.assert_close(torch.cat(steps, 1), expected)


def test_a_cache_can_be_cut_and_filled_again() -> None:
    cache = KVCache(1, 1, 3, 2)
    first = torch.randn(1, 1, 2, 2)
    cache.append(first, first)
    cache.truncate(1)
    other = torch.randn(1, 1, 2, 2)
    k, v = cache.append(other, -other)
    assert torch.equal(k, torch.cat((first[:, :, :1], other), 2))
    assert torch.equal(v, torch.cat((first[:, :, :1], -other), 2))
    cache.truncate()
    assert cache.length == 0
    with pytest.raises(ValueError, match="holds 0 positions and cannot be cut to 1"):
        cache.truncate(1)


def test_a_cache_made_in_inference_mode_serves_outside() -> None:
    with torch.inference_mode():
        cache = KVCache(1, 1, 3, 2)
    keys, _ = cache.append(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert torch.equal(keys, torch.ones(1, 1, 2, 2))


def test_a_cache_says_what_does_not_fit_and_stays_as_it_was() -> None:
    module = made()
    cache = KVCache(2, 4, 3, 4, dtype=torch.float64)
    x = torch.randn(2, 2, 16, dtype=torch.float64)
    with torch.no_grad():
        module(x, x, x, cache=cache)
        with pytest.raises(ValueError, match="has room for 3 positions and holds 2; 2 more do not fit"):
            module(x, x, x, cache=cache)
        with pytest.raises(ValueError, match=r"cache takes keys .* = \[2, 4, 1, 4\], got \[1, 4, 1, 4\]"):
            module(x[:1, :1], x[:1, :1], x[:1, :1], cache=cache)
        with pytest.raises(ValueError, match=r"attn_mask must be \[queries, keys\] = \[1, 3\]"):
            module(x[:, :1], x[:, :1], x[:, :1], attn_mask=torch.zeros(1, 1), cache=cache)
        with pytest.raises(ValueError, match=r"holds torch.float32 on cpu, the new keys are torch.float64"):
            module(x, x, x, cache=KVCache(2, 4, 3, 4))
    with pytest.raises(ValueError, match=r"no gradient can pass through it: decode under torch.no_grad"):
        module(x[:, :1], x[:, :1], x[:, :1], cache=cache)
    assert cache.length == 2
    with pytest.raises(ValueError, match="max_len must be a whole number, at least 1; got 0"):
        KVCache(1, 1, 0, 1)
