from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import attnbench
from attnbench.implementation import AttentionInputs, Implementation, declared_in
from attnbench.masks import Mask
from attnbench.workload import AttentionShape, Workload

SQUARE = Workload("attention", AttentionShape(1, 4, 4, 8, 8, 16))
GROUPED = Workload("attention", AttentionShape(1, 4, 2, 8, 8, 16))


def declared(**settings: Any) -> Implementation:
    @attnbench.attention("mine", **settings)
    def mine(q: Any, k: Any, v: Any, *, mask: Mask, scale: float, **options: Any) -> Any:
        """Somebody's kernel."""
        return q * scale, options

    (implementation,) = declared_in({"mine": mine, "other": 3})
    return implementation


def test_what_is_not_declared_is_unsupported() -> None:
    plain = declared()
    assert plain.summary == "Somebody's kernel."
    assert plain.supports(SQUARE, {}, "cpu") is None
    for workload, word in [
        (GROUPED, "grouped"),
        (Workload("attention", SQUARE.shape, "causal"), "causal"),
        (Workload("attention", SQUARE.shape, pass_="backward"), "backward"),
    ]:
        assert word in (plain.supports(workload, {}, "cpu") or "")


def test_what_is_declared_is_supported() -> None:
    able = declared(masks={"none", "causal"}, grouped_query=True, dtypes={"float32"}, devices={"cuda"})
    assert able.supports(Workload("attention", GROUPED.shape, "causal"), {}, "cuda:1") is None
    assert "cpu" in (able.supports(GROUPED, {}, "cpu") or "")
    assert "float16" in (
        able.supports(Workload("attention", SQUARE.shape, dtype="float16"), {}, "cuda") or ""
    )


def test_options_are_passed_with_their_defaults() -> None:
    implementation = declared(options={"block": 128})
    inputs = AttentionInputs(2.0, None, None, Mask("none", 1, 8, 8), 0.5)
    kernel = implementation.load(SQUARE, implementation.with_defaults({}))
    assert kernel(inputs) == (1.0, {"block": 128})
    with pytest.raises(ValueError, match="no option 'blok'"):
        implementation.with_defaults({"blok": 1})


class Kernel:
    def __call__(self, workload: Workload, options: Mapping[str, Any]) -> None: ...


class Endless:
    def __init__(self) -> None:
        self.__wrapped__ = self

    __call__ = Kernel.__call__


@pytest.mark.parametrize(
    ("load", "file"),
    [
        (json.dumps, json.__file__),
        (functools.partial(json.dumps, indent=1), json.__file__),
        (functools.lru_cache(json.dumps), json.__file__),
        (Kernel(), __file__),
        (math.sqrt, getattr(math, "__file__", None)),
        (len, None),
        (eval("lambda workload, options: None"), None),
        (Endless(), None),
    ],
)
def test_it_tells_the_file_that_its_kernel_is_written_in(load: Any, file: str | None) -> None:
    told = Implementation(name="mine", operation="attention", framework="torch", summary="", load=load)
    assert told.file == file
    assert declared().file == __file__


def test_another_layout_is_handed_over_and_back() -> None:
    seen = SimpleNamespace(shape=None)

    @attnbench.attention("swapped", layout="BLHD", framework="numpy")
    def swapped(q: Any, k: Any, v: Any, *, mask: Mask, scale: float) -> Any:
        seen.shape = q.shape
        return q

    q = np.zeros((1, 4, 8, 16))
    kernel = swapped.__attnbench__.load(SQUARE, {})  # type: ignore[attr-defined]
    output = kernel(AttentionInputs(q, q, q, Mask("none", 1, 8, 8), 1.0))
    assert seen.shape == (1, 8, 4, 16)
    assert output.shape == (1, 4, 8, 16)


@pytest.mark.parametrize(
    "settings",
    [
        {"masks": {"casual"}},
        {"masks": "causal"},
        {"dtypes": {"fp32"}},
        {"devices": {"gpu"}},
        {"passes": set()},
        {"framework": "jaxx"},
        {"layout": "LBHD"},
        {"framework": "numpy", "passes": {"forward", "backward"}},
        {"options": {"block": [1, 2]}},
        {"options": {"not a name": 1}},
        {"options": 3},
        {"options": ["block"]},
    ],
)
def test_nonsense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|has no"):
        declared(**settings)


def implementation(**settings: Any) -> Implementation:
    given = {"name": "x", "operation": "attention", "framework": "torch", "summary": "", **settings}
    return Implementation(load=lambda workload, options: lambda inputs: None, **given)


@pytest.mark.parametrize("name", ["two words", "", "1st", "a/b", "a(b)", "ü", "-x"])
def test_a_name_is_made_of_few_characters(name: str) -> None:
    with pytest.raises(ValueError, match="a letter or '_' first"):
        attnbench.attention(name)(lambda q, k, v, *, mask, scale: q)


def test_a_name_may_have_dots_and_dashes() -> None:
    assert implementation(name="flash-attn_2.8").name == "flash-attn_2.8"


@pytest.mark.parametrize(
    ("supports", "answer"),
    [
        (lambda workload, options, device: device, "cpu"),
        (lambda workload, options: f"block {options['block']}", "block 1"),
        (lambda workload: "never", "never"),
        (lambda *arguments: str(len(arguments)), "3"),
        (lambda workload, options, flag=None, more=None: flag, "cpu"),
    ],
)
def test_supports_takes_as_many_arguments_as_it_likes(
    supports: Callable[..., str | None], answer: str
) -> None:
    assert implementation(supports=supports).supports(SQUARE, {"block": 1}, "cpu") == answer


def test_supports_that_needs_more_is_refused() -> None:
    with pytest.raises(ValueError, match=r"supports\(workload, options, device\)"):
        implementation(supports=lambda a, b, c, d: None)
