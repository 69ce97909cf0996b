"""Are the built-in implementations right, over the full grid: every three values of three axes?

Every implementation that is here runs on the workloads of `attnbench conformance --full`, completed for what
it supports, and is judged as a sweep's cases are. The tables tell how many passed, and the largest error
ratio (up to 2 passes) by dtype and by pass. Flex compiles every workload for seconds, so it takes part only
where it is asked for.

    python benchmarks/conformance.py [--impl NAME]... [--pairwise] [--device cpu] [--seed 0] [--threads all]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic

from attnbench.case import Variant
from attnbench.conformance.check import Result, check, grids
from attnbench.driver import ZygoteSource
from attnbench.workload import DTYPES, PASSES

#: Left out unless asked for: they compile every workload.
COMPILED = ("flex",)

#: A line of progress after so many cases.
EVERY = 1000


def judged(names: Sequence[str], device: str, seed: int, threads: int | str, *, full: bool) -> list[Result]:
    """Every result; what fails is told as it comes."""
    results = []
    with ZygoteSource(threads=threads) as source:
        known = [info["name"] for info in source.hello["catalogue"] if info["name"] not in COMPILED]
        began = monotonic()
        variants = [Variant.of(name) for name in names or known]
        workloads = grids(variants, source, device=device, seed=seed, full=full)
        total = sum(map(len, workloads.values()))
        distinct = len({workload for grid in workloads.values() for workload in grid})
        print(
            f"{len(variants)} implementations, {distinct} workloads, {total} cases, on {device}, seed {seed}"
        )
        for result in check(workloads, source, device=device, seed=seed):
            results.append(result)
            if result.failed:
                where = f"{result.implementation} on {result.case.workload.label}"
                print(f"{where}: {result.status}: {result.reason}", flush=True)
            if len(results) % EVERY == 0:
                print(
                    f"{len(results)} of {total} after {monotonic() - began:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
        print(f"{monotonic() - began:.0f} s")
    return results


def print_counts(names: Sequence[str], results: Sequence[Result]) -> None:
    print(f"\n{'implementation':<18}{'passed':>8}{'failed':>8}{'unsupported':>13}{'unavailable':>13}")
    for name in names:
        found = Counter(
            "failed" if each.failed else each.status for each in results if each.implementation == name
        )
        counts = (found["pass"], found["failed"], found["unsupported"], found["unavailable"])
        print(
            f"{name:<18}"
            + "".join(f"{count:>{width}}" for count, width in zip(counts, (8, 8, 13, 13), strict=True))
        )


def print_ratios(
    names: Sequence[str],
    results: Sequence[Result],
    what: str,
    values: Sequence[str],
    value_of: Callable[[Result], str],
) -> None:
    """The largest error ratio of each implementation where `value_of` has each of `values`."""
    print(f"\n{'largest error ratio by ' + what:<28}" + "".join(f"{value:>18}" for value in values))
    for name in names:
        worst: dict[str, float] = {}
        for each in results:
            if each.implementation == name and each.error_ratio is not None:
                worst[value_of(each)] = max(worst.get(value_of(each), 0.0), each.error_ratio)
        cells = (f"{worst[value]:.2f}" if value in worst else "–" for value in values)
        print(f"{name:<28}" + "".join(f"{cell:>18}" for cell in cells))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--impl", action="append", default=[], metavar="NAME", help="only these")
    parser.add_argument("--pairwise", action="store_true", help="the small grid that the tests use")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=lambda text: text if text == "all" else int(text), default="all")
    options = parser.parse_args()
    results = judged(options.impl, options.device, options.seed, options.threads, full=not options.pairwise)
    names = list(dict.fromkeys(result.implementation for result in results))
    print_counts(names, results)
    checked = [
        name
        for name in names
        if any(each.error_ratio is not None for each in results if each.implementation == name)
    ]
    print_ratios(checked, results, "dtype", list(DTYPES), lambda each: each.case.workload.dtype)
    print_ratios(checked, results, "pass", PASSES, lambda each: each.case.workload.pass_)
    failed = sum(result.failed for result in results)
    print(f"\n{failed} of {len(results)} cases failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
