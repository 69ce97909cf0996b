"""Where the wall time of a sweep goes, by verb.

Runs a scenario (by default `quick`) as `attnbench sweep` does, with a stop-watch around every request to a
bench. The claim: of what is left after start-up and `prepare`, at least 70% is spent inside `sample`,
`memory` and `accuracy`.

    python benchmarks/overhead.py [SCENARIO]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from attnbench import scenario as scenarios
from attnbench import store
from attnbench.case import Block
from attnbench.driver import ZygoteSource, memory_limit
from attnbench.protocol import Bench, BenchSource, HelloReply
from attnbench.record import Record
from attnbench.runner import sweep

MEASURING = ("sample", "memory", "accuracy")
AT_LEAST = 0.70


class Timed:
    """A bench, or a source of them, whose every request is timed."""

    def __init__(self, inner: BenchSource, spent_s: Counter[str]) -> None:
        self.inner = inner
        self.spent_s = spent_s

    @property
    def hello(self) -> HelloReply:
        return self.inner.hello

    def bench(self) -> Bench:
        began = monotonic()
        bench = self.inner.bench()
        self.spent_s["fork"] += monotonic() - began
        return TimedBench(bench, self.spent_s)

    def close(self) -> None:
        self.inner.close()


class TimedBench:
    def __init__(self, inner: Bench, spent_s: Counter[str]) -> None:
        self.inner = inner
        self.start = inner.start
        self.spent_s = spent_s

    def request(self, verb: str, parameters: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        began = monotonic()
        try:
            return self.inner.request(verb, parameters, deadline_s)
        finally:
            self.spent_s[verb] += monotonic() - began

    def close(self) -> None:
        began = monotonic()
        self.inner.close()
        self.spent_s["close"] += monotonic() - began


class Silent:
    """An observer with nothing to say."""

    def sweep_started(self, blocks: int, cases: int, budget_s: float) -> None:
        print(f"{blocks} blocks, {cases} cases", flush=True)

    def block_started(self, block: Block, index: int) -> None: ...

    def progress(self, done_s: float, total_s: float) -> None: ...

    def block_finished(self, block: Block, records: Sequence[Record]) -> None: ...


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenario", nargs="?", default="quick")
    options = parser.parse_args()
    spent_s: Counter[str] = Counter()
    began = monotonic()
    scenario = scenarios.read(options.scenario)
    source = ZygoteSource(
        threads=scenario.measure.threads_count(),
        malloc=scenario.measure.malloc,
        memory_limit_bytes=memory_limit(scenario.limits.memory_fraction),
    )
    with tempfile.TemporaryDirectory() as folder, source:
        blocks = scenario.expand(source.hello["catalogue"])
        spent_s["start-up"] = monotonic() - began
        with store.create(Path(folder), "overhead", {}) as writer:
            sweep([(scenario, blocks)], lambda _: Timed(source, spent_s), writer, Silent())
    wall_s = monotonic() - began
    spent_s["the parent"] = wall_s - spent_s.total()

    for what, seconds in spent_s.most_common():
        print(f"{what:<12}{seconds:>8.2f} s{seconds / wall_s:>8.1%}")
    print(f"{'wall':<12}{wall_s:>8.2f} s")
    rest_s = wall_s - spent_s["start-up"] - spent_s["prepare"]
    share = sum(spent_s[verb] for verb in MEASURING) / rest_s
    named = ", ".join(MEASURING)
    print(f"of the rest after start-up and prepare, {share:.1%} inside {named} (at least {AT_LEAST:.0%})")
    return 0 if share >= AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
