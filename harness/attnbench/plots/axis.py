"""What workloads are swept along: a size of the shape, alone or with others that follow it, or a category.

An axis holds where rows stand on it and which rows share a line: those that agree in all else. Sizes that are
linked follow the leading one in proportion (as many queries as keys) or in inverse proportion (heads × size
of a head constant), and are no difference between the rows of a line.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from attnbench.plots.choices import CHOICES
from attnbench.plots.rows import (
    CONDITIONS,
    SHAPE,
    Row,
    conditions,
    has_past,
    heads_text,
    inner_sizes,
    length_text,
    of_module,
    size_text,
)

__all__ = ["AS_A_RULE", "Axis"]

#: Sizes of a module that its others tell.
_FOLLOWING = ("head_dim", "v_head_dim")

#: What the rows of a line mostly have in common; it is told only where other lines have something else.
AS_A_RULE = ("q_len = kv_len", "kv_heads = heads")


@dataclass(frozen=True, slots=True)
class _Words:
    """How a leading column is spoken of: `length`, `lengths`, its label, `at length 8`, `grows like L^2`."""

    name: str
    plural: str
    label: str
    one: str
    many: str
    symbol: str


_WORDS = {
    "kv_len": _Words("length", "lengths", "length (keys)", "length {}", "length {}", "L"),
    "q_len": _Words("number of queries", "queries", "queries", "{} query", "{} queries", "Lq"),
    "heads": _Words("number of heads", "heads", "heads", "{} head", "{} heads", "H"),
    "kv_heads": _Words(
        "number of key heads", "key heads", "key heads (kv_heads)", "{} key head", "{} key heads", "Hkv"
    ),
    "batch": _Words("batch size", "batch sizes", "batch size", "batch {}", "batch {}", "B"),
    "head_dim": _Words(
        "head size", "head sizes", "head size (head_dim)", "head size {}", "head size {}", "D"
    ),
    "v_head_dim": _Words(
        "value size", "value sizes", "value size (v_head_dim)", "value size {}", "value size {}", "Dv"
    ),
    "mask": _Words("mask", "masks", "mask", "{}", "{}", ""),
    "dtype": _Words("dtype", "dtypes", "dtype", "{}", "{}", ""),
    "pass": _Words("pass", "passes", "pass", "{}", "{}", ""),
    "inputs": _Words("inputs", "inputs", "inputs", "{}", "{}", ""),
    "embed_dim": _Words(
        "model size", "model sizes", "model size (embed_dim)", "model size {}", "model size {}", "E"
    ),
    "kdim": _Words(
        "size of the keys", "sizes of the keys", "size of the keys (kdim)", "kdim {}", "kdim {}", "kdim"
    ),
    "vdim": _Words(
        "size of the values", "sizes of the values", "size of the values (vdim)", "vdim {}", "vdim {}", "vdim"
    ),
    "ff_dim": _Words(
        "inner size of the feed-forward network",
        "inner sizes",
        "inner size of the feed-forward network (ff_dim)",
        "inner size {}",
        "inner size {}",
        "F",
    ),
    "layers": _Words("number of layers", "layers", "layers", "{} layer", "{} layers", "N"),
    **{
        column: _Words(choice.name, choice.plural, choice.name, "{}", "{}", "")
        for column, choice in CHOICES.items()
    },
}

#: Lengths where positions stand before the first query.
_CONTEXT = _Words(
    "context length",
    "context lengths",
    "context length (keys)",
    "context length {}",
    "context length {}",
    "L",
)


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis led by `column`.

    `linked` names the sizes that follow it, each with its power: 1 in proportion, -1 in inverse proportion.
    With `fewest` places or more, rows are a sweep along it. `context` axes are for rows with a past alone.
    """

    column: str
    linked: tuple[tuple[str, int], ...] = ()
    fewest: int = 3
    context: bool = False

    @property
    def key(self) -> str:
        """What figures along it are named by; those along axes of one key are drawn together."""
        return "context" if self.context else self.column

    @property
    def _words(self) -> _Words:
        return _CONTEXT if self.context else _WORDS[self.column]

    @property
    def numeric(self) -> bool:
        """Whether places are sizes, to be drawn in proportion; otherwise they are categories."""
        return self.column in SHAPE

    @property
    def name(self) -> str:
        """`length`, `number of heads`: what something changes with."""
        return self._words.name

    @property
    def plural(self) -> str:
        """`lengths`, `heads`: what something is measured over."""
        return self._words.plural

    @property
    def label(self) -> str:
        """What stands beside the axis."""
        return self._words.label

    @property
    def symbol(self) -> str:
        """The leading size in a formula: `L`, `H`."""
        return self._words.symbol

    def terms(self, row: Row) -> str:
        """What is held constant, where one might not think so: `at constant heads × head_dim`; or empty.

        `row` is one of those along the axis.
        """
        powers = dict(self.linked)
        if self.column == "kv_len" and "q_len" not in powers:
            return "at constant q_len"
        if self.column == "heads" and of_module(row):
            return "at constant embed_dim"
        inverse = next((name for name, power in self.linked if power < 0), None)
        return f"at constant {self.column} × {inverse}" if inverse else ""

    def at(self, row: Row) -> Any:
        """The row's place: the leading size, or the category."""
        return row.get(self.column)

    def place(self, value: Any) -> str:
        """A place in words: `length 512`, `8 heads`."""
        if self.column in CHOICES:
            return CHOICES[self.column].words(value)
        return (self._words.one if value == 1 else self._words.many).format(value)

    def places(self, rows: Iterable[Row]) -> list[Any]:
        """The places of `rows`: sizes ascending, categories in order of appearance."""
        known = dict.fromkeys(self.at(row) for row in rows if self.at(row) is not None)
        return sorted(known) if self.numeric else list(known)

    def line(self, row: Row) -> Hashable | None:
        """What the rows of one line share, and no others; None where a size of the axis is not known."""
        leading = self.at(row)
        if leading is None or (self.context and not has_past(row)):
            return None
        powers = dict(self.linked)
        shared: list[Hashable] = [row.get(name) for name in CONDITIONS if name != self.column]
        for name in SHAPE:
            size = row.get(name)
            if name == self.column or (of_module(row) and name in _FOLLOWING):
                continue
            if name in powers and not (size is None and of_module(row)):  # not every module has every size
                if size is None:
                    return None
                shared.append(Fraction(size, leading) if powers[name] > 0 else size * leading)
            else:
                shared.append(size)
        return tuple(shared)

    def tick(self, row: Row) -> str:
        """The row's place as a tick: `512`; below it linked sizes that it does not tell: `8` over `D64`."""
        powers = dict(self.linked)
        told = []
        for name, letter in (("batch", "B"), ("kv_heads", "kv"), ("q_len", "Lq")):
            if name in powers and "heads" not in powers and row[name] != self.at(row):
                told.append(f"{letter}{row[name]}")
        if "heads" in powers and row["heads"] is not None:
            told.append(heads_text(row))
        if self.column == "heads" and of_module(row):
            told.append(f"D{row['head_dim']}")
        elif "head_dim" in powers:
            told.append(size_text(row))
        elif "v_head_dim" in powers and row["v_head_dim"] != row["head_dim"]:
            told.append(f"v{row['v_head_dim']}")
        return "\n".join(filter(None, (str(self.at(row)), " ".join(told))))

    def shared(self, row: Row) -> dict[str, str]:
        """What all rows of the row's line have in common, setting by setting, readably."""
        told = {name: text for name, text in conditions(row).items() if name != self.column}
        told |= _inner(row, self)
        moving = {self.column, *(name for name, _ in self.linked)}
        parts = {
            "lengths": (_lengths, ("q_len", "kv_len")),
            "batch": (_batch, ("batch",)),
            "heads": (_heads, ("heads", "kv_heads")),
            "head_dim": (_head_size, ("head_dim", "v_head_dim")),
        }
        if of_module(row) and not {"heads", "embed_dim"} <= moving:
            del parts["head_dim"]
        for name, (text, sizes) in parts.items():
            if all(row.get(size) is not None for size in sizes):
                told[name] = text(row, moving)
        return {name: text for name, text in told.items() if text}


def _inner(row: Row, axis: Axis) -> dict[str, str]:
    """The sizes that modules alone have, but the leading one; of those that follow it how they do."""
    told = inner_sizes(row)
    following = [name for name, _ in axis.linked if name in told]
    told |= {name: _proportion(name, axis.column, row) for name in following}
    return {name: text for name, text in told.items() if name != axis.column}


def _lengths(row: Row, moving: set[str]) -> str:
    match "q_len" in moving, "kv_len" in moving:
        case False, False:
            return length_text(row)
        case True, True:
            return _proportion("q_len", "kv_len", row)
        case True, False:
            return _counted("{} key", row["kv_len"])
        case _:
            return _counted("{} query", row["q_len"])


def _batch(row: Row, moving: set[str]) -> str:
    if "batch" not in moving:
        return f"B{row['batch']}"
    return f"B·L = {row['batch'] * row['kv_len']}" if "kv_len" in moving else ""


def _heads(row: Row, moving: set[str]) -> str:
    match "heads" in moving, "kv_heads" in moving:
        case False, False:
            return heads_text(row)
        case True, True:
            return _proportion("kv_heads", "heads", row)
        case True, False:
            return _counted("{} key head", row["kv_heads"])
        case _:
            return f"H{row['heads']}"


def _head_size(row: Row, moving: set[str]) -> str:
    match "head_dim" in moving, "v_head_dim" in moving:
        case False, False:
            return size_text(row)
        case True, True:
            if "heads" in moving:
                return f"H·D = {row['heads'] * row['head_dim']}"
            return "" if row["v_head_dim"] == row["head_dim"] else _proportion("v_head_dim", "head_dim", row)
        case True, False:
            return f"v{row['v_head_dim']}"
        case _:
            return f"D{row['head_dim']}"


def _counted(one: str, number: int) -> str:
    """`1 query`, `2 queries`; `1 key`, `2 keys`."""
    if number == 1:
        return one.format(1)
    plural = f"{one.removesuffix('y')}ies" if one.endswith("query") else f"{one}s"
    return plural.format(number)


def _proportion(name: str, of: str, row: Row) -> str:
    """`q_len = kv_len`, `kv_heads = heads/4`, `q_len = 2·kv_len`."""
    ratio = Fraction(row[name], row[of])
    if ratio == 1:
        return f"{name} = {of}"
    times = f"{ratio.numerator}·" if ratio.numerator != 1 else ""
    over = f"/{ratio.denominator}" if ratio.denominator != 1 else ""
    return f"{name} = {times}{of}{over}"
