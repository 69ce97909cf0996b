"""Which case of one run is which of another."""

from __future__ import annotations

from collections import Counter

from attnbench.compare.sides import Key, Measured, Side

__all__ = ["Match", "match"]

#: A case in both runs; None on the side that lacks it.
Match = tuple[Side | None, Side | None]


def match(before: Measured, after: Measured) -> list[Match]:
    """Every case of either run once, in the first one's order; what only the other has comes last.

    Cases are the same where scenario and case id are. A scenario may have been renamed in between: what is
    left is matched by the case id alone, where that names a single case in either run.
    """
    partners: dict[Key, Key] = {key: key for key in before.cases if key in after.cases}
    alone_before, alone_after = _alone(before), _alone(after)
    for case_id, key in alone_before.items():
        other = alone_after.get(case_id)
        if other is not None and key not in partners and other not in before.cases:
            partners[key] = other
    matches: list[Match] = [
        (side, after.cases[partners[key]] if key in partners else None) for key, side in before.cases.items()
    ]
    taken = set(partners.values())
    return [*matches, *((None, side) for key, side in after.cases.items() if key not in taken)]


def _alone(run: Measured) -> dict[str, Key]:
    """By case id, the cases whose id no other case of the run has."""
    counts = Counter(case_id for _, case_id in run.cases)
    return {key[1]: key for key in run.cases if counts[key[1]] == 1}
