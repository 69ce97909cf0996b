"""Files that survive crashes: written whole or not at all, synced, locked, and read with care."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attnbench.errors import RunError

__all__ = [
    "bytes_of",
    "is_locked",
    "open_locked",
    "readable",
    "reason",
    "replace_file",
    "sync_folder",
    "write_all",
    "write_new",
]


def replace_file(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all: under a temporary name beside it, synced, then renamed.

    Raises:
        RunError: it cannot be written; what was there is unchanged.
    """
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_new(hidden, data)
        os.replace(hidden, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise RunError(f"{path}: cannot be written: {reason(error)}; what was there is unchanged") from error


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet, and sync it.

    Raises:
        OSError: it exists, or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """One write; a short one (a disk nearly full) is carried on until it is done or refused."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make names in `folder` durable, where the file system knows how."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_locked(path: Path) -> int:
    """A descriptor of `path`, made when missing, under an exclusive lock; Python's are closed on exec.

    Raises:
        RunError: another process holds the lock.
        OSError: it cannot be opened or locked.
    """
    import fcntl  # here, so that runs can be read where there is none

    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _lock_holder(os.fstat(descriptor).st_ino)
        os.close(descriptor)
        raise RunError(
            f"{path.parent}: is in use by another attnbench{holder}; "
            f"wait until it is done, or start a run of its own with --name"
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of `open_locked` on `path`, as far as the kernel tells."""
    with suppress(OSError):
        return bool(_lock_holder(path.stat().st_ino))
    return False


def _lock_holder(inode: int) -> str:
    """` (process 1234)` for who holds a lock on `inode`, where the kernel tells; else empty."""
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK  ADVISORY  WRITE 1234 08:02:5678 0 EOF
            words = line.split()
            if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
                return f" (process {words[4]})" if words[4].isdigit() else ""
    return ""


def bytes_of(file: Path) -> bytes:
    """What `file` holds.

    Raises:
        RunError: it cannot be read, or is a pipe or a device, which would be read without end.
    """
    with readable(file):
        if not stat.S_ISREG(file.stat().st_mode):
            raise RunError(f"{file}: is no regular file; restore it from a copy, or move it out of the run")
        return file.read_bytes()


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns the system's refusal to read `path` into a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {reason(error)}; check its permissions") from error


def reason(error: OSError) -> str:
    """What the system says went wrong, without number and path."""
    return error.strerror or str(error)
