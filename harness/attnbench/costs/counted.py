"""What is counted of a workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["PARTS", "Costs"]

#: What the operations of modules are divided into, in the order in which they are told.
PARTS = ("projections", "attention", "feed_forward")


@dataclass(frozen=True, slots=True)
class Costs:
    """`flops` operations by the field's convention, and `bytes` moved (each operand once).

    `least_flops` and `least_bytes` are the least that a right answer takes, never more than those. `parts`
    are the `flops` of each of `PARTS` that the operation has; empty where it is not divided. `with_cache` is
    what is left of `flops` where a cache holds the keys and values of a past; None where there is none.
    """

    flops: int
    bytes: int
    least_flops: int
    least_bytes: int
    parts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    with_cache: int | None = None

    @property
    def useful_flops(self) -> int:
        """`flops`, without what a cache saves."""
        return self.flops if self.with_cache is None else self.with_cache
