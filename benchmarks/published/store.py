"""What a benchmark has measured, on disk: appended at once, resumed, refused where it is of something else.

The first line of a file is its header: settings, date, and the fingerprint of the machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self

from attnbench import environment
from attnbench.files import write_all

__all__ = ["DataError", "Store", "machine"]

#: Libraries whose versions can explain that two files differ.
LIBRARIES = ("numpy", "pytest-benchmark", "scipy", "torch")

#: Entries of the fingerprint that must be the same when measuring is resumed.
DECISIVE = ("machine", "cpu", "cores_usable", "memory_bytes", "python", "libraries")


#: To so many significant digits floats are kept: far more than any of them is measured to.
DIGITS = 9


class DataError(Exception):
    """Data of a part are missing, corrupted or of another machine; the text says what to do."""


@cache
def machine() -> Mapping[str, Any]:
    """The fingerprint of this machine, with the versions of the libraries that measure."""
    libraries = {name: _version(name) for name in LIBRARIES}
    return {**environment.fingerprint(), "libraries": {k: v for k, v in libraries.items() if v}}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


class Store:
    """`<folder>/<part>.jsonl`: a header, then one entry a line, each under a key of its own.

    `open` makes the file or resumes it; `read` reads it only.
    """

    #: How the user measures a part, `{part}` standing for its name.
    command: ClassVar[str]

    def __init__(self, path: Path, header: Mapping[str, Any], entries: dict[str, Mapping[str, Any]]) -> None:
        self.path = path
        self.header = header
        self._entries = entries

    @classmethod
    def open(cls, folder: Path, part: str, settings: Mapping[str, Any]) -> Self:
        """The store of `part`, made when missing; `settings` (JSON) are what its entries were measured with.

        Raises:
            DataError: the file is of another machine, other libraries or other settings.
        """
        path = folder / f"{part}.jsonl"
        settings = json.loads(json.dumps(settings))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if path.exists():
            store = cls.read(folder, part)
            store._require("settings", store.header["settings"], settings)
            for name in DECISIVE:
                store._require(name, store.header["machine"].get(name), machine().get(name))
            _append(path, {"resumed": now, "git_commit": machine()["git_commit"]})
            return store
        folder.mkdir(parents=True, exist_ok=True)
        header = {"part": part, "date": now, "settings": settings, "machine": dict(machine())}
        _append(path, header)
        return cls(path, header, {})

    @classmethod
    def read(cls, folder: Path, part: str) -> Self:
        """The store of `part` as it is on disk. A torn last line, of an interrupted write, is cut off.

        Raises:
            DataError: there is none, or a line is not what this class has written.
        """
        path = folder / f"{part}.jsonl"
        try:
            whole, _, torn = path.read_bytes().rpartition(b"\n")
        except FileNotFoundError:
            raise DataError(f"{path}: not measured yet; run `{cls.command.format(part=part)}`") from None
        if torn:
            os.truncate(path, len(whole) + 1 if whole else 0)
        try:
            header, *lines = [json.loads(line) for line in whole.splitlines()]
            if header["part"] != part or "settings" not in header or "machine" not in header:
                raise ValueError("the first line is no header of this part")
            entries = {line.pop("key"): line for line in lines if "resumed" not in line}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: corrupted ({error}); move it away and measure anew") from error
        return cls(path, header, entries)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the entries were measured with."""
        settings: Mapping[str, Any] = self.header["settings"]
        return settings

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Keys and entries, in the order in which they were measured."""
        return iter(self._entries.items())

    def values(self) -> Iterator[Mapping[str, Any]]:
        """The entries, in the order in which they were measured."""
        return iter(self._entries.values())

    def append(self, key: str, entry: Mapping[str, Any]) -> None:
        """Add an entry, on disk when this returns.

        Raises:
            ValueError: the key is there already, or the entry holds what JSON has no form for.
        """
        if key in self._entries:
            raise ValueError(f"{self.path}: {key!r} is there already")
        entry = _rounded(entry)
        _append(self.path, {"key": key, **entry})
        self._entries[key] = entry

    def described(self) -> str:
        """When and on what this was measured, in a sentence."""
        of = self.header["machine"]
        libraries = ", ".join(f"{name} {version}" for name, version in of["libraries"].items())
        return (
            f"Measured {self.header['date'][:10]} on {of['cores_usable']} cores of {of['cpu']}"
            f"{' (virtual)' if of.get('hypervisor') else ''}, Python {of['python']}, {libraries}."
        )

    def _require(self, what: str, kept: Any, now: Any) -> None:
        if kept != now:
            raise DataError(
                f"{self.path}: was measured with {what} {kept}, this would be {now}; "
                "move the file away to measure anew, or give another --out"
            )


def _rounded(value: Any) -> Any:
    """`value` with its floats to `DIGITS` significant digits."""
    match value:
        case float():
            return float(f"{value:.{DIGITS}g}")
        case Mapping():
            return {name: _rounded(each) for name, each in value.items()}
        case list() | tuple():
            return [_rounded(each) for each in value]
    return value


def _append(path: Path, line: Mapping[str, Any]) -> None:
    data = json.dumps(line, allow_nan=False, separators=(",", ":"), sort_keys=False) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        write_all(descriptor, data.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
