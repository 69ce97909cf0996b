"""The environment variables that benches run under: how malloc and the thread pools behave is no detail."""

from __future__ import annotations

import os
from collections.abc import Mapping

from attnbench.bench.compiled import CACHE_VARIABLES, FOLDER_VARIABLE

__all__ = ["MALLOC_POLICIES", "PINNED_MALLOC", "bench_environment", "process_environment", "thread_count"]

MALLOC_POLICIES = ("pinned", "default")

#: glibc keeps what it has been given: with its defaults each large tensor is mapped and faulted in afresh,
#: which costs more than many kernels. (Raising the mmap threshold instead is refused by older glibc.)
PINNED_MALLOC: Mapping[str, str] = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296"}

#: How long idle threads of a pool spin before they sleep: about 0.1 ms. By default they spin for many
#: milliseconds and slow down every other pool in the process; if they slept at once (as by
#: `OMP_WAIT_POLICY=passive`), waking them would cost small kernels several times their own time. This
#: bridges the gaps within a call, and is over before the next implementation's turn. GNU OpenMP, as in
#: torch's Linux wheels, counts spins; OpenBLAS takes the logarithm of clock cycles; LLVM's and Intel's OpenMP
#: take milliseconds.
PATIENT_POOLS: Mapping[str, str] = {
    "GOMP_SPINCOUNT": "5000",
    "OPENBLAS_THREAD_TIMEOUT": "18",
    "KMP_BLOCKTIME": "1",
}

#: Would overrule `PATIENT_POOLS`.
OVERRULING = ("OMP_WAIT_POLICY",)

REPEATABLE: Mapping[str, str] = {
    "PYTHONHASHSEED": "0",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}

#: Compilers work in the bench itself: processes of theirs would outlive the call that started them, and
#: take time from those that come after it. Headers are not compiled ahead: torch keeps those outside of
#: `TORCHINDUCTOR_CACHE_DIR` (so the next sweep's first call would be shorter), wants openssl for it, and
#: saves nothing for a single kernel.
COMPILING: Mapping[str, str] = {
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
}

POOL_SIZES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def thread_count(threads: int | str) -> int:
    """A scenario's `threads` as a number: `all` is every CPU that this process may use.

    Raises:
        ValueError: neither `all` nor a whole number ≥ 1.
    """
    if threads == "all":
        try:
            return len(os.sched_getaffinity(0))
        except AttributeError:  # not on this system
            return os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads must be 'all' or a whole number ≥ 1, got {threads!r}")
    return threads


def bench_environment(threads: int | str, malloc: str) -> dict[str, str]:
    """The variables that are set for benches, beyond those they inherit; to be recorded as they are.

    Raises:
        ValueError: an unknown malloc policy, or not a number of threads.
    """
    if malloc not in MALLOC_POLICIES:
        raise ValueError(f"malloc must be one of {', '.join(MALLOC_POLICIES)}, got {malloc!r}")
    return {
        **(PINNED_MALLOC if malloc == "pinned" else {}),
        **PATIENT_POOLS,
        **dict.fromkeys(POOL_SIZES, str(thread_count(threads))),
        **REPEATABLE,
        **COMPILING,
    }


def process_environment(threads: int | str, malloc: str) -> dict[str, str]:
    """The whole environment of benches: this process's, with `bench_environment` over it.

    With malloc's defaults, pinned ones that this process inherited are taken out, as is what would overrule
    the pools' patience, or lead compilers to what they kept of earlier runs.
    """
    taken_out = (*PINNED_MALLOC, *OVERRULING, *CACHE_VARIABLES, FOLDER_VARIABLE)
    inherited = {name: value for name, value in os.environ.items() if name not in taken_out}
    return {**inherited, **bench_environment(threads, malloc)}
