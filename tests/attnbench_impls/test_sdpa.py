"""torch's scaled_dot_product_attention: which backend runs, and what a pinned one cannot do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attnbench.bench.accuracy import assess
from attnbench.bench.kernel import load_case, why_unsupported
from attnbench.inputs import InputPool
from attnbench.masks import Mask, why_impossible
from attnbench.workload import DTYPES, AttentionShape, Workload
from attnbench_impls.sdpa import SDPA, SDPA_CUDNN, SDPA_EFFICIENT, SDPA_FLASH, SDPA_MATH, choice, masking
from attnbench_impls.sdpa.backends import Pinned
from attnbench_impls.sdpa.masking import Masking, answers_blind_queries, how_masked
from attnbench_impls.sdpa.twin import own_reasons, twin_of

ON_CPU = {each.name: each for each in (SDPA, SDPA_FLASH, SDPA_MATH)}
CUDA_ONLY = {each.name: each for each in (SDPA_EFFICIENT, SDPA_CUDNN)}
CUDA = torch.device("cuda")

SHAPES = {
    "equal": AttentionShape(2, 2, 2, 33, 33, 16, 16),
    "grouped": AttentionShape(2, 4, 2, 20, 50, 8, 8),
    "decoding": AttentionShape(2, 4, 2, 1, 40, 16, 16),
    "blind queries": AttentionShape(2, 2, 1, 40, 18, 8, 8),
    "one key": AttentionShape(1, 2, 2, 3, 1, 3, 3),
    "other values": AttentionShape(2, 4, 2, 33, 20, 8, 12),
}

MASKS = (
    "none",
    "causal",
    "sliding_window(5)",
    "padding(0.3)",
    "document(3)",
    "causal+padding(0.3)",
    "sliding_window(3)+padding(0.2)",
    "causal+sliding_window(4)+padding(0.3)+document(2)",
)


# Right, and by the kernel that it names


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ON_CPU)
def test_right_with_every_mask(name: str, shape: str) -> None:
    implementation, of = ON_CPU[name], SHAPES[shape]
    masks = [mask for mask in MASKS if why_impossible(mask, of.kv_len) is None]
    for number, mask in enumerate(masks):
        dtype = list(DTYPES)[(number + len(shape)) % len(DTYPES)]  # each in turn
        workload = Workload("attention", of, mask=mask, dtype=dtype, pass_="forward_backward")
        if why_unsupported(implementation, {}, workload, "cpu"):
            assert (name, shape) == ("sdpa_flash", "other values")
            continue
        reply = assess(load_case(implementation, {}, workload, "cpu", 0, InputPool()))
        assert reply["accuracy"] == "pass", f"{workload.label}: {reply['reason']}"


@pytest.mark.parametrize("mask", ["causal", "sliding_window(5)"])
@pytest.mark.parametrize("shape", ["equal", "blind queries", "other values"])
@pytest.mark.parametrize("name", ON_CPU)
def test_the_backend_that_runs_is_the_one_named(name: str, shape: str, mask: str) -> None:
    workload = Workload("attention", SHAPES[shape], mask=mask)
    if why_unsupported(ON_CPU[name], {}, workload, "cpu"):
        pytest.skip("flash wants one head_dim")
    case = load_case(ON_CPU[name], {}, workload, "cpu", 0)
    operators = {"flash_attention": "_scaled_dot_product_flash_attention_for_cpu", "math": "_math"}
    with torch.autograd.profiler.profile() as profile:
        case.prepare_call()()
    ran = {
        backend
        for backend, op in operators.items()
        if any(op in event.name for event in profile.function_events)
    }
    assert ran == {case.resolved_backend()}


@pytest.mark.parametrize("pass_", ["forward", "backward"])
@pytest.mark.parametrize(
    "mask", ["sliding_window(3)", "sliding_window(3)+padding(0.2)", "causal+document(3)"]
)
def test_blind_queries_give_0_where_the_backend_gives_nan(
    monkeypatch: pytest.MonkeyPatch, mask: str, pass_: str
) -> None:
    torchs = torch.nn.functional.scaled_dot_product_attention

    def careless(*args: Any, attn_mask: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        seen = attn_mask.any(dim=-1, keepdim=True)
        return torchs(*args, attn_mask=attn_mask, **kwargs) * torch.where(seen, 1.0, torch.nan)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", careless)
    workload = Workload("attention", SHAPES["blind queries"], mask=mask, pass_=pass_)
    assert assess(load_case(SDPA, {}, workload, "cpu", 0, InputPool()))["accuracy"] == "fail"
    monkeypatch.setattr(masking, "answers_blind_queries", lambda device, backend: False)
    assert assess(load_case(SDPA, {}, workload, "cpu", 0, InputPool()))["accuracy"] == "pass"


def test_torch_is_relied_on_for_blind_queries_where_it_was_tried() -> None:
    cpu = torch.device("cpu")
    assert answers_blind_queries(cpu, None)
    assert answers_blind_queries(CUDA, "math")
    for backend in (None, "flash", "mem_efficient", "cudnn"):
        assert not answers_blind_queries(CUDA, backend)


def test_a_causal_mask_needs_no_matrix_but_in_the_backends_without_another_form() -> None:
    cpu = torch.device("cpu")
    assert how_masked(Mask("causal", 1, 7, 7), CUDA, "flash").arguments == {"is_causal": True}
    assert how_masked(Mask("causal", 1, 1, 7), CUDA, "flash").arguments == {}
    surplus = how_masked(Mask("causal", 1, 9, 7), CUDA, "flash")
    assert (surplus.arguments, surplus.first, surplus.blind) == ({"is_causal": True}, 2, None)
    assert isinstance(how_masked(Mask("causal", 1, 5, 7), cpu, None).arguments["attn_mask"], torch.Tensor)
    for backend in (None, "flash", "mem_efficient"):
        bias = how_masked(Mask("causal", 1, 5, 7), CUDA, backend).arguments["attn_mask"]
        assert type(bias).__name__ == "CausalBias"
        assert (bias.seq_len_q, bias.seq_len_kv) == (5, 7)


@pytest.mark.parametrize(
    ("flash", "efficient", "expected"),
    [
        (True, True, "flash_attention"),
        (False, True, "efficient_attention"),
        (False, False, "math"),
    ],
)
def test_the_kernel_behind_a_causal_bias_is_named(
    monkeypatch: pytest.MonkeyPatch, flash: bool, efficient: bool, expected: str
) -> None:
    bias = object()
    biased = Masking({"attn_mask": bias})
    monkeypatch.setattr(choice, "how_masked", lambda mask, device, backend: biased)
    monkeypatch.setattr(torch.backends.cuda, "can_use_flash_attention", lambda asked: flash)
    monkeypatch.setattr(torch.backends.cuda, "can_use_efficient_attention", lambda asked: efficient)
    monkeypatch.setattr(
        torch, "_fused_sdp_choice", lambda q, k, v, *, attn_mask, **kwargs: attn_mask.ndim - 4
    )
    case = load_case(SDPA, {}, Workload("attention", SHAPES["grouped"], mask="causal"), "cpu", 0)
    assert case.resolved_backend() == expected


# Pinning


def test_pinning_leaves_the_switches_as_they_were() -> None:
    cuda = torch.backends.cuda

    def state() -> tuple[bool, ...]:
        return (
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        )

    before = state()
    cuda.enable_mem_efficient_sdp(False)
    try:
        outside = state()
        pinned = Pinned("math")
        for _ in range(2):
            with pinned:
                assert state() == (False, False, True, False)
            assert state() == outside
    finally:
        cuda.enable_mem_efficient_sdp(before[1])
    assert state() == before


@pytest.mark.parametrize("name", CUDA_ONLY)
def test_cuda_kernels_are_unavailable_on_the_cpu_and_say_how_to_get_them(name: str) -> None:
    why = CUDA_ONLY[name].available("cpu")
    assert why is not None
    assert "CUDA kernels: run it on an NVIDIA GPU" in why


def test_cudnn_is_asked_for_and_the_others_are_the_devices_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: False)
    assert "install a build of torch that brings it" in str(SDPA_CUDNN.available("cuda:1"))
    assert SDPA_EFFICIENT.available("cuda:1") is None
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    assert SDPA_CUDNN.available("cuda") is None
    assert SDPA_FLASH.available("cpu") is None


# What a pinned backend supports


def test_a_pinned_backend_that_cannot_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise RuntimeError("No available kernel. Aborting execution.")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refusing)
    workload = Workload("attention", SHAPES["grouped"], mask="causal")
    why = why_unsupported(SDPA_FLASH, {}, workload, "cpu")
    assert why == "torch's flash backend: No available kernel. Aborting execution."


@pytest.mark.parametrize("name", CUDA_ONLY)
def test_torch_itself_refuses_a_backend_without_a_kernel_here(name: str) -> None:
    why = why_unsupported(CUDA_ONLY[name], {}, Workload("attention", SHAPES["equal"]), "cpu")
    assert why is not None
    assert "No viable backend for scaled_dot_product_attention" in why


def test_a_machine_that_fails_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (torch.OutOfMemoryError("full"), RuntimeError("CUDA error: an illegal memory access")):

        def failing(*args: Any, error: RuntimeError = error, **kwargs: Any) -> torch.Tensor:
            raise error

        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", failing)
        with pytest.raises(RuntimeError, match=r"full|illegal"):
            why_unsupported(SDPA_FLASH, {}, Workload("attention", SHAPES["equal"]), "cpu")


def test_of_all_that_torch_tells_only_what_concerns_the_backend_is_kept() -> None:
    told = [
        "Memory efficient kernel not used because:",
        "Memory Efficient attention has been runtime disabled.",
        "Flash attention kernel not used because:",
        "Flash Attention does not support non-null attn_mask.",
        "CuDNN attention kernel not used because:",
        "cuDNN attention has been runtime disabled.",
    ]
    assert own_reasons(told, "flash attention") == [told[3]]
    assert own_reasons(told, "memory efficient") == [told[1]]
    assert own_reasons(told, "cudnn attention") == [told[5]]
    assert own_reasons(["something else"], "flash attention") == ["something else"]
    assert own_reasons([], "flash attention") == []


@pytest.mark.parametrize(
    ("q_len", "kv_len", "twins"),
    [
        (1, 1, (1, 1)),
        (128, 128, (128, 128)),
        (129, 129, (129, 129)),
        (4096, 4096, (128, 128)),
        (1, 131072, (1, 128 + 127 + 1)),
        (5000, 5001, (136, 137)),
        (300, 40, (172, 40)),
    ],
)
def test_the_twins_lengths_compare_and_align_as_the_workloads_do(
    q_len: int, kv_len: int, twins: tuple[int, int]
) -> None:
    shape = twin_of(Workload("attention", AttentionShape(3, 8, 2, q_len, kv_len, 192, 128))).shape
    assert (shape.q_len, shape.kv_len) == twins
    assert (shape.q_len % 128, shape.kv_len % 128) == (q_len % 128, kv_len % 128)
    assert (shape.heads, shape.kv_heads, shape.head_dim, shape.v_head_dim) == (8, 2, 192, 128)


def test_the_twins_mask_is_of_the_same_kinds_and_possible() -> None:
    mask = "causal+sliding_window(4096)+padding(0.25)+document(1000)"
    twin = twin_of(Workload("attention", AttentionShape(1, 1, 1, 4096, 4096, 8, 8), mask=mask))
    assert twin.mask == "causal+sliding_window(128)+padding(0.25)+document(128)"
    assert why_impossible(twin.mask, twin.shape.kv_len) is None
    assert twin_of(Workload("attention", SHAPES["equal"])).mask == "none"


def test_a_workload_far_too_large_to_run_is_asked_about_all_the_same() -> None:
    workload = Workload("attention", AttentionShape(64, 8, 8, 2**20, 2**20, 64, 64), mask="document(5000)")
    assert why_unsupported(SDPA_FLASH, {}, workload, "cpu") is None
