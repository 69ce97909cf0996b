"""How long does it take to know what is right? Drawing the inputs, reference, yardstick, and judging by them.

B1 H8 D64, with the thread pools and the malloc that benches have, on all CPUs. `judging` makes the bounds and
judges one set of results; the kernel's own time is not in it. `memory` is the highest resident memory above
what was held once the inputs were drawn (Linux only, each line in a process of its own).

The claim: forward and backward at length 131072 within 30 s in all, in float32 and in bfloat16.

    python benchmarks/reference.py [--lengths 4096,32768,131072] [--masks-at 32768]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from time import perf_counter

from attnbench.bench.memory import peak_rss_bytes
from attnbench.bench.standard import Standard
from attnbench.driver.pinned import bench_environment, process_environment, thread_count
from attnbench.inputs import draw
from attnbench.reference import answer, yardstick
from attnbench.workload import AttentionShape, Workload

AIM_S = 30.0

AT_LENGTH = 131072

MASKS = ("causal", "sliding_window(1024)", "padding(0.5)", "document(8)", "causal+padding(0.5)+document(8)")

STAGES = ("drawing", "reference", "yardstick", "judging")


def measure(workload: Workload, threads: int) -> tuple[dict[str, float], int]:
    """Seconds of each stage, and the highest memory above the inputs in bytes."""
    import torch

    torch.set_num_threads(threads)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        began = perf_counter()
        yield
        seconds[stage] = perf_counter() - began

    def judge() -> None:
        with timed("reference"):
            reference = answer(drawn)
        with timed("yardstick"):
            textbook = yardstick(drawn, reference.rows)
        # The reference's own results, rounded, stand for a kernel's, and take memory as those would.
        results = {name: each.to(drawn.q.dtype) for name, each in reference.results.items()}
        for name in results.keys() & {"o", "dq"}:
            shape = (*drawn.q.shape[:3], results[name].shape[-1])
            whole = torch.zeros(shape, dtype=drawn.q.dtype)
            whole[:, :, reference.rows] = results[name]
            results[name] = whole
        with timed("judging"):
            standard = Standard.of(reference, textbook)
            for name, result in results.items():
                verdict = standard.judge(name, result)
                if verdict.reason is not None:
                    raise SystemExit(f"{workload.label}: {verdict.reason}")

    with timed("drawing"):
        drawn = draw(workload, seed=0)
    judge()
    # Once more, since malloc gives everything back while memory is read, which takes time.
    return dict(seconds), peak_rss_bytes(judge)[0]


def workloads(lengths: list[int], masks_at: int) -> Iterator[Workload]:
    """All that is measured, the longest last."""
    for length in sorted({*lengths, masks_at}):
        shape = AttentionShape(1, 8, 8, length, length, 64)
        for pass_ in ("forward", "forward_backward"):
            for dtype in ("float32", "bfloat16"):
                for mask in ("none", *(MASKS if length == masks_at else ())):
                    yield Workload("attention", shape, mask=mask, dtype=dtype, pass_=pass_)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lengths", default="4096,32768,131072")
    parser.add_argument("--masks-at", type=int, default=32768)
    options = parser.parse_args()
    if bench_environment("all", "pinned").items() - os.environ.items():  # libraries read it when they start
        os.execve(sys.executable, [sys.executable, *sys.argv], process_environment("all", "pinned"))
    threads = thread_count("all")
    print(f"B1 H8 D64, {threads} threads; seconds, and GiB above the inputs")
    print(f"{'':<84}" + "".join(f"{stage:>11}" for stage in (*STAGES, "in all", "memory")))
    longest: list[float] = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for workload in workloads([int(text) for text in options.lengths.split(",")], options.masks_at):
            seconds, peak_bytes = pool.submit(measure, workload, threads).result()
            total = sum(seconds.values())
            figures = (*(seconds[stage] for stage in STAGES), total, peak_bytes / 2**30)
            print(f"{workload.label:<84}" + "".join(f"{figure:>11.2f}" for figure in figures), flush=True)
            if workload.shape.kv_len == AT_LENGTH and workload.pass_ == "forward_backward":
                longest.append(total)
    if not longest:
        return 0
    kept = max(longest) <= AIM_S
    print(f"longest at {AT_LENGTH}: {max(longest):.1f} s ({'within' if kept else 'beyond'} {AIM_S:g} s)")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
