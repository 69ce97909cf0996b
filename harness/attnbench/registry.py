"""Which implementations exist here: entry points first, then plug-in files.

Loading them runs anybody's code, so only measuring processes do it.

An entry point of the group `attnbench.implementations` names a module (or one object in it); the built-in
implementations are found that way like anybody's. A plug-in is a Python file, loaded by its path. What is
wrong with a plug-in stops everything, because somebody asked for that file; what is wrong with an installed
package is reported and passed over.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from attnbench.errors import PluginError
from attnbench.implementation import Implementation, declared_in
from attnbench.protocol import ImplementationInfo

__all__ = ["ENTRY_POINT_GROUP", "Entry", "Registry", "current", "load_plugin", "use"]

ENTRY_POINT_GROUP = "attnbench.implementations"

#: The distribution whose entry points come first, so that nobody can take a built-in name.
OWN_DISTRIBUTION = "attnbench"

#: Characters of what an exception says that are passed on.
LONGEST_LINE = 300


@dataclass(frozen=True, slots=True)
class Entry:
    """An implementation and where it comes from: a package, a distribution, or a plug-in's path as given."""

    implementation: Implementation
    origin: str


class Registry:
    """Implementations by name.

    `problems` says, one text each, what installed packages could not contribute.
    """

    def __init__(self, entries: Mapping[str, Entry] | None = None, problems: Sequence[str] = ()) -> None:
        self._entries = dict(entries or {})
        self.problems = list(problems)

    @classmethod
    def discover(
        cls,
        plugins: Sequence[Path] = (),
        *,
        on_load: Callable[[str], None] | None = None,
        entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    ) -> Registry:
        """Load the entry points (by default those installed here), then the plug-ins in their order.

        `on_load` hears what is about to be loaded, so that it can be named should it take the process down.

        Raises:
            PluginError: a plug-in that cannot be loaded, declares nothing or nonsense, or takes a name.
        """
        if entry_points is None:
            entry_points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
        announce = on_load or (lambda _: None)
        registry = cls()
        for point in sorted(entry_points, key=_own_first):
            announce(f"the entry point {point.name} = {point.value}")
            registry._add_entry_point(point)
        for number, path in enumerate(_without_repeats(plugins)):
            announce(str(path))
            registry._add_plugin(path, number)
        return registry

    def get(self, name: str) -> Implementation:
        """The implementation called `name`.

        Raises:
            KeyError: there is none; the text lists those that there are.
        """
        try:
            return self._entries[name].implementation
        except KeyError:
            known = ", ".join(self._entries) or "none"
            raise KeyError(f"there is no implementation {name!r} here; there are: {known}") from None

    def catalogue(self) -> list[ImplementationInfo]:
        """Every implementation, in order of discovery, in a form that JSON can hold."""
        return [
            ImplementationInfo(
                name=entry.implementation.name,
                operation=entry.implementation.operation,
                framework=entry.implementation.framework,
                summary=entry.implementation.summary,
                memory=entry.implementation.memory,
                flops=entry.implementation.flops,
                source=entry.implementation.source,
                compiles=entry.implementation.compiles,
                precision=entry.implementation.precision,
                options=dict(entry.implementation.options),
                origin=entry.origin,
                file=entry.implementation.file,
            )
            for entry in self._entries.values()
        ]

    def _add_entry_point(self, point: importlib.metadata.EntryPoint) -> None:
        origin = _origin(point)
        where = f"the entry point {point.name} = {point.value} of {origin}"
        try:
            loaded = point.load()
            found = declared_in(vars(loaded) if isinstance(loaded, ModuleType) else {point.name: loaded})
        except BaseException as error:
            self.problems.append(f"{where} cannot be loaded: {_first_line(error)}")
            return
        if not found:
            self.problems.append(f"{where} declares no implementation")
        for implementation in found:
            holder = self._entries.get(implementation.name)
            if holder is None:
                self._entries[implementation.name] = Entry(implementation, origin)
            elif holder.implementation is not implementation:
                self.problems.append(
                    f"{where} declares {implementation.name!r}, a name that {holder.origin} already has; "
                    "it is left out"
                )

    def _add_plugin(self, path: Path, number: int) -> None:
        added: dict[str, Entry] = {}
        for implementation in load_plugin(path, f"attnbench_plugin_{number}_{path.stem}"):
            name = implementation.name
            if name in added:
                raise PluginError(f"the plug-in {path} declares {name!r} twice; every name must be unique")
            holder = self._entries.get(name)
            if holder is None:
                added[name] = Entry(implementation, str(path))
            elif holder.implementation is not implementation:  # the same object was imported, not declared
                raise PluginError(
                    f"the plug-in {path} declares {name!r}, a name that {holder.origin} already has; "
                    "choose another name"
                )
        if not added:
            raise PluginError(_declares_nothing(path))
        self._entries.update(added)


#: The registry of this process, once somebody made or asked for it.
_current: Registry | None = None


def use(registry: Registry) -> None:
    """Make `registry` the one that `current` returns: a measuring process' own, plug-ins included."""
    global _current
    _current = registry


def current() -> Registry:
    """The registry of this process: the one in use, else that of the packages installed here."""
    registry = _current or Registry.discover()
    use(registry)
    return registry


def load_plugin(path: Path, module_name: str) -> list[Implementation]:
    """Run the file at `path` as the module `module_name`; the implementations that it declares.

    The file's folder is appended to `sys.path`, so that a plug-in can import its neighbours.

    Raises:
        PluginError: it is no readable Python file, raises (whatever it raises), or declares nothing.
    """
    if path.suffix != ".py" or not path.is_file():
        raise PluginError(f"the plug-in {path} is no Python file; expected the path of an existing .py file")
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"the plug-in {path} cannot be loaded as a Python module")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses, pickle and typing look a class's module up there
    try:
        spec.loader.exec_module(module)
        found = declared_in(vars(module))
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: nothing a file does may end us
        del sys.modules[module_name]
        raise PluginError(_failed_import(path, error)) from error
    if not found:
        del sys.modules[module_name]
        raise PluginError(_declares_nothing(path))
    return found


def _declares_nothing(path: Path) -> str:
    return (
        f"the plug-in {path} declares no implementation; expected a function decorated with "
        "@attnbench.attention(name, …), or an attnbench.Implementation at module level"
    )


def _failed_import(path: Path, error: BaseException) -> str:
    line = _line_in(path, error)
    where = f"{path}:{line}" if line else str(path)
    return f"the plug-in {where} cannot be imported: {_first_line(error)}"


def _line_in(path: Path, error: BaseException) -> int | None:
    """The innermost line of the file at `path` that `error` went through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _first_line(error: BaseException) -> str:
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except BaseException as nested:  # somebody's exception class may fail at telling what happened
        text = f"(its text cannot be had: {type(nested).__name__})"
    line = text.strip().splitlines()[0] if text.strip() else "(no message)"
    return f"{type(error).__name__}: {line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + '…'}"


def _origin(point: importlib.metadata.EntryPoint) -> str:
    distribution = _distribution(point)
    return point.module if distribution in (None, OWN_DISTRIBUTION) else str(distribution)


def _distribution(point: importlib.metadata.EntryPoint) -> str | None:
    return point.dist.name if point.dist is not None else None


def _own_first(point: importlib.metadata.EntryPoint) -> tuple[Any, ...]:
    distribution = _distribution(point)
    return (distribution != OWN_DISTRIBUTION, distribution or "", point.name)


def _without_repeats(paths: Sequence[Path]) -> list[Path]:
    """`paths` without those that name a file a second time."""
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(path.resolve(), path)
    return list(first.values())
