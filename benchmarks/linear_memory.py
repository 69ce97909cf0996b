"""Does `chunked` need memory that grows linearly with the sequence, where the textbook's grows quadratically?

Rabe & Staats, *Self-attention Does Not Need O(n²) Memory* (2021), compare the memory overhead, beyond inputs
and outputs, of the standard algorithm with theirs: by their abstract, theirs needs 59 times less at length
16384 for inference and 32 times less with gradients. That the standard overhead there is the scores of one
head in float32, 16384² · 4 B = 1 GiB, is our reading, and why this measures one head of dimension 64 in
float32: peaks of the allocator, by the harness's own function.

Prints a Markdown table with the order by which each peak grows (1: linear, 2: quadratic), the ratios of
overheads beside the paper's, and draws docs/linear_memory.png. Takes about 2 minutes and 6 GiB. The lengths
are to double from one to the next.

    python benchmarks/linear_memory.py [--lengths 1024 2048 4096 8192 16384] [--plot docs/linear_memory.png]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from attnbench.bench.kernel import load_case
from attnbench.bench.memory import peak_alloc_bytes
from attnbench.registry import Registry
from attnbench.units import MIB
from attnbench.workload import AttentionShape, Workload

#: The textbook's and the chunked algorithm, in each framework.
PAIRS = (("naive", "chunked"), ("numpy", "numpy_chunked"))
PASSES = {"forward": "inference", "forward_backward": "with gradients"}
#: How many times less overhead the paper reports at 16384.
PAPER = {"forward": 59, "forward_backward": 32}

Peaks = Mapping[str, Sequence[int]]


def peak_and_outputs(registry: Registry, name: str, length: int, pass_: str) -> tuple[int, int]:
    """Peak bytes of one call, and those of them that it returns."""
    implementation = registry.get(name)
    workload = Workload("attention", AttentionShape(1, 1, 1, length, length, 64), pass_=pass_)
    case = load_case(implementation, {}, workload, "cpu", 0)
    with case.grad_mode():
        peak = peak_alloc_bytes(case.prepare_call(), implementation.framework)
    return peak, case.output_bytes


def order(lengths: Sequence[int], peaks: Sequence[int]) -> float:
    """The power of length that the peaks grow by: the slope, on logarithmic axes, of what each step adds.

    Of what is added, since a tile's scores are a constant part of each peak, which at first is most of it.
    """
    return float(np.polyfit(np.log(lengths[1:]), np.log(np.diff(peaks)), 1)[0])


def draw(path: Path, lengths: Sequence[int], peaks: Mapping[str, Peaks]) -> None:
    """Peaks against length, a panel a pass."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(peaks), figsize=(9, 4), sharey=True, layout="constrained")
    for panel, (pass_, by_name) in zip(panels, peaks.items(), strict=True):
        for number, pair in enumerate(PAIRS):
            for name, line, marker in zip(pair, ("--", "-"), "os", strict=True):
                panel.plot(
                    lengths,
                    [peak / MIB for peak in by_name[name]],
                    line,
                    marker=marker,
                    color=f"C{number}",
                    label=f"{name} (order {order(lengths, by_name[name]):.2f})",
                )
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(lengths, [str(length) for length in lengths])
        panel.set_title(f"{pass_.replace('_', ' and ')} ({PASSES[pass_]})")
        panel.set_xlabel("sequence length (tokens)")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    panels[0].set_ylabel("peak memory of a call (MiB)")
    figure.suptitle("Attention over one head of dimension 64 in float32")
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--plot", type=Path, default=Path(__file__).parents[1] / "docs" / "linear_memory.png")
    options = parser.parse_args()
    lengths = sorted(options.lengths)
    registry = Registry.discover([])
    peaks: dict[str, dict[str, list[int]]] = {}
    overhead: dict[tuple[str, str], int] = {}
    print("Peak memory of a call, MiB\n")
    print("| pass | implementation | " + " | ".join(str(length) for length in lengths) + " | order |")
    print("|---|---|" + "--:|" * (len(lengths) + 1))
    for pass_ in PASSES:
        for name in (each for pair in PAIRS for each in pair):
            measured = [peak_and_outputs(registry, name, length, pass_) for length in lengths]
            of_name = peaks.setdefault(pass_, {}).setdefault(name, [peak for peak, _ in measured])
            overhead[pass_, name] = measured[-1][0] - measured[-1][1]
            cells = " | ".join(f"{peak / MIB:.1f}" for peak in of_name)
            print(f"| {pass_} | {name} | {cells} | {order(lengths, of_name):.2f} |", flush=True)

    print(f"\nMemory overhead, beyond inputs and outputs, at length {lengths[-1]}\n")
    print("| pass | textbook | MiB | chunked | MiB | times less | in the paper, at 16384 |")
    print("|---|---|--:|---|--:|--:|--:|")
    for pass_ in PASSES:
        for textbook, chunked in PAIRS:
            much, little = overhead[pass_, textbook], overhead[pass_, chunked]
            print(
                f"| {pass_} | {textbook} | {much / MIB:.1f} | {chunked} | {little / MIB:.2f} "
                f"| {much / little:.0f} | {PAPER[pass_]} |"
            )
    draw(options.plot, lengths, peaks)
    print(f"\n{options.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
