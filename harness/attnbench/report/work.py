"""Where the time should go: a table of the workloads whose arithmetic is of several parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnbench.costs import PARTS
from attnbench.plots.rows import Row
from attnbench.plots.work import Work, part_text, work
from attnbench.report import cells
from attnbench.units import format_count

__all__ = ["MEANING", "table_of_work"]

MEANING = (
    "The share of each part in a workload's floating-point operations (FLOP): if all of them took equally "
    "long, that would be its share of the time. Beside it the fastest implementation that was measured and "
    "verified, its time, and the operations that it did per second."
)


def table_of_work(rows: Sequence[Row], known: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The headings and the lines, one a workload; both empty where no workload is of several parts.

    `known` are the usual settings (see `attnbench.plots.rows.usual`), which names do not tell.
    """
    every = work(rows, known)
    parts = [part for part in PARTS if any(part in each.shares for each in every)]
    if not every:
        return [], []
    headings = ["workload", "FLOP", *map(part_text, parts), "fastest", "latency", "rate"]
    lines = []
    for each in every:
        lines += [_line(each, parts), *([_shares(each.cached, parts)] if each.cached else [])]
    return headings, lines


def _line(each: Work, parts: Sequence[str]) -> list[str]:
    named, best = _shares(each, parts)[:-3], each.fastest
    if best is None:
        return [*named, cells.DASH, cells.DASH, cells.DASH]
    rate = cells.value("tflops_per_s", best.get("tflops_per_s"))
    return [*named, cells.implementation(best), cells.latency(best), rate]


def _shares(each: Work, parts: Sequence[str]) -> list[str]:
    """A line without a time."""
    shares = [f"{100 * each.shares[part]:.0f}%" if part in each.shares else cells.DASH for part in parts]
    return [each.name, format_count(each.flops), *shares, cells.DASH, cells.DASH, cells.DASH]
