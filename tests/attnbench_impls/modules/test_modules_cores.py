"""Any core inside: the same output as the textbook's, or a ValueError that says why not."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench import AttentionInputs, Implementation, Mask, Workload, attention, registry
from attnbench_impls import CHUNKED, NUMPY, DecoderLayer, EncoderLayer, MultiHeadAttention, Transformer
from attnbench_impls.modules import TensorMask
from attnbench_impls.modules.cores import core_of

CORES = ["sdpa", "chunked(block=2,q_block=3)", "sdpa_math"]


def pair(core: Any, **arguments: Any) -> tuple[MultiHeadAttention, MultiHeadAttention]:
    """One with `core`, one with the textbook, the same weights, in float64, batch first."""
    arguments = {"embed_dim": 8, "num_heads": 4, "batch_first": True, "dtype": torch.float64} | arguments
    cored, plain = MultiHeadAttention(core=core, **arguments), MultiHeadAttention(**arguments)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.normal_()
    cored.load_state_dict(plain.state_dict())
    return cored, plain


def assert_alike(cored: torch.nn.Module, plain: torch.nn.Module, x: Tensor, **options: Any) -> None:
    results = []
    for module in (cored, plain):
        found = module(x, x, x, **options)
        o = found[0]
        grads = torch.autograd.grad(o.square().sum(), (x, *module.parameters()), allow_unused=True)
        results.append((*found, *grads))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@settings(max_examples=60)
@given(st.data())
def test_every_core_gives_the_textbooks_answer(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 100)))
    length, batch = draw(st.integers(1, 6)), draw(st.integers(1, 2))
    arguments = {name: draw(st.booleans()) for name in ("add_bias_kv", "add_zero_attn", "qk_norm", "rotary")}
    core, kv_heads = draw(st.sampled_from(CORES)), draw(st.sampled_from([1, 2, 4]))
    cored, plain = pair(core, kv_heads=kv_heads, **arguments)
    x = torch.randn(batch, length, 8, dtype=torch.float64, requires_grad=True)

    causal = torch.ones(length, length, dtype=torch.bool).triu(1)
    lengths = torch.randint(0, length + 1, (batch, 1))  # 0: every query of it is blind
    after = torch.arange(length) >= lengths
    options: Mapping[str, Any] = draw(
        st.sampled_from(
            [
                {},
                {"attn_mask": causal},
                {"attn_mask": causal, "is_causal": True},
                {"attn_mask": Transformer.generate_square_subsequent_mask(length, dtype=torch.float64)},
                {"attn_mask": causal.expand(batch * 4, -1, -1)},
                {"attn_mask": torch.ones(length, length, dtype=torch.bool)},
                {"key_padding_mask": after},
                {"key_padding_mask": after, "attn_mask": causal, "is_causal": True},
                {"mask": Mask("causal", batch, length, length)},
                {"attn_mask": Mask("causal+padding(0.3)", batch, length, length)},
                {"mask": Mask("causal", batch, length, length), "key_padding_mask": after},
                {"mask": Mask("none", batch, length, length)},
            ]
        )
    )
    assert_alike(cored, plain, x, **options, need_weights=draw(st.booleans()))


@settings(max_examples=30)
@given(st.data())
def test_any_boolean_mask_passes_through_sdpa_and_ranges_through_chunked(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 1000)))
    length, batch = draw(st.integers(1, 6)), draw(st.integers(1, 2))
    x = torch.randn(batch, length, 8, dtype=torch.float64, requires_grad=True)
    hidden = torch.rand(batch, 1, length, length) < 0.5
    per_head = hidden.expand(-1, 4, -1, -1).flatten(0, 1)
    assert_alike(*pair("sdpa"), x, attn_mask=per_head, need_weights=False)

    keys = torch.arange(length)
    start, stop = torch.randint(0, length + 1, (2, batch, length, 1))
    ranges = ~((keys >= start) & (keys < stop))
    assert_alike(*pair(CORES[1]), x, attn_mask=ranges.repeat_interleave(4, 0), need_weights=False)

    assume((hidden[..., 1:] ^ hidden[..., :-1]).sum(-1).max() > 2)
    with pytest.raises(ValueError, match=r"query \d+ of batch element \d+ .* use core='naive' or 'sdpa'"):
        pair(CORES[1])[0](x, x, x, attn_mask=per_head)


def test_a_mask_reaches_the_core_as_it_is() -> None:
    seen = []

    def spy(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, scale: float) -> Tensor:
        seen.append((mask, scale, q.shape, k.shape))
        return q

    module = MultiHeadAttention(8, 2, kv_heads=1, batch_first=True, core=spy)
    x, mask = torch.randn(3, 5, 8), Mask("causal", 3, 5, 5)
    module(x, x, x, mask=mask, need_weights=False)
    module(x, x, x, need_weights=False)
    module(x, x, x, need_weights=False)
    assert seen[0] == (mask, 0.5, (3, 2, 5, 4), (3, 1, 5, 4))
    assert seen[0][0] is mask
    assert seen[1][0].kind == "none"
    assert seen[1][0] is seen[2][0]  # what a core keeps with a mask is kept


@pytest.mark.parametrize(
    ("core", "reason"),
    [
        ("numpy", "numpy works on NumPy arrays"),
        (NUMPY, "numpy works on NumPy arrays"),
        ("nonsense", "there is no core 'nonsense' (there are chunked, flex, naive, sdpa"),
        ("chunkd(block=3)", "; did you mean 'chunked'?"),
        ("naive(block=3)", "naive has no option 'block'"),
        ("chunked(blok=3)", "chunked has no option 'blok'; its options: block, q_block"),
        ("chunked(", "expected a name such as sdpa"),
        (7, "core must be the label of an implementation"),
    ],
)
def test_what_is_no_core_is_refused_with_a_reason(core: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        MultiHeadAttention(8, 2, core=core)


def test_implementations_of_other_operations_are_no_cores() -> None:
    core = Implementation(
        name="other", operation="mha", framework="torch", summary="", load=lambda *_: lambda x: x
    )
    with pytest.raises(ValueError, match="core must be an implementation of attention; other is mha"):
        MultiHeadAttention(8, 2, core=core)


@pytest.mark.parametrize("need_weights", [False, True])
def test_what_another_core_cannot_do_is_refused(need_weights: bool) -> None:
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    cored, _ = pair("sdpa")
    bias = torch.randn(3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="floating mask that adds anything but 0"):
        cored(x, x, x, attn_mask=bias, need_weights=need_weights)
    per_head = torch.zeros(8, 3, 3, dtype=torch.bool)
    per_head[1, 0, 1] = True
    with pytest.raises(ValueError, match="differs from head to head"):
        cored(x, x, x, attn_mask=per_head, need_weights=need_weights)
    dropping, _ = pair("sdpa", dropout=0.1)
    with pytest.raises(ValueError, match=r"drops no weights out, and dropout is 0\.1"):
        dropping(x, x, x, need_weights=need_weights)
    dropping.eval()(x, x, x, need_weights=need_weights)


def test_a_core_that_does_not_support_the_workload_is_refused_once_per_shape() -> None:
    asked = []

    def supports(workload: Workload) -> str | None:
        asked.append(workload.label)
        return "odd lengths" if workload.shape.q_len % 2 else None  # type: ignore[union-attr]

    core = Implementation(
        name="even",
        operation="attention",
        framework="torch",
        summary="",
        supports=supports,
        load=lambda *_: lambda x: x.q,
    )
    module = MultiHeadAttention(8, 2, batch_first=True, core=core)
    odd, even = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    with pytest.raises(ValueError, match=r"the core even cannot do attention/B1-H2-L3-D4/.*: odd lengths"):
        module(odd, odd, odd)
    for _ in range(3):
        module(even, even, even)
    assert len(asked) == 2
    assert asked[1] == "attention/B1-H2-L4-D4/float32/none/forward_backward"
    with torch.no_grad():
        module(even, even, even)
    assert asked[2] == "attention/B1-H2-L4-D4/float32/none/forward"


def test_a_core_that_declares_no_masks_gets_no_tensor() -> None:
    @attention("mine", passes={"forward"})
    def mine(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, scale: float) -> Tensor:
        return torch.softmax(q @ k.mT * scale, -1) @ v

    module = MultiHeadAttention(8, 2, batch_first=True, core=mine)
    x = torch.randn(1, 3, 8)
    with torch.no_grad():
        module(x, x, x)
        with pytest.raises(ValueError, match=r"its mask was given as a tensor.*does not declare the mask"):
            module(x, x, x, attn_mask=torch.eye(3).bool())
    with pytest.raises(ValueError, match="does not declare the pass forward_backward"):
        module(x, x, x)


def test_a_core_that_asks_for_the_kind_of_a_tensor_is_told_what_to_do() -> None:
    def asks(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, scale: float) -> Tensor:
        return q if "causal" in mask.kinds else v

    module = MultiHeadAttention(8, 2, batch_first=True, core=asks)
    x = torch.randn(1, 3, 8)
    with pytest.raises(ValueError, match=r"asks for the kind of its mask.*pass an attnbench\.Mask"):
        module(x, x, x, attn_mask=torch.eye(3).bool())


def test_a_core_must_answer_in_its_shape() -> None:
    module = MultiHeadAttention(8, 2, core=lambda q, k, v, *, mask, scale: q[:, :1])
    x = torch.randn(3, 2, 8)
    with pytest.raises(ValueError, match=r"must return .* = \[2, 2, 3, 4\]; got \[2, 1, 3, 4\]"):
        module(x, x, x)
    with pytest.raises(ValueError, match=r"must return .* = \[2, 2, 3, 4\]; got NoneType"):
        MultiHeadAttention(8, 2, core=lambda q, k, v, *, mask, scale: None)(x, x, x)
    with pytest.raises(ValueError, match=r"must return the queries' torch.float32; got torch.float64"):
        MultiHeadAttention(8, 2, core=lambda q, k, v, *, mask, scale: q.double())(x, x, x)


def first_values(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, scale: float) -> Tensor:
    return v[:, :, :1].expand_as(q)


def test_a_core_with_a_backward_of_its_own_is_differentiated_by_it() -> None:
    def load(*_: Any) -> Callable[[AttentionInputs], Tensor]:
        return lambda x: (x.q * 2).detach()

    def load_backward(*_: Any) -> Callable[..., tuple[Tensor, ...]]:
        return lambda x, o, grad: (2 * grad, torch.zeros_like(x.k), torch.zeros_like(x.v))

    core = Implementation(
        name="twice",
        operation="attention",
        framework="torch",
        summary="",
        load=load,
        load_backward=load_backward,
    )
    cored = core_of(core)
    assert cored is not None
    q, k, v = torch.randn(3, 1, 2, 3, 4, requires_grad=True).unbind()
    o = cored(q, k, v, Mask("none", 1, 3, 3), 1.0)
    assert torch.equal(torch.autograd.grad(o.sum(), q)[0], torch.full_like(q, 2.0))


def test_layers_hand_the_core_down() -> None:
    for layer in (EncoderLayer(8, 2, core="sdpa"), DecoderLayer(8, 2, core="sdpa")):
        assert layer.self_attn.core == "sdpa"
    model = Transformer(8, 2, 1, 1, 8, 0.0, core="chunked", kv_heads=1, rotary=True, qk_norm=True)
    names = [name for name, module in model.named_modules() if isinstance(module, MultiHeadAttention)]
    assert len(names) == 3
    for name in names:
        inside = model.get_submodule(name)
        assert (inside.core, inside.kv_heads) == ("chunked", 1)
        assert (inside._rotary is None) == name.endswith("multihead_attn")
        assert inside.q_norm is not None
    textbook = Transformer(8, 2, 1, 1, 8, 0.0, kv_heads=1, rotary=True, qk_norm=True)
    textbook.load_state_dict(model.state_dict())
    src, tgt = torch.randn(5, 2, 8), torch.randn(4, 2, 8)
    for causal in (Transformer.generate_square_subsequent_mask(4), Mask("causal", 2, 4, 4)):
        torch.testing.assert_close(model(src, tgt, tgt_mask=causal), textbook(src, tgt, tgt_mask=causal))


def test_stacks_see_that_a_mask_is_causal() -> None:
    seen = []

    def spy(q: Tensor, k: Tensor, v: Tensor, *, mask: Mask, scale: float) -> Tensor:
        seen.append(mask.kind)
        return q

    model = Transformer(8, 2, 1, 1, 8, 0.0, core=spy)
    src, tgt = torch.randn(3, 2, 8), torch.randn(4, 2, 8)
    model(src, tgt, tgt_mask=Transformer.generate_square_subsequent_mask(4))
    model(src, tgt, src_mask=torch.ones(3, 3, dtype=torch.bool).triu(1), tgt_mask=torch.eye(4).bool())
    assert seen == ["none", "causal", "none", "causal", "tensor", "none"]


def test_copies_and_pickles_compute_the_same() -> None:
    cored, _ = pair("chunked(block=2)")
    x = torch.randn(1, 3, 8, dtype=torch.float64)
    expected, _ = cored(x, x, x, need_weights=False)
    for again in (copy.deepcopy(cored), copy.deepcopy(pair(CHUNKED)[0]).requires_grad_(False)):
        again.load_state_dict(cored.state_dict())
        torch.testing.assert_close(again(x, x, x, need_weights=False)[0], expected)
    for core in ("naive", "naive()", "sdpa", "chunked(block=2)", CHUNKED, first_values):
        module, _ = pair(core)
        again = pickle.loads(pickle.dumps(module))
        torch.testing.assert_close(again(x, x, x)[0], module(x, x, x)[0])


def test_the_textbook_is_the_textbook_with_or_without_parentheses() -> None:
    assert core_of("naive") is core_of("naive()") is None


def test_print_shows_the_core() -> None:
    assert "8, num_heads=4, kv_heads=1, batch_first=True, core=sdpa\n" in repr(pair("sdpa", kv_heads=1)[0])
    assert "core=naive\n" in repr(MultiHeadAttention(8, 2))


def test_a_mask_that_changes_in_place_is_seen() -> None:
    torch.manual_seed(0)
    x, hidden = torch.randn(1, 4, 8, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.bool)
    for core in ("sdpa", "chunked"):
        cored, plain = pair(core)
        for width in (1, 3, 2):
            hidden.copy_(torch.ones(4, 4).triu(width))
            found, expected = (module(x, x, x, attn_mask=hidden)[0] for module in (cored, plain))
            torch.testing.assert_close(found, expected)


def test_a_tensors_ranges_are_the_same_when_compiled() -> None:
    # torch.compile runs NumPy's code by operations of its own, whose `[..., ::-1]` reverses nothing.
    def total(allowed: Tensor) -> Any:
        mask = TensorMask(allowed, 5, 1)
        start, stop = mask._ranges_of_the_tensor()
        return torch.as_tensor(np.stack((start, stop)))

    allowed = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    expected = torch.tensor([[[0] * 5], [[1, 2, 3, 4, 5]]])
    assert torch.equal(total(allowed), expected)
    assert torch.equal(torch.compile(total, backend="eager")(allowed), expected)


def test_labels_are_looked_up_in_the_process_registry() -> None:
    assert registry.current().get("chunked") is CHUNKED
    core = core_of("chunked(block=3)")
    assert core is not None
    assert core._options["block"] == 3
