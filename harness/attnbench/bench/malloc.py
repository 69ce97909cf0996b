"""glibc's malloc, made to give back at once what is freed, so that resident memory is memory in use.

With any of glibc's policies a freed block stays resident for later: a call that frees one large tensor and
allocates another then shows up to the sum of both (a call that holds 250 MiB at its peak reads 300).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from attnbench.units import KIB

__all__ = ["LARGE_BLOCK_BYTES", "malloc_keeps_nothing"]

#: From this size on blocks are mapped one by one, and unmapped when they are freed.
LARGE_BLOCK_BYTES = 128 * KIB

#: Options of mallopt (glibc's malloc.h), and the variables by which a process inherits them.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_INHERITED = {_M_MMAP_MAX: "MALLOC_MMAP_MAX_", _M_TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_"}

_DEFAULT_MMAP_MAX = 65536
_LARGEST_INT = 2**31 - 1

#: A flag in the size field before each block, and the sizes with which holes in the heap are filled.
_IS_MMAPPED = 2
_PLUG_SIZES = tuple(LARGE_BLOCK_BYTES << shift for shift in reversed(range(18)))


@contextmanager
def malloc_keeps_nothing() -> Iterator[None]:
    """Within the context, large blocks go back to the system when they are freed; free memory goes at once.

    Afterwards malloc is as the environment asks, but for a trim threshold that mallopt's int cannot hold, so
    a bench should not take samples after this. C libraries other than glibc are left as they are.
    """
    libc = ctypes.CDLL(None)
    if not all(hasattr(libc, name) for name in ("mallopt", "malloc_trim", "gnu_get_libc_version")):
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, LARGE_BLOCK_BYTES)
    libc.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
    libc.malloc_trim(0)
    plugs = [*_fill_holes(libc), *_fill_spare_arenas(libc)]
    try:
        yield
    finally:
        for plug in plugs:
            libc.free(ctypes.c_void_p(plug))
        for option, variable in _INHERITED.items():
            if os.environ.get(variable, "").isdigit():
                libc.mallopt(option, min(int(os.environ[variable]), _LARGEST_INT))


def _fill_holes(libc: ctypes.CDLL) -> list[int]:
    """Take the free room of the caller's arena: large blocks must be mapped then. None becomes resident."""
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    plugs = []
    for size in _PLUG_SIZES:
        while block := libc.malloc(size):
            if ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value & _IS_MMAPPED:
                libc.free(ctypes.c_void_p(block))
                break
            plugs.append(block)
    return plugs


def _fill_spare_arenas(libc: ctypes.CDLL) -> list[int]:
    """Take the free room of the arenas that threads have left behind, which `malloc_trim` does not give back.

    A kernel's next thread would get such an arena, and what it allocates there would be resident already. As
    many threads as there are arenas, all alive at a time, are given all those that are spare.
    """
    plugs: list[int] = []
    attached, fill = threading.Semaphore(0), threading.Event()

    def take_one() -> None:
        libc.free(ctypes.c_void_p(libc.malloc(1)))  # a thread gets its arena when it first allocates
        attached.release()
        fill.wait()
        plugs.extend(_fill_holes(libc))

    threads: list[threading.Thread] = []
    with suppress(RuntimeError):  # no more threads to be had: as many as there are
        for _ in range(_arenas(libc) - 1):
            thread = threading.Thread(target=take_one, name="malloc-plug")
            thread.start()
            threads.append(thread)
            attached.acquire()
    fill.set()
    for thread in threads:
        thread.join()
    return plugs


def _arenas(libc: ctypes.CDLL) -> int:
    """How many arenas malloc has, the main one included: those that `malloc_info` lists."""
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    libc.open_memstream.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    count = ctypes.string_at(text.value or 0, size.value).count(b"<heap nr=")
    libc.free(text)
    return count
