"""The shape of attention alone: queries, keys and values in, an output out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from attnbench.shapes.axis import Axis, AxisError, AxisValue, Shape

__all__ = ["AttentionShape"]

#: Stands for a size that equals another one unless it is given.
SAME = -1


@dataclass(frozen=True, slots=True)
class AttentionShape(Shape):
    """q `[batch, heads, q_len, head_dim]`, k `[batch, kv_heads, kv_len, head_dim]`, v `[…, v_head_dim]`.

    The output is `[batch, heads, q_len, v_head_dim]`; `v_head_dim` is `head_dim` unless it is given.
    """

    batch: int
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int
    v_head_dim: int = SAME

    OPERATION: ClassVar[str] = "attention"
    NEEDED: ClassVar[tuple[str, ...]] = ("heads", "head_dim")
    AXES: ClassVar[Mapping[str, Axis]] = {
        "batch": Axis("Sequences computed together.", 1),
        "heads": Axis("Query heads."),
        "kv_heads": Axis(
            "Key and value heads, a divisor of heads (grouped queries); by default as many as heads."
        ),
        "head_dim": Axis("Numbers per head and position."),
        "v_head_dim": Axis(
            "Numbers per head and position of the values and the output; by default head_dim."
        ),
        "seq_len": Axis("Length of queries and keys alike; or give q_len and kv_len."),
        "q_len": Axis("Length of the queries; 1 is a decoding step."),
        "kv_len": Axis("Length of keys and values."),
    }

    def __post_init__(self) -> None:
        if self.v_head_dim == SAME:
            object.__setattr__(self, "v_head_dim", self.head_dim)
        Shape.__post_init__(self)

    def _check(self) -> None:
        if self.heads % self.kv_heads:
            raise AxisError("kv_heads", f"expected a divisor of heads ({self.heads}), got {self.kv_heads}")

    @classmethod
    def _derive(cls, given: dict[str, AxisValue]) -> None:
        for axis, other in (("kv_heads", "heads"), ("v_head_dim", "head_dim")):
            if other in given:
                given.setdefault(axis, given[other])

    @property
    def label(self) -> str:
        """`B1-H8-L512-D64`; grouped queries as `H32kv8`, unequal lengths as `Lq1-Lk512`, `D192v128`."""
        heads = f"H{self.heads}" if self.heads == self.kv_heads else f"H{self.heads}kv{self.kv_heads}"
        equal = self.q_len == self.kv_len
        lengths = f"L{self.q_len}" if equal else f"Lq{self.q_len}-Lk{self.kv_len}"
        own = "" if self.v_head_dim == self.head_dim else f"v{self.v_head_dim}"
        return f"B{self.batch}-{heads}-{lengths}-D{self.head_dim}{own}"

    @property
    def mask_lengths(self) -> tuple[int, int]:
        """Queries and keys."""
        return self.q_len, self.kv_len

    def activations(self) -> dict[str, tuple[int, ...]]:
        """q, k and v."""
        keys = (self.batch, self.kv_heads, self.kv_len)
        return {
            "q": (self.batch, self.heads, self.q_len, self.head_dim),
            "k": (*keys, self.head_dim),
            "v": (*keys, self.v_head_dim),
        }

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """The output of every head."""
        return {"o": (self.batch, self.heads, self.q_len, self.v_head_dim)}

    def scores(self) -> int:
        """B·H·Lq·Lk."""
        return self.batch * self.heads * self.q_len * self.kv_len
