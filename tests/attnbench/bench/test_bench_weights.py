"""The verb `weights`: the attention weights that a case's own kernel uses."""

from __future__ import annotations

import gc
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from attnbench.bench.server import BenchServer
from attnbench.implementation import Implementation, attention
from attnbench.inputs import draw
from attnbench.masks import Mask
from attnbench.registry import Entry, Registry
from attnbench.workload import SHAPES, AttentionShape, Workload
from attnbench.zygote import import_libraries


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    import_libraries()
    gc.freeze()
    yield
    gc.unfreeze()


def probabilities(q: Any, k: Any, mask: Any, scale: float) -> Any:
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-2, -1) * scale
    if mask.kind != "none":
        scores = scores.masked_fill(~mask.to_bool(q.device), float("-inf"))
    return torch.softmax(scores, dim=-1).nan_to_num()


def right(q: Any, k: Any, v: Any, *, mask: Any, scale: float) -> Any:
    return probabilities(q, k, mask, scale) @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)


def bench(kernel: Callable[..., Any], **declared: Any) -> BenchServer:
    def function(*arguments: Any, **named: Any) -> Any:
        return kernel(*arguments, **named)

    masks = {"none", "causal", "padding"}
    attention("one", masks=masks, grouped_query=True, v_head_dim=True, passes={"forward"}, **declared)(
        function
    )
    implementation: Implementation = function.__attnbench__  # type: ignore[attr-defined]  # set above
    return BenchServer(Registry({"one": Entry(implementation, "a test")}))


def prepared(server: BenchServer, workload: Workload) -> None:
    answer = server.answer(
        {
            "verb": "prepare",
            "case": "one",
            "implementation": "one",
            "options": {},
            "workload": workload.to_json(),
            "device": "cpu",
            "seed": 0,
            "threads": None,
        }
    )
    assert answer["ok"], answer


def ask(server: BenchServer, element: int, heads: list[int]) -> dict[str, Any]:
    return server.answer({"verb": "weights", "case": "one", "element": element, "heads": heads})


def decoded(answer: dict[str, Any]) -> Any:
    return np.frombuffer(b64decode(answer["weights"]), dtype="<f4").reshape(answer["shape"])


@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        (AttentionShape(2, 4, 2, 5, 19, 8), "causal+padding(0.4)"),  # 19 keys, 8 a call: the last call has 3
        (AttentionShape(1, 2, 2, 9, 4, 8), "causal"),  # queries that see no key
        (AttentionShape(2, 4, 1, 3, 16, 8, 4), "none"),
    ],
    ids=lambda value: getattr(value, "label", value),
)
def test_they_are_the_softmax_of_the_scores(shape: AttentionShape, mask: str) -> None:
    workload = Workload("attention", shape, mask=mask, dtype="float64")
    server = bench(right)
    prepared(server, workload)
    element, heads = shape.batch - 1, [shape.heads - 1, 0]
    answer = ask(server, element, heads)
    drawn = draw(workload, 0)
    whole = Mask(mask, shape.batch, shape.q_len, shape.kv_len, 0)
    expected = probabilities(drawn.q, drawn.k, whole, shape.head_dim**-0.5)[element, heads]  # type: ignore[attr-defined]  # attention's drawing
    assert np.allclose(decoded(answer), expected.numpy(), atol=1e-7)
    seen = whole.to_bool()
    allowed = np.ones((shape.q_len, shape.kv_len), bool) if seen is None else seen.numpy()[-1, 0]
    keys = np.arange(shape.kv_len)
    start, stop = (np.array(answer[name])[:, None] for name in ("start", "stop"))
    assert np.array_equal((keys >= start) & (keys < stop), allowed)
    assert answer["appended"] == 0
    assert answer["ok"]


def test_of_a_numpy_kernel_too() -> None:
    def uniform(q: Any, k: Any, v: Any, *, mask: Any, scale: float) -> Any:
        return np.repeat(v.mean(2, keepdims=True), q.shape[2], axis=2)

    server = bench(uniform, framework="numpy")
    prepared(server, Workload("attention", AttentionShape(1, 2, 2, 3, 10, 4)))
    assert np.allclose(decoded(ask(server, 0, [0, 1])), 0.1)


def test_of_a_kernel_that_writes_to_its_inputs_and_hands_out_one_buffer() -> None:
    buffer = torch.empty(1, 2, 3, 4)

    def careless(q: Any, k: Any, v: Any, *, mask: Any, scale: float) -> Any:
        buffer.copy_(right(q, k, v, mask=mask, scale=scale))
        q.zero_()
        return buffer

    workload = Workload("attention", AttentionShape(1, 2, 2, 3, 10, 4))
    careful, server = bench(right), bench(careless)
    for each in (careful, server):
        prepared(each, workload)
    ask(server, 0, [0])  # the first call of all has zeroed q already
    assert np.array_equal(decoded(ask(server, 0, [0, 1])), decoded(ask(careful, 0, [0, 1])))


def test_a_kernel_that_fails_on_other_values_says_so() -> None:
    def fails(q: Any, k: Any, v: Any, *, mask: Any, scale: float) -> Any:
        if float(v.abs().max()) == 1:
            raise RuntimeError("only random values, please")
        return right(q, k, v, mask=mask, scale=scale)

    server = bench(fails)
    prepared(server, Workload("attention", AttentionShape(1, 2, 2, 3, 10, 4)))
    answer = ask(server, 0, [0])
    assert (answer["ok"], answer["status"]) == (False, "error")
    assert "only random values, please" in answer["reason"]


def test_another_pass_has_none() -> None:
    def function(q: Any, k: Any, v: Any, *, mask: Any, scale: float) -> Any:
        return right(q, k, v, mask=mask, scale=scale)

    attention("one", passes={"forward", "backward"})(function)
    server = BenchServer(Registry({"one": Entry(function.__attnbench__, "a test")}))  # type: ignore[attr-defined]  # set above
    prepared(server, Workload("attention", AttentionShape(1, 2, 2, 3, 10, 4), pass_="backward"))
    answer = ask(server, 0, [0])
    assert (answer["status"], answer["reason"]) == (
        "unsupported",
        "attention weights are those of a forward pass, not backward",
    )


def module_bench(operation: str, kernel: Callable[[Any], Any]) -> BenchServer:
    implementation = Implementation(
        name="one", operation=operation, framework="torch", summary="", load=lambda workload, options: kernel
    )
    return BenchServer(Registry({"one": Entry(implementation, "a test")}))


def test_mha_returns_its_own() -> None:
    shape = SHAPES["mha"].from_axes(
        {
            "batch": 2, "embed_dim": 8, "heads": 4, "seq_len": 6,
            "add_bias_kv": True, "add_zero_attn": True, "need_weights": "per_head",
        }
    )  # fmt: skip
    weights = torch.rand(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    server = module_bench("mha", lambda inputs: (torch.ones_like(inputs.query), weights))
    prepared(server, Workload("mha", shape, mask="causal"))
    answer = ask(server, 1, [2, 3])
    assert np.array_equal(decoded(answer), weights[1, [2, 3]].numpy())
    assert (answer["start"], answer["stop"]) == ([0] * 6, [1, 2, 3, 4, 5, 6])
    assert answer["appended"] == 2


def test_mha_that_was_not_asked_for_weights_per_head_says_what_to_ask_for() -> None:
    shape = SHAPES["mha"].from_axes({"embed_dim": 8, "heads": 4, "seq_len": 6})
    server = module_bench("mha", lambda inputs: torch.ones_like(inputs.query))
    prepared(server, Workload("mha", shape))
    answer = ask(server, 0, [0])
    assert answer["status"] == "unsupported"
    assert "need_weights: per_head" in answer["reason"]


def test_layers_have_none_to_give() -> None:
    shape = SHAPES["encoder_layer"].from_axes({"embed_dim": 8, "heads": 4, "seq_len": 6})
    server = module_bench("encoder_layer", lambda inputs: torch.ones_like(inputs.tensors["src"]))
    prepared(server, Workload("encoder_layer", shape))
    answer = ask(server, 0, [0])
    assert (answer["status"], answer["reason"]) == (
        "unsupported",
        "encoder_layer returns no attention weights; attention and mha have some",
    )
