"""What a bench says of itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from attnbench import driver
from attnbench.bench.description import description, thread_libraries
from attnbench.protocol import DescribeReply

linux = pytest.mark.skipif(sys.platform != "linux", reason="maps and resident sizes are read on Linux")


@pytest.fixture(scope="module")
def described() -> Iterator[DescribeReply]:
    with driver.ZygoteSource(threads=1, malloc="pinned") as source:
        yield source.bench().request("describe", {}, 60)  # type: ignore[misc]  # the verb's answer


def test_a_bench_tells_its_pools(described: DescribeReply) -> None:
    assert described["threads"] == 1
    assert described["numpy_threads"] in (1, None)
    assert described["interop_threads"] >= 1
    assert described["matmul_precision"] == "highest"
    assert described["numpy_blas"]
    assert described["torch_blas"]


@linux
def test_a_bench_tells_its_allocator_and_that_pinned_malloc_keeps_what_is_freed(
    described: DescribeReply,
) -> None:
    assert described["affinity"]
    if not (described["libc"] or "").startswith("glibc"):
        pytest.skip("the policy is glibc's")
    assert (described["allocator"] or "").startswith("libc.so")
    assert described["kept_share"] == pytest.approx(1, abs=0.01)


@linux
def test_malloc_with_its_defaults_keeps_nothing() -> None:
    described = description()  # of this process, which no zygote has pinned
    if not (described["libc"] or "").startswith("glibc"):
        pytest.skip("the policy is glibc's")
    assert described["kept_share"] == pytest.approx(0, abs=0.05)


def test_libraries_with_pools_are_told_from_others() -> None:
    files = [
        "/usr/lib/libgomp.so.1",
        "/opt/torch/lib/libgomp-a34b3233.so.1",
        "/opt/numpy.libs/libscipy_openblas64_-32a4b2a6.so",
        "/opt/numpy.libs/libopenblas64_p-r0-0cf96a72.3.23.dev.so",
        "/opt/lib/libiomp5.so",
        "/opt/lib/libmkl_rt.so.2",
        "/usr/lib/libc.so.6",
        "/usr/lib/libompd.so",
        "/usr/lib/libm.so.6",
    ]
    assert thread_libraries(files) == [
        "libgomp-a34b3233.so.1",
        "libgomp.so.1",
        "libiomp5.so",
        "libmkl_rt.so.2",
        "libopenblas64_p-r0-0cf96a72.3.23.dev.so",
        "libscipy_openblas64_-32a4b2a6.so",
    ]
