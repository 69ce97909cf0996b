"""Do benches' thread pools cost a kernel anything, against the libraries' own defaults?

Fresh interpreters, in turn under three settings of how long idle threads spin before they sleep: the
libraries' defaults, those of benches (about 0.1 ms), and none (`OMP_WAIT_POLICY=passive`). Each measures a
few implementations alone, from tiny shapes up. Printed are medians over the defaults' median.

    python benchmarks/patience.py [--repetitions 7]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median
from time import perf_counter

from attnbench.driver import bench_environment
from attnbench.workload import AttentionShape, Workload

SHAPES = {
    "B1-H2-L16-D16": AttentionShape(1, 2, 2, 16, 16, 16),
    "B1-H8-Lq1-Lk1024-D64": AttentionShape(1, 8, 8, 1, 1024, 64),
    "B1-H8-L128-D64": AttentionShape(1, 8, 8, 128, 128, 64),
    "B1-H8-L512-D64": AttentionShape(1, 8, 8, 512, 512, 64),
}
IMPLEMENTATIONS = ("naive", "sdpa", "numpy")
POOLS = ("GOMP_SPINCOUNT", "OPENBLAS_THREAD_TIMEOUT", "KMP_BLOCKTIME")
SECONDS = 0.25


def measure() -> None:
    """In a fresh interpreter: the median seconds of each implementation and shape, as JSON."""
    from attnbench.bench.kernel import load_case
    from attnbench.registry import Registry

    registry = Registry.discover([])
    found = {}
    for label, shape in SHAPES.items():
        for name in IMPLEMENTATIONS:
            case = load_case(registry.get(name), {}, Workload("attention", shape), "cpu", 0)
            call = case.prepare_call()
            times: list[float] = []
            with case.grad_mode():
                for _ in range(5):
                    call()
                until = perf_counter() + SECONDS
                while perf_counter() < until:
                    began = perf_counter()
                    call()
                    times.append(perf_counter() - began)
            found[f"{label} {name}"] = median(times)
    print(json.dumps(found))


def environments() -> dict[str, dict[str, str]]:
    """What each setting adds to an environment without any."""
    ours = bench_environment("all", "pinned")
    bare = {name: value for name, value in ours.items() if name not in POOLS}
    passive = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "4"}
    return {"defaults": bare, "benches": ours, "passive": bare | passive}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure()
        return 0
    inherited = {name: value for name, value in os.environ.items() if name not in (*POOLS, "OMP_WAIT_POLICY")}
    seconds: dict[str, dict[str, list[float]]] = {}
    for _ in range(options.repetitions):
        for setting, variables in environments().items():
            command = [sys.executable, __file__, "--measure"]
            answer = subprocess.run(
                command, env=inherited | variables, stdout=subprocess.PIPE, text=True, check=True
            )
            for case, value in json.loads(answer.stdout).items():
                seconds.setdefault(case, {}).setdefault(setting, []).append(value)
    print(f"{'':<30}{'benches ÷ defaults':>20}{'passive ÷ defaults':>20}")
    for case, by_setting in seconds.items():
        default = median(by_setting["defaults"])
        ratios = [median(by_setting[setting]) / default for setting in ("benches", "passive")]
        print(f"{case:<30}{ratios[0]:>20.2f}{ratios[1]:>20.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
