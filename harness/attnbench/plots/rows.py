"""The table's rows as plots and reports read them: plain Python values, grouped and named.

A row is a mapping of column to value (None where unknown), with three derived entries:

    label      the implementation with its options: `chunked(block=256)`
    length     kv_len, the length that workloads are swept along
    queries    q_len where it differs from kv_len, otherwise None
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnbench.bench.memory import alloc_is_partial

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "AXES",
    "SETTINGS",
    "Row",
    "anchor_of",
    "blocks",
    "can_win",
    "clean",
    "describe",
    "failed_accuracy",
    "flag_text",
    "label_of",
    "labels",
    "lengths",
    "measured",
    "memory_is_partial",
    "rows_of",
    "series",
    "shape_label",
    "shorten",
    "sweeps",
    "usual",
    "varying",
    "workload_label",
]

Row = Mapping[str, Any]

#: What a workload and its device have besides the length, in the order in which it is told.
SETTINGS = (
    "run_id",
    "scenario",
    "device",
    "operation",
    "batch",
    "heads",
    "kv_heads",
    "queries",
    "head_dim",
    "mask",
    "dtype",
    "pass",
    "inputs",
)

#: The axes of attention's shape, in the order of its label.
AXES = ("batch", "heads", "kv_heads", "q_len", "kv_len", "head_dim")

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
        row["length"] = row.get("kv_len")
        row["queries"] = row.get("q_len") if row.get("q_len") != row.get("kv_len") else None
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
    flag = row.get("flagged")
    if not flag:
        return None
    return clean(flag) if isinstance(flag, str) else "beyond the measured limits of the machine"


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


def lengths(rows: Iterable[Row]) -> list[int]:
    """The lengths, ascending."""
    return sorted({row["length"] for row in rows if row["length"] is not None})


def series(rows: Iterable[Row], label: str) -> list[Row]:
    """One implementation's rows along the length."""
    return sorted((row for row in rows if row["label"] == label), key=lambda row: row["length"] or 0)


def _grouped(rows: Iterable[Row], columns: Sequence[str]) -> list[list[Row]]:
    groups: dict[tuple[Hashable, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(column) for column in columns), []).append(row)
    return list(groups.values())


def blocks(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that were measured side by side: same run, scenario, workload and device."""
    return _grouped(rows, ("run_id", "scenario", "block_id"))


def sweeps(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that differ in implementation and length alone."""
    return _grouped(rows, SETTINGS)


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


def _heads(row: Row) -> str:
    heads, kv_heads = row.get("heads"), row.get("kv_heads")
    return f"H{heads}" if heads == kv_heads or kv_heads is None else f"H{heads}kv{kv_heads}"


def _queries(row: Row) -> str:
    queries = row.get("queries")
    if queries is None:
        return "q_len = kv_len"
    return "1 query" if queries == 1 else f"{queries} queries"


def describe(row: Row, names: Iterable[str] = SETTINGS) -> str:
    """The named settings of a row, readably: `H8, D64, causal, float32`."""
    wanted = dict.fromkeys("heads" if name == "kv_heads" else name for name in names)
    parts = []
    for name in wanted:
        value = row.get(name)
        if name == "queries":
            parts.append(_queries(row))
        elif value is None:
            continue
        elif name == "heads":
            parts.append(_heads(row))
        elif name in ("batch", "head_dim"):
            parts.append(f"{'B' if name == 'batch' else 'D'}{value}")
        elif name == "mask" and value == "none":
            parts.append("no mask")
        elif name == "inputs":
            parts.append(f"{clean(value)} inputs")
        else:
            parts.append(clean(value))
    return ", ".join(parts)


def shape_label(row: Row, axes: Iterable[str] = AXES) -> str:
    """`B1-H8-L512-D64` as in case ids, of the named axes alone: `H32kv8-Lq1-Lk512` of heads and lengths."""
    wanted = set(axes)
    parts = []
    if "batch" in wanted and row.get("batch") is not None:
        parts.append(f"B{row['batch']}")
    if wanted & {"heads", "kv_heads"} and row.get("heads") is not None:
        parts.append(_heads(row))
    if wanted & {"q_len", "kv_len"} and row.get("kv_len") is not None:
        parts.append(_length(row))
    if "head_dim" in wanted and row.get("head_dim") is not None:
        parts.append(f"D{row['head_dim']}")
    return "-".join(parts)


def _length(row: Row) -> str:
    queries, keys = row.get("q_len"), row.get("kv_len")
    return f"L{keys}" if queries == keys or queries is None else f"Lq{queries}-Lk{keys}"


def usual(rows: Iterable[Row]) -> dict[str, Any]:
    """Of each setting the value that most workloads share, where most do; the others have no entry.

    What is usual need not be told of every workload, and labels without it still differ.
    """
    workloads = [block[0] for block in blocks(rows)]
    found: dict[str, Any] = {}
    for name in SETTINGS:
        values = Counter(row.get(name) for row in workloads)
        for value, number in values.most_common(1):
            if number >= _USUAL * len(workloads):
                found[name] = value
    return found


def workload_label(row: Row, known: Mapping[str, Any]) -> str:
    """A workload told by its length and by the settings that are not as `known`: `L512, causal`."""
    length = "" if row.get("length") is None else _length(row)
    other = [name for name in SETTINGS if not (name in known and known[name] == row.get(name))]
    rest = describe(row, [name for name in other if name != "queries"])
    return ", ".join(part for part in (length, rest) if part)
