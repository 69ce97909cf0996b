"""Workloads: all that defines the right answer.

A workload is an operation's name, that operation's own frozen shape type, and the mask, dtype, pass and
input distribution. Shape types are registered per operation in `SHAPES`; dtypes are strings, so that
nothing here needs a framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol, Self

from attnbench.masks import canonical, why_impossible

__all__ = [
    "DISTRIBUTIONS",
    "DTYPES",
    "PASSES",
    "SHAPES",
    "AttentionShape",
    "AxisError",
    "Shape",
    "Workload",
]

#: Bytes per element of each dtype that a workload can have.
DTYPES: Mapping[str, int] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

#: What is timed: the call; the gradients on a graph built outside the timed region; or both together.
PASSES = ("forward", "backward", "forward_backward")

#: How inputs are drawn; see `attnbench.inputs`.
DISTRIBUTIONS = ("normal", "uniform", "large_logits", "extreme_logits", "outliers")

#: The largest size that an axis may have.
LARGEST = 2**31 - 1

#: Stands for a size that equals another one unless it is given.
SAME = -1


class AxisError(ValueError):
    """An axis of a shape that is missing, superfluous or contradicts another; `axis` names it."""

    def __init__(self, axis: str, message: str) -> None:
        self.axis = axis
        super().__init__(message)


class Shape(Protocol):
    """What the harness asks of an operation's shape type; shapes are frozen and hashable."""

    #: The axes a scenario may give for this shape, each with its default (None: no default of its own).
    AXES: ClassVar[Mapping[str, int | None]]

    @classmethod
    def from_axes(cls, axes: Mapping[str, int]) -> Self:
        """The shape of a scenario's axes.

        Raises:
            AxisError: an axis is missing, superfluous or contradicts another.
        """
        ...

    def columns(self) -> dict[str, int]:
        """The shape's columns in the table."""
        ...

    @property
    def label(self) -> str:
        """Short, readable, stable: part of every case id."""
        ...


@dataclass(frozen=True, slots=True)
class AttentionShape:
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

    AXES: ClassVar[Mapping[str, int | None]] = {
        "batch": 1,
        "heads": None,
        "kv_heads": None,
        "head_dim": None,
        "v_head_dim": None,
        "seq_len": None,
        "q_len": None,
        "kv_len": None,
    }

    def __post_init__(self) -> None:
        if self.v_head_dim == SAME:
            object.__setattr__(self, "v_head_dim", self.head_dim)
        for field in fields(self):
            size = getattr(self, field.name)
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST:
                raise AxisError(field.name, f"expected a whole number from 1 to {LARGEST}, got {size!r}")
        if self.heads % self.kv_heads:
            raise AxisError("kv_heads", f"expected a divisor of heads ({self.heads}), got {self.kv_heads}")

    @classmethod
    def from_axes(cls, axes: Mapping[str, int]) -> Self:
        """The shape of `axes`: `seq_len` stands for equal `q_len` and `kv_len`; kv_heads default to heads,
        v_head_dim to head_dim.

        Raises:
            AxisError: an axis is missing, superfluous or contradicts another.
        """
        for axis in axes:
            if axis not in cls.AXES:
                raise AxisError(axis, f"is no axis of attention; the axes are {', '.join(cls.AXES)}")
        if "seq_len" in axes:
            for axis in ("q_len", "kv_len"):
                if axis in axes:
                    raise AxisError(axis, "give either seq_len or q_len and kv_len, not both")
        for axis in ("heads", "head_dim"):
            if axis not in axes:
                raise AxisError(axis, "is missing: attention needs heads and head_dim")
        lengths = {}
        for axis in ("q_len", "kv_len"):
            if axis not in axes and "seq_len" not in axes:
                raise AxisError(axis, "is missing: give seq_len, or q_len and kv_len")
            lengths[axis] = axes.get(axis, axes.get("seq_len", 0))
        return cls(
            batch=axes.get("batch", 1),
            heads=axes["heads"],
            kv_heads=axes.get("kv_heads", axes["heads"]),
            head_dim=axes["head_dim"],
            v_head_dim=axes.get("v_head_dim", axes["head_dim"]),
            **lengths,
        )

    def columns(self) -> dict[str, int]:
        """The shape's columns in the table."""
        return asdict(self)

    @property
    def label(self) -> str:
        """`B1-H8-L512-D64`; grouped queries as `H32kv8`, unequal lengths as `Lq1-Lk512`, `D192v128`."""
        heads = f"H{self.heads}" if self.heads == self.kv_heads else f"H{self.heads}kv{self.kv_heads}"
        equal = self.q_len == self.kv_len
        lengths = f"L{self.q_len}" if equal else f"Lq{self.q_len}-Lk{self.kv_len}"
        own = "" if self.v_head_dim == self.head_dim else f"v{self.v_head_dim}"
        return f"B{self.batch}-{heads}-{lengths}-D{self.head_dim}{own}"


#: The shape type of each operation.
SHAPES: dict[str, type[AttentionShape]] = {"attention": AttentionShape}


@dataclass(frozen=True, slots=True)
class Workload:
    """Operation, shape, mask, dtype, pass and input distribution: all that defines the right answer.

    `mask` is a mask specification, kept in its one spelling; `dtype` a key of `DTYPES`, `pass_` one of
    `PASSES`, `inputs` one of `DISTRIBUTIONS`.

    Raises:
        AxisError: one of these is none, or the shape has too few keys for the mask.
        ValueError: the mask is none.
    """

    operation: str
    shape: AttentionShape
    mask: str = "none"
    dtype: str = "float32"
    pass_: str = "forward"
    inputs: str = "normal"

    def __post_init__(self) -> None:
        for axis, value, known in (
            ("operation", self.operation, SHAPES),
            ("dtype", self.dtype, DTYPES),
            ("pass", self.pass_, PASSES),
            ("inputs", self.inputs, DISTRIBUTIONS),
        ):
            if value not in known:
                raise AxisError(axis, f"{axis} must be one of {', '.join(known)}; got {value!r}")
        object.__setattr__(self, "mask", canonical(self.mask))
        why = why_impossible(self.mask, self.shape.kv_len)
        if why is not None:
            raise AxisError("mask", why)

    @property
    def label(self) -> str:
        """`attention/B1-H8-L512-D64/float32/causal/forward`, with the distribution when not normal."""
        parts = [self.operation, self.shape.label, self.dtype, self.mask, self.pass_]
        if self.inputs != "normal":
            parts.append(self.inputs)
        return "/".join(parts)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return DTYPES[self.dtype]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {
            "operation": self.operation,
            "shape": self.shape.columns(),
            "mask": self.mask,
            "dtype": self.dtype,
            "pass": self.pass_,
            "inputs": self.inputs,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The workload that `to_json` wrote.

        Raises:
            KeyError: the operation is unknown or a key is missing.
        """
        return cls(
            operation=data["operation"],
            shape=SHAPES[data["operation"]](**data["shape"]),
            mask=data["mask"],
            dtype=data["dtype"],
            pass_=data["pass"],
            inputs=data["inputs"],
        )
