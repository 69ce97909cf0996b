"""Axes: what a scenario may say of an operation's shape, and what every shape type has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Self

from attnbench.masks import canonical, why_impossible

__all__ = ["LARGEST", "Axis", "AxisError", "AxisValue", "Shape"]

#: The largest size that an axis may have.
LARGEST = 2**31 - 1

#: A value of an axis.
AxisValue = bool | int | float | str


class AxisError(ValueError):
    """An axis of a shape that is missing, superfluous or contradicts another; `axis` names it."""

    def __init__(self, axis: str, message: str) -> None:
        self.axis = axis
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it means, the value that it has unless one is given (None: none of its own), its kind.

    `kind` is `size` (a whole number from 1), `switch` (true or false), `choice` (one of `choices`), `share`
    (a number from 0, below 1) or `mask` (a mask specification).
    """

    about: str
    default: AxisValue | None = None
    kind: str = "size"
    choices: tuple[str, ...] = ()

    def why_wrong(self, value: object) -> str | None:
        """Why `value` is none of this axis, or None."""
        match self.kind:
            case "size":
                right = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST
                expected = f"a whole number from 1 to {LARGEST}"
            case "switch":
                right, expected = isinstance(value, bool), "true or false"
            case "choice":
                right, expected = value in self.choices, f"one of {', '.join(self.choices)}"
            case "share":
                right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
                expected = "a number from 0, below 1"
            case _:
                try:
                    right = isinstance(value, str) and bool(canonical(value))
                except ValueError as error:
                    return str(error)
                expected = "a mask"
        return None if right else f"expected {expected}, got {value!r}"


@dataclass(frozen=True, slots=True)
class Shape(ABC):
    """What the harness asks of an operation's shape type: a frozen dataclass with a field per axis.

    `seq_len` is no field: it stands for equal `q_len` and `kv_len` where a shape has both.
    """

    #: The operation's name, for messages.
    OPERATION: ClassVar[str]
    #: The axes that a scenario may give for this shape.
    AXES: ClassVar[Mapping[str, Axis]]
    #: Those, beside the lengths, that it must give.
    NEEDED: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            why = self.AXES[each.name].why_wrong(value)
            if why is not None:
                raise AxisError(each.name, why)
            if self.AXES[each.name].kind == "share":
                object.__setattr__(self, each.name, float(value))
            if self.AXES[each.name].kind == "mask":
                object.__setattr__(self, each.name, canonical(value))
        self._check()

    def _check(self) -> None:  # noqa: B027  # where no axis can contradict another there is nothing to do
        """Compare the axes with one another.

        Raises:
            AxisError: an axis contradicts another.
        """

    @classmethod
    def from_axes(cls, axes: Mapping[str, AxisValue]) -> Self:
        """The shape of a scenario's axes.

        Raises:
            AxisError: an axis is missing, superfluous or contradicts another.
        """
        for axis in axes:
            if axis not in cls.AXES:
                known = ", ".join(cls.AXES)
                raise AxisError(axis, f"is no axis of {cls.OPERATION}; the axes are {known}")
        given = dict(axes)
        own = {each.name for each in fields(cls)}
        if "seq_len" in given and "seq_len" not in own:
            for axis in ("q_len", "kv_len"):
                if axis in given:
                    raise AxisError(axis, "give either seq_len or q_len and kv_len, not both")
            given["q_len"] = given["kv_len"] = given.pop("seq_len")
        cls._derive(given)
        for axis in (each.name for each in fields(cls)):
            default = cls.AXES[axis].default
            if default is not None:
                given.setdefault(axis, default)
            elif axis not in given:
                how = (
                    "give seq_len, or q_len and kv_len"
                    if axis in ("q_len", "kv_len")
                    else f"{cls.OPERATION} needs {' and '.join(cls.NEEDED)}"
                )
                raise AxisError(axis, f"is missing: {how}")
        return cls(**given)

    @classmethod
    def plain(cls) -> Self:
        """A small shape, with nothing out of the ordinary."""
        sizes: dict[str, AxisValue] = dict.fromkeys((*cls.NEEDED, "seq_len"), 64)
        return cls.from_axes({**sizes, "heads": 2} if "heads" in sizes else sizes)

    @classmethod  # noqa: B027  # nor where none is as another
    def _derive(cls, given: dict[str, AxisValue]) -> None:
        """Add to what is given the axes that are as others unless they are given themselves."""

    def to_json(self) -> dict[str, AxisValue]:
        """The fields, in a form that JSON can hold; the type called with them makes the shape again."""
        return asdict(self)

    def columns(self) -> dict[str, AxisValue]:
        """The shape's columns in the table."""
        return self.to_json()

    @property
    @abstractmethod
    def label(self) -> str:
        """Short, readable, stable: part of every case id."""

    @property
    @abstractmethod
    def mask_lengths(self) -> tuple[int, int]:
        """The queries and keys that the workload's mask is over."""

    @abstractmethod
    def activations(self) -> dict[str, tuple[int, ...]]:
        """The tensors that a kernel is called with, by name, each with its size."""

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The weights that a kernel is called with, by their names in torch's state_dict, each's size."""
        return {}

    @abstractmethod
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """What a forward pass returns, in that order, each with its size: `o` first."""

    @abstractmethod
    def scores(self) -> int:
        """The most scores, over all heads and the batch, that an attention in it has at a time."""

    def other_masks(self) -> dict[str, tuple[str, int, int]]:
        """Masks besides the workload's, by axis: the specification, the queries and the keys it is over."""
        return {}

    def why_random(self) -> str | None:
        """Why no two calls need agree, or None."""
        return None

    def why_impossible(self, mask: str) -> str | None:
        """Why a workload of this shape cannot have `mask`, or None."""
        return why_impossible(mask, self.mask_lengths[1])
