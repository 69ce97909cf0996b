from __future__ import annotations

import gc
import os
import socket
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench.bench import standard
from attnbench.bench.compiled import CACHE_VARIABLES, FOLDER_VARIABLE
from attnbench.bench.server import BenchServer
from attnbench.implementation import Implementation, attention
from attnbench.protocol import Channel
from attnbench.registry import Entry, Registry
from attnbench.workload import AttentionShape, Workload
from attnbench.zygote import import_libraries


def right(q: Any, k: Any, v: Any, *, mask: Any, scale: float) -> Any:
    """softmax(QKᵀ·scale)·V"""
    scores = q @ k.transpose(-2, -1) * scale
    if mask.kind != "none":
        scores = scores.masked_fill(~mask.to_bool(q.device), float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


@pytest.fixture(autouse=True, scope="module")
def frozen() -> None:
    """As in a bench: what was imported is no garbage, and collecting costs nothing."""
    import_libraries()
    gc.freeze()


PASSES = {"forward", "backward", "forward_backward"}


def server(**kernels: Callable[..., Any]) -> BenchServer:
    entries = {}
    for name, kernel in {"right": right, **kernels}.items():

        def function(*args: Any, kernel: Callable[..., Any] = kernel, **kwargs: Any) -> Any:
            return kernel(*args, **kwargs)

        attention(name, masks={"none", "causal"}, passes=PASSES, grouped_query=True)(function)
        implementation: Implementation = function.__attnbench__  # type: ignore[attr-defined]  # set above
        entries[name] = Entry(implementation, "a test")
    return BenchServer(Registry(entries))


def request(case: str = "right", **changes: Any) -> dict[str, Any]:
    axes = {"mask": "none", "pass_": "forward", "dtype": "float32"}
    axes |= {key: changes.pop(key) for key in list(changes) if key in axes}
    workload = Workload("attention", AttentionShape(1, 2, 2, 24, 24, 8), **axes)
    return {
        "verb": "prepare",
        "case": case,
        "implementation": case,
        "options": {},
        "workload": workload.to_json(),
        "device": "cpu",
        "seed": 0,
        "threads": None,
        **changes,
    }


def test_a_case_goes_its_whole_way() -> None:
    bench = server()
    prepared = bench.answer(request(mask="causal"))
    assert prepared.pop("first_call_s") > 0
    assert prepared == {
        "ok": True,
        "framework": "torch",
        "resolved_backend": None,
        "device_name": None,
        "output_bytes": 2 * 24 * 8 * 4,
    }
    memory = bench.answer({"verb": "memory", "case": "right"})
    assert memory["peak_alloc_bytes"] >= 2 * 24 * 24 * 4
    accuracy = bench.answer({"verb": "accuracy", "case": "right"})
    assert (accuracy["accuracy"], accuracy["bitwise_repeatable"]) == ("pass", True)
    sample = bench.answer({"verb": "sample", "case": "right", "calls": 3, "cache": "warm"})
    assert sample["ok"]
    assert sample["elapsed_s"] > 0
    assert bench.answer({"verb": "energy", "case": "right"}) == {"ok": True, "energy_j": None}
    cold = bench.answer({"verb": "sample", "case": "right", "calls": 1, "cache": "cold"})
    assert cold["elapsed_s"] > 0
    assert bench.answer({"verb": "release", "case": "right"}) == {"ok": True}
    gone = bench.answer({"verb": "sample", "case": "right", "calls": 3, "cache": "warm"})
    assert gone["status"] == "error"
    assert "'right' is not prepared" in gone["reason"]


@pytest.mark.parametrize("pass_", ["backward", "forward_backward"])
def test_gradients_are_sampled_measured_and_judged(pass_: str) -> None:
    bench = server()
    assert bench.answer(request(pass_=pass_))["output_bytes"] == (3 + (pass_ != "backward")) * 24 * 8 * 2 * 4
    for verb in ("sample", "memory", "accuracy", "sample"):
        answer = bench.answer({"verb": verb, "case": "right", "calls": 2, "cache": "warm"})
        assert answer["ok"], answer
    assert bench.answer({"verb": "accuracy", "case": "right"})["accuracy"] == "pass"


def verdict_after_timing(bench: BenchServer, case: str, **axes: Any) -> str | None:
    assert bench.answer(request(case, **axes))["ok"]
    for _ in range(2):
        assert bench.answer({"verb": "sample", "case": case, "calls": 5, "cache": "warm"})["ok"]
    answer = bench.answer({"verb": "verify", "case": case})
    assert answer["ok"], answer
    reason: str | None = answer["reason"]
    return reason


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("pass_", sorted(PASSES))
def test_what_is_computed_every_time_is_verified_and_its_inputs_restored(pass_: str, dtype: str) -> None:
    bench = server()
    assert verdict_after_timing(bench, "right", pass_=pass_, dtype=dtype) is None
    for verb in ("verify", "sample", "accuracy", "sample", "verify"):
        answer = bench.answer({"verb": verb, "case": "right", "calls": 2, "cache": "warm"})
        assert answer["ok"], answer
        assert (answer.get("accuracy", "pass"), answer.get("reason")) == ("pass", None)


@pytest.mark.parametrize("by_changes", [False, True])
@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
def test_what_is_replayed_once_it_is_timed_is_told(pass_: str, by_changes: bool) -> None:
    """By the count of its calls, or as long as torch has counted no change of the inputs."""
    kept: dict[int, Any] = {}
    calls: list[int] = []

    def lazy(q: Any, k: Any, v: Any, **rest: Any) -> Any:
        calls.append(len(calls))
        key = q._version if by_changes else min(len(calls), 6)
        if key not in kept:
            kept[key] = right(q, k, v, **rest)
        return kept[key].detach() + 0 * right(q, k, v, **rest)

    reason = verdict_after_timing(server(lazy=lazy), "lazy", pass_=pass_)
    assert reason is not None
    assert reason.startswith("o did not follow the inputs after timing")


@pytest.mark.parametrize("heads", [(4, 2), (3, 1), (2, 2)])
def test_weights_that_are_kept_once_it_is_timed_are_told(heads: tuple[int, int]) -> None:
    kept: list[Any] = []

    def lazy(q: Any, k: Any, v: Any, *, scale: float, **_: Any) -> Any:
        k, v = (each.repeat_interleave(heads[0] // heads[1], dim=1) for each in (k, v))
        if len(kept) < 6:
            kept.append(torch.softmax(q @ k.mT * scale, dim=-1))
        return kept[-1] @ v

    workload = Workload("attention", AttentionShape(2, *heads, 24, 24, 8)).to_json()
    reason = verdict_after_timing(server(lazy=lazy), "lazy", workload=workload)
    assert reason is not None
    assert reason.startswith("o did not follow the inputs")


def test_right_kernels_of_grouped_heads_are_verified() -> None:
    def grouped(q: Any, k: Any, v: Any, *, scale: float, mask: Any) -> Any:
        group = q.shape[1] // k.shape[1]
        return right(q, *(x.repeat_interleave(group, dim=1) for x in (k, v)), mask=mask, scale=scale)

    for heads in ((4, 2), (3, 1)):
        for pass_ in sorted(PASSES):
            shape = AttentionShape(2, *heads, 8, 24, 8)
            workload = Workload("attention", shape, mask="causal", pass_=pass_).to_json()
            assert verdict_after_timing(server(grouped=grouped), "grouped", workload=workload) is None


def test_zeros_that_follow_anything_are_told() -> None:
    calls: list[int] = []

    def lazy(q: Any, k: Any, v: Any, **rest: Any) -> Any:
        calls.append(1)
        return right(q, k, v, **rest) if len(calls) < 6 else torch.zeros_like(q)

    assert verdict_after_timing(server(lazy=lazy), "lazy") is not None


def test_gradients_that_are_nothing_but_rounding_may_differ_from_call_to_call() -> None:
    """With one key dq is 0 but for rounding."""

    class Unsteady(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any) -> Any:
            return q * 1

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient + 1e-9 * torch.randn_like(gradient)

    def unsteady(q: Any, k: Any, v: Any, **rest: Any) -> Any:
        return right(Unsteady.apply(q), k, v, **rest)  # type: ignore[no-untyped-call]  # torch left it untyped

    workload = Workload("attention", AttentionShape(1, 2, 2, 64, 1, 8), pass_="backward").to_json()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert verdict_after_timing(server(unsteady=unsteady), "unsteady", workload=workload) is None


def test_a_replayed_gradient_is_told() -> None:
    kept: list[Any] = []

    class Lazy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any) -> Any:
            return q * 1

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            kept.append(gradients[0].clone())
            return kept[min(len(kept), 6) - 1]

    def lazy(q: Any, k: Any, v: Any, **rest: Any) -> Any:
        return right(Lazy.apply(q), k, v, **rest)  # type: ignore[no-untyped-call]  # torch left it untyped

    reason = verdict_after_timing(server(lazy=lazy), "lazy", pass_="backward")
    assert reason is not None
    assert reason.startswith("dq did not follow")


def test_asked_for_capability_alone_nothing_is_called() -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    bench = server(never=never)
    answer = bench.answer(request("never", capability_only=True))
    assert (answer["ok"], answer["first_call_s"]) == (True, None)
    assert bench.answer(request("never"))["status"] == "error"


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"implementation": "left"}, "unavailable", "no implementation 'left' here; there are: right, tiled"),
        ({"options": {"block": 3}}, "error", "ValueError: right has no option 'block'; its options: none"),
        ({"device": "cuda:7"}, "unavailable", "there is no device cuda:7 here"),
        ({"workload": {"operation": "juggling"}}, "error", "KeyError"),
    ],
)  # fmt: skip
def test_what_cannot_be_prepared_says_why(changes: dict[str, Any], status: str, reason: str) -> None:
    answer = server(tiled=right).answer({**request(), **changes})
    assert (answer["ok"], answer["status"], answer["fatal"]) == (False, status, False)
    assert reason in answer["reason"]


def test_an_unsupported_case_is_not_loaded() -> None:
    entry = Entry(
        Implementation(
            name="picky",
            operation="attention",
            framework="torch",
            summary="",
            load=lambda *_: pytest.fail("loaded"),
            supports=lambda *_: "not today",
            available=lambda _: None,
        ),
        "a test",
    )
    answer = BenchServer(Registry({"picky": entry})).answer(request("picky"))
    assert (answer["status"], answer["reason"]) == ("unsupported", "not today")


@pytest.mark.parametrize(
    ("nonsense", "reason"),
    [
        ({"supports": lambda *_: 5}, "TypeError: supports must return None or a reason in words, got"),
        ({"available": lambda _: False}, "TypeError: available must return None or a reason in words, got"),
    ],
)  # fmt: skip
def test_a_capability_that_is_no_text_is_told_and_the_bench_lives(
    nonsense: dict[str, Any], reason: str
) -> None:
    odd = Implementation(
        name="odd",
        operation="attention",
        framework="torch",
        summary="",
        load=lambda *_: pytest.fail("loaded"),
        **nonsense,
    )
    answer = BenchServer(Registry({"odd": Entry(odd, "a test")})).answer(request("odd"))
    assert answer["status"] == "error"
    assert answer["reason"].startswith(reason)


def test_who_is_known_to_be_capable_is_not_asked() -> None:
    asked: list[str] = []
    known = Implementation(
        name="known",
        operation="attention",
        framework="torch",
        summary="",
        load=lambda *_: lambda x: right(x.q, x.k, x.v, mask=x.mask, scale=x.scale),
        supports=lambda *_: asked.append("supports"),
        available=lambda _: asked.append("available"),
    )
    bench = BenchServer(Registry({"known": Entry(known, "a test")}))
    assert bench.answer(request("known", capable=True))["first_call_s"] > 0
    assert asked == []
    assert bench.answer(request("known"))["ok"]
    assert asked == ["available", "supports"]


@pytest.mark.parametrize("verb", ["memory", "accuracy", "sample"])
def test_what_a_case_compiles_late_is_kept_in_its_own_folder(
    verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    for variable in CACHE_VARIABLES:
        monkeypatch.setenv(variable, "/mine")  # to be set back after the test
    led: dict[str, set[str]] = {"a": set(), "b": set()}

    def leads(name: str) -> Callable[..., Any]:
        def kernel(*tensors: Any, **rest: Any) -> Any:
            led[name].add(os.environ["TORCHINDUCTOR_CACHE_DIR"])
            return right(*tensors, **rest)

        return kernel

    bench = server(a=leads("a"), b=leads("b"))
    for name in led:
        assert bench.answer(request(name, scope="one"))["ok"]
    for name in led:
        assert bench.answer({"verb": verb, "case": name, "calls": 1, "cache": "warm"})["ok"]
    assert [len(folders) for folders in led.values()] == [1, 1]
    assert led["a"] != led["b"]


def test_a_backend_is_told_as_text() -> None:
    odd = Implementation(
        name="odd",
        operation="attention",
        framework="torch",
        summary="",
        load=lambda *_: lambda x: right(x.q, x.k, x.v, mask=x.mask, scale=x.scale),
        resolved_backend=lambda _: torch.float32,  # type: ignore[arg-type, return-value]  # that is the point
    )
    answer = BenchServer(Registry({"odd": Entry(odd, "a test")})).answer(request("odd"))
    assert answer["resolved_backend"] == "torch.float32"


def test_a_kernel_that_overwrites_its_inputs_spoils_no_other_case() -> None:
    def overwrites(q: Any, k: Any, v: Any, **rest: Any) -> Any:
        output = right(q, k, v, **rest)
        for tensor in (q, k, v):
            tensor.fill_(float("nan"))
        return output

    bench = server(overwrites=overwrites)
    for name in ("overwrites", "right"):
        assert bench.answer(request(name))["ok"]
        assert bench.answer({"verb": "sample", "case": name, "calls": 2, "cache": "warm"})["ok"]
    verdicts = {name: bench.answer({"verb": "accuracy", "case": name}) for name in ("overwrites", "right")}
    assert verdicts["overwrites"]["accuracy"] == "fail"
    assert "changed its inputs" in verdicts["overwrites"]["reason"]
    assert verdicts["right"]["accuracy"] == "pass"


def test_building_the_mask_is_no_part_of_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnbench.bench import server as module

    now = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    monkeypatch.setattr("attnbench.masks.perf_counter", lambda: now[0])
    arange = torch.from_numpy

    def slow(array: Any) -> Any:
        now[0] += 10.0
        return arange(array)

    def kernel(q: Any, k: Any, v: Any, *, mask: Any, scale: float) -> Any:
        monkeypatch.setattr(torch, "from_numpy", slow)
        mask.to_bool(q.device)
        monkeypatch.setattr(torch, "from_numpy", arange)
        now[0] += 0.25
        return right(q, k, v, mask=mask, scale=scale)

    answer = server(kernel=kernel).answer(request("kernel", mask="causal"))
    assert answer["first_call_s"] == pytest.approx(0.25)
    assert now[0] > 10


def test_what_a_failed_call_held_is_freed() -> None:
    kept: list[weakref.ref[Any]] = []

    def hoards(q: Any, k: Any, v: Any, **_: Any) -> Any:
        hoard = torch.ones(10)
        kept.append(weakref.ref(hoard))
        raise MemoryError

    gc.disable()
    try:
        assert server(hoards=hoards).answer(request("hoards"))["status"] == "oom"
        assert kept[0]() is None
    finally:
        gc.enable()


def test_what_a_kernel_imports_is_not_searched_before_every_sample() -> None:
    kept: list[list[int]] = []

    def imports(q: Any, k: Any, v: Any, **_: Any) -> Any:
        if not kept:
            kept.extend([number] for number in range(1000))
        return right(q, k, v, **_)

    bench = server(imports=imports)
    assert bench.answer(request("imports"))["ok"]
    assert not any(found is kept[0] for found in gc.get_objects())


def test_what_one_kernel_sets_for_the_process_does_not_reach_another() -> None:
    def selfish(q: Any, k: Any, v: Any, **rest: Any) -> Any:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        torch.backends.cuda.enable_flash_sdp(False)
        with warnings.catch_warnings(action="ignore"):  # torch warns of what anomaly detection costs
            torch.autograd.set_detect_anomaly(True)
        torch.set_default_device("meta")
        return right(q, k, v, **rest)

    seen: list[tuple[object, ...]] = []

    def other(q: Any, k: Any, v: Any, **rest: Any) -> Any:
        seen.append(
            (
                torch.get_num_threads(),
                torch.get_default_dtype(),
                torch.backends.cuda.flash_sdp_enabled(),
                torch.is_anomaly_enabled(),
                torch.empty(0).device.type,
            )
        )
        return right(q, k, v, **rest)

    before = torch.get_num_threads()
    try:
        bench = server(selfish=selfish, other=other)
        for case in ("selfish", "other"):
            assert bench.answer(request(case, threads=2))["ok"]
        for case in ("selfish", "other", "selfish", "other"):
            assert bench.answer({"verb": "sample", "case": case, "calls": 1, "cache": "warm"})["ok"]
        assert set(seen) == {(2, torch.float32, True, False, "cpu")}
    finally:
        bench.answer({"verb": "release", "case": "selfish"})  # restores
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("holder", "name", "value"),
    [
        (torch.backends, "fp32_precision", "tf32"),
        (torch.backends.cuda.matmul, "fp32_precision", "tf32"),
        (torch.backends.cuda.matmul, "allow_tf32", True),
        (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
        (getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", "bf16"),
    ],
)
def test_a_precision_set_by_backend_harms_nobody_else(holder: Any, name: str, value: Any) -> None:
    """torch raises where the general precision is asked for after one was set for a backend alone."""
    if not hasattr(holder, name):
        pytest.skip("this torch has no precision by backend")
    before = getattr(holder, name)
    assert before != value
    seen = []

    def selfish(q: Any, k: Any, v: Any, **rest: Any) -> Any:
        setattr(holder, name, value)
        return right(q, k, v, **rest)

    def other(q: Any, k: Any, v: Any, **rest: Any) -> Any:
        seen.append((getattr(holder, name), torch.get_float32_matmul_precision()))
        return right(q, k, v, **rest)

    bench = server(selfish=selfish, other=other)
    try:
        for case in ("selfish", "other"):
            assert bench.answer(request(case))["ok"]
        for case in ("selfish", "other"):
            sampled = bench.answer({"verb": "sample", "case": case, "calls": 1, "cache": "warm"})
            assert sampled["ok"], sampled
    finally:
        bench.answer({"verb": "release", "case": "selfish"})  # restores
    assert set(seen) == {(before, "highest")}


def test_the_reference_can_be_made_ahead_of_the_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    real = standard.answer
    monkeypatch.setattr(standard, "answer", lambda *asked: made.append(asked) or real(*asked))
    bench = server()
    prepare = request(pass_="backward")
    asked = {"verb": "reference", "workload": prepare["workload"], "seed": prepare["seed"]}
    assert bench.answer(asked) == {"ok": True}
    assert len(made) == 2  # as drawn, and with q negated
    assert bench.answer(prepare)["ok"]
    assert bench.answer({"verb": "accuracy", "case": "right"})["accuracy"] == "pass"
    assert len(made) == 2


def test_threads_are_set_on_request() -> None:
    before = torch.get_num_threads()
    try:
        assert server().answer(request(threads=before + 1))["ok"]
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_it_serves_a_channel_until_that_is_closed() -> None:
    ours, theirs = (Channel(end) for end in socket.socketpair())
    ours.send({"id": 5, "verb": "somersault"})
    ours.send({"id": 6, **request(capability_only=True)})
    ours.socket.shutdown(socket.SHUT_WR)
    server().serve(theirs)
    first, second = ours.receive(1), ours.receive(1)
    assert (first["id"], first["ok"], first["status"]) == (5, False, "error")
    assert "there is no verb 'somersault'; known: prepare" in first["reason"]
    assert (second["id"], second["ok"]) == (6, True)
    ours.close()
    theirs.close()
