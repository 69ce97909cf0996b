"""Writes the tables of docs/implementations.md from the catalogue: `python docs/implementations.py`.

What stands between the markers is made here, from what the implementations declare and from asking them what
they support on the CPU; the rest of the page is written by hand. A test compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from attnbench.bench.kernel import why_unsupported
from attnbench.implementation import Implementation
from attnbench.masks import KINDS
from attnbench.registry import Registry
from attnbench.workload import DTYPES, PASSES, AttentionShape, Workload

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- from the catalogue -->\n", "<!-- end of what is from the catalogue -->\n"

#: What every implementation is asked about first, in the first dtype that it takes.
PLAIN = Workload("attention", AttentionShape(2, 4, 4, 64, 64, 64))

SHAPES = {
    "grouped queries": replace(PLAIN.shape, kv_heads=2),
    "decoding": replace(PLAIN.shape, q_len=1),
    "q_len ≠ kv_len": replace(PLAIN.shape, q_len=16),
    "d_qk ≠ d_v": replace(PLAIN.shape, v_head_dim=32),
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
    plain = next(
        (
            each
            for dtype in ("float32", *DTYPES)
            if supported(implementation, each := replace(PLAIN, dtype=dtype))
        ),
        None,
    )
    if plain is None:
        return [f"`{implementation.name}`", "not on the CPU", "", "", "", ""]
    return [
        f"`{implementation.name}`",
        told({dtype: replace(plain, dtype=dtype) for dtype in DTYPES}, implementation),
        told({name: replace(plain, mask=mask) for name, mask in MASKS.items()}, implementation),
        told({name: replace(plain, shape=shape) for name, shape in SHAPES.items()}, implementation),
        told({pass_: replace(plain, pass_=pass_) for pass_ in PASSES}, implementation),
        ", ".join(f"`{name}={value}`" for name, value in implementation.options.items()) or "–",
    ]


def document() -> str:
    """What stands between the markers."""
    registry = Registry.discover(entry_points=_built_in())
    known = [registry.get(info["name"]) for info in registry.catalogue()]
    lines = [
        "",
        *table(
            ("implementation", "what it does", "memory beside inputs and output", "arithmetic", "source"),
            ((f"`{each.name}`", each.summary, each.memory, each.flops, each.source) for each in known),
        ),
        "",
        "What each supports on the CPU (in float32, where it has it):",
        "",
        *table(
            ("implementation", "dtypes", "masks", "shapes", "passes", "options"), map(capabilities, known)
        ),
        "",
    ]
    return "\n".join(lines) + "\n"


def _built_in() -> list[object]:
    from importlib.metadata import EntryPoint

    return [EntryPoint("builtin", "attnbench_impls", "attnbench.implementations")]


def page(written: str) -> str:
    """The page `written`, with what is from the catalogue made anew."""
    before, _, rest = written.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + document() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
