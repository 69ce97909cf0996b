"""One test of several cases: pair after pair, until each is decided, is beyond help, or the time is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from random import Random

from attnbench.blocks import Clocks
from attnbench.case import Case
from attnbench.gate.contest import Contest
from attnbench.gate.pairing import Arm, Breakdown, Pair, Times, play_pair
from attnbench.record import Record
from attnbench.scenario import Measure

__all__ = ["BASE", "CONTROL", "HEAD", "Entry", "Test"]

BASE, HEAD, CONTROL = "base", "head", "control"

#: So often may a case break while it is timed before that is taken for its own fault.
MOST_BREAKDOWNS = 2

#: So many pairs in a row may give no round of a case before it is given up.
MOST_IDLE = 5


@dataclass(slots=True, eq=False)
class Entry:
    """A case in a test.

    `contest` is between base and head, `control` between the base and itself. `refuted` says by arm why what
    was timed does not compute what it returns. `alone` shares its processes with no other case, since it
    ran out of memory beside others.
    """

    case: Case
    contest: Contest
    control: Contest | None = None
    calls: int = 1
    breakdowns: list[Breakdown] = field(default_factory=list)
    refuted: dict[str, str] = field(default_factory=dict)
    idle: int = 0
    alone: bool = False
    verified: bool = False

    @property
    def broken(self) -> bool:
        """Whether it broke so often that it cannot be timed."""
        return len(self.breakdowns) >= MOST_BREAKDOWNS

    @property
    def waiting(self) -> bool:
        """Whether more pairs may decide it."""
        return self.contest.open and not self.broken and self.idle < MOST_IDLE and not self.refuted


@dataclass(slots=True, eq=False)
class Test:
    """Times cases in `arms`: `BASE` and `HEAD`, with `CONTROL` beside them where entries have a control.

    `groups` are the entries of each block. `records` is what is known of each arm's cases; with it the calls
    that are timed are verified once. The first `budget_s` seconds count. Listeners hear of every pair of a
    case (`paired`), of a case that leaves (`left`) and of the pairs played so far (`progressed`).
    """

    name: str
    arms: Sequence[Arm]
    groups: Sequence[Sequence[Entry]]
    measure: Measure
    budget_s: float
    clocks: Clocks
    records: Mapping[tuple[str, str], Record] = field(default_factory=dict)
    paired: Callable[[Case, Times], None] = lambda case, times: None
    left: Callable[[Entry], None] = lambda entry: None
    progressed: Callable[[int, int], None] = lambda done, total: None
    played: int = 0
    spent_s: float = 0.0

    def run(self) -> None:
        """Until every entry is decided or beyond help, or the time is spent; look by look, block by block.

        Raises:
            MeasuringError: no processes can be had.
        """
        looks = sorted({look for group in self.groups for each in group for look in each.contest.rule.looks})
        total = sum(max(each.contest.rule.looks[-1] for each in group) for group in self.groups if group)
        began = self.clocks.monotonic()
        try:
            for look in looks:
                for number, group in enumerate(self.groups):
                    while batch := _batch(group, look):
                        if self.clocks.monotonic() - began >= self.budget_s:
                            return
                        self._play(batch, Random(f"{self.measure.seed}/{self.name}/{number}/{self.played}"))
                        self.progressed(self.played, total)
        finally:
            self.spent_s = self.clocks.monotonic() - began

    def _play(self, batch: Sequence[Entry], rng: Random) -> None:
        orders = list(permutations(self.arms))  # all of them: of any two arms each comes first as often
        arms = orders[self.played % len(orders)]
        self.played += 1
        unverified = {each.case.case_id for each in batch if not each.verified}
        pair = play_pair(
            arms,
            [each.case for each in batch],
            self.measure,
            rng,
            self.clocks,
            calls={each.case.case_id: each.calls for each in batch},
            verify={key: record for key, record in self.records.items() if key[1] in unverified},
        )
        for entry in batch:
            self._count(entry, pair, crowded=len(batch) > 1)
            if not entry.waiting:
                self.left(entry)

    def _count(self, entry: Entry, pair: Pair, *, crowded: bool) -> None:
        case_id = entry.case.case_id
        for breakdown in pair.breakdowns:
            if breakdown.case_id == case_id:
                if breakdown.failure.status == "oom" and crowded:
                    entry.alone = True
                else:
                    entry.breakdowns.append(breakdown)
        times = pair.times.get(case_id)
        if times is None:
            return
        rounds = times.common(BASE, HEAD)
        controlled = times.common(BASE, CONTROL) if entry.control is not None else rounds
        if not rounds or not controlled:
            entry.idle += 1
            return
        entry.idle = 0
        entry.verified = entry.verified or case_id not in pair.unasked
        entry.calls = max(entry.calls, pair.calls[case_id])
        entry.refuted |= {arm: why for (arm, refuted), why in pair.refuted.items() if refuted == case_id}
        entry.contest.add(rounds)
        if entry.control is not None:
            entry.control.add(controlled)
        self.paired(entry.case, times)


def _batch(group: Sequence[Entry], look: int) -> list[Entry]:
    """Who plays next: all that wait for this look, but for those that must be alone, who come one by one."""
    waiting = [each for each in group if each.waiting and each.contest.pairs < look]
    together = [each for each in waiting if not each.alone]
    return together or waiting[:1]
