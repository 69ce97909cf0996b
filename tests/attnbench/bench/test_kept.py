"""What a kernel keeps between its calls is told, and nothing else is."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from attnbench.bench import kept, memory
from attnbench.bench.server import BenchServer
from attnbench.implementation import Implementation
from attnbench.registry import Entry, Registry
from attnbench.units import KIB
from attnbench.workload import AttentionShape, Workload
from attnbench.zygote import import_libraries
from plugins import keeping
from plugins.keeping import Function


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    import_libraries()


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a bench that has just been forked; what is small is told, too."""
    keeping.WORKSPACES.clear()
    keeping.workspace_of.cache_clear()
    gc.collect()
    gc.freeze()
    monkeypatch.setattr(memory, "LEAST_KEPT_BYTES", 32 * KIB)


def told(load: Callable[[Function], Function], framework: str, **of_workload: Any) -> str | None:
    like = keeping.in_numpy if framework == "numpy" else keeping.in_torch
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
@pytest.mark.parametrize(
    "load",
    [
        keeping.load_in_a_global,
        keeping.load_in_a_closure,
        keeping.load_cached,
        keeping.load_as_output,
        keeping.Held,
    ],
)
def test_what_is_kept_is_told(load: Callable[[Function], Function], framework: str) -> None:
    # Output, views and blocks are of 64 KiB in all, wherever they are.
    assert told(load, framework) == "64.0 KiB that are kept from call to call are not counted"


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("mask", ["none", "padding(0.5)", "causal+document(3)"])
def test_inputs_and_masks_are_not_what_a_kernel_keeps(mask: str, framework: str) -> None:
    assert told(keeping.load_nothing, framework, mask=mask) is None


@pytest.mark.parametrize("pass_", ["backward", "forward_backward"])
def test_graphs_and_gradients_are_not_either(pass_: str) -> None:
    assert told(keeping.load_nothing, "torch", pass_=pass_) is None


def test_what_is_small_beside_the_peak_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEPT_SHARE", 0.5)
    assert told(keeping.load_in_a_global, "torch") is None


def test_the_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_OBJECTS", 1)
    assert told(keeping.load_cached, "numpy") is None  # out of reach then


class _Unbound:
    """Stands for an object that is not there yet, as the proxies of web frameworks do."""

    @property
    def __class__(self) -> type:
        raise RuntimeError("nothing is bound to this proxy")


def test_an_object_that_will_not_say_its_class_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keeping.WORKSPACES, "proxy", _Unbound())
    assert told(keeping.load_in_a_closure, "torch") == (
        "64.0 KiB that are kept from call to call are not counted"
    )
