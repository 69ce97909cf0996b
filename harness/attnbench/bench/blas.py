"""The thread pool of the BLAS that NumPy multiplies matrices with."""

from __future__ import annotations

import ctypes
from itertools import product
from pathlib import Path
from typing import Any

__all__ = ["loaded_libraries", "numpy_threads", "set_numpy_threads"]

#: What comes before and after the names of OpenBLAS' functions, as NumPy's wheels, SciPy's or a system's
#: package build it.
_BUILDS = tuple(product(("scipy_", ""), ("64_", "")))


def loaded_libraries() -> list[str]:
    """The files that are mapped into this process (Linux; nothing elsewhere)."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    return sorted({line[line.index("/") :] for line in lines if "/" in line})


def numpy_threads() -> int | None:
    """The size of the pool of the OpenBLAS that NumPy has loaded; None for another BLAS."""
    count = _openblas("get_num_threads")
    return None if count is None else int(count())


def set_numpy_threads(threads: int) -> bool:
    """Let NumPy's OpenBLAS use `threads` threads; whether that is so now. With another BLAS it is not."""
    setter = _openblas("set_num_threads")
    if setter is None:
        return False
    setter(ctypes.c_int(threads))
    return numpy_threads() == threads


def _openblas(function: str) -> Any:
    """A function of the OpenBLAS that NumPy has loaded, or None."""
    import numpy

    numpy.ones((2, 2)) @ numpy.ones((2, 2))  # it is loaded now at the latest
    for file in loaded_libraries():
        if "openblas" in Path(file).name:
            library = ctypes.CDLL(file)
            for before, after in _BUILDS:
                name = f"{before}openblas_{function}{after}"
                if hasattr(library, name):
                    return getattr(library, name)
    return None
