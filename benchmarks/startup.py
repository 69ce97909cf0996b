"""How long `attnbench --help` takes, against a bare `import click`; exits with 1 above three times.

Both are started alternately, each as a process of its own, so that drift hits both alike. Printed is the
median of the ratios of neighbours with their quartiles, in one run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from time import perf_counter

#: `attnbench --help` may take this many times as long as `python -c 'import click'`.
LIMIT = 3.0

BARE = (sys.executable, "-c", "import click")
HELP = (sys.executable, "-c", "from attnbench.cli import main; main(['--help'], prog_name='attnbench')")


def seconds(command: Sequence[str]) -> float:
    """Wall-clock seconds of one run of `command`."""
    began = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - began


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "pairs", nargs="?", type=int, default=21, help="how often both are started; at least 2"
    )
    pairs = parser.parse_args().pairs
    if pairs < 2:
        parser.error(f"expected at least 2 pairs, got {pairs}")
    for command in (BARE, HELP):
        seconds(command)  # bytecode is written, files are cached
    measured = [(seconds(BARE), seconds(HELP)) for _ in range(pairs)]
    ratios = [helped / bare for bare, helped in measured]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    bare, helped = (statistics.median(times) for times in zip(*measured, strict=True))
    print(f"python -c 'import click'  {bare * 1e3:6.1f} ms")
    print(f"attnbench --help          {helped * 1e3:6.1f} ms")
    print(f"ratio {ratio:.2f} (quartiles {low:.2f} to {high:.2f}, {pairs} pairs); the limit is {LIMIT:g}")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
