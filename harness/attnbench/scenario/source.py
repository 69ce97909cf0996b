"""YAML 1.2 with the position of every key and value.

Plain values follow YAML 1.2's core schema: `no` is a string, `1e-3` a float. What makes a document hard to
read or dangerous to load is refused: tags, anchors, aliases, duplicate keys, several documents, deep nesting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from attnbench.errors import AttnbenchError, Mistake, ScenarioError, UsageError

__all__ = ["Finding", "Loc", "Place", "Source", "error_from", "load", "scalar"]

#: Where a value sits: `("matrix", "seq_len", 1)`.
Loc = tuple[str | int, ...]

#: Scenario files nest five levels deep at most.
DEEPEST = 16

#: More mistakes than this are counted, not listed.
MOST_MISTAKES = 100

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGERS = (
    (re.compile(r"[-+]?[0-9]{1,1000}"), 10),
    (re.compile(r"0o[0-7]+"), 8),
    (re.compile(r"0x[0-9a-fA-F]+"), 16),
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something was written: line and column (from 1) in the file, or an option of the command line."""

    line: int
    column: int
    option: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where (`loc`, `place`) and what."""

    loc: Loc
    place: Place
    field: str
    message: str


@dataclass
class Source:
    """The plain data of a document, where each part of it was written, and what is wrong with its YAML."""

    path: str
    data: Any = None
    values: dict[Loc, Place] = field(default_factory=dict)
    keys: dict[Loc, Place] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def known(self, loc: Loc) -> Loc:
        """The longest part of `loc` that is written in the document.

        An index that is not there is skipped: a single value is checked as if it were a list of one.
        """
        at: Loc = ()
        for part in loc:
            if (*at, part) in self.values:
                at = (*at, part)
            elif not isinstance(part, int):
                break
        return at

    def place(self, loc: Loc, *, key: bool = False) -> Place:
        """Where the value at `loc` was written (or its key, with `key`), or else what would enclose it."""
        at = self.known(loc)
        names, known = (sum(isinstance(part, str) for part in each) for each in (loc, at))
        return self.keys.get(at, self.values[at]) if key or known < names else self.values[at]

    def holds(self, loc: Loc) -> bool:
        """Whether every name of `loc` is written in the document."""
        known = self.known(loc)
        return sum(isinstance(part, str) for part in known) == sum(isinstance(part, str) for part in loc)

    def find(self, loc: Loc, message: str, *, key: bool = False) -> None:
        """Note a mistake at `loc`."""
        known = self.known(loc)
        names = [part for part in loc if isinstance(part, str)]
        missing = names[len([part for part in known if isinstance(part, str)]) :]
        place = self.place(loc, key=key)
        self.findings.append(Finding(loc, place, _text((*known, *missing)), message))


def _text(loc: Loc) -> str:
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part.isidentifier() else repr(part[:40])
            text += f".{name}" if text else name
    return text


def error_from(
    findings: Sequence[Finding], path: str, brought: Sequence[Finding] = (), options: str = ""
) -> AttnbenchError:
    """What to raise for `findings`: a ScenarioError, or a UsageError when the command line alone is at fault.

    `brought` are findings in a scenario that `options` changed: what they bring to light elsewhere in the
    file is reported under them.
    """
    of_file = [
        Mistake(path, each.place.line, each.place.column, each.field, each.message)
        for each in _sorted(findings)
        if not each.place.option
    ]
    if len(of_file) > MOST_MISTAKES:
        last, more = of_file[MOST_MISTAKES - 1], len(of_file) - MOST_MISTAKES
        of_file[MOST_MISTAKES:] = [Mistake(path, last.line, last.column, "", f"… and {more} more mistakes")]
    of_options = []
    for each in _sorted([*findings, *brought]):
        place = each.place
        if place.option:
            of_options.append(Mistake(place.option, 0, 0, "", each.message))
        elif each not in findings:
            where = Mistake(path, place.line, place.column, each.field, each.message)
            of_options.append(Mistake(options, 0, 0, "", str(where)))
    mistakes = [*of_file, *list(dict.fromkeys(of_options))[:MOST_MISTAKES]]
    return ScenarioError(mistakes) if of_file else UsageError("\n".join(map(str, mistakes)))


def _sorted(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(dict.fromkeys(findings), key=lambda finding: (finding.place, finding.field))


def scalar(text: str) -> bool | int | float | str | None:
    """The value of a plain scalar by YAML 1.2's core schema (yaml.org/spec/1.2.2, section 10.3.2)."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    for pattern, base in _INTEGERS:
        if pattern.fullmatch(text):
            return int(text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    return math.nan if text in (".nan", ".NaN", ".NAN") else text


def load(text: str, path: str) -> Source:
    """The one document in `text`; mistakes that leave it readable are in `findings`.

    Raises:
        ScenarioError: it is no YAML, holds no document or several, or nests too deeply.
    """
    source = Source(path)
    try:
        _Reader(source, YAML(typ="safe", pure=True).parse(text)).read()
    except _Unreadable as error:
        raise ScenarioError([Mistake(path, error.line, error.column, "", str(error))]) from None
    except ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        character = (
            f"the character {chr(error.character)!r}" if isinstance(error.character, int) else "a byte"
        )
        message = f"expected text, got {character}: control characters are not allowed"
        raise ScenarioError([Mistake(path, line, column, "", message)]) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join(filter(None, (error.context, error.problem))).strip()
        raise ScenarioError([Mistake(path, line, column, "", f"is no valid YAML: {problem}")]) from None
    # ruamel's scanner lets out more than its own exceptions: ValueError for "\UFFFFFFFF", for one.
    except (
        YAMLError,
        ValueError,
        OverflowError,
        LookupError,
        AttributeError,
        TypeError,
        AssertionError,
    ) as error:
        raise ScenarioError([Mistake(path, 1, 1, "", f"is no valid YAML: {error}")]) from None
    return source


class _Unreadable(Exception):
    def __init__(self, event: events.Event, message: str) -> None:
        super().__init__(message)
        self.line, self.column = event.start_mark.line + 1, event.start_mark.column + 1


class _Reader:
    """Builds plain data from the parser's events; recursion is bounded by `DEEPEST`."""

    def __init__(self, source: Source, stream: Iterator[Any]) -> None:
        self.source = source
        self.stream = stream

    def read(self) -> None:
        next(self.stream)  # the stream's start
        event = next(self.stream)
        if isinstance(event, events.StreamEndEvent):
            raise _Unreadable(event, "expected a mapping with the keys of a scenario, got an empty file")
        if event.version is not None and tuple(event.version) != (1, 2):
            raise _Unreadable(event, "expected YAML 1.2; leave out the %YAML directive")
        self.source.data = self._value(next(self.stream), ())
        next(self.stream)  # the document's end
        event = next(self.stream)
        if not isinstance(event, events.StreamEndEvent):
            raise _Unreadable(event, "expected one document, got several; give each scenario its own file")

    def _value(self, event: Any, loc: Loc) -> Any:
        self.source.values[loc] = Place(event.start_mark.line + 1, event.start_mark.column + 1)
        if len(loc) > DEEPEST:
            raise _Unreadable(event, f"nests more than {DEEPEST} levels deep; no scenario does")
        if isinstance(event, events.AliasEvent):
            self.source.find(loc, f"aliases are not allowed; write out what *{event.anchor} stands for")
            return None
        if event.anchor is not None:
            self.source.find(loc, f"anchors are not allowed; leave out &{event.anchor}")
        if event.tag is not None:
            self.source.find(loc, f"tags are not allowed; leave out {event.tag}")
        if isinstance(event, events.ScalarEvent):
            return event.value if event.style else scalar(event.value)
        if isinstance(event, events.SequenceStartEvent):
            return self._list(loc)
        return self._mapping(loc)

    def _list(self, loc: Loc) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.stream), events.SequenceEndEvent):
            items.append(self._value(event, (*loc, len(items))))
        return items

    def _mapping(self, loc: Loc) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.stream), events.MappingEndEvent):
            place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
            if not isinstance(event, events.ScalarEvent):
                raise _Unreadable(event, "expected a name as the key, got a list, a mapping or an alias")
            key, at = event.value, (*loc, event.value)
            if event.anchor is not None or event.tag is not None:
                raise _Unreadable(event, "anchors and tags are not allowed")
            if key in items:
                first = self.source.keys[at]
                # Read past the second value without letting it overwrite the first one's places.
                spare = _Reader(Source(self.source.path), self.stream)
                spare._value(next(self.stream), at)
                message = f"the key {key!r} is given twice (first in line {first.line}); keep one"
                self.source.findings.append(Finding(at, place, _text(at), message))
                continue
            self.source.keys[at] = place
            items[key] = self._value(next(self.stream), at)
        return items
