"""What a figure is, to whoever shows it: words, numbers and a way to draw it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.plots.rows import (
    SETTINGS,
    Row,
    clean,
    describe,
    goes_without_saying,
    shape_label,
    varying,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Plot", "common_text", "data_table", "listed"]


@dataclass(frozen=True)
class Plot:
    """One figure.

    `id` is a file name without its ending and unique in a report; `alt` says in words what the figure
    shows; `data` holds the numbers behind it, its columns named as in the table; `draw()` draws it anew.
    """

    id: str
    title: str
    caption: str
    alt: str
    data: pd.DataFrame
    draw: Callable[[], Figure]


def listed(items: Iterable[str], most: int = 6) -> str:
    """`a, b and c`; beyond `most` items the rest is counted."""
    names = list(items)
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def common_text(rows: Sequence[Row], known: Mapping[str, Any] | None = None) -> str:
    """The settings in which `rows` agree, as a sentence; empty where there are none.

    With `known`, the usual settings (see `attnbench.plots.rows.usual`): those, from which titles may deviate.
    """
    differing = set(varying(rows))
    shared = {name: rows[0].get(name) for name in SETTINGS if name not in differing}
    told = dict(shared if known is None else known)
    dropped = {"run_id", "scenario"}
    for pair in ({"heads", "kv_heads"}, {"head_dim", "v_head_dim"}):  # told in one word, or not at all
        dropped |= set() if pair <= told.keys() else pair
    dropped |= {name for name in told if goes_without_saying(told, name)}
    names = [name for name in SETTINGS if name in told and name not in dropped]
    text = describe(told, names)
    if not text:
        return ""
    return f"{'All here' if set(names) <= shared.keys() else 'Unless told otherwise'}: {text}."


def data_table(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """The numbers behind a figure: one line a row, told apart by implementation, shape and what differs."""
    import pandas as pd

    settings = [
        name
        for name in varying(rows)
        if name in ("run_id", "scenario", "device", "operation", "mask", "dtype", "pass", "inputs")
    ]

    def line(row: Row) -> dict[str, Any]:
        named = {"implementation": row["label"], "shape": shape_label(row)}
        named |= {name: clean(row[name]) if row.get(name) is not None else None for name in settings}
        return named | {column: row.get(column) for column in columns}

    return pd.DataFrame([line(row) for row in rows], columns=["implementation", "shape", *settings, *columns])
