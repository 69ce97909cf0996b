"""Cases and blocks: what is measured, and what is measured together.

A case is implementation × workload × device: one row of the table. A block is the cases that share a
workload and a device; they are measured interleaved and compared with one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attnbench.workload import Workload

__all__ = ["Block", "Case", "Option", "Variant", "format_options"]

#: A value of an implementation's option.
Option = bool | int | float | str


def format_options(options: Mapping[str, Option]) -> str:
    """`block=256, fast=true`, sorted by name; empty without options."""

    def text(value: Option) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return ", ".join(f"{name}={text(options[name])}" for name in sorted(options))


@dataclass(frozen=True, slots=True)
class Variant:
    """An implementation with the options that a scenario gives it."""

    implementation: str
    options: tuple[tuple[str, Option], ...] = ()

    @classmethod
    def of(cls, implementation: str, options: Mapping[str, Option] | None = None) -> Variant:
        """A variant from a mapping of options."""
        return cls(implementation, tuple(sorted((options or {}).items())))

    @property
    def label(self) -> str:
        """`sdpa`, or `chunked(block=256)`."""
        if not self.options:
            return self.implementation
        return f"{self.implementation}({format_options(dict(self.options)).replace(' ', '')})"


@dataclass(frozen=True, slots=True)
class Case:
    """Implementation × workload × device: one row of the table."""

    variant: Variant
    workload: Workload
    device: str = "cpu"

    @property
    def block_id(self) -> str:
        """`attention/B1-H8-L512-D64/float32/causal/forward/cpu`."""
        return f"{self.workload.label}/{self.device}"

    @property
    def case_id(self) -> str:
        """`attention/B1-H8-L512-D64/float32/causal/forward/cpu/chunked(block=256)`: readable and stable."""
        return f"{self.block_id}/{self.variant.label}"


@dataclass(frozen=True, slots=True)
class Block:
    """The cases of one scenario that share a workload and a device.

    `anchor` is the case that the others' speed-ups are relative to; None when the block lacks it.
    """

    scenario: str
    workload: Workload
    device: str
    cases: tuple[Case, ...]
    anchor: Case | None = field(default=None)

    @property
    def block_id(self) -> str:
        """The id shared by the block's cases."""
        return f"{self.workload.label}/{self.device}"
