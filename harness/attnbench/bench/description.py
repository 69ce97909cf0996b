"""What a measuring process says of itself: the libraries, pools and allocator that kernels run with."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from attnbench.bench.blas import loaded_libraries, numpy_threads
from attnbench.protocol import DescribeReply
from attnbench.units import MIB

__all__ = ["description", "thread_libraries"]

Answer = TypeVar("Answer")

#: A block so large that glibc's defaults map and unmap it every time.
BLOCK_BYTES = 64 * MIB

#: Libraries with thread pools of their own, by the beginnings of their files' names.
THREAD_LIBRARIES = re.compile(r"lib(gomp|iomp5|omp|mkl_rt|mkl_core|blis|tbb)\b|lib(scipy_)?openblas")


def description() -> DescribeReply:
    """The answer to the verb `describe`; what cannot be found out is None. Takes some 30 ms."""
    import torch

    libraries = loaded_libraries()
    return DescribeReply(
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        matmul_precision=torch.get_float32_matmul_precision(),
        torch_blas=_tried(_torch_blas),
        numpy_blas=_tried(_numpy_blas),
        numpy_threads=_tried(numpy_threads),
        thread_libraries=thread_libraries(libraries),
        libc=" ".join(platform.libc_ver()).strip() or None,
        allocator=_tried(_allocator),
        kept_share=_tried(_kept_share),
        affinity=sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    )


def thread_libraries(files: list[str]) -> list[str]:
    """The names of those libraries among `files` that have thread pools of their own."""
    return sorted({name for file in files if THREAD_LIBRARIES.match(name := Path(file).name)})


def _tried(probe: Callable[[], Answer]) -> Answer | None:
    try:
        return probe()
    except Exception:
        return None


def _torch_blas() -> str | None:
    """Which BLAS torch was built with, and its version."""
    import torch

    info = re.search(r"\bBLAS_INFO=(\w+)", torch.__config__.show())
    version = re.search(r"Math Kernel Library Version ([\d.]+)", torch.__config__.parallel_info())
    return " ".join([*(info.groups() if info else ()), *(version.groups() if version else ())]) or None


def _numpy_blas() -> str:
    """Which BLAS NumPy was built with, and its version."""
    import numpy

    built: Mapping[str, Any] = numpy.show_config(mode="dicts")
    blas = built["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas.get('version', '')}".strip()


class _DlInfo(ctypes.Structure):
    """`Dl_info` of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _allocator() -> str | None:
    """The name of the file whose `malloc` this process uses: libc's, or that of a library before it."""
    process = ctypes.CDLL(None)
    info = _DlInfo()
    if not process.dladdr(ctypes.cast(process.malloc, ctypes.c_void_p), ctypes.byref(info)) or not info.file:
        return None
    return Path(os.fsdecode(info.file)).name


def _kept_share() -> float | None:
    """Of a large block that was written to and freed, the share that stays resident (Linux)."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before = _resident_bytes()
    block = libc.malloc(BLOCK_BYTES)
    if not block:
        return None
    ctypes.memset(block, 1, BLOCK_BYTES)
    held = _resident_bytes() - before
    libc.free(block)
    return max(0.0, min(1.0, (_resident_bytes() - before) / held)) if held > 0 else None


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
