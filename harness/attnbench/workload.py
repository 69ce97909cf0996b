"""Workloads: all that defines the right answer.

A workload is an operation's name, that operation's own frozen shape type, and the mask, dtype, pass and
input distribution. Shape types are registered per operation in `SHAPES`; dtypes are strings, so that
nothing here needs a framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from attnbench.masks import canonical
from attnbench.shapes import SHAPES, AttentionShape, AxisError, Shape

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


@dataclass(frozen=True, slots=True)
class Workload:
    """Operation, shape, mask, dtype, pass and input distribution: all that defines the right answer.

    `mask` is a mask specification, kept in its one spelling; `dtype` a key of `DTYPES`, `pass_` one of
    `PASSES`, `inputs` one of `DISTRIBUTIONS`.

    Raises:
        AxisError: one of these is none, or the shape has too few keys for the mask, or none at all.
        ValueError: the mask is none.
        TypeError: the shape is another operation's.
    """

    operation: str
    #: Of the type that `SHAPES` has for the operation; who reads its fields knows which operation it is.
    shape: Any
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
        if not isinstance(self.shape, SHAPES[self.operation]):
            expected = SHAPES[self.operation].__name__
            raise TypeError(f"{self.operation} takes a shape of type {expected}, got {self.shape!r}")
        why = self.shape.why_impossible(self.mask)
        if why is not None:
            raise AxisError("mask", why)

    @property
    def label(self) -> str:
        """`attention/B1-H8-L512-D64/float32/causal/forward`, with the distribution when not normal."""
        parts = [self.operation, self.shape.label, self.dtype, self.mask, self.pass_]
        if self.inputs != "normal":
            parts.append(self.inputs)
        return "/".join(parts)

    def leaves(self) -> dict[str, tuple[int, ...]]:
        """What a kernel is called with and has gradients: activations, then weights, each with its size."""
        return {**self.shape.activations(), **self.shape.parameters()}

    def results(self) -> dict[str, tuple[int, ...]]:
        """What the pass computes, in the order in which the timed call returns it, each with its size.

        `o`, what else a forward returns, and `d` + name for the gradient of each of the `leaves`.
        """
        outputs = {} if self.pass_ == "backward" else self.shape.outputs()
        gradients = {} if self.pass_ == "forward" else {f"d{name}": n for name, n in self.leaves().items()}
        return {**outputs, **gradients}

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return DTYPES[self.dtype]

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {
            "operation": self.operation,
            "shape": self.shape.to_json(),
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
