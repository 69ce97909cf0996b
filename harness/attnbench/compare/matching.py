"""Which case of one run is which of another."""

from __future__ import annotations

from collections import Counter

from attnbench.compare.sides import Key, Measured, Side

__all__ = ["Match", "match"]

#: A case in both runs; None on the side that lacks it.
Match = tuple[Side | None, Side | None]


def match(before: Measured, after: Measured) -> list[Match]:
    """Every case of either run once: those in both in the first one's order, then what either has alone.

    Cases are the same where scenario and case id are. A scenario may have been renamed in between: what is
    left is matched by the case id alone, where that names a single case in either run.
    """
    partners: dict[Key, Key] = {key: key for key in before.cases if key in after.cases}
    alone_before, alone_after = _alone(before), _alone(after)
    for case_id, key in alone_before.items():
        other = alone_after.get(case_id)
        if other is not None and key not in partners and other not in before.cases:
            partners[key] = other
    taken = set(partners.values())
    both: list[Match] = [
        (side, after.cases[partners[key]]) for key, side in before.cases.items() if key in partners
    ]
    gone: list[Match] = [(side, None) for key, side in before.cases.items() if key not in partners]
    new: list[Match] = [(None, side) for key, side in after.cases.items() if key not in taken]
    return [*both, *gone, *new]


def _alone(run: Measured) -> dict[str, Key]:
    """By case id, the cases whose id no other case of the run has."""
    counts = Counter(case_id for _, case_id in run.cases)
    return {key[1]: key for key in run.cases if counts[key[1]] == 1}
