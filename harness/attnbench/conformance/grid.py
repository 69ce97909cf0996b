"""The grids of workloads that implementations must pass, by operation.

`pairwise_grid` has every pair of values of two axes, `full_grid` every three values of three axes, of more
values. Both can be completed for an implementation that supports but a part: what it does not support would
else take from it what it does.
"""

from __future__ import annotations

from attnbench.conformance import attention, modules
from attnbench.conformance.axes import Grid, Supported
from attnbench.workload import Workload

__all__ = ["GRIDS", "full_grid", "pairwise_grid"]

#: The grid of each operation.
GRIDS: dict[str, Grid] = {"attention": attention.GRID, **modules.GRIDS}


def pairwise_grid(supported: Supported | None = None, operation: str = "attention") -> list[Workload]:
    """Workloads in which every legal pair of core values of two axes occurs: for a test suite.

    With `supported`, which says of a workload whether an implementation supports it, workloads are added
    until every pair of values that it supports each by itself is in one that it supports, where there is one.
    """
    return GRIDS[operation].pairwise(supported)


def full_grid(supported: Supported | None = None, operation: str = "attention") -> list[Workload]:
    """Workloads in which every legal triple of values of three axes occurs; `pairwise_grid` first of all.

    `supported` as for `pairwise_grid`, with triples.
    """
    return GRIDS[operation].full(supported)
