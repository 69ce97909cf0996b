"""How often is the gate wrong? Whole gates of known truth, others' rules on their times, simulated machines.

    gates        real gates, kinds taking turns: equal arms (`aa`), more work (`plus10`, `plus5`), the same
                 beside a load (`aa-loaded`, `plus10-loaded`), and what is deterministic (`bytes`, `error`,
                 `nan`, `crash`)
    duration     the command itself: time to verdict (`same`), and an arm that lacks a case (`missing`)
    simulation   false alarms and power on machines that drift, burst and favour one side
    page         docs/gate.md and its figures, from whatever was measured

Without `--part` all of it. Data go to `<out>/<part>.jsonl` at once; what is there already is not measured
again, so it can be interrupted at any time. Measure on a machine that does nothing else. A rehearsal needs an
`--out` of its own and writes its page there.

    python benchmarks/gate.py [--part PART] [--count N] [--until HH:MM] [--page] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from gate_parts import DataError, duration, gates, machine, simulation

CHECKOUT = Path(__file__).resolve().parent.parent

#: How many of each kind there are to be.
GATES: Mapping[str, int] = {name: kind.count for name, kind in gates.KINDS.items()}
RUNS: Mapping[str, int] = {"same": 10, "missing": 3}

PARTS = ("gates", *GATES, "duration", *RUNS, "simulation", "page")


def chosen(counts: Mapping[str, int], name: str, part: str | None, count: int | None) -> dict[str, int]:
    """Of `counts`, those that belong to `part` of the group `name`, `count` of each if that is given."""
    kept = counts if part in (None, name) else {part: counts[part]} if part in counts else {}
    return {kind: wanted if count is None else count for kind, wanted in kept.items()}


def until(text: str | None) -> Callable[[], bool]:
    """Whether the time of day `text` (HH:MM, the next there is) is still to come."""
    if text is None:
        return lambda: True
    now = datetime.now()
    end = datetime.combine(now.date(), datetime.strptime(text, "%H:%M").time())
    end += timedelta(days=end < now)
    return lambda: datetime.now() < end


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Whatever is asked for and missing. The command first: its runs are few, and all are needed."""
    go_on = until(options.until)
    if runs := chosen(RUNS, "duration", options.part, options.count):
        duration.measure(folder, runs, go_on=go_on)
    if kinds := chosen(GATES, "gates", options.part, options.count):
        gates.measure(folder, kinds, go_on=go_on)
    if options.part in (None, "simulation"):
        simulation.measure(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="only this part, or only this kind")
    parser.add_argument("--count", type=int, help="so many of each kind")
    parser.add_argument("--until", metavar="HH:MM", help="begin nothing after this time of day")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--out", type=Path, help="folder of the data")
    options = parser.parse_args(arguments)
    folder = options.out or CHECKOUT / "results" / "reference" / machine()["machine"] / "gate"
    try:
        if not options.page and options.part != "page":
            measure(folder, options)
        from gate_parts import page

        docs = CHECKOUT / "docs" if options.out is None else folder
        page.write(folder, docs)
        print(docs / f"{page.NAME}.md")
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept, run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
