"""The costs of modules: against torch's counter on torch's own modules, and against figures by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attnbench.costs import PARTS, costs
from attnbench.masks import Mask
from attnbench.workload import PASSES, SHAPES, Workload

MASKS = st.sampled_from(["none", "causal", "sliding_window(1)", "sliding_window(3)", "padding(0.3)"])


def work(operation: str, mask: str = "none", pass_: str = "forward", **axes: Any) -> Workload:
    return Workload(operation, SHAPES[operation].from_axes(axes), mask, pass_=pass_)


def of_torch(compute: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> tuple[int, int]:
    """What torch counts in a forward, and in the gradients of all leaves."""
    with FlopCounterMode(display=False) as counter:
        o = compute()
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(o, leaves, torch.ones_like(o), allow_unused=True)
    return forward, counter.get_total_flops()


def counted(workload: Workload) -> tuple[int, int]:
    """Ours, a forward's and a backward's, attention's without computing the scores anew, as autograd does."""
    backward = costs(Workload(workload.operation, workload.shape, workload.mask, pass_="backward"))
    anew = backward.parts["attention"] // 5
    return costs(workload).flops, backward.flops - anew


def tensors(*sizes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.ones(size, requires_grad=True) for size in sizes]


def parameters(module: nn.Module) -> list[torch.Tensor]:
    return [each for each in module.parameters() if each.requires_grad]


@pytest.mark.parametrize(
    ("axes", "extra"),
    [
        ({"seq_len": 6}, {}),
        ({"q_len": 3, "kv_len": 5, "attention": "cross"}, {}),
        ({"q_len": 3, "kv_len": 5, "attention": "cross", "kdim": 6, "vdim": 10}, {"kdim": 6, "vdim": 10}),
        ({"seq_len": 6, "add_bias_kv": True}, {"add_bias_kv": True}),
        ({"seq_len": 6, "add_bias_kv": True, "add_zero_attn": True, "bias": False}, None),
    ],
)
def test_torch_counts_as_many_in_multi_head_attention(
    axes: dict[str, Any], extra: dict[str, Any] | None
) -> None:
    extra = {"add_bias_kv": True, "add_zero_attn": True, "bias": False} if extra is None else extra
    module = nn.MultiheadAttention(8, 2, batch_first=True, **extra)
    workload = work("mha", batch=3, embed_dim=8, heads=2, **axes)
    inputs = tensors(*workload.shape.activations().values())
    arguments = inputs * 3 if len(inputs) == 1 else inputs
    forward, backward = of_torch(
        lambda: module(*arguments, average_attn_weights=False)[0], [*inputs, *parameters(module)]
    )
    assert counted(workload) == (forward, backward)


def layer_arguments(norm_first: bool) -> dict[str, Any]:
    return {"dim_feedforward": 20, "dropout": 0.0, "batch_first": True, "norm_first": norm_first}


def written_out(module: nn.Module) -> None:
    """Have the layers keep their weights, since torch's counter has no formula for the CPU's fused kernel."""
    for each in module.modules():
        if isinstance(each, nn.MultiheadAttention):
            ordinary = each.forward

            def forward(*given: Any, ordinary: Any = ordinary, **named: Any) -> Any:
                return ordinary(*given, **{**named, "need_weights": True})

            each.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_counts_as_many_in_layers(norm_first: bool) -> None:
    axes: dict[str, Any] = {"batch": 3, "embed_dim": 8, "heads": 2, "ff_dim": 20}
    axes["norm_first"] = norm_first
    encoder = nn.TransformerEncoderLayer(8, 2, **layer_arguments(norm_first))
    written_out(encoder)
    (src,) = tensors((3, 6, 8))
    assert counted(work("encoder_layer", seq_len=6, **axes)) == of_torch(
        lambda: encoder(src), [src, *parameters(encoder)]
    )
    decoder = nn.TransformerDecoderLayer(8, 2, **layer_arguments(norm_first))
    written_out(decoder)
    tgt, memory = tensors((3, 4, 8), (3, 6, 8))
    assert counted(work("decoder_layer", q_len=4, kv_len=6, **axes)) == of_torch(
        lambda: decoder(tgt, memory), [tgt, memory, *parameters(decoder)]
    )


def test_torch_counts_as_many_in_a_transformer() -> None:
    module = nn.Transformer(
        8, 2, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=20, dropout=0.0, batch_first=True
    )
    written_out(module)
    src, tgt = tensors((3, 6, 8), (3, 4, 8))
    workload = work("transformer", batch=3, embed_dim=8, heads=2, ff_dim=20, layers=2, q_len=4, kv_len=6)
    assert counted(workload) == of_torch(lambda: module(src, tgt), [src, tgt, *parameters(module)])


def test_torch_counts_masked_pairs_too() -> None:
    """Its formulas know of no mask: the difference is that of the pairs, and nothing else's."""
    module = nn.MultiheadAttention(8, 2, batch_first=True)
    (x,) = tensors((3, 6, 8))
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    forward, _ = of_torch(lambda: module(x, x, x, attn_mask=hidden)[0], [x])
    ours = costs(work("mha", "causal", batch=3, embed_dim=8, heads=2, seq_len=6))
    pairs = 3 * 2 * (6 * 6 - 21)
    assert forward - ours.flops == 2 * pairs * (4 + 4)


def test_parts_by_hand() -> None:
    """E 8 in 4 heads of 2 on 2 key heads, F 10; 2 elements of 3 queries and 5 keys."""
    axes: dict[str, Any] = {"batch": 2, "embed_dim": 8, "heads": 4, "kv_heads": 2, "ff_dim": 10}
    axes |= {"q_len": 3, "kv_len": 5}
    of = costs(work("decoder_layer", "causal", **axes)).parts
    own = 2 * (6 * 8 * 8 + 2 * 6 * 8 * 4 + 6 * 8 * 8)  # q, k and v, output
    cross = 2 * (6 * 8 * 8 + 2 * 10 * 8 * 4 + 6 * 8 * 8)
    assert of["projections"] == own + cross
    assert of["attention"] == 2 * 2 * 4 * (6 + 15) * (2 + 2)
    assert of["feed_forward"] == 2 * 2 * 6 * 8 * 10
    assert list(of) == list(PARTS)


def test_a_backward_takes_two_products_for_each_of_a_linear_layer() -> None:
    axes: dict[str, Any] = {"embed_dim": 8, "heads": 2, "seq_len": 6, "mask": "causal"}
    forward, backward, both = (costs(work("encoder_layer", pass_=each, **axes)).parts for each in PASSES)
    for part, factor in (("projections", 2), ("attention", 2.5), ("feed_forward", 2)):
        assert backward[part] == factor * forward[part]
        assert both[part] == forward[part] + backward[part]


def test_every_layer_of_a_transformer_counts() -> None:
    axes: dict[str, Any] = {"embed_dim": 8, "heads": 2, "ff_dim": 10, "q_len": 3, "kv_len": 5}
    one, three = (costs(work("transformer", layers=n, src_mask="causal", **axes)) for n in (1, 3))
    assert three.parts == {name: 3 * flops for name, flops in one.parts.items()}
    layers = costs(work("encoder_layer", "causal", embed_dim=8, heads=2, ff_dim=10, seq_len=5)).flops
    layers += costs(work("decoder_layer", **axes)).flops
    assert one.flops == layers


def test_a_positional_encoding_is_traffic_alone() -> None:
    forward, backward, both = (
        costs(work("positional_encoding", pass_=each, embed_dim=8, seq_len=6)) for each in PASSES
    )
    assert (forward.flops, forward.least_flops, dict(forward.parts)) == (0, 0, {})
    assert forward.bytes == forward.least_bytes == 4 * 2 * 6 * 8
    assert backward.bytes == both.bytes == 4 * 4 * 6 * 8
    assert backward.least_bytes == 0  # the output's gradient is the input's, and need not be copied


def test_bytes_are_those_of_activations_weights_and_results() -> None:
    axes: dict[str, Any] = {"embed_dim": 8, "heads": 2, "seq_len": 6, "batch": 3, "need_weights": "per_head"}
    x = o = 3 * 6 * 8
    weights = 3 * 8 * 8 + 3 * 8 + 8 * 8 + 8
    returned = 3 * 2 * 6 * 6
    assert costs(work("mha", **axes)).bytes == 4 * (x + weights + o + returned)
    assert costs(work("mha", pass_="backward", **axes)).bytes == 4 * 2 * (x + weights + o)
    both = costs(work("mha", pass_="forward_backward", **axes)).bytes
    assert both == 4 * (2 * (x + weights + o) + returned)


def test_the_past_is_projected_by_definition_and_not_at_least() -> None:
    """A token after 99 others: without a cache all 100 keys and values are projected, with one a single."""
    step = costs(work("mha", embed_dim=512, heads=8, q_len=1, kv_len=100))
    assert step.parts["projections"] == 2 * (2 * 512**2 + 2 * 100 * 512**2)
    assert step.least_flops == 2 * (4 * 512**2 + 100 * 2 * 512)
    assert step.with_cache == step.useful_flops == step.least_flops
    # Its position of x, the cached keys and values, the weights, and the output.
    cached = min(512, 2 * 512) * 99
    assert step.least_bytes == 4 * (512 + cached + 4 * 512**2 + 512)
    grouped = costs(work("mha", embed_dim=512, heads=8, kv_heads=1, q_len=1, kv_len=100))
    assert grouped.least_bytes == 4 * (512 + 99 * 2 * 64 + 2 * 512**2 + 2 * 64 * 512 + 512)


def test_the_past_has_gradients() -> None:
    backward = costs(work("mha", pass_="backward", embed_dim=64, heads=8, q_len=60, kv_len=100))
    assert backward.with_cache is None
    projections = 2 * 60 * 64**2 + 2 * 100 * 64**2
    assert backward.least_flops == 2 * 2 * (projections + 60 * 100 * 2 * 64)


def test_few_queries_need_not_project_the_keys() -> None:
    """W_k is taken to the only query's side: a row of 8 · 64 numbers instead of 1000 rows of 64."""
    one = costs(work("mha", embed_dim=64, heads=8, q_len=1, kv_len=1000, attention="cross"))
    scores = 64 * 64 + 64 * 64 + 1000 * 8 * 64
    ordinary = 64 * 64 + 1000 * 64 * 64 + 1000 * 64
    assert scores < ordinary
    assert one.least_flops == 2 * 2 * scores


def test_weights_of_a_single_head_can_be_multiplied_with_one_another() -> None:
    long = costs(work("mha", embed_dim=8, heads=1, seq_len=1000))
    assert long.least_flops == 2 * 2 * (8**3 + 1000 * 8 * 8 + 1000 * 1000 * 8)
    two = costs(work("mha", embed_dim=8, heads=2, seq_len=1000))
    assert two.least_flops == two.flops


def test_a_transformer_need_not_encode_what_nobody_decodes() -> None:
    axes: dict[str, Any] = {"embed_dim": 8, "heads": 2, "ff_dim": 10, "q_len": 30, "kv_len": 50}
    whole = costs(work("transformer", **axes))
    assert whole.least_flops == whole.flops
    shape = SHAPES["transformer"].from_axes({**axes, "memory_mask": "sliding_window(2)"})
    part = costs(Workload("transformer", shape))
    decoder = costs(work("decoder_layer", **axes, memory_mask="sliding_window(2)"))
    kept = 31  # thirty queries with windows of two
    assert part.least_flops == decoder.least_flops + 2 * kept * 2 * 8 * 10


@pytest.mark.parametrize("pass_", PASSES)
def test_a_single_key_is_no_choice(pass_: str) -> None:
    only = costs(work("mha", pass_=pass_, embed_dim=8, heads=2, q_len=5, kv_len=1, attention="cross"))
    assert only.flops > 0
    assert only.least_flops == 0
    beside = costs(
        work(
            "mha", pass_=pass_, embed_dim=8, heads=2, q_len=5, kv_len=1, attention="cross", add_zero_attn=True
        )
    )
    assert beside.least_flops > 0, "a key beside zeros is one of two"


LAYERS = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "embed_dim": st.just(12),
        "heads": st.sampled_from([1, 2, 6]),
        "kv_heads": st.just(1),
        "q_len": st.integers(1, 6),
        "kv_len": st.integers(6, 9),
    }
)
OWN = {
    "mha": st.fixed_dictionaries(
        {
            "attention": st.sampled_from(["self", "cross"]),
            "add_bias_kv": st.booleans(),
            "add_zero_attn": st.booleans(),
            "need_weights": st.sampled_from(["none", "averaged", "per_head"]),
        }
    ),
    "decoder_layer": st.fixed_dictionaries({"memory_mask": MASKS}),
    "transformer": st.fixed_dictionaries({"memory_mask": MASKS, "src_mask": MASKS}),
}
WORKLOADS = st.sampled_from(sorted(OWN)).flatmap(
    lambda operation: st.builds(
        lambda axes, own, mask, pass_: work(operation, mask, pass_, **axes, **own),
        LAYERS,
        OWN[operation],
        MASKS,
        st.sampled_from(PASSES),
    )
)


@settings(max_examples=200)
@given(WORKLOADS, st.integers(0, 99))
def test_the_least_is_never_more_than_the_convention(workload: Workload, seed: int) -> None:
    found = costs(workload, seed)
    assert 0 <= found.least_flops <= found.flops
    assert 0 < found.least_bytes <= found.bytes
    assert sum(found.parts.values()) == found.flops


@settings(max_examples=100)
@given(WORKLOADS, st.integers(0, 99))
def test_attention_counts_the_pairs_that_the_masks_allow(workload: Workload, seed: int) -> None:
    shape = workload.shape
    own_queries, own_keys = shape.mask_lengths
    masks = [Mask(workload.mask, shape.batch, own_queries, own_keys, seed)]
    masks += [
        Mask(mask, shape.batch, queries, keys, seed) for mask, queries, keys in shape.other_masks().values()
    ]
    appended = getattr(shape, "add_bias_kv", 0) + getattr(shape, "add_zero_attn", 0)
    pairs = sum(mask.pairs() for mask in masks) + appended * shape.batch * shape.q_len
    forward = costs(Workload(workload.operation, shape, workload.mask), seed)
    assert forward.parts["attention"] == 2 * pairs * shape.heads * 2 * shape.head_dim
