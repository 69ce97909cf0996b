"""What a kernel keeps between its calls is told, and nothing else is."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from attnbench.bench import kept, memory
from attnbench.bench.server import BenchServer
from attnbench.implementation import AttentionInputs, Implementation
from attnbench.registry import Entry, Registry
from attnbench.units import KIB
from attnbench.workload import AttentionShape, Workload
from attnbench.zygote import import_libraries

Function = Callable[[AttentionInputs], Any]


@pytest.fixture(autouse=True, scope="module")
def imported() -> Iterator[None]:
    import_libraries()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a bench that has just been forked; what is small is told, too."""
    WORKSPACES.clear()
    workspace_of.cache_clear()
    gc.collect()
    gc.freeze()
    monkeypatch.setattr(memory, "LEAST_KEPT_BYTES", 32 * KIB)


def in_torch(x: AttentionInputs) -> Any:
    scores = x.q @ x.k.transpose(-2, -1) * x.scale
    allowed = x.mask.to_bool(x.q.device)
    return torch.softmax(scores if allowed is None else scores.masked_fill(~allowed, -1e9), dim=-1) @ x.v


def in_numpy(x: AttentionInputs) -> Any:
    scores = x.q @ x.k.swapaxes(-2, -1) * np.float32(x.scale)
    allowed = x.mask.to_bool()
    weights = np.exp(scores if allowed is None else np.where(allowed, scores, -np.inf))
    return weights / weights.sum(axis=-1, keepdims=True) @ x.v


WORKSPACES: dict[str, Any] = {}


@lru_cache
def workspace_of(size: int) -> Any:
    return np.ones(size, np.uint8)


def load_nothing(like: Function) -> Function:
    return like


def load_in_a_global(like: Function) -> Function:
    empty: Any = torch.empty if like is in_torch else np.empty
    dtype: Any = torch.uint8 if like is in_torch else np.uint8

    def kernel(x: AttentionInputs) -> Any:
        if "it" not in WORKSPACES:
            WORKSPACES["it"] = empty(64 * KIB, dtype=dtype)
        return like(x)

    return kernel


def load_in_a_closure(like: Function) -> Function:
    workspace: list[Any] = []

    def kernel(x: AttentionInputs) -> Any:
        if not workspace:
            # Two views of one block, and a block of its own.
            whole: Any = np.ones(32 * KIB, np.uint8)
            whole = torch.ones(32 * KIB, dtype=torch.uint8) if like is in_torch else whole
            workspace.extend([whole[: 16 * KIB], whole[16 * KIB :], torch.ones(8 * KIB)])
        return like(x)

    return kernel


def load_cached(like: Function) -> Function:
    def kernel(x: AttentionInputs) -> Any:
        workspace_of(64 * KIB)
        return like(x)

    return kernel


def load_as_output(like: Function) -> Function:
    outputs: list[Any] = []

    def kernel(x: AttentionInputs) -> Any:
        outputs[:] = outputs or [like(x)]
        outputs[0][...] = like(x)
        return outputs[0]

    return kernel


class Held:
    """A kernel with state of its own, as a module has it."""

    def __init__(self, like: Function) -> None:
        self.like = like
        self.workspace: Any = None

    def __call__(self, x: AttentionInputs) -> Any:
        self.workspace = np.ones(64 * KIB, np.uint8) if self.workspace is None else self.workspace
        return self.like(x)


def told(load: Callable[[Function], Function], framework: str, **of_workload: Any) -> str | None:
    like = in_numpy if framework == "numpy" else in_torch
    implementation = Implementation(
        name="kernel", operation="attention", framework=framework, summary="", load=lambda *_: load(like)
    )
    workload = Workload("attention", AttentionShape(1, 4, 4, 64, 64, 64), **of_workload)
    bench = BenchServer(Registry({"kernel": Entry(implementation, "a test")}))
    parameters = {
        "case": "it",
        "implementation": "kernel",
        "options": {},
        "workload": workload.to_json(),
        "device": "cpu",
        "seed": 0,
        "threads": None,
    }
    assert bench.answer({"verb": "prepare", **parameters})["ok"]
    reply = bench.answer({"verb": "memory", "case": "it"})
    return str(reply["peak_alloc_partial"]) if reply["peak_alloc_partial"] else None


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("load", [load_in_a_global, load_in_a_closure, load_cached, load_as_output, Held])
def test_what_is_kept_is_told(load: Callable[[Function], Function], framework: str) -> None:
    # Output, views and blocks are of 64 KiB in all, wherever they are.
    assert told(load, framework) == "64.0 KiB that are kept from call to call are not counted"


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("mask", ["none", "padding(0.5)", "causal+document(3)"])
def test_inputs_and_masks_are_not_what_a_kernel_keeps(mask: str, framework: str) -> None:
    assert told(load_nothing, framework, mask=mask) is None


@pytest.mark.parametrize("pass_", ["backward", "forward_backward"])
def test_graphs_and_gradients_are_not_either(pass_: str) -> None:
    assert told(load_nothing, "torch", pass_=pass_) is None


def test_what_is_small_beside_the_peak_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEPT_SHARE", 0.5)
    assert told(load_in_a_global, "torch") is None


def test_the_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_OBJECTS", 1)
    assert told(load_cached, "numpy") is None  # out of reach then
