"""Findings about what kernels run in: variables, thread pools, precision."""

from __future__ import annotations

from attnbench.doctor.finding import Finding, ok, unknown, warning
from attnbench.doctor.findings.words import joined
from attnbench.doctor.readings import Readings
from attnbench.doctor.readings.variables import POOL_VARIABLES
from attnbench.inherited import INHERITED

__all__ = ["inherited", "precision", "thread_pools", "thread_variables"]

#: OpenMP runtimes, by the beginnings of their files' names; two in a process have two pools.
OPENMP = ("libgomp", "libiomp5", "libomp")


def thread_variables(found: Readings) -> Finding:
    """Do variables ask for other pools than benches get?"""
    overruled = found.variables.overruled
    sizes = {name: overruled[name] for name in POOL_VARIABLES if name in overruled}
    others = [name for name in overruled if name not in sizes]
    if not sizes:
        if not others:
            return ok("thread variables", "none is set that attnbench overrules")
        return ok("thread variables", f"overruled for the measuring processes: {joined(others)}")
    told = ", ".join(f"{name}={value} (benches: {instead})" for name, (value, instead) in sizes.items())
    numbers = sorted(
        int(value) for value, _ in sizes.values() if value.isascii() and value.isdigit() and int(value)
    )
    return warning(
        "thread variables",
        told,
        effect="they are not heeded: figures are for measure.threads, which is all CPUs by default",
        remedy=f"attnbench sweep … --set measure.threads={numbers[0]}\n(or unset {' '.join(sizes)})"
        if numbers
        else f"unset {' '.join(sizes)}",
    )


def inherited(found: Readings) -> Finding:
    """Do variables change kernels behind the figures' backs?"""
    kept = found.variables.kept
    if not kept:
        return ok("inherited variables", "none that changes how kernels run")
    effects = dict.fromkeys(INHERITED.get(name, "it changes how kernels run") for name in kept)
    return warning(
        "inherited variables",
        ", ".join(f"{name}={value}" for name, value in kept.items()),
        effect="; ".join(effects),
        remedy=f"unset {' '.join(kept)}",
    )


def thread_pools(found: Readings) -> Finding:
    """Have the libraries' pools the size that was asked for, and only one runtime?"""
    bench = found.bench
    if bench.threads is None:
        why = f": {bench.failure}" if bench.failure else ""
        return unknown("thread pools", f"the measuring process does not tell of its pools{why}")
    sizes = {"torch": bench.threads, "NumPy": bench.numpy_threads}
    text = ", ".join(
        f"{name} {'?' if size is None else size}{f' ({blas})' if blas else ''}"
        for (name, size), blas in zip(sizes.items(), (bench.torch_blas, bench.numpy_blas), strict=True)
    )
    text = f"threads: {text}"
    wrong = [
        name for name, size in sizes.items() if None not in (size, bench.wanted) and size != bench.wanted
    ]
    if wrong:
        return warning(
            "thread pools",
            f"{text}; {bench.wanted} were asked for",
            effect=f"{joined(wrong)} computes with other threads than the table says",
            remedy=f"attnbench sweep … --set measure.threads="
            f"{min(size for size in sizes.values() if size is not None)}",
        )
    runtimes = [name for name in bench.thread_libraries if name.startswith(OPENMP)]
    kinds = {kind for kind in OPENMP for name in runtimes if name.startswith(kind)}
    if len(kinds) > 1:
        return warning(
            "thread pools",
            f"{text}; several OpenMP runtimes in one process: {joined(runtimes)}",
            effect="each has a pool of its own, whose idle threads take CPUs from the other's",
            remedy="reinstall torch and NumPy from one source (both as wheels, or both by conda)",
        )
    return ok("thread pools", text)


def precision(found: Readings) -> Finding:
    """Is float32 computed in float32?"""
    mode = found.bench.matmul_precision
    if mode is None:
        return unknown("matmul precision", "the measuring process does not tell")
    if mode == "highest":
        return ok("matmul precision", "highest: float32 products in float32")
    return warning(
        "matmul precision",
        f"{mode}: float32 products may be TF32 or bfloat16",
        effect="float32 is faster than it is, and less exact; the verdict may fail right kernels",
        remedy="remove torch.set_float32_matmul_precision from what runs when a plug-in is imported",
    )
