"""How fast this process can multiply matrices and move bytes, at best: the verb `ceiling`.

A ceiling is a maximum: the best of several ways, sizes and repetitions, each timed for so short a while that
a busy machine has undisturbed moments. It must be one that no honest kernel beats, so all ways count that
kernels go as well: torch's and NumPy's libraries (each has a BLAS of its own, and neither is always the
faster), oneDNN, and many small matrices side by side.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from attnbench.bench.blas import set_numpy_threads
from attnbench.bench.cuda_clock import CudaClock
from attnbench.bench.devices import why_unavailable
from attnbench.bench.failures import Refusal, classify
from attnbench.bench.flush import cache_bytes_of
from attnbench.protocol import CeilingReply
from attnbench.units import KIB, MIB
from attnbench.workload import DTYPES

__all__ = ["KINDS", "Rate", "Way", "ceiling", "fastest"]

#: What can be measured.
KINDS = ("matrix", "read", "copy")

Call = Callable[[], object]

#: Seconds that so many calls in a row take.
Measure = Callable[[Call, int], float]

#: A sample lasts at least so long: the clock's resolution is nothing to it, and few disturbances fall into
#: it.
SAMPLE_S = 5e-4

#: This share of the time goes into finding out which ways and sizes are the fast ones.
EXPLORING_SHARE = 0.6

#: No single call is reckoned to take more than this share of the time.
LONGEST_CALL_SHARE = 0.1

#: How often each is sampled at first: one disturbed sample must not put an end to the fastest.
REPEATS = 2

#: Ways that come so near to the fastest are repeated until the time is up, each at its best sizes: what else
#: ran just then may have been in the way of the fastest.
NEAR_THE_BEST = 0.4
BEST_SIZES = 2

#: What NumPy has a BLAS for.
NUMPY_DTYPES = ("float32", "float64")

#: Sizes n of n × n matrices: of one product by all threads, of many products side by side, of a GPU's.
SIZES = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
SIZES_SIDE_BY_SIDE = (128, 256, 384, 512)
SIZES_ON_GPUS = (1024, 2048, 4096, 8192, 16384)

#: Bandwidth is measured of a buffer so many times the caches, of at least so many bytes, but of no more than
#: this share of the memory there is; of one less than twice the caches it is not measured.
CACHES = 4
LEAST_BUFFER_BYTES = 64 * MIB
MEMORY_SHARE = 0.125
FEWEST_CACHES = 2


@dataclass(frozen=True, slots=True)
class Way:
    """One way to do the work: `prepare(size)` places its operands, `work(size)` says what one call is."""

    name: str
    sizes: tuple[int, ...]
    work: Callable[[int], float]
    prepare: Callable[[int], Call]


@dataclass(frozen=True, slots=True)
class Rate:
    """The most work a second, and the way that reached it."""

    per_s: float
    way: str


def ceiling(kind: str, device: str, dtype: str, threads: int | None, seconds: float) -> CeilingReply:
    """What this process reaches at best, found within about `seconds`: FLOP/s, or bytes a second.

    `threads` are those of torch and of NumPy's BLAS, None for as many as there are; `dtype` matters to
    matrices alone.

    Raises:
        ValueError: no such kind or dtype.
        Refusal: the device is not there, or nothing here can be measured.
    """
    import torch

    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "matrix" and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    why = why_unavailable(device)
    if why is not None:
        raise Refusal("unavailable", why)
    if threads is not None:
        torch.set_num_threads(threads)
    with_numpy = set_numpy_threads(torch.get_num_threads())
    on_cpu = device == "cpu"
    if kind == "matrix":
        ways = _on_cpu(dtype, with_numpy) if on_cpu else _on_gpu(dtype, device)
        held = None
    else:
        held = cache_bytes_of(device)
        size = _buffer_bytes(held, _available_bytes(device))
        ways = (_reading if kind == "read" else _copying)(device, size)
    measure = partial(_time_on_cpu, perf_counter) if on_cpu else _on_gpus_clock(device)
    with torch.no_grad():
        rate = fastest(ways, seconds, measure=measure, clock=perf_counter)
    return CeilingReply(per_s=rate.per_s, way=rate.way, cache_bytes=held)


def fastest(ways: Sequence[Way], seconds: float, *, measure: Measure, clock: Callable[[], float]) -> Rate:
    """The best rate of any way at any of its sizes, found within about `seconds` by `clock`.

    First all ways go through their sizes, from the smallest on, until a call would take too long or half of
    the time is gone; then the best of what was seen are repeated, in turn, until the time is up.

    Raises:
        Refusal: no way works here.
    """
    began = clock()
    seen: dict[tuple[Way, int], float] = {}
    problem = "there is no way to try"
    growing = list(ways)
    for size in sorted({size for way in ways for size in way.sizes}):
        for way in [way for way in growing if size in way.sizes]:
            known = max((rate for (other, _), rate in seen.items() if other is way), default=None)
            if known is not None and (
                way.work(size) / known > LONGEST_CALL_SHARE * seconds
                or clock() - began > EXPLORING_SHARE * seconds
            ):
                growing.remove(way)
                continue
            try:
                call = way.prepare(size)
                seen[way, size] = max(_rate(call, way.work(size), known, measure) for _ in range(REPEATS))
            except Exception as error:
                failure = classify(error)
                if failure.fatal:
                    raise
                problem = f"{way.name}: {failure.reason}"
                growing.remove(way)  # the library has no such way for this dtype, or the memory is short
    if not seen:
        raise Refusal("unavailable", f"nothing can be measured here: {problem}")
    for (way, size), call in _repeated(_finalists(seen), lambda: clock() - began < seconds):
        again = _rate(call, way.work(size), seen[way, size], measure)
        seen[way, size] = max(seen[way, size], again)
    way, size = max(seen, key=lambda each: seen[each])
    return Rate(seen[way, size], way.name)


def _repeated(
    finalists: Sequence[tuple[Way, int]], go_on: Callable[[], bool]
) -> Iterator[tuple[tuple[Way, int], Call]]:
    """The finalists' calls in turn, while `go_on()`; those for which there is memory all at once."""
    calls: dict[tuple[Way, int], Call] = {}
    for way, size in finalists:
        try:
            calls[way, size] = way.prepare(size)
        except Exception as error:
            if classify(error).status != "oom":
                raise
    while calls and go_on():
        yield from calls.items()


def _finalists(seen: Mapping[tuple[Way, int], float]) -> list[tuple[Way, int]]:
    """The best sizes of each way that is near the fastest."""
    best = max(seen.values())
    chosen = []
    for way in dict.fromkeys(way for way, _ in seen):
        own = sorted((each for each in seen if each[0] is way), key=lambda each: -seen[each])
        chosen += [each for each in own[:BEST_SIZES] if seen[own[0]] >= NEAR_THE_BEST * best]
    return chosen


def _rate(call: Call, work: float, known: float | None, measure: Measure) -> float:
    """Work a second, of as many calls as fill a sample: reckoned by what is `known`, or else tried out."""
    call()  # what is done once only: threads started, code generated, pages touched
    seconds = measure(call, 1) if known is None else work / known
    calls = max(1, math.ceil(SAMPLE_S / max(seconds, 1e-9)))
    return calls * work / measure(call, calls)


def _time_on_cpu(clock: Callable[[], float], call: Call, calls: int) -> float:
    began = clock()
    for _ in range(calls):
        call()
    return clock() - began


def _on_gpus_clock(device: str) -> Measure:
    """By the device's own time: launches are no part of it."""
    clock = CudaClock(device)
    return lambda call, calls: clock.sample(call, calls)["elapsed_s"]


# Matrices


def _square(size: int) -> float:
    """FLOPs of one product of two n × n matrices."""
    return 2.0 * size**3


def _operand(dtype: str, device: str, *shape: int) -> Any:
    """Normally distributed numbers: what a GPU's clock allows depends on what is multiplied."""
    import torch

    return torch.randn(*shape, device=device).to(getattr(torch, dtype))


def _on_cpu(dtype: str, with_numpy: bool) -> list[Way]:
    import torch

    side_by_side = 2 * torch.get_num_threads()
    ways = [
        Way("torch matmul", SIZES, _square, partial(_torch_matmul, dtype, "cpu", False)),
        # The other layout: of float16 matrices it is multiplied ten times as fast on some processors.
        Way("torch matmul", SIZES, _square, partial(_torch_matmul, dtype, "cpu", True)),
        Way(
            "torch bmm",
            SIZES_SIDE_BY_SIDE,
            lambda size: side_by_side * _square(size),
            lambda size: partial(
                torch.bmm, *(_operand(dtype, "cpu", side_by_side, size, size) for _ in range(2))
            ),
        ),
        Way("oneDNN", SIZES, _square, partial(_onednn, dtype)),
    ]
    if with_numpy and dtype in NUMPY_DTYPES:
        ways.append(Way("numpy matmul", SIZES, _square, partial(_numpy_matmul, dtype)))
    return ways


def _torch_matmul(dtype: str, device: str, transposed: bool, size: int) -> Call:
    import torch

    a, b = (_operand(dtype, device, size, size) for _ in range(2))
    return partial(torch.mm, a, b.t() if transposed else b, out=torch.empty_like(a))


def _onednn(dtype: str, size: int) -> Call:
    """torch multiplies float32 by its BLAS; oneDNN knows more of some processors' instructions."""
    from torch.nn.functional import linear

    a, b = (_operand(dtype, "cpu", size, size).to_mkldnn() for _ in range(2))
    return partial(linear, a, b)


def _numpy_matmul(dtype: str, size: int) -> Call:
    a, b = (_operand(dtype, "cpu", size, size).numpy() for _ in range(2))
    return partial(np.matmul, a, b, out=np.empty_like(a))


def _on_gpu(dtype: str, device: str) -> list[Way]:
    def plain(transposed: bool) -> Callable[[int], Call]:
        return partial(_torch_matmul, dtype, device, transposed)

    def with_tf32(size: int) -> Call:
        return partial(_with_tf32, _torch_matmul("float32", device, False, size))

    ways = [Way("torch matmul", SIZES_ON_GPUS, _square, plain(each)) for each in (False, True)]
    allowed = [Way("torch matmul with TF32", SIZES_ON_GPUS, _square, with_tf32)]
    return [*ways, *allowed] if dtype == "float32" else ways


def _with_tf32(call: Call) -> None:
    """Kernels may allow TF32: the setting holds for what is launched while it is on."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        call()
    finally:
        torch.set_float32_matmul_precision(before)


# Bytes


def _buffer_bytes(held: int, available: int) -> int:
    """How large the buffer is to be.

    Raises:
        Refusal: there is too little memory for one that the caches cannot hold.
    """
    size = min(max(CACHES * held, LEAST_BUFFER_BYTES), int(MEMORY_SHARE * available))
    if size < FEWEST_CACHES * held:
        raise Refusal(
            "unavailable",
            f"bandwidth cannot be measured: {available // MIB} MiB of memory are too few for a buffer that "
            f"caches of {held // MIB} MiB do not hold",
        )
    return size // MIB * MIB


def _available_bytes(device: str) -> int:
    if device != "cpu":
        from torch import cuda

        return int(cuda.mem_get_info(device)[0])
    try:
        told = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        told = None
    if told is not None:
        return int(told[1]) * KIB
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # all there is: not Linux


@lru_cache(maxsize=1)
def _buffer(device: str, size: int) -> Any:
    """The one buffer that all ways go over: to touch one of gigabytes takes longer than to measure."""
    import torch

    return torch.ones(size // 4, dtype=torch.float32, device=device)


def _reading(device: str, size: int) -> list[Way]:
    """Reductions, which read every byte once and write next to nothing; those that compute little."""
    import torch

    def reducing(dtype: torch.dtype, reduce: Callable[[Any], object]) -> Callable[[int], Call]:
        return lambda size: partial(reduce, _buffer(device, size).view(dtype))

    return [
        Way("torch sum", (size,), float, reducing(torch.float32, torch.sum)),
        Way("torch sum in float64", (size,), float, reducing(torch.float64, torch.sum)),
        Way("torch max of integers", (size,), float, reducing(torch.int64, torch.amax)),
        Way("torch dot", (size,), float, reducing(torch.float32, lambda x: torch.dot(x, x))),
    ]


def _copying(device: str, size: int) -> list[Way]:
    """From one half of the buffer to the other: each byte is read once and written once."""

    def halves(size: int) -> tuple[Any, Any]:
        buffer = _buffer(device, size)
        return buffer[: len(buffer) // 2], buffer[len(buffer) // 2 :]

    def torch_copy(size: int) -> Call:
        source, target = halves(size)
        return partial(target.copy_, source)

    def numpy_copy(size: int) -> Call:
        source, target = (each.numpy() for each in halves(size))
        return partial(np.copyto, target, source)

    ways = [Way("torch copy", (size,), float, torch_copy)]
    return [*ways, Way("numpy copy", (size,), float, numpy_copy)] if device == "cpu" else ways
