"""A folder of its own for what compilers keep on disk, so that no sweep profits from an earlier one's.

`first_call_s` is to hold the compilation. Inductor and Triton keep what they compiled in folders that outlive
the process, where the next sweep would find it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from attnbench.bench.compiled import CACHE_VARIABLES, FOLDER_VARIABLE

try:
    import fcntl
except ImportError:  # not on Windows: folders that a killed sweep left behind stay there
    fcntl = None  # type: ignore[assignment]  # asked for before it is used

__all__ = ["PREFIX", "CompilerCache"]

#: How the names of our folders begin.
PREFIX = "attnbench-compiled-"

#: A folder younger than this is never taken for abandoned: its owner may not have locked it yet.
YOUNG_S = 60.0


class CompilerCache:
    """A folder in `parent` (by default the one for temporary files), removed by `close`.

    Its owner holds a lock on it that ends with the process, so that what a killed one left behind is known,
    and removed by the next. Where there is no folder to be had (a temporary folder that cannot be written
    to), compilers are left with their own, and fail or not by themselves: only what compiles needs one.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.folder: Path | None = None
        self._lock: int | None = None
        with suppress(OSError):
            parent = parent or Path(tempfile.gettempdir())
            _remove_abandoned(parent)
            self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            self._lock = _lock(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead compilers there; benches lead them on, each case to a folder of its own."""
        if self.folder is None:
            return {}
        led = {variable: str(self.folder / name) for variable, name in CACHE_VARIABLES.items()}
        return {FOLDER_VARIABLE: str(self.folder), **led}

    def close(self) -> None:
        """Remove the folder. Can be called twice."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the only lock on `folder`; None where somebody else does, or none can."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of ours that nobody holds."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < YOUNG_S:
                continue
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
