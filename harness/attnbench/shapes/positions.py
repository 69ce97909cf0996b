"""The shape of a sinusoidal positional encoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from attnbench.shapes.axis import Axis, AxisValue
from attnbench.shapes.modules import Module, Sizes, axes_named, joined

__all__ = ["PositionsShape"]


@dataclass(frozen=True, slots=True)
class PositionsShape(Module):
    """x `[B, L, E]` -> o `[B, L, E]`: the sinusoidal encoding of each position is added."""

    seq_len: int
    batch_first: bool = True

    OPERATION: ClassVar[str] = "positional_encoding"
    NEEDED: ClassVar[tuple[str, ...]] = ("embed_dim", "seq_len")
    AXES: ClassVar[Mapping[str, Axis]] = axes_named("batch", "embed_dim", "seq_len", "batch_first")

    def columns(self) -> dict[str, AxisValue]:
        """The shape's columns in the table; there are neither queries nor keys, so both lengths are L."""
        columns = self.to_json()
        length = columns.pop("seq_len")
        return {**columns, "q_len": length, "kv_len": length}

    @property
    def label(self) -> str:
        """`B1-L512-E512`."""
        usual = f"B{self.batch}-L{self.seq_len}-E{self.embed_dim}"
        return joined(usual, ((not self.batch_first, "seqfirst"),))

    @property
    def mask_lengths(self) -> tuple[int, int]:
        """The sequence's length, twice."""
        return self.seq_len, self.seq_len

    def activations(self) -> Sizes:
        """x."""
        return {"x": self._swapped(self.batch, self.seq_len, self.embed_dim)}

    def scores(self) -> int:
        """None: nobody attends."""
        return 0

    def outputs(self) -> Sizes:
        """o."""
        return {"o": self._swapped(self.batch, self.seq_len, self.embed_dim)}

    def why_impossible(self, mask: str) -> str | None:
        """Nothing is masked where nobody attends."""
        return None if mask == "none" else f"there is nothing to mask in positional_encoding, got {mask}"
