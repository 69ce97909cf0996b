"""The kinds of values in a scenario file: what each accepts, what a mistake says, its JSON Schema.

Each is a marker for `typing.Annotated`; pydantic finds its validator and its schema there.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from attnbench import masks
from attnbench.implementation import DEVICE_KINDS
from attnbench.scenario.names import nearest, shown
from attnbench.scenario.variants import parse_label

__all__ = [
    "Anything",
    "Ascending",
    "Device",
    "Label",
    "MaskName",
    "Name",
    "Number",
    "OneOf",
    "OneOrMore",
    "Switch",
    "Text",
    "Whole",
]


def _refuse(message: str) -> PydanticCustomError:
    # By way of the context: braces in a template would be filled in.
    return PydanticCustomError("attnbench", "{message}", {"message": message})


class _Value(ABC):
    """A validator with its JSON Schema."""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """`value`, in its one spelling, or a PydanticCustomError."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of what `check` accepts."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return self.schema()


@dataclass(frozen=True)
class Whole(_Value):
    """A whole number from `low` to `high`, or one of a few `words`; no bool, no fraction."""

    low: int
    high: int
    words: tuple[str, ...] = ()

    def check(self, value: Any) -> Any:
        """`value`."""
        if isinstance(value, str) and value in self.words:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            words = "".join(f"{word} or " for word in self.words)
            near = nearest(value, self.words) if isinstance(value, str) else ""
            raise _refuse(
                f"expected {words}a whole number from {self.low} to {self.high}, got {shown(value)}{near}"
            )
        return value

    def schema(self) -> dict[str, Any]:
        """An integer in a range, or one of the words."""
        number = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return {"anyOf": [{"enum": list(self.words)}, number]} if self.words else number


@dataclass(frozen=True)
class Number(_Value):
    """A finite number above `above` and below `below`; `closed` and `closed_below` include the limits."""

    above: float
    below: float = math.inf
    closed: bool = False
    closed_below: bool = False

    def check(self, value: Any) -> float:
        """`value` as a float."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            within = value <= self.below if self.closed else value < self.below
            beyond = value >= self.above if self.closed_below else value > self.above
            if beyond and within and value < 1e300:
                return float(value)
        limit = f"{'up to' if self.closed else 'and below'} {self.below:g}"
        above = f"a number {'of at least' if self.closed_below else 'above'} {self.above:g}"
        raise _refuse(f"expected {above}{'' if math.isinf(self.below) else f' {limit}'}, got {shown(value)}")

    def schema(self) -> dict[str, Any]:
        """A number in an interval."""
        lowest = "minimum" if self.closed_below else "exclusiveMinimum"
        schema: dict[str, Any] = {"type": "number", lowest: self.above}
        if not math.isinf(self.below):
            schema["maximum" if self.closed else "exclusiveMaximum"] = self.below
        return schema


@dataclass(frozen=True)
class OneOf(_Value):
    """One of a few names."""

    names: Collection[str]

    def check(self, value: Any) -> str:
        """`value`."""
        if not isinstance(value, str) or value not in self.names:
            raise _refuse(
                f"expected one of {', '.join(self.names)}, got {shown(value)}{nearest(value, self.names)}"
            )
        return value

    def schema(self) -> dict[str, Any]:
        """An enumeration."""
        return {"enum": list(self.names)}


#: What YAML 1.1, or a quoting hand, takes for a truth value.
_WORDS = {**dict.fromkeys(("yes", "on", "true"), "true"), **dict.fromkeys(("no", "off", "false"), "false")}


class Switch(_Value):
    """True or false; no number and no word."""

    def check(self, value: Any) -> bool:
        """`value`."""
        if not isinstance(value, bool):
            # In YAML 1.2 these are text; in 1.1 they were not.
            word = str(value).lower() if isinstance(value, str) else ""
            meant = _WORDS.get(word)
            near = "" if meant is None else f"; write {meant}"
            raise _refuse(f"expected true or false, got {shown(value)}{near}")
        return value

    def schema(self) -> dict[str, Any]:
        """A boolean."""
        return {"type": "boolean"}


class Text(_Value):
    """Text without control characters but line ends."""

    def check(self, value: Any) -> str:
        """`value` without blanks at its ends."""
        if not isinstance(value, str):
            raise _refuse(f"expected text, got {shown(value)}")
        if not all(line.isprintable() for line in value.splitlines()):
            raise _refuse("expected text without control characters")
        return value.strip()

    def schema(self) -> dict[str, Any]:
        """A string."""
        return {"type": "string"}


class Name(_Value):
    """A name fit for a folder: letters, digits, `.`, `_` and `-`, 64 at most, a letter or digit first."""

    _PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

    def check(self, value: Any) -> str:
        """`value`."""
        if not isinstance(value, str) or not re.fullmatch(self._PATTERN, value):
            raise _refuse(
                "expected a name of up to 64 letters, digits, '.', '_' and '-' that starts with a letter or "
                f"digit (run folders are named after it), got {shown(value)}"
            )
        return value

    def schema(self) -> dict[str, Any]:
        """A string with a pattern."""
        return {"type": "string", "pattern": f"^{self._PATTERN}$"}


class MaskName(_Value):
    """A mask specification, in its canonical spelling."""

    def check(self, value: Any) -> str:
        """The canonical spelling."""
        kinds = ["none", *masks.KINDS]
        if not isinstance(value, str):
            raise _refuse(f"expected a mask ({', '.join(kinds)}), got {shown(value)}")
        try:
            return masks.canonical(value)
        except ValueError as error:
            names = (term.split("(")[0].strip() for term in value.split("+"))
            near = next((nearest(name, kinds) for name in names if name not in kinds), "")
            raise _refuse(f"expected a mask, got {shown(value)}: {error}{near}") from None

    def schema(self) -> dict[str, Any]:
        """A string with a pattern made of the kinds of masks that there are."""
        number = r"\s*[0-9.eE+-]+\s*"
        terms = [
            name + (rf"\({','.join([number] * len(kind.parameters))}\)" if kind.parameters else "")
            for name, kind in masks.KINDS.items()
        ]
        term = "|".join(terms)
        return {
            "type": "string",
            "pattern": rf"^(none|({term})(\s*\+\s*({term}))*)$",
            "examples": ["none", *masks.KINDS],
        }


class Device(_Value):
    """A device name that is known here: whether the machine has it is another question."""

    _INDEXED = ("cuda", "xpu")

    def check(self, value: Any) -> str:
        """`value`."""
        kind, colon, index = value.partition(":") if isinstance(value, str) else ("", "", "")
        if kind not in DEVICE_KINDS or (
            colon and (kind not in self._INDEXED or not re.fullmatch("0|[1-9][0-9]?", index))
        ):
            names = [*DEVICE_KINDS, *(f"{name}:0" for name in self._INDEXED)]
            raise _refuse(
                f"expected a device ({', '.join(names)}), got {shown(value)}{nearest(value, names)}"
            )
        return str(value)

    def schema(self) -> dict[str, Any]:
        """A string with a pattern."""
        plain = "|".join(kind for kind in DEVICE_KINDS if kind not in self._INDEXED)
        indexed = "|".join(self._INDEXED)
        pattern = f"^({plain}|({indexed})(:(0|[1-9][0-9]?))?)$"
        return {"type": "string", "pattern": pattern, "examples": list(DEVICE_KINDS)}


class Label(_Value):
    """An implementation's name, or the label of one variant: `chunked(block=256)`."""

    def check(self, value: Any) -> str:
        """The label as `Variant.label` spells it."""
        try:
            return parse_label(value if isinstance(value, str) else "").label
        except ValueError as error:
            message = str(error) if isinstance(value, str) else f"expected a name, got {shown(value)}"
            raise _refuse(message) from None

    def schema(self) -> dict[str, Any]:
        """A string."""
        return {"type": "string", "examples": ["naive", "chunked(block=256)"]}


@dataclass(frozen=True)
class Anything(_Value):
    """What is checked elsewhere, where mistakes can be placed better; `described` is its JSON Schema."""

    described: Any

    def check(self, value: Any) -> Any:
        """`value`."""
        return value

    def schema(self) -> dict[str, Any]:
        """The schema that was given."""
        return dict(self.described)

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True)
class OneOrMore:
    """Before a tuple type: a single value stands for a list of one, and an empty list is a mistake."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        array = handler(core)
        return {"anyOf": [array["items"], {**array, "minItems": 1, "uniqueItems": True}]}

    def check(self, value: Any) -> Iterable[Any]:
        """`value` as a list."""
        if isinstance(value, list):
            if not value:
                raise _refuse("expected a value or a list of values, got an empty list")
            return value
        return [value]


@dataclass(frozen=True)
class Ascending:
    """After a tuple type: at least one number, each larger than the one before."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(core), "minItems": 1, "uniqueItems": True}

    def check(self, value: tuple[int, ...]) -> tuple[int, ...]:
        """`value`."""
        if not value or any(later <= earlier for earlier, later in pairwise(value)):
            raise _refuse(f"expected ascending numbers, got {list(value)}")
        return value
