"""Implementations with their options: how they are written, listed, selected and looked up.

A variant is written `sdpa`, `chunked(block=256)` or `{chunked: {block: 256}}`; a list of values sweeps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from attnbench.case import Option, Variant
from attnbench.implementation import NAME
from attnbench.protocol import ImplementationInfo
from attnbench.scenario.names import join, nearest, shown
from attnbench.scenario.source import Finding, Loc, Place, Source, scalar

__all__ = ["Listed", "anchor_of", "listed", "look_up", "parse_label", "select"]

#: A scenario that lists more variants than this sweeps by mistake.
MOST_VARIANTS = 1000

_OPTION = re.compile(r"[^\W\d]\w*")
_LABEL = re.compile(rf"\s*({NAME.pattern})\s*(?:\(([^()]*)\))?\s*")
# Option texts are part of case ids, where these characters have a meaning.
_OPTION_TEXT = re.compile(r"[^\s,()=]+")


@dataclass(frozen=True, slots=True)
class Listed:
    """A variant and where its name and options were written."""

    variant: Variant
    place: Place
    field: str
    options: Mapping[str, Place]

    def finding(self, message: str, option: str | None = None) -> Finding:
        """A mistake in this variant, or in one of its options."""
        if option is None:
            return Finding((), self.place, self.field, message)
        return Finding((), self.options.get(option, self.place), f"{self.field}.{option}", message)


def _option_problem(value: object) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"expected a finite number, got {shown(value)}"
    if isinstance(value, str) and not _OPTION_TEXT.fullmatch(value):
        return f"expected text without blanks, commas, '=' and parentheses, got {shown(value)}"
    if not isinstance(value, bool | int | float | str):
        return f"expected a number, a bool or text, got {shown(value)}"
    return None


def parse_label(text: str) -> Variant:
    """The variant written as `sdpa` or `chunked(block=256, fast=true)`.

    Raises:
        ValueError: it is written otherwise.
    """
    match = _LABEL.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a name such as sdpa or chunked(block=256), got {shown(text)}")
    options: dict[str, Option] = {}
    for part in (match.group(2) or "").split(",") if (match.group(2) or "").strip() else []:
        name, equals, written = (piece.strip() for piece in part.partition("="))
        value = scalar(written)
        if not equals or not _OPTION.fullmatch(name):
            raise ValueError(f"expected option=value, got {shown(part.strip())} in {shown(text)}")
        if name in options:
            raise ValueError(f"the option {name!r} is given twice in {shown(text)}")
        if problem := _option_problem(value):
            raise ValueError(f"{name}: {problem}")
        options[name] = value  # type: ignore[assignment]  # _option_problem refused every other type
    return Variant.of(match.group(1), options)


def _swept(entry: object, loc: Loc, source: Source) -> list[Listed]:
    """The variants of one entry of `implementations`."""
    if isinstance(entry, str):
        try:
            variant = parse_label(entry)
        except ValueError as error:
            source.find(loc, str(error))
            return []
        return [Listed(variant, source.place(loc), "implementations" + f"[{loc[-1]}]", {})]
    if not isinstance(entry, dict) or len(entry) != 1:
        source.find(loc, f"expected a name or {{name: {{option: value}}}}, got {shown(entry)}")
        return []
    ((name, options),) = entry.items()
    at = (*loc, name)
    if not NAME.fullmatch(name):
        source.find(at, f"expected an implementation's name, got {shown(name)}", key=True)
        return []
    if options is not None and not isinstance(options, dict):
        source.find(at, f"expected {{option: value}}, got {shown(options)}")
        return []
    values: dict[str, list[Any]] = {}
    sound = True
    for option, value in (options or {}).items():
        values[option] = value if isinstance(value, list) else [value]
        if not values[option]:
            source.find((*at, option), "expected a value or a list of values, got an empty list")
            sound = False
        for index, each in enumerate(values[option]):
            if problem := _option_problem(each):
                source.find((*at, option, index), problem)
                sound = False
    count = prod(len(each) for each in values.values())
    if count > MOST_VARIANTS:
        source.find(
            at, f"makes {count} variants; at most {MOST_VARIANTS} are allowed: shorten a list", key=True
        )
        sound = False
    if not sound:
        return []
    field = f"implementations[{loc[-1]}].{name}"
    places = {option: source.place((*at, option), key=True) for option in values}
    return [
        Listed(
            Variant.of(name, dict(zip(values, each, strict=True))), source.place(at, key=True), field, places
        )
        for each in product(*values.values())
    ]


def listed(entries: Sequence[object], source: Source) -> list[Listed]:
    """The variants of a scenario's `implementations`, sweeps written out; mistakes go to `source`."""
    found: dict[str, Listed] = {}
    for index, entry in enumerate(entries):
        for each in _swept(entry, ("implementations", index), source):
            if each.variant.label in found:
                source.find(("implementations", index), f"{each.variant.label} is listed twice; keep one")
            found.setdefault(each.variant.label, each)
    return list(found.values())


def select(wanted: Sequence[str], available: Sequence[Listed]) -> tuple[list[Listed], list[Finding]]:
    """What `--impl` asks for: by bare name the scenario's own variants, where it has any, else as written."""
    found: dict[str, Listed] = {}
    findings = []
    for text in wanted:
        place = Place(0, 0, f"--impl {text}")
        try:
            variant = parse_label(text)
        except ValueError as error:
            findings.append(Finding((), place, "", str(error)))
            continue
        own = [
            each
            for each in available
            if not variant.options and each.variant.implementation == variant.implementation
        ]
        for each in own or [Listed(variant, place, "", {})]:
            found.setdefault(each.variant.label, each)
    return list(found.values()), findings


def anchor_of(written: object, variants: Sequence[Variant]) -> str:
    """The label of the one variant that `written` names: a name, a label, or `{name: {option: value}}`.

    Raises:
        ValueError: it names none of them, or several.
    """
    labels = [variant.label for variant in variants]
    if isinstance(written, dict) and len(written) == 1:
        ((name, options),) = written.items()
        given = options if isinstance(options, dict) else {}
        problem = (
            None
            if options is None or isinstance(options, dict)
            else f"expected options, got {shown(options)}"
        )
        problem = problem or next(filter(None, map(_option_problem, given.values())), None)
        if problem:
            raise ValueError(problem)
        wanted = Variant.of(str(name), given)
    elif isinstance(written, str):
        wanted = parse_label(written)
    else:
        raise ValueError(f"expected the name of a listed implementation, got {shown(written)}")
    if wanted.label in labels:
        return wanted.label
    same = [variant.label for variant in variants if variant.implementation == wanted.implementation]
    if len(same) == 1 and not wanted.options:
        return same[0]
    if same and not wanted.options:
        raise ValueError(f"{wanted.label} is listed with several options; expected one of {join(same)}")
    raise ValueError(
        f"expected one of the implementations listed ({join(labels)}), got {wanted.label!r}"
        + nearest(wanted.label, labels)
    )


def look_up(
    variants: Iterable[Listed], operation: str | None, catalogue: Sequence[ImplementationInfo]
) -> list[Finding]:
    """What the catalogue has against these variants: unknown names, options, and values of another type.

    Implementations of another `operation` are none, where one is given.
    """
    known = {info["name"]: info for info in catalogue if operation in (None, info["operation"])}
    elsewhere = {info["name"]: info["operation"] for info in catalogue if info["name"] not in known}
    of_operation = "" if operation is None else f" of {operation}"
    findings: list[Finding] = []
    for each in variants:
        name = each.variant.implementation
        info = known.get(name)
        if info is None:
            why = (
                f"is an implementation of {elsewhere[name]}, not"
                if name in elsewhere
                else "is no implementation"
            )
            there = f"there are {join(known, 30)}" if known else "there are none here"
            message = f"{name!r} {why}{of_operation}; {there}{nearest(name, known)}"
            findings.append(each.finding(message))
            continue
        for option, value in each.variant.options:
            if option not in info["options"]:
                has = f"its options are {join(info['options'])}" if info["options"] else "it has none"
                message = f"{name} has no option {option!r}; {has}{nearest(option, info['options'])}"
                findings.append(each.finding(message, option))
            elif expected := _other_type(value, info["options"][option]):
                default = shown(info["options"][option])
                message = f"{option}: expected {expected} (the default is {default}), got {shown(value)}"
                findings.append(each.finding(message, option))
    return list(dict.fromkeys(findings))


def _other_type(value: object, default: object) -> str | None:
    """What was expected, when `value` is not of the type of `default`; None when it is."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if isinstance(default, float):
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    return None if isinstance(value, str) else "text"
