"""The table's rows as plots and reports read them: plain Python values, grouped and named.

A row is a mapping of column to value (None where unknown), with three derived entries:

    label       the implementation with its options: `chunked(block=256)`
    lengths     both lengths in one word, as in case ids: `L512`, `Lq1-Lk512`
    v_head_dim  head_dim, where the table has no other size of a value
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnbench.bench.memory import alloc_is_partial
from attnbench.plots.choices import CHOICES

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CONDITIONS",
    "SETTINGS",
    "SHAPE",
    "Row",
    "anchor_of",
    "blocks",
    "can_win",
    "clean",
    "conditions",
    "describe",
    "failed_accuracy",
    "flag_text",
    "goes_without_saying",
    "has_past",
    "heads_text",
    "inner_sizes",
    "label_of",
    "labels",
    "length_text",
    "measured",
    "memory_is_partial",
    "of_module",
    "rows_of",
    "series",
    "shape_label",
    "shorten",
    "size_text",
    "usual",
    "varying",
    "workload_label",
]

Row = Mapping[str, Any]

#: The sizes of shapes, in the order of attention's label, then those of modules.
SHAPE = (
    "batch",
    "heads",
    "kv_heads",
    "q_len",
    "kv_len",
    "head_dim",
    "v_head_dim",
    "embed_dim",
    "kdim",
    "vdim",
    "ff_dim",
    "layers",
)

#: What a workload and its device have besides the sizes.
CONDITIONS = ("run_id", "scenario", "device", "operation", *CHOICES, "mask", "dtype", "pass", "inputs")

#: All of a workload and its device, in the order in which it is told.
SETTINGS = (
    "run_id",
    "scenario",
    "device",
    "operation",
    "lengths",
    "batch",
    "embed_dim",
    "heads",
    "kv_heads",
    "head_dim",
    "v_head_dim",
    "kdim",
    "vdim",
    "ff_dim",
    "layers",
    "norm_first",
    *(name for name in CHOICES if name not in ("norm_first", "src_mask", "memory_mask")),
    "mask",
    "src_mask",
    "memory_mask",
    "dtype",
    "pass",
    "inputs",
)

#: What no operation but modules has.
_OF_MODULES = frozenset((*SHAPE[SHAPE.index("embed_dim") :], *CHOICES))

#: The parts of a module's label, in its order.
_LABEL = tuple(
    dict.fromkeys(
        (
            *("batch", "lengths", "embed_dim", "heads", "ff_dim", "layers"),
            *("src_mask", "memory_mask", "attention", "kdim", "vdim"),
            *CHOICES,
        )
    )
)

#: A setting's value is the usual one where so large a share of the workloads has it.
_USUAL = 0.75


def clean(text: object) -> str:
    """`text` on one line, without characters that no XML may hold or that reorder what stands around them.

    Control and format characters become visible (`␛`) or U+FFFD; runs of white space one space.
    """
    kept: list[str] = []
    for character in str(text):
        code = ord(character)
        if character in "\t\n\r\v\f":
            kept.append(" ")
        elif code < 0x20:
            kept.append(chr(0x2400 + code))
        elif unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp"):
            kept.append("\ufffd")
        else:
            kept.append(character)
    return " ".join("".join(kept).split())


def shorten(text: str, length: int = 32) -> str:
    """`text` with its middle left out where it is longer than `length` characters."""
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def _plain(value: Any) -> Any:
    import pandas as pd

    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """The rows of a table, in its order, with null as None and the derived entries added."""
    rows: list[Row] = []
    for record in frame.to_dict("records"):
        row: dict[str, Any] = {str(name): _plain(value) for name, value in record.items()}
        row["label"] = label_of(row)
        row["lengths"] = None if row.get("kv_len") is None else length_text(row)
        if row.get("v_head_dim") is None:
            row["v_head_dim"] = row.get("head_dim")
        rows.append(row)
    return rows


def label_of(row: Row) -> str:
    """The implementation with its options: `chunked(block=256)`."""
    options = clean(row.get("options") or "").replace(" ", "")
    name = clean(row.get("implementation") or "unnamed")
    return f"{name}({options})" if options else name


def measured(row: Row) -> bool:
    """Whether the row has a latency."""
    return row.get("status") == "ok" and row.get("latency_median_s") is not None


def failed_accuracy(row: Row) -> bool:
    """Whether the row's numbers were found wrong."""
    return row.get("accuracy") == "fail"


def flag_text(row: Row) -> str | None:
    """Why the measurement is not to be trusted; None where nothing speaks against it."""
    if not row.get("flagged"):
        return None
    return clean(row.get("reason") or "") or "faster than the machine was measured to be"


def can_win(row: Row) -> bool:
    """Whether the row may be called the best: measured, verified and not flagged."""
    return measured(row) and row.get("accuracy") == "pass" and flag_text(row) is None


def memory_is_partial(row: Row) -> bool:
    """Whether the framework's allocator saw but a part of the memory: its peak is a lower bound."""
    peak = row.get("peak_alloc_bytes")
    return peak is not None and alloc_is_partial(peak, row.get("peak_rss_bytes")) is not None


def labels(rows: Iterable[Row]) -> list[str]:
    """The implementations in order of appearance."""
    return list(dict.fromkeys(row["label"] for row in rows))


def series(rows: Iterable[Row], label: str) -> list[Row]:
    """One implementation's rows."""
    return [row for row in rows if row["label"] == label]


def _grouped(rows: Iterable[Row], columns: Sequence[str]) -> list[list[Row]]:
    groups: dict[tuple[Hashable, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(column) for column in columns), []).append(row)
    return list(groups.values())


def blocks(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that were measured side by side: same run, scenario, workload and device."""
    return _grouped(rows, ("run_id", "scenario", "block_id"))


def anchor_of(block: Iterable[Row]) -> Row | None:
    """The row that the block's speed-ups are relative to: the one that is 1 over itself, exactly."""
    for row in block:
        if row.get("speedup") == 1 and row.get("speedup_ci_low") in (None, 1):
            return row
    return None


def varying(rows: Iterable[Row]) -> list[str]:
    """The settings in which `rows` differ."""
    seen: dict[str, set[Any]] = {name: set() for name in SETTINGS}
    for row in rows:
        for name in SETTINGS:
            seen[name].add(row.get(name))
    return [name for name in SETTINGS if len(seen[name]) > 1]


def heads_text(row: Row) -> str:
    """`H8`; grouped queries as `H32kv8`."""
    heads, kv_heads = row.get("heads"), row.get("kv_heads")
    return f"H{heads}" if heads == kv_heads or kv_heads is None else f"H{heads}kv{kv_heads}"


def length_text(row: Row) -> str:
    """`L512`; unequal lengths as `Lq1-Lk512`."""
    queries, keys = row.get("q_len"), row.get("kv_len")
    return f"L{keys}" if queries == keys or queries is None else f"Lq{queries}-Lk{keys}"


def size_text(row: Row) -> str:
    """`D64`; where values have another size than queries and keys, `D192v128`."""
    size, of_value = row.get("head_dim"), row.get("v_head_dim")
    return f"D{size}" if of_value in (size, None) else f"D{size}v{of_value}"


def of_module(row: Row) -> bool:
    """Whether the row is of a module, whose heads share `embed_dim`: its head_dim follows from the others."""
    return row.get("embed_dim") is not None


def has_past(row: Row) -> bool:
    """Whether positions stand before the first query: its keys and values are those of a longer sequence."""
    lengths = row.get("q_len"), row.get("kv_len")
    return row.get("attention") == "self" and None not in lengths and lengths[0] != lengths[1]


def goes_without_saying(row: Row, name: str) -> bool:
    """Whether the row has the setting's usual value, which is told only where others have another."""
    return name in CHOICES and row.get(name) == CHOICES[name].usual


def conditions(row: Row) -> dict[str, str]:
    """What is known of a workload besides its sizes, readably: `no mask`, `normal inputs`, `pre-norm`."""
    told = {
        name: clean(CHOICES[name].words(row[name]) if name in CHOICES else row[name])
        for name in CONDITIONS
        if row.get(name) is not None
    }
    if told.get("mask") == "none":
        told["mask"] = "no mask"
    if "inputs" in told:
        told["inputs"] += " inputs"
    return told


def describe(row: Row, names: Iterable[str] = SETTINGS) -> str:
    """The named settings of a row, readably: `H8, D64, causal, float32`, `E512, H8, pre-norm`."""
    told = conditions(row)
    if row.get("lengths") is not None:
        told["lengths"] = row["lengths"]
    if row.get("batch") is not None:
        told["batch"] = f"B{row['batch']}"
    if row.get("heads") is not None:
        told["heads"] = heads_text(row)
    if row.get("head_dim") is not None and not of_module(row):
        told["head_dim"] = size_text(row)
    told |= inner_sizes(row)
    together = {"kv_heads": "heads", "v_head_dim": "head_dim"}
    wanted = dict.fromkeys(together.get(name, name) for name in names)
    if "scenario" in wanted and "scenario" in told:
        wanted.pop("operation", None)  # a scenario has but one
    return ", ".join(told[name] for name in wanted if name in told)


def inner_sizes(row: Row) -> dict[str, str]:
    """The sizes that modules alone have: `E512`, `F2048`, `N2`; `kdim 256` where it is not embed_dim."""
    letters = {"embed_dim": "E", "ff_dim": "F", "layers": "N"}
    told = {name: f"{letter}{row[name]}" for name, letter in letters.items() if row.get(name) is not None}
    for name in ("kdim", "vdim"):
        if row.get(name) not in (None, row.get("embed_dim")):
            told[name] = f"{name} {row[name]}"
    return told


def shape_label(row: Row, axes: Iterable[str] | None = None) -> str:
    """`B1-H8-L512-D64`, `B1-L512-E512-H8-F2048-prenorm` as in case ids.

    Of the named axes alone, `H32kv8-Lq1-Lk512` of heads and lengths: then what goes without saying in a case
    id is told too, `postnorm`.
    """
    wanted = {*SHAPE, *CHOICES} if axes is None else set(axes)
    told: dict[str, str] = {}
    if "batch" in wanted and row.get("batch") is not None:
        told["batch"] = f"B{row['batch']}"
    if wanted & {"heads", "kv_heads"} and row.get("heads") is not None:
        told["heads"] = heads_text(row)
    if wanted & {"q_len", "kv_len"} and row.get("kv_len") is not None:
        told["lengths"] = length_text(row)
    if not of_module(row):
        if wanted & {"head_dim", "v_head_dim"} and row.get("head_dim") is not None:
            told["head_dim"] = size_text(row)
        return "-".join(told.values())
    told |= {name: text.replace("dim ", "d") for name, text in inner_sizes(row).items() if name in wanted}
    for name, choice in CHOICES.items():
        usual_one = axes is None and row.get(name) == choice.usual
        if name in wanted and row.get(name) is not None and not usual_one:
            told[name] = choice.label(row[name])
    return "-".join(told[name] for name in _LABEL if name in told)


def usual(rows: Iterable[Row]) -> dict[str, Any]:
    """Of each setting the value that most workloads share, where most do; the others have no entry.

    What is usual need not be told of every workload, and labels without it still differ. What modules alone
    have is usual where it is among modules.
    """
    workloads = [block[0] for block in blocks(rows)]
    found: dict[str, Any] = {}
    for name in SETTINGS:
        having = [row for row in workloads if name not in _OF_MODULES or row.get(name) is not None]
        values = Counter(row.get(name) for row in having)
        for value, number in values.most_common(1):
            if number >= _USUAL * len(having):
                found[name] = value
    return found


def workload_label(row: Row, known: Mapping[str, Any]) -> str:
    """A workload told by the settings that are not as `known`, its lengths first: `L512, causal`.

    The lengths alone where there are no others.
    """
    other = [name for name in SETTINGS if not (name in known and known[name] == row.get(name))]
    order = sorted(other, key=lambda name: name != "lengths")
    return describe(row, order) or describe(row, ["lengths"])
