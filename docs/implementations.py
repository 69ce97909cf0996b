"""Writes the tables of docs/implementations.md from the catalogue: `python docs/implementations.py`.

What stands between the markers is made here, from what the implementations declare and from asking them what
they support on the CPU; the rest of the page is written by hand. A test compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from attnbench.bench.kernel import why_unsupported
from attnbench.implementation import Implementation
from attnbench.masks import KINDS
from attnbench.registry import Registry
from attnbench.workload import DTYPES, PASSES, SHAPES, AttentionShape, Workload

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- from the catalogue -->\n", "<!-- end of what is from the catalogue -->\n"

#: What every implementation of an operation is asked about first, in the first dtype that it takes.
PLAIN = {operation: Workload(operation, shape.plain()) for operation, shape in SHAPES.items()}
PLAIN["attention"] = Workload("attention", AttentionShape(2, 4, 4, 64, 64, 64))

LAYERS: dict[str, dict[str, Any]] = {
    "grouped queries": {"kv_heads": 1},
    "normalised first": {"norm_first": True},
    "no bias": {"bias": False},
    "batch second": {"batch_first": False},
    "training": {"training": True},
    "dropout": {"training": True, "dropout": 0.1},
}

#: What besides is asked about, for each operation: other axes of the plain shape.
SHAPES_ASKED: dict[str, dict[str, dict[str, Any]]] = {
    "attention": {
        "grouped queries": {"kv_heads": 2},
        "decoding": {"q_len": 1},
        "q_len ≠ kv_len": {"q_len": 16},
        "d_qk ≠ d_v": {"v_head_dim": 32},
    },
    "mha": {
        "grouped queries": {"kv_heads": 1},
        "decoding": {"q_len": 1},
        "cross attention": {"attention": "cross", "q_len": 16, "kdim": 32, "vdim": 32},
        "no bias": {"bias": False},
        "add_bias_kv": {"add_bias_kv": True},
        "add_zero_attn": {"add_zero_attn": True},
        "weights": {"need_weights": "averaged"},
        "batch second": {"batch_first": False},
        "training": {"training": True},
        "dropout": {"training": True, "dropout": 0.1},
        "rotary": {"rotary": True},
        "qk_norm": {"qk_norm": True},
    },
    "encoder_layer": LAYERS,
    "decoder_layer": LAYERS,
    "transformer": {**LAYERS, "several layers": {"layers": 2}},
    "positional_encoding": {"batch second": {"batch_first": False}},
}
MASKS = {"none": "none", **{kind: kind + ("(2)" if each.parameters else "") for kind, each in KINDS.items()}}
MASKS["padding"] = "padding(0.5)"


def supported(implementation: Implementation, workload: Workload) -> bool:
    return why_unsupported(implementation, {}, workload, "cpu") is None


def told(values: Mapping[str, Workload], implementation: Implementation, first: str = "all") -> str:
    """The names of those that are supported; `first` stands for all of them."""
    names = [name for name, workload in values.items() if supported(implementation, workload)]
    return first if len(names) == len(values) else ", ".join(names) or "–"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(header)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def capabilities(implementation: Implementation) -> list[str]:
    asked = PLAIN[implementation.operation]
    plain = next(
        (
            each
            for dtype in ("float32", *DTYPES)
            if supported(implementation, each := replace(asked, dtype=dtype))
        ),
        None,
    )
    options = ", ".join(f"`{name}={shown(value)}`" for name, value in implementation.options.items()) or "–"
    if plain is None:
        return [f"`{implementation.name}`", "not on the CPU", "", "", "", ""]
    shapes = {
        name: replace(plain, shape=replace(plain.shape, **axes))
        for name, axes in SHAPES_ASKED[plain.operation].items()
    }
    masks = {name: mask for name, mask in MASKS.items() if plain.shape.why_impossible(mask) is None}
    return [
        f"`{implementation.name}`",
        told({dtype: replace(plain, dtype=dtype) for dtype in DTYPES}, implementation),
        told({name: replace(plain, mask=mask) for name, mask in masks.items()}, implementation),
        told(shapes, implementation),
        told({pass_: replace(plain, pass_=pass_) for pass_ in PASSES}, implementation),
        options,
    ]


def shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def document() -> str:
    """What stands between the markers."""
    registry = Registry.discover(entry_points=_built_in())
    known = [registry.get(info["name"]) for info in registry.catalogue()]
    lines = [""]
    for operation in SHAPES:
        own = sorted((each for each in known if each.operation == operation), key=lambda each: each.name)
        lines += [
            f"**{operation}**",
            "",
            *table(
                ("implementation", "what it does", "memory beside inputs and output", "arithmetic", "source"),
                ((f"`{each.name}`", each.summary, each.memory, each.flops, each.source) for each in own),
            ),
            "",
            "What each supports on the CPU (in float32, where it has it):",
            "",
            *table(
                ("implementation", "dtypes", "masks", "shapes", "passes", "options"), map(capabilities, own)
            ),
            "",
        ]
    return "\n".join(lines) + "\n"


def _built_in() -> list[EntryPoint]:
    return [EntryPoint("builtin", "attnbench_impls", "attnbench.implementations")]


def page(written: str) -> str:
    """The page `written`, with what is from the catalogue made anew."""
    before, _, rest = written.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + document() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
