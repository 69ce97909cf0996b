"""Run folders: `run.json` and append-only `records-<writer>.jsonl`; nothing acknowledged is ever lost.

A run's folder appears by rename, run.json in it. Every writer has a file of its own, locked while it is
open; a record is one line, written by one `os.write` and one fsync. What a crash leaves behind is at most a
torn last line: readers skip it, the next writer cuts it off. run.json is only ever replaced by rename.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from attnbench.errors import RunError, UsageError
from attnbench.files import (
    bytes_of,
    is_locked,
    open_locked,
    readable,
    reason,
    replace_file,
    sync_folder,
    write_all,
    write_new,
)
from attnbench.record import SCHEMA_VERSION, Record

__all__ = ["Run", "RunWriter", "being_written", "create", "read", "require_plain_name", "resume"]

KIND = "attnbench-run"
HEADER_FILE = "run.json"

#: Keys of run.json that are the store's own.
RESERVED = ("schema", "kind", "run_id", "resumed")

#: What `resume` keeps of the header of a continuation: under which conditions the later records were taken.
KEPT_OF_CONTINUATION = ("command", "attnbench", "environment", "ceilings")


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read: its folder, its id (its name when it was made), the content of run.json, its records.

    Of cases that were measured more than once, `records` holds the highest attempt; they are in the order in
    which the cases first appeared.
    """

    path: Path
    run_id: str
    header: Mapping[str, Any]
    records: tuple[Record, ...]


def create(root: Path, name: str, header: Mapping[str, Any], *, writer: str = "main") -> RunWriter:
    """A new run `root/name`, open for writing; `root` is made when missing.

    `header` is what run.json holds beside the store's own keys (`RESERVED`).

    Raises:
        UsageError: `name` is no plain folder name.
        RunError: the name is taken, or the folder cannot be made.
    """
    require_plain_name(name)
    reserved = [key for key in RESERVED if key in header]
    if reserved:
        raise ValueError(
            f"a run's header must leave the keys {', '.join(RESERVED)} to the store, got {reserved}"
        )
    root = Path(root)
    target = root / name
    content = {"schema": SCHEMA_VERSION, "kind": KIND, "run_id": name, **header}
    if os.path.lexists(target):
        _refuse_existing(target)
    hidden = root / f".{name}.{secrets.token_hex(4)}.tmp"
    descriptor = -1
    try:
        root.mkdir(parents=True, exist_ok=True)
        hidden.mkdir()
        write_new(hidden / HEADER_FILE, _header_text(content))
        # Opened and locked under the hidden name: nobody can get in between the rename and the lock.
        descriptor = open_locked(hidden / _records_name(writer))
        sync_folder(hidden)
        os.rename(hidden, target)
        sync_folder(root)
    except BaseException as error:
        if descriptor >= 0:
            os.close(descriptor)
        shutil.rmtree(hidden, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        if os.path.lexists(target):  # somebody was faster
            _refuse_existing(target)
        raise RunError(
            f"{target}: the run's folder cannot be made: {reason(error)}; "
            f"free some space, or choose another place with --out"
        ) from error
    return RunWriter(target, content, descriptor, writer, ())


def resume(path: Path, header: Mapping[str, Any], *, writer: str = "main") -> RunWriter:
    """The run at `path`, open to be continued; a torn last line of this writer's file is cut off.

    What run.json holds stays; of `header` the command, version, environment and ceilings are noted in its
    list `resumed`, with the time.

    Raises:
        RunError: no run, a run of a newer version, corrupted, in use by another writer, or not writable.
    """
    path = Path(path)
    _read_header(path)  # before anything is made in a folder that is no run
    try:
        descriptor = open_locked(path / _records_name(writer))
    except OSError as error:
        raise RunError(f"{path}: cannot be written to: {reason(error)}; its records are unchanged") from error
    try:
        _cut_torn_line(descriptor, path / _records_name(writer))
        stored = _read_header(path)
        records = tuple(_records(path))
        continuation = {"at": _now(), **{key: header[key] for key in KEPT_OF_CONTINUATION if key in header}}
        stored = {**stored, "resumed": [*stored.get("resumed", []), continuation]}
        replace_file(path / HEADER_FILE, _header_text(stored))
    except BaseException:
        os.close(descriptor)
        raise
    return RunWriter(path, stored, descriptor, writer, records)


def read(path: Path) -> Run:
    """The run at `path`, also while another process writes it.

    Raises:
        RunError: no run, a run of a newer version, corrupted or unreadable; the text says what to do.
    """
    path = Path(path)
    header = _read_header(path)
    latest: dict[tuple[str, str], Record] = {}
    for record in _records(path):
        key = (record.scenario, record.case_id)
        if key not in latest or record.attempt > latest[key].attempt:
            latest[key] = record
    return Run(path, header["run_id"], header, tuple(latest.values()))


def being_written(path: Path) -> bool:
    """Whether a process is writing the run at `path`, so that what it lacks may yet come."""
    return any(is_locked(file) for file in Path(path).glob(_records_name("*")))


class RunWriter:
    """A run open for appending. The lock on its file is held until `close`; no child process inherits it."""

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        descriptor: int,
        writer: str,
        records: tuple[Record, ...],
    ) -> None:
        self.path = path
        self.header = header
        self.run_id: str = header["run_id"]
        self._file = path / _records_name(writer)
        self._descriptor = descriptor
        # (scenario, block id) -> the block's highest attempt, and the cases recorded in that attempt.
        self._blocks: dict[tuple[str, str], tuple[int, frozenset[str]]] = {}
        for record in records:
            self._note(record)

    @property
    def finished(self) -> dict[tuple[str, str], frozenset[str]]:
        """`(scenario, block id)` → the case ids recorded by the block's latest attempt.

        A block is finished when that is all of its cases. Earlier attempts do not count: cases are comparable
        only when they were measured side by side.
        """
        return {key: cases for key, (_, cases) in self._blocks.items()}

    def attempt_of(self, scenario: str, case_id: str) -> int:
        """The number of the next attempt, from 1, at the block that `case_id` belongs to."""
        attempts = [
            attempt
            for (of_scenario, block_id), (attempt, _) in self._blocks.items()
            if of_scenario == scenario and case_id.startswith(f"{block_id}/")
        ]
        return 1 + max(attempts, default=0)

    def append(self, record: Record) -> None:
        """Write one record; when this returns it is on disk.

        Raises:
            RunError: it could not be written (a full disk, a closed writer); the file is as before.
            ValueError: the record holds what JSON has no form for, NaN and the infinities among them.
        """
        if self._descriptor < 0:
            raise RunError(f"{self._file}: is closed; go on with --resume {self.path}")
        try:
            text = json.dumps(record.to_json(), sort_keys=True, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the record of {record.case_id} has no JSON form: {error}") from error
        length = os.fstat(self._descriptor).st_size
        try:
            write_all(self._descriptor, text.encode() + b"\n")
            os.fsync(self._descriptor)
        except BaseException as error:
            self._take_back(length)
            if not isinstance(error, OSError):
                raise
            raise RunError(
                f"{self._file}: the record of {record.case_id} could not be written: {reason(error)}; "
                f"what was written before is safe: make room, then go on with --resume {self.path}"
            ) from error
        self._note(record)

    def _take_back(self, length: int) -> None:
        """Restore the file's `length`.

        Where even that fails, nothing more is written, lest a line be glued to a torn one.
        """
        try:
            os.ftruncate(self._descriptor, length)
            os.fsync(self._descriptor)
        except OSError:
            self.close()

    def _note(self, record: Record) -> None:
        key = (record.scenario, record.block_id)
        attempt, cases = self._blocks.get(key, (0, frozenset()))
        if record.attempt > attempt:
            self._blocks[key] = (record.attempt, frozenset({record.case_id}))
        elif record.attempt == attempt:
            self._blocks[key] = (attempt, cases | {record.case_id})

    def close(self) -> None:
        """Close the file and give up its lock. Can be called twice."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def require_plain_name(name: str) -> None:
    """Check that `name` can be a run's.

    Raises:
        UsageError: it is no plain folder name.
    """
    if (
        re.fullmatch(r"[^\x00-\x1f/\\]{1,200}", name)
        and name not in (".", "..")
        and not name.startswith(("-", "."))
    ):
        return
    raise UsageError(
        f"a run's name must be a plain folder name (no slash, no leading dot or dash, at most 200 "
        f"characters), got {name!r}; folders go in --out"
    )


def _refuse_existing(target: Path) -> NoReturn:
    raise RunError(
        f"{target}: exists; choose another name with --name, or go on with it by --resume {target}"
    )


def _records_name(writer: str) -> str:
    return f"records-{writer}.jsonl"


def _header_text(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cut_torn_line(descriptor: int, file: Path) -> None:
    try:
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        kept = len(data) - len(_torn_tail(data))
        if kept < len(data):
            os.ftruncate(descriptor, kept)
            os.fsync(descriptor)
    except OSError as error:
        raise RunError(f"{file}: its torn last line cannot be cut off: {reason(error)}") from error


def _torn_tail(data: bytes) -> bytes:
    """The last line when it was not written to its end (no newline, or not JSON); else nothing."""
    body, newline, rest = data.rpartition(b"\n")
    if rest:
        return rest
    last = body.rpartition(b"\n")[2] + newline
    try:
        if newline:
            _parse(last)
    except ValueError:
        return last
    return b""


def _parse(line: bytes) -> Any:
    """A JSON value without NaN or infinities; ValueError where it is none."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(line.decode(), parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _records(folder: Path) -> Iterator[Record]:
    """The records of every writer, file by file; a torn last line is passed over."""
    with readable(folder):
        files = sorted(folder.glob(_records_name("*")))
    for file in files:
        data = bytes_of(file)
        whole = data[: len(data) - len(_torn_tail(data))]
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            try:
                yield Record.from_json(_parse(line))
            except ValueError as error:
                raise RunError(
                    f"{file}:{number}: the record cannot be read: {error}; nothing was changed: "
                    f"restore the file from a copy, or move this line out of it to go on without"
                ) from error


def _read_header(folder: Path) -> dict[str, Any]:
    file = folder / HEADER_FILE
    with readable(folder):
        if not folder.exists():
            raise RunError(
                f"{folder}: there is no such run; runs are the folders that `attnbench sweep` writes"
            )
        if not folder.is_dir():
            raise RunError(f"{folder}: is a file; expected a run's folder, such as {folder.parent}")
        if not file.exists():
            raise RunError(
                f"{folder}: is no run: it holds no {HEADER_FILE}; expected a folder that a sweep wrote"
            )
    try:
        header = _parse(bytes_of(file))
    except ValueError as error:
        raise RunError(
            f"{file}: is corrupted: {error}; restore it from a copy (the records beside it are untouched)"
        ) from error
    if (
        not isinstance(header, dict)
        or header.get("kind") != KIND
        or not isinstance(header.get("run_id"), str)
    ):
        raise RunError(f'{file}: is no run of attnbench: expected "kind": "{KIND}" and a "run_id"')
    if not isinstance(header.get("resumed", []), list):
        raise RunError(f"{file}: resumed: expected a list, got {header['resumed']!r}; restore it from a copy")
    schema = header.get("schema")
    if isinstance(schema, bool) or not isinstance(schema, int):
        raise RunError(f"{file}: schema: expected a whole number, got {schema!r}; restore it from a copy")
    if schema > SCHEMA_VERSION:
        raise RunError(
            f"{file}: was written by a newer attnbench (schema {schema}; this one reads up to "
            f"{SCHEMA_VERSION}); upgrade attnbench to read it"
        )
    return header
