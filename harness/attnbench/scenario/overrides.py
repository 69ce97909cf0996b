"""`--set measure.precision=0.01` and `--device`: what the command line changes in a scenario."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from attnbench.errors import ScenarioError
from attnbench.scenario.model import keys
from attnbench.scenario.names import nearest, shown
from attnbench.scenario.source import Finding, Loc, Place, Source, load

__all__ = ["override"]

#: Top-level keys that `--set` replaces whole, and sections of which it replaces one key.
WHOLE = ("name", "description", "anchor")
SECTIONS = ("matrix", "measure", "limits", "check")

_OPTIONS = {"implementations": "--impl", "devices": "--device"}


def override(source: Source, operation: str, sets: Sequence[str], devices: Sequence[str]) -> Source:
    """A copy of `source` with the options applied; what they set has the option as its place.

    An option that is not understood changes nothing and is among the copy's findings.
    """
    changed = Source(source.path, deepcopy(source.data), dict(source.values), dict(source.keys))
    for text in sets:
        try:
            loc, given = _parse(text, operation)
        except ValueError as error:
            changed.findings.append(Finding((), Place(0, 0, f"--set {text}"), "", str(error)))
            continue
        _put(changed, loc, given, f"--set {text}")
    if devices:
        listed = list(dict.fromkeys(devices))
        _forget(changed, ("devices",))
        changed.data["devices"] = listed
        changed.values["devices",] = Place(0, 0, "--device " + " --device ".join(listed))
        for index, device in enumerate(listed):
            changed.values["devices", index] = Place(0, 0, f"--device {device}")
    return changed


def _parse(text: str, operation: str) -> tuple[Loc, Source]:
    path, equals, value = text.partition("=")
    names = tuple(path.strip().split("."))
    if not equals or not all(names):
        raise ValueError("expected PATH=VALUE, such as measure.precision=0.01")
    top = names[0]
    if top in _OPTIONS:
        raise ValueError(f"--set does not change {top}; use {_OPTIONS[top]}")
    if top not in (*WHOLE, *SECTIONS):
        settable = ", ".join((*WHOLE, *(f"{section}.<key>" for section in SECTIONS)))
        near = nearest(top, (*WHOLE, *SECTIONS))
        raise ValueError(f"--set does not change {shown(top)}; it changes {settable}{near}")
    if top in WHOLE and len(names) != 1:
        raise ValueError(f"{top} has no keys of its own; expected {top}=VALUE")
    if top in SECTIONS:
        known = keys(operation, (top,)) or ()
        if len(names) != 2:
            raise ValueError(f"expected {top}.KEY=VALUE; the keys are {', '.join(known)}")
        if names[1] not in known:
            has = f"the keys are {', '.join(known)}{nearest(names[1], known)}"
            raise ValueError(f"{top} has no key {shown(names[1])}; {has}")
    try:
        given = load(value if value.strip() else "''", f"--set {text}")
    except ScenarioError as error:
        raise ValueError(error.mistakes[0].message) from None
    if given.findings:
        raise ValueError(given.findings[0].message)
    return names, given


def _put(changed: Source, loc: Loc, given: Source, option: str) -> None:
    """Set `loc` to what was given; null takes the key out, and with it goes back to its default."""
    place = Place(0, 0, option)
    _forget(changed, loc)
    parent = changed.data
    for depth, name in enumerate(loc[:-1], 1):
        if not isinstance(parent.get(name), dict):
            parent[name] = {}
            changed.values[loc[:depth]] = place
        parent = parent[name]
    if given.data is None:
        parent.pop(loc[-1], None)
        return
    parent[loc[-1]] = given.data
    for inner in given.values:
        changed.values[(*loc, *inner)] = place
    for inner in given.keys:
        changed.keys[(*loc, *inner)] = place
    changed.keys[loc] = place


def _forget(changed: Source, loc: Loc) -> None:
    for places in (changed.values, changed.keys):
        for known in [known for known in places if known[: len(loc)] == loc]:
            del places[known]
