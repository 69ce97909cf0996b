"""How often the verdict is wrong: right kernels that it refuses, wrong ones that it lets pass.

Right kernels (the built-in ones that run on this CPU, and those of tests/plugins/roundings.py, which round as
fast kernels do) are judged on random workloads, one a seed, in every dtype: none may be refused. Wrong ones
(tests/plugins/mutants.py) are judged on workloads to which their fault matters, by dtype, by input
distribution and by size. Module operations likewise: torch's modules and the built-in ones, and the mutants
of tests/plugins/modules.py. Prints Markdown; exits 1 if a right kernel was refused, or if a mutant was never
caught in float32.

    python benchmarks/verdict.py [--seeds 1000] [--mutant-seeds 20] [--jobs 2] [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import monotonic

import numpy as np

from attnbench.bench.accuracy import assess
from attnbench.bench.kernel import load_case, why_unsupported
from attnbench.case import Variant
from attnbench.implementation import Implementation
from attnbench.inputs import InputPool
from attnbench.masks import canonical
from attnbench.registry import Registry
from attnbench.workload import DISTRIBUTIONS, DTYPES, PASSES, AttentionShape, Workload

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from plugins.module_workloads import random_workload as random_module_workload
from plugins.module_workloads import workload_of
from plugins.modules import LAYER_MUTANTS, MHA_MUTANTS, by_torch
from plugins.modules import implementation as as_implementation
from plugins.mutants import GRADIENT_MUTANTS, MUTANTS, matters
from plugins.roundings import ROUNDINGS

#: Right kernels of our own: those that neither compile nor need a device other than the CPU.
BUILT_IN = (
    Variant.of("naive"),
    Variant.of("chunked"),
    Variant.of("chunked", {"block": 3}),
    Variant.of("chunked", {"block": 16, "q_block": 7}),
    Variant.of("sdpa"),
    Variant.of("sdpa_math"),
    Variant.of("sdpa_flash"),
    Variant.of("numpy"),
    Variant.of("numpy_chunked"),
)

#: Right kernels of module operations, of our own.
MODULES = (
    "mha",
    "torch_mha",
    "torch_mha_fastpath",
    "numpy_mha",
    "encoder_layer",
    "torch_encoder_layer",
    "torch_encoder_layer_fastpath",
    "decoder_layer",
    "torch_decoder_layer",
    "transformer",
    "torch_transformer",
    "positional_encoding",
    "numpy_positional_encoding",
)

#: Seeds, at most, that a process judges before it hands over what it found.
BATCH = 10

#: The sizes at which mutants are judged: batch, heads, the shortest and the longest sequence, head_dim.
SIZES = {
    "2 heads × 8, length 2–16": (2, 2, 2, 16, 8),
    "4 heads × 16, length 17–64": (2, 4, 17, 64, 16),
    "8 heads × 64, length 64–160": (1, 8, 64, 160, 64),
}

#: Wrong by no more than the rounding of halves: what float32 and float64 must show, and halves need not.
PRECISION = (
    "inputs_in_bfloat16",
    "inputs_in_tf32",
    "weights_in_bfloat16",
    "weights_in_float16",
    "output_in_float16",
    "summed_in_bfloat16",
    "gradients_in_bfloat16",
    "scaled_by_1_001",
)


@dataclass(frozen=True, slots=True)
class Judged:
    """One verdict; `ratio` is infinite where a value was not finite."""

    kernel: str
    workload: Workload
    size: str
    seed: int
    refused: bool
    ratio: float
    reason: str | None


def random_mask(rng: np.random.Generator, kv_len: int) -> str:
    """No mask, one, or an intersection, each kind about as often."""
    terms = (
        "causal",
        f"sliding_window({rng.integers(1, kv_len + 1)})",
        f"padding({rng.choice([0, 0.3, 0.9]):g})",
        f"document({rng.integers(1, min(kv_len, 4) + 1)})",
    )
    chosen = rng.permutation(len(terms))[: rng.choice([0, 1, 1, 2])]
    return canonical("+".join(terms[each] for each in chosen) or "none")


def random_workload(seed: int) -> Workload:
    """A small workload of float32; every distribution comes with every fifth seed."""
    rng = np.random.default_rng(seed)
    kv_heads = int(rng.choice([1, 2, 3]))
    q_len, kv_len = (int(2 ** rng.uniform(0, 6.6)) for _ in range(2))
    if rng.random() < 0.5:
        kv_len = q_len
    head_dim, v_head_dim = (int(each) for each in rng.choice([1, 2, 5, 8, 16, 32, 64], 2))
    if rng.random() < 0.7:
        v_head_dim = head_dim
    heads = kv_heads * int(rng.choice([1, 2, 4]))
    return Workload(
        "attention",
        AttentionShape(int(rng.integers(1, 3)), heads, kv_heads, q_len, kv_len, head_dim, v_head_dim),
        mask=random_mask(rng, kv_len),
        pass_=str(rng.choice(PASSES)),
        inputs=DISTRIBUTIONS[seed % len(DISTRIBUTIONS)],
    )


def sized_workload(seed: int, size: str) -> Workload:
    """A workload of one of `SIZES`, gradients included, for mutants."""
    batch, heads, shortest, longest, head_dim = SIZES[size]
    rng = np.random.default_rng(seed)
    q_len, kv_len = (int(each) for each in rng.integers(shortest, longest + 1, 2))
    if rng.random() < 0.6:
        kv_len = q_len
    kv_heads = int(rng.choice([heads, heads // 2]))
    return Workload(
        "attention",
        AttentionShape(batch, heads, kv_heads, q_len, kv_len, head_dim),
        mask=random_mask(rng, kv_len),
        pass_="forward_backward",
        inputs=DISTRIBUTIONS[seed % len(DISTRIBUTIONS)],
    )


def in_dtype(workload: Workload, dtype: str) -> Workload:
    return Workload.from_json({**workload.to_json(), "dtype": dtype})


def judge(
    name: str,
    implementation: Implementation,
    variant: Variant,
    workload: Workload,
    seed: int,
    pool: InputPool,
) -> Iterator[Judged]:
    """The verdict, if the implementation can do the workload."""
    options = implementation.with_defaults(dict(variant.options))
    if why_unsupported(implementation, options, workload, "cpu") is not None:
        return
    reply = assess(load_case(implementation, options, workload, "cpu", seed, pool))
    ratio = np.inf if reply["error_ratio"] is None else reply["error_ratio"]
    yield Judged(name, workload, "", seed, reply["accuracy"] == "fail", ratio, reply["reason"])


def right_ones(seeds: Sequence[int]) -> list[Judged]:
    """Every right kernel on the random workloads of `seeds`, in every dtype."""
    one_thread()
    registry = Registry.discover()
    kernels = [(name, each, Variant.of(name)) for name, each in ROUNDINGS.items()]
    here = {each["name"] for each in registry.catalogue()}
    kernels += [
        (each.label, registry.get(each.implementation), each)
        for each in BUILT_IN
        if each.implementation in here
    ]
    pool, found = InputPool(), []
    for seed in seeds:
        for dtype in DTYPES:
            workload = in_dtype(random_workload(seed), dtype)
            for kernel in kernels:
                found += judge(*kernel, workload, seed, pool)
    return found


def wrong_ones(seeds: Sequence[int]) -> list[Judged]:
    """Every mutant on workloads of every size to which its fault matters, in every dtype."""
    one_thread()
    pool, found = InputPool(), []
    for seed in seeds:
        for size in SIZES:
            for dtype in DTYPES:
                workload = in_dtype(sized_workload(seed, size), dtype)
                for name, implementation in MUTANTS.items():
                    if matters(name, pool.drawn(workload, seed)):
                        for each in judge(name, implementation, Variant.of(name), workload, seed, pool):
                            found.append(
                                Judged(name, workload, size, seed, each.refused, each.ratio, each.reason)
                            )
    return found


def right_modules(seeds: Sequence[int]) -> list[Judged]:
    """torch's modules and the built-in ones on the random workloads of `seeds`, in every dtype."""
    one_thread()
    registry = Registry.discover()
    here = {each["name"] for each in registry.catalogue()}
    built_in = [(name, registry.get(name)) for name in MODULES if name in here]
    pool, found = InputPool(), []
    for seed in seeds:
        for dtype in DTYPES:
            workload = random_module_workload(seed, dtype)
            kernels = [("torch.nn", as_implementation(workload.operation, by_torch)), *built_in]
            for name, implementation in kernels:
                if implementation.operation == workload.operation:
                    found += judge(name, implementation, Variant.of(name), workload, seed, pool)
    return found


def wrong_modules(seeds: Sequence[int]) -> list[Judged]:
    """Every mutant of a module, in every dtype and distribution."""
    one_thread()
    pool, found = InputPool(), []
    for seed in seeds:
        for dtype in DTYPES:
            inputs = DISTRIBUTIONS[seed % len(DISTRIBUTIONS)]
            for operation, mutants in (("mha", MHA_MUTANTS), ("encoder_layer", LAYER_MUTANTS)):
                for name, (needs, mutant) in mutants.items():
                    workload = workload_of(operation, needs, dtype=dtype, inputs=inputs)
                    implementation = as_implementation(operation, mutant)
                    found += judge(name, implementation, Variant.of("mutant"), workload, seed, pool)
    return found


def one_thread() -> None:
    import warnings

    import torch

    warnings.filterwarnings("ignore", "enable_nested_tensor")

    torch.set_num_threads(1)


def spread_over(
    jobs: int, task: Callable[[Sequence[int]], list[Judged]], seeds: int, what: str
) -> list[Judged]:
    """What `task` finds on seeds 0 … `seeds` − 1, in `jobs` processes."""
    batch_size = max(1, min(BATCH, seeds // (4 * jobs)))
    batches = [range(first, min(first + batch_size, seeds)) for first in range(0, seeds, batch_size)]
    began, found = monotonic(), []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done, batch in enumerate(pool.map(task, batches), 1):
            found += batch
            print(f"\r{what}: {done}/{len(batches)}", end="", file=sys.stderr, flush=True)
    print(f", {monotonic() - began:.0f} s", file=sys.stderr)
    return found


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows):
        print(f"| {' | '.join(row)} |")
    print()


def grouped(found: Iterable[Judged], key: Callable[[Judged], object]) -> dict[object, list[Judged]]:
    groups: dict[object, list[Judged]] = defaultdict(list)
    for each in found:
        groups[key(each)].append(each)
    return groups


def of_ratios(group: Sequence[Judged]) -> list[str]:
    ratios = [each.ratio for each in group]
    figures = [f"{np.quantile(ratios, q):.2f}" for q in (0.5, 0.99, 0.999, 1)]
    return [str(len(group)), str(sum(each.refused for each in group)), *figures]


def print_refusals(found: Sequence[Judged], title: str) -> None:
    """Right kernels: how many verdicts, how many refusals, and how near to 2 they come."""
    header = ["judged", "refused", "median", "99%", "99.9%", "largest"]
    print(f"### {title}\n")
    for what, key in (
        ("dtype", lambda each: each.workload.dtype),
        ("inputs", lambda each: each.workload.inputs),
        ("kernel", lambda each: each.kernel),
    ):
        groups = grouped(found, key)
        table([what, *header], [[str(name), *of_ratios(group)] for name, group in groups.items()])
    for each in found:
        if each.refused:
            print(f"- {each.kernel}, seed {each.seed}, {each.workload.label}: {each.reason}")


def share(group: Sequence[Judged]) -> str:
    if not group:
        return "–"
    return f"{np.floor(100 * np.mean([each.refused for each in group])):.0f}%"  # 100% is all of them


def print_detections(found: Sequence[Judged]) -> None:
    """Wrong kernels: the share that is caught of the workloads to which their fault matters."""
    print("### Wrong kernels caught\n")
    cells = grouped(found, lambda each: (each.kernel, each.workload.dtype))
    table(
        ["mutant", "judged", *DTYPES],
        [
            [
                f"{name} (gradient)" if name in GRADIENT_MUTANTS else name,
                str(sum(len(cells.get((name, dtype), [])) for dtype in DTYPES)),
                *(share(cells.get((name, dtype), [])) for dtype in DTYPES),
            ]
            for name in MUTANTS
        ],
    )
    rest = [each for each in found if each.kernel not in PRECISION]
    print("### By size and by inputs: all but the mutants of precision and `scaled_by_1_001`\n")
    for what, key, names in (
        ("size", lambda each: each.size, SIZES),
        ("inputs", lambda each: each.workload.inputs, DISTRIBUTIONS),
    ):
        cells = grouped(rest, lambda each, key=key: (key(each), each.workload.dtype))
        table(
            [what, *DTYPES],
            [[name, *(share(cells.get((name, dtype), [])) for dtype in DTYPES)] for name in names],
        )


def print_caught_modules(found: Sequence[Judged]) -> None:
    """Wrong modules: the share that is caught, by mutant and by inputs."""
    print("### Wrong modules caught\n")
    for what, key in (
        ("mutant", lambda each: each.kernel),
        ("inputs", lambda each: each.workload.inputs),
    ):
        names = list(dict.fromkeys(map(key, found)))
        cells = grouped(found, lambda each, key=key: (key(each), each.workload.dtype))
        table(
            [what, *DTYPES],
            [[name, *(share(cells.get((name, dtype), [])) for dtype in DTYPES)] for name in names],
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000, help="random workloads of right kernels")
    parser.add_argument("--mutant-seeds", type=int, default=20, help="workloads of each size of mutants")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="a tenth of the seeds")
    options = parser.parse_args()
    parts = 10 if options.quick else 1
    seeds, mutant_seeds = options.seeds // parts, options.mutant_seeds // parts
    right = spread_over(options.jobs, right_ones, seeds, "right kernels")
    print_refusals(right, "Right kernels refused")
    wrong = spread_over(options.jobs, wrong_ones, mutant_seeds, "wrong kernels")
    print_detections(wrong)
    modules = spread_over(options.jobs, right_modules, seeds // 2, "right modules")
    print_refusals(modules, "Right modules refused")
    wrong_in_modules = spread_over(options.jobs, wrong_modules, mutant_seeds, "wrong modules")
    print_caught_modules(wrong_in_modules)
    in_float32 = (each for each in (*wrong, *wrong_in_modules) if each.workload.dtype == "float32")
    float32 = grouped(in_float32, lambda each: each.kernel)
    slipped = [name for name, group in float32.items() if not any(each.refused for each in group)]
    if slipped:
        print(f"never caught in float32: {', '.join(map(str, slipped))}")
    return 1 if slipped or any(each.refused for each in (*right, *modules)) else 0


if __name__ == "__main__":
    sys.exit(main())
