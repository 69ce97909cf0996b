"""What a measuring process said of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnbench.protocol import BenchFailed, BenchSource

__all__ = ["BenchReading", "read_bench"]

#: Importing nothing and asking libraries what they know is a matter of milliseconds.
DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True)
class BenchReading:
    """The answer of a bench with `wanted` threads to `describe`; `failure` is why there is none.

    Its fields are those of `attnbench.protocol.DescribeReply`.
    """

    wanted: int | None = None
    threads: int | None = None
    interop_threads: int | None = None
    matmul_precision: str | None = None
    torch_blas: str | None = None
    numpy_blas: str | None = None
    numpy_threads: int | None = None
    thread_libraries: tuple[str, ...] = ()
    libc: str | None = None
    allocator: str | None = None
    kept_share: float | None = None
    failure: str | None = None

    @classmethod
    def of(cls, reply: Mapping[str, Any], wanted: int | None) -> BenchReading:
        """A reading from a bench's answer."""
        return cls(
            wanted=wanted,
            threads=reply.get("threads"),
            interop_threads=reply.get("interop_threads"),
            matmul_precision=reply.get("matmul_precision"),
            torch_blas=reply.get("torch_blas"),
            numpy_blas=reply.get("numpy_blas"),
            numpy_threads=reply.get("numpy_threads"),
            thread_libraries=tuple(reply.get("thread_libraries") or ()),
            libc=reply.get("libc"),
            allocator=reply.get("allocator"),
            kept_share=reply.get("kept_share"),
        )


def read_bench(source: BenchSource, wanted: int | None) -> BenchReading:
    """Ask a fresh bench, which was to have `wanted` threads; one that fails is an answer, too."""
    bench = source.bench()
    try:
        return BenchReading.of(bench.request("describe", {}, DEADLINE_S), wanted)
    except BenchFailed as failure:
        return BenchReading(wanted=wanted, failure=str(failure))
    finally:
        bench.close()
