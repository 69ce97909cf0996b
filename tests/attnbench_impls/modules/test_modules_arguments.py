"""What is illegal is a ValueError that says what to do; what has no answer in torch has one here."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attnbench_impls
from attnbench import Mask
from attnbench_impls import (
    DecoderLayer,
    EncoderLayer,
    KVCache,
    MultiHeadAttention,
    SinusoidalPositionalEncoding,
    Transformer,
)
from attnbench_impls.modules import TensorMask, over


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, attnbench_impls; assert 'torch' not in sys.modules; "
        "assert attnbench_impls.KVCache.__name__ == 'KVCache'; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_exported_name_is_there() -> None:
    assert dir(attnbench_impls) == sorted(attnbench_impls.__all__)
    for name in attnbench_impls.__all__:
        assert getattr(attnbench_impls, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = attnbench_impls.Nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: MultiHeadAttention(0, 1), "embed_dim must be a whole number, at least 1; got 0"),
        (lambda: MultiHeadAttention(8, 0), "num_heads must be a whole number"),
        (lambda: MultiHeadAttention(8, 3), "embed_dim must be a multiple of num_heads; got 8 and 3"),
        (lambda: MultiHeadAttention(8, 4, kv_heads=3), r"kv_heads must divide num_heads \(4\).* got 3"),
        (lambda: MultiHeadAttention(8, 4, dropout=1.5), "dropout must be a probability from 0 to 1; got 1.5"),
        (lambda: MultiHeadAttention(9, 3, rotary=True), "embed_dim / num_heads must be even; got 3"),
        (lambda: MultiHeadAttention(8, 4, rotary=0.5), "rotary must be True .* got 0.5"),
        (lambda: MultiHeadAttention(8, 4, kdim=0), "kdim must be a whole number"),
        (lambda: EncoderLayer(8, 2, activation="silu"), "activation must be 'relu' or 'gelu', or a function"),
        (lambda: EncoderLayer(8, 2, 0), "dim_feedforward must be a whole number"),
        (lambda: DecoderLayer(8, 2, dropout=-1), "dropout must be a probability"),
        (lambda: Transformer(8, 2, 0), "num_encoder_layers must be a whole number, at least 1; got 0"),
        (lambda: Transformer(8, 2, 1, 0), "num_decoder_layers must be a whole number, at least 1; got 0"),
        (lambda: MultiHeadAttention(8, 4, dtype=torch.int64), "dtype must be floating.* got torch.int64"),
        (lambda: SinusoidalPositionalEncoding(8, dtype=torch.int64), "dtype must be floating"),
        (lambda: KVCache(1, 1, 1, 1, dtype=torch.int64), "dtype must be floating"),
        (lambda: Transformer(0), "d_model must be a whole number"),
        (lambda: MultiHeadAttention(8, 4, dropout="0.1"), "dropout must be a probability .* got '0.1'"),
        (lambda: EncoderLayer(8, 2, activation=[]), r"activation must be .* got \[\]"),
    ],
)
def test_illegal_constructions(build: Callable[[], Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build()


def call(module: MultiHeadAttention, **arguments: Any) -> Any:
    x = torch.zeros(2, 3, 8)
    given: dict[str, Any] = {"query": x, "key": x, "value": x} | arguments
    return module(**given)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"query": torch.zeros(8)}, r"query must be \[L, E\].* got 1 dimensions"),
        ({"query": torch.zeros(2, 3, 7)}, r"query must have 8 features last; got \[2, 3, 7\]"),
        ({"key": torch.zeros(2, 3, 7)}, "key must have 8 features"),
        ({"value": torch.zeros(2, 3, 7)}, "value must have 8 features"),
        ({"query": torch.zeros(3, 8)}, "must all have a batch or all have none"),
        ({"value": torch.zeros(2, 4, 8)}, "one value for each key"),
        ({"query": torch.zeros(1, 3, 8)}, "must have the same batch, axis 0"),
        (
            {"value": torch.zeros(2, 3, 8).double()},
            r"value is torch.float64 on cpu.* are torch.float32",
        ),
        ({"query": torch.zeros(2, 3, 8, device="meta")}, "query is torch.float32 on meta"),
        ({"query": np.zeros((2, 3, 8))}, "query must be a torch.Tensor; got ndarray"),
        ({"key": None}, "key must be a torch.Tensor; got NoneType"),
        ({"query": torch.zeros(2, 3, 8).to_sparse()}, r"query must be dense.*query.to_dense\(\)"),
        ({"attn_mask": np.zeros((3, 3))}, "attn_mask must be a torch.Tensor; got ndarray"),
        ({"attn_mask": torch.zeros(3, 3, device="meta")}, "attn_mask is on meta, the queries on cpu"),
        ({"attn_mask": torch.zeros(3, 3).to_sparse()}, "attn_mask must be dense"),
        ({"key_padding_mask": Mask("none", 2, 3, 3)}, "key_padding_mask must be a torch.Tensor; got Mask"),
        ({"mask": torch.zeros(3, 3)}, "mask must be an attnbench.Mask; got Tensor: .* attn_mask"),
        ({"cache": (torch.zeros(1), torch.zeros(1))}, "cache must be an attnbench_impls.KVCache; got tuple"),
        ({"attn_mask": torch.zeros(3, 4)}, r"attn_mask must be \[queries, keys\] = \[3, 3\].* got \[3, 4\]"),
        (
            {"attn_mask": torch.zeros(2, 3, 3)},
            r"\[batch·heads, queries, keys\] = \[8, 3, 3\]; got \[2, 3, 3\]",
        ),
        (
            {"attn_mask": torch.zeros(3, 3, dtype=torch.int64)},
            r"attn_mask must be boolean.*attn_mask.bool\(\)",
        ),
        ({"key_padding_mask": torch.zeros(3)}, r"key_padding_mask must be \[batch, keys\] = \[2, 3\]"),
        ({"key_padding_mask": torch.zeros(2, 3).int()}, "key_padding_mask must be boolean"),
        ({"is_causal": True}, "is_causal is a hint that attn_mask is the causal mask, and there is none"),
        (
            {"mask": Mask("none", 2, 3, 3), "attn_mask": torch.zeros(3, 3)},
            "either mask or attn_mask, not both",
        ),
        ({"mask": Mask("causal", 1, 3, 3)}, "must be over batch 2, q_len 3, kv_len 3; got batch 1"),
        ({"mask": Mask("causal", 2, 3, 3, framework="numpy")}, "framework='torch'; got 'numpy'"),
    ],
)
@pytest.mark.parametrize("core", ["naive", "sdpa"])
def test_illegal_calls(arguments: dict[str, Any], reason: str, core: str) -> None:
    with pytest.raises(ValueError, match=reason):
        call(MultiHeadAttention(8, 4, batch_first=True, core=core), **arguments)


def test_without_a_batch_padding_has_none() -> None:
    x = torch.zeros(3, 8)
    with pytest.raises(ValueError, match=r"key_padding_mask must be \[keys\].* got \[1, 3\]"):
        MultiHeadAttention(8, 4)(x, x, x, key_padding_mask=torch.zeros(1, 3).bool())


def test_sizes_may_be_numpys() -> None:
    module = MultiHeadAttention(np.int64(8), np.int32(2))
    assert (type(module.embed_dim), module.embed_dim) == (int, 8)


@pytest.mark.parametrize("norm_first", [False, True])
def test_layers_name_their_own_arguments(norm_first: bool) -> None:
    encoder = EncoderLayer(8, 2, 8, norm_first=norm_first)
    decoder = DecoderLayer(8, 2, 8, norm_first=norm_first)
    x = torch.zeros(3, 2, 8)
    for wrong, reason in (
        (x[..., :7], "must have 8 features last"),
        (x.double(), "is torch.float64 on cpu"),
        (x[0, 0], "got 1 dimensions"),
        (x.to("meta"), "is torch.float32 on meta"),
    ):
        with pytest.raises(ValueError, match=f"src {reason}|src must be .*{reason}"):
            encoder(wrong)
        with pytest.raises(ValueError, match=f"tgt {reason}|tgt must be .*{reason}"):
            decoder(wrong, x)
        with pytest.raises(ValueError, match=f"memory {reason}|memory must be .*{reason}"):
            decoder(x, wrong)


@pytest.mark.parametrize(
    ("layer", "theirs"),
    [(EncoderLayer, nn.TransformerEncoderLayer), (DecoderLayer, nn.TransformerDecoderLayer)],
)
def test_an_activations_parameters_are_in_torchs_place(layer: Any, theirs: Any) -> None:
    # An optimizer's state goes by the order of the parameters.
    names = [[n for n, _ in kind(8, 2, 8, 0.0, nn.PReLU()).named_parameters()] for kind in (layer, theirs)]
    assert names[0] == names[1]
    assert "activation.weight" in names[0]


@pytest.mark.parametrize("core", ["sdpa", "chunked"])
@pytest.mark.parametrize(("batch", "q_len", "kv_len"), [(0, 3, 3), (2, 0, 3), (2, 3, 0), (2, 0, 0)])
def test_where_there_is_nothing_to_compute_any_core_does(
    core: str, batch: int, q_len: int, kv_len: int
) -> None:
    module = MultiHeadAttention(8, 2, batch_first=True, core=core)
    query, key = torch.zeros(batch, q_len, 8), torch.zeros(batch, kv_len, 8)
    o, weights = module(query, key, key, attn_mask=torch.zeros(q_len, kv_len).bool())
    assert weights is not None
    assert (o.shape, weights.shape) == ((batch, q_len, 8), (batch, q_len, kv_len))


@pytest.mark.parametrize("core", ["naive", "sdpa"])
def test_a_hinted_mask_has_to_fit(core: str) -> None:
    with pytest.raises(ValueError, match=r"attn_mask must be \[queries, keys\] = \[3, 3\]"):
        call(
            MultiHeadAttention(8, 4, batch_first=True, core=core),
            attn_mask=torch.zeros(2, 2),
            is_causal=True,
            need_weights=False,
        )


def test_nested_tensors_are_refused() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(2, 8), torch.zeros(3, 8)], layout=torch.jagged)
    with pytest.raises(ValueError, match="query is a nested tensor; pass a padded one"):
        MultiHeadAttention(8, 4, batch_first=True)(nested, nested, nested)


def test_a_transformers_sequences_must_fit() -> None:
    model = Transformer(8, 2, 1, 1, 8)
    with pytest.raises(ValueError, match="tgt must have 8 features"):
        model(torch.zeros(3, 2, 8), torch.zeros(3, 2, 7))
    with pytest.raises(ValueError, match="src and tgt must have the same batch, axis 1"):
        model(torch.zeros(3, 2, 8), torch.zeros(3, 1, 8))


@pytest.mark.parametrize("kind", ["bool", "float", "padding", "Mask"])
def test_queries_without_keys_get_zero_and_no_gradient(kind: str) -> None:
    torch.manual_seed(0)
    module = MultiHeadAttention(8, 2, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    hidden = torch.zeros(3, 3, dtype=torch.bool)
    hidden[1] = True
    if kind == "bool":
        blind = (slice(None), 1)
        o, weights = module(x, x, x, attn_mask=hidden)
    elif kind == "float":
        blind = (slice(None), 1)
        o, weights = module(x, x, x, attn_mask=torch.zeros(3, 3).masked_fill(hidden, -math.inf))
    elif kind == "padding":
        blind = (1,)
        o, weights = module(x, x, x, key_padding_mask=torch.tensor([[False] * 3, [True] * 3]))
    else:
        blind = (slice(None), 0)
        o, weights = module(x, x[:, :2], x[:, :2], mask=Mask("causal", 2, 3, 2))
    expected = module.out_proj(torch.zeros(8, dtype=torch.float64)).expand_as(o[blind])
    torch.testing.assert_close(o[blind], expected)
    assert (weights[blind] == 0).all()
    (grad,) = torch.autograd.grad(o[blind].sum(), x)
    assert (grad == 0).all()


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout_drops_weights_in_training_alone(need_weights: bool) -> None:
    torch.manual_seed(0)
    module = MultiHeadAttention(8, 2, dropout=0.4, batch_first=True, dtype=torch.float64)
    x = torch.randn(1, 4, 8, dtype=torch.float64)
    with torch.no_grad():
        expected, weights = module.eval()(x, x, x, average_attn_weights=False)
        module.train()
        draws = [module(x, x, x, need_weights=need_weights, average_attn_weights=False) for _ in range(1000)]
    mean = torch.stack([o for o, _ in draws]).mean(0)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.06)
    assert not torch.equal(draws[0][0], draws[1][0])
    if need_weights:
        dropped = torch.stack([each for _, each in draws])
        assert abs((dropped == 0).double().mean().item() - 0.4) < 0.02
        kept = (dropped * 0.6 / weights)[dropped != 0]
        torch.testing.assert_close(kept, torch.ones_like(kept))


@pytest.mark.parametrize("kind", [EncoderLayer, DecoderLayer])
def test_layers_drop_out_in_training_alone(kind: type[nn.Module]) -> None:
    layer, x = kind(8, 2, 16, 0.5), torch.randn(3, 2, 8)
    inputs = (x,) if kind is EncoderLayer else (x, x)
    assert not torch.equal(layer(*inputs), layer(*inputs))
    layer.eval()
    assert torch.equal(layer(*inputs), layer(*inputs))


def test_a_tensor_mask_counts_and_tells_its_ranges() -> None:
    allowed = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0]]).bool()[None, None]
    mask = TensorMask(allowed, q_len=3, batch=2)
    start, stop = mask.key_ranges()
    assert start.tolist() == [[0, 1, 0]]
    assert stop.tolist() == [[2, 3, 0]]
    assert mask.pairs() == 2 * 4
    assert torch.equal(mask.to_bool(), allowed)
    assert mask.blind_queries().flatten().tolist() == [False, False, True]
    assert mask != TensorMask(allowed, q_len=3, batch=2)
    with pytest.raises(ValueError, match="asks for the parameters"):
        _ = mask.parameters
    for wrong in (allowed[0], allowed.float(), allowed[:, :, :2]):
        with pytest.raises(ValueError, match=r"allowed must be boolean, \[2 or 1, 1, 3 or 1, keys\]"):
            TensorMask(wrong, q_len=3, batch=2)
    padding = TensorMask(torch.tensor([[[[True, False]]]]), q_len=4, batch=1)
    assert padding.key_ranges()[1].tolist() == [[1, 1, 1, 1]]
    assert padding.pairs() == 4
    assert padding.to_bool().shape == (1, 1, 4, 2)
    assert padding.blind_queries() is None


def given_to(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.randn(parameter.shape, requires_grad=True)
        for name, parameter in module.named_parameters()
    }


@pytest.mark.parametrize("kind", [Transformer, nn.Transformer, EncoderLayer, nn.TransformerEncoderLayer])
def test_a_module_over_given_tensors_has_their_gradients(kind: type[nn.Module]) -> None:
    arguments: dict[str, Any] = {
        "d_model": 8,
        "nhead": 2,
        "dim_feedforward": 8,
        "dropout": 0.0,
        "batch_first": True,
    }
    if kind in (Transformer, nn.Transformer):
        arguments |= {"num_encoder_layers": 2, "num_decoder_layers": 1}
    made = kind(**arguments, device="meta")
    parameters = given_to(made)
    module = over(made, parameters)
    inputs = [torch.randn(2, 3, 8) for _ in range(2 if "num_encoder_layers" in arguments else 1)]
    o = module(*inputs)
    grads = torch.autograd.grad(o.square().sum(), list(parameters.values()))
    assert all(grad.isfinite().all() for grad in grads)
    loaded = kind(**arguments)
    loaded.load_state_dict({name: tensor.detach() for name, tensor in parameters.items()})
    torch.testing.assert_close(loaded(*inputs), o)
    assert not module.state_dict()


def test_what_does_not_fit_is_not_put_into_a_module() -> None:
    module = MultiHeadAttention(8, 2)
    parameters = given_to(module)
    with pytest.raises(ValueError, match=r"missing: \['in_proj_bias'\], superfluous: none"):
        over(module, {name: each for name, each in parameters.items() if name != "in_proj_bias"})
    with pytest.raises(ValueError, match=r"in_proj_bias must have the shape \[24\]; got \[2\]"):
        over(module, parameters | {"in_proj_bias": torch.zeros(2)})
    assert len(list(module.parameters())) == 4


def test_modules_built_on_meta_take_a_state_dict() -> None:
    module = Transformer(8, 2, 1, 1, 8, device="meta", rotary=True)
    given_state = Transformer(8, 2, 1, 1, 8).state_dict()
    module.load_state_dict(given_state, assign=True)
    assert module(torch.randn(3, 1, 8), torch.randn(2, 1, 8)).shape == (2, 1, 8)
    assert all(
        parameter.data_ptr() == given_state[name].data_ptr() for name, parameter in module.named_parameters()
    )


def test_nothing_is_on_another_device_than_the_inputs() -> None:
    # Of tensors on the CPU torch's meta device complains as a GPU would.
    with pytest.raises(RuntimeError, match="not on the expected device meta"):
        torch.zeros(2, device="meta") + torch.zeros(2)
    model = Transformer(8, 2, 1, 1, 8, 0.0, device="meta", rotary=True, qk_norm=True, kv_heads=1)
    x, hidden = torch.zeros(3, 2, 8, device="meta"), torch.zeros(2, 3, device="meta", dtype=torch.bool)
    causal = Transformer.generate_square_subsequent_mask(3, device="meta")
    assert model(x, x, tgt_mask=causal, src_key_padding_mask=hidden).device.type == "meta"
    module = MultiHeadAttention(8, 2, 0.5, True, True, True, device="meta")
    o, weights = module(x, x, x, mask=Mask("causal+padding(0.5)", 2, 3, 3))
    assert weights is not None
    assert o.device == weights.device == x.device
    assert SinusoidalPositionalEncoding(8)(x).device == x.device
    with torch.no_grad():
        assert module(x, x, x, cache=KVCache(2, 2, 3, 4, device="meta"))[0].device == x.device


@pytest.mark.parametrize("core", ["naive", "sdpa", "chunked"])
def test_modules_run_under_autocast(core: str) -> None:
    module = MultiHeadAttention(
        8, 2, batch_first=True, core=core, rotary=True, qk_norm=True, add_bias_kv=True
    )
    x = torch.randn(2, 3, 8)
    expected, _ = module(x, x, x)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = module(x, x, x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)


def test_tensors_that_share_a_place_are_replaced_in_both() -> None:
    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight
    weight = torch.eye(2, requires_grad=True)
    over(tied, {"0.weight": weight, "1.weight": weight})
    assert tied[0].weight is tied[1].weight is weight


def test_modules_compile_without_breaks() -> None:
    layer = EncoderLayer(8, 2, 16, 0.0, batch_first=True, rotary=True, kv_heads=1)
    x, mask = torch.randn(2, 3, 8), torch.ones(3, 3, dtype=torch.bool).triu(1)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, mask), layer(x, mask))
