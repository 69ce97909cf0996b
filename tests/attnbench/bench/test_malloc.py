from __future__ import annotations

import sys

import pytest

from attnbench.bench import malloc


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_within_it_a_freed_block_is_not_resident_any_more() -> None:
    import ctypes

    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    with malloc.malloc_keeps_nothing():
        before = resident_bytes()
        block = libc.malloc(ctypes.c_size_t(32 << 20))
        ctypes.memset(block, 1, 32 << 20)
        held = resident_bytes() - before
        libc.free(ctypes.c_void_p(block))
        left = resident_bytes() - before
    assert held >= 31 << 20
    assert left <= 1 << 20


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


def test_a_c_library_without_the_means_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare:
        pass

    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda _: Bare())
    with malloc.malloc_keeps_nothing():
        pass
