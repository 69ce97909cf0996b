"""flex_attention: masks in its own form, what it can and cannot, and that what runs was compiled."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from attnbench.bench.accuracy import assess
from attnbench.bench.kernel import load_case, why_unsupported
from attnbench.bench.poison import poisoned
from attnbench.inputs import InputPool
from attnbench.masks import Mask, why_impossible
from attnbench.workload import AttentionShape, Workload
from attnbench_impls import flex
from attnbench_impls.flex import FLEX, block_mask, mask_mod, seen_blocks

CPU = torch.device("cpu")

compiles = pytest.mark.skipif(
    FLEX.available("cpu") is not None, reason=f"flex cannot be compiled here: {FLEX.available('cpu')}"
)

LENGTHS = ((7, 7), (128, 128), (300, 300), (1, 200), (130, 400), (300, 40))
MASKS = (
    "causal",
    "sliding_window(1)",
    "sliding_window(130)",
    "padding(0.3)",
    "document(3)",
    "causal+padding(0.1)",
    "causal+sliding_window(70)+padding(0.3)+document(2)",
)


def masks(specification: str, batch: int = 2) -> list[Mask]:
    return [
        Mask(specification, batch, q_len, kv_len)
        for q_len, kv_len in LENGTHS
        if why_impossible(specification, kv_len) is None
    ]


# Masks in flex_attention's form


@pytest.mark.parametrize("specification", MASKS)
def test_every_mask_is_said_to_flex_attention_pair_by_pair(specification: str) -> None:
    for mask in masks(specification):
        b, q, kv = (torch.arange(size) for size in (mask.batch, mask.q_len, mask.kv_len))
        allowed = mask_mod(mask, CPU)(
            b[:, None, None, None], torch.tensor(0), q[None, None, :, None], kv[None, None, None]
        )
        assert torch.equal(*torch.broadcast_tensors(allowed, mask.to_bool()))


@pytest.mark.parametrize("specification", MASKS)
def test_blocks_are_those_that_torch_finds_in_the_whole_matrix(specification: str) -> None:
    for mask in masks(specification):
        ours = block_mask(mask, CPU)
        assert ours is not None
        torchs = create_block_mask(
            mask_mod(mask, CPU), mask.batch, None, mask.q_len, mask.kv_len, device="cpu"
        )
        assert ours.shape[-2:] == (mask.q_len, mask.kv_len)
        for kind in ("kv", "full_kv", "q", "full_q"):
            count, expected = (getattr(each, f"{kind}_num_blocks") for each in (ours, torchs))
            assert torch.equal(*torch.broadcast_tensors(count, expected))
            which, wanted = torch.broadcast_tensors(
                getattr(ours, f"{kind}_indices"), getattr(torchs, f"{kind}_indices")
            )
            listed = torch.arange(which.shape[-1]) < expected[..., None]
            assert torch.equal(which[listed], wanted[listed])


def test_a_mask_of_a_hundred_thousand_queries_takes_no_matrix() -> None:
    partly, wholly = seen_blocks(Mask("causal+sliding_window(1000)", 1, 131072, 131072))
    assert partly.shape == (1, 1024, 1024)
    assert partly.sum() + wholly.sum() < 1024 * 10
    assert np.trace(partly[0]) == 1024


def test_without_a_mask_there_are_no_blocks() -> None:
    assert block_mask(Mask("none", 1, 7, 7), CPU) is None


# What it can, and what it wants


@pytest.mark.parametrize(
    ("device", "changes", "reason"),
    [
        ("cpu", {}, None),
        ("cpu", {"dtype": "float16", "mask": "causal+document(2)"}, None),
        ("cpu", {"dtype": "float64"}, "float32, float16 and bfloat16 on CPU, not float64"),
        ("cpu", {"pass_": "backward"}, "does not support backward on CPU"),
        ("cpu", {"pass_": "forward_backward"}, "does not support backward on CPU"),
        ("cuda:1", {"pass_": "backward"}, None),
        ("cuda", {"shape": AttentionShape(1, 1, 1, 8, 8, 16, 8)}, "at least 16 on CUDA, got 8"),
        ("cpu", {"shape": AttentionShape(1, 1, 1, 8, 8, 1, 1)}, None),
    ],
)
def test_what_it_supports(device: str, changes: dict[str, Any], reason: str | None) -> None:
    workload = Workload(**{"operation": "attention", "shape": AttentionShape(1, 2, 1, 8, 9, 16), **changes})
    why = why_unsupported(FLEX, {}, workload, device)
    assert (why is None) == (reason is None)
    assert (reason or "") in (why or "")


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that has all that is needed; its headers' folder."""
    for variable in ("CXX", *flex.OFF_SWITCHES):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(flex.sys, "platform", "linux")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(flex.shutil, "which", {"g++": "/usr/bin/g++", "icpx": "/opt/icpx"}.get)
    monkeypatch.setattr(flex.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "Python.h").touch()
    return tmp_path


def test_available_where_all_is_there(complete: Path) -> None:
    assert FLEX.available("cpu") is None
    assert FLEX.available("cuda:0") is None


@pytest.mark.parametrize(
    ("device", "take_away", "remedy"),
    [
        ("cpu", lambda patch: patch.setattr(flex.shutil, "which", lambda name: None), "install g++ "),
        ("cpu", lambda patch: patch.setenv("CXX", "missing++"), "finds no missing++: install g++ "),
        ("cpu", lambda patch: patch.setattr(flex.sys, "platform", "darwin"), "use such a machine, or a GPU"),
        ("cuda", lambda patch: patch.setattr(torch, "__version__", "2.5.1+cu124"), "this is 2.5.1+cu124: "),
        (
            "cpu",
            lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT"),
            "AVX2 under Linux only; this is linux with DEFAULT",
        ),
        (
            "cpu",
            lambda patch: patch.setattr(sysconfig, "get_path", lambda name: "/no"),
            "install python3-dev",
        ),
        ("cpu", lambda patch: patch.setenv("TORCHDYNAMO_DISABLE", "1"), "TORCHDYNAMO_DISABLE=1: unset it"),
        (
            "cuda",
            lambda patch: patch.setenv("TORCH_COMPILE_DISABLE", "1"),
            "TORCH_COMPILE_DISABLE=1: unset it",
        ),
        (
            "cuda",
            lambda patch: patch.setattr(flex.importlib.util, "find_spec", lambda name: None),
            "pip install triton",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(
    complete: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    take_away: Callable[[pytest.MonkeyPatch], None],
    remedy: str,
) -> None:
    take_away(monkeypatch)
    assert remedy in str(FLEX.available(device))


def test_another_compiler_will_do(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "icpx")
    assert FLEX.available("cpu") is None


# Compiled, or not at all


def test_uncompiled_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda q, k, v, blocks, scale: q)
    case = load_case(FLEX, {}, Workload("attention", AttentionShape(1, 1, 1, 4, 4, 4)), "cpu", 0)
    with pytest.raises(RuntimeError, match="uncompiled: that is not what is measured"):
        case.prepare_call()()


@pytest.mark.parametrize("fused", [True, False])
def test_another_graph_than_flex_attentions_is_an_error(monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    graph = torch.fx.Graph()
    graph.output(graph.call_function(torch.ops.higher_order.flex_attention if fused else torch.add))

    def compiles_at_once(function: Any, *, backend: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        backend(torch.fx.GraphModule({}, graph), [])
        return lambda q, k, v, blocks, scale: q

    monkeypatch.setattr(torch, "compile", compiles_at_once)
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda graph, inputs: None)
    case = load_case(FLEX, {}, Workload("attention", AttentionShape(1, 1, 1, 4, 4, 4)), "cpu", 0)
    if fused:
        case.prepare_call()()
    else:
        with pytest.raises(RuntimeError, match="uncompiled"):
            case.prepare_call()()


def test_the_blocks_are_built_once_and_their_time_is_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(mask: Mask, device: torch.device) -> None:
        built.append((mask, device))

    monkeypatch.setattr(flex, "block_mask", build)
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda q, k, v, blocks, scale: q)
    case = load_case(
        FLEX, {}, Workload("attention", AttentionShape(1, 1, 1, 4, 4, 4), mask="causal"), "cpu", 0
    )
    for _ in range(2):
        with pytest.raises(RuntimeError, match="uncompiled"):
            case.prepare_call()()
    assert built == [(case.inputs.mask, CPU)]
    assert case.inputs.mask.build_s > 0


@compiles
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "mask", "dtype"),
    [
        # More queries than keys, so many that whole blocks of queries see nothing; lengths beside blocks.
        (AttentionShape(2, 4, 2, 300, 30, 8, 12), "causal+padding(0.3)+document(2)", "float32"),
        (AttentionShape(2, 6, 2, 1, 200, 16), "sliding_window(50)", "bfloat16"),
    ],
)
def test_compiled_it_is_right(
    shape: AttentionShape, mask: str, dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    case = load_case(FLEX, {}, Workload("attention", shape, mask=mask, dtype=dtype), "cpu", 0, InputPool())
    with torch._inductor.config.patch(compile_threads=1, cpp_cache_precompile_headers=False):
        reply = assess(case)
        assert reply["accuracy"] == "pass", reply["reason"]
        with poisoned():
            assert assess(case)["accuracy"] == "pass"
    assert case.resolved_backend() == "inductor_cpp"
