"""Are the figures true? Measures it against known truths and beside the tools people use, and writes a page.

    durations   how far the reported median is from known durations, 2 µs to 100 ms
    coverage    how often the 95% intervals contain the truth: simulated, and on one kernel under two names
    ratios      how repeatable a reported ratio is, with the other core idle and loaded
    precision   wall time until the quick scenario is known to 1%
    page        docs/fidelity.md and its figures, from whatever was measured
    all         the four, then the page

Data go to `<out>/<part>.jsonl`; what is there already is not measured again. Measure on a machine that does
nothing else. `--quick` is a rehearsal of seconds: its figures mean nothing, so it needs an `--out` of its own
and writes its page there.

    python benchmarks/fidelity.py PART [--out results/reference/<machine>/fidelity] [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from time import monotonic

from fidelity_parts import MEASURED_PARTS, DataError, machine

CHECKOUT = Path(__file__).resolve().parent.parent


def measure(part: str, folder: Path, *, quick: bool) -> None:
    """Measure one part, and say how long it took."""
    began = monotonic()
    import_module(f"fidelity_parts.{part}").measure(folder, quick=quick)
    print(f"{part}: {monotonic() - began:.0f} s", flush=True)


def write_page(folder: Path, docs: Path) -> None:
    """`fidelity.md` and its figures, in `docs`."""
    import_module("fidelity_parts.page").write(folder, docs)
    print(docs / "fidelity.md")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=[*MEASURED_PARTS, "page", "all"])
    parser.add_argument("--out", type=Path, help="folder of the data")
    parser.add_argument("--quick", action="store_true", help="a rehearsal; needs --out")
    options = parser.parse_args(arguments)
    if options.quick and options.out is None:
        parser.error("--quick is a rehearsal: give it an --out of its own")
    folder = options.out or CHECKOUT / "results" / "reference" / machine()["machine"] / "fidelity"
    parts = MEASURED_PARTS if options.part == "all" else {options.part} & set(MEASURED_PARTS)
    try:
        for part in parts:
            measure(part, folder, quick=options.quick)
        if options.part in ("page", "all"):
            write_page(folder, folder if options.quick else CHECKOUT / "docs")
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
