"""The attention weights of a scenario's case: which case, and asking a bench for them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from attnbench.errors import UsageError
from attnbench.protocol import MOST_WEIGHTS, WEIGHTED, BenchFailed, BenchSource, WeightsReply

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from attnbench.case import Case
    from attnbench.scenario import Scenario

__all__ = ["MOST_HEADS", "Asked", "Drawable", "Failed", "chosen", "first_that_can", "weights_of"]

#: So many heads are drawn unless they are chosen.
MOST_HEADS = 32

#: Weights of a picture: 32 heads of 512 × 512.
MOST_IN_A_PICTURE = 2**23

#: Where a query has fewer weights than this, an answer's room goes to what is said of each query.
_LEAST_KEYS = 16

#: Near ids that are told of a wrong one.
_NEAR = 3


class Failed(Exception):
    """No weights can be had: `status` and `reason` of the case that failed, or of all that were tried."""

    def __init__(self, case_id: str | None, status: str, reason: str) -> None:
        super().__init__(f"{case_id}: {status}: {reason}" if case_id else f"{status}: {reason}")
        self.case_id = case_id
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a case: one batch element, and heads; `heads` None are all, or the first 32."""

    element: int = 0
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Drawable:
    """A scenario's case, the forward pass whose weights are drawn in its stead, and what is drawn of it."""

    asked: Case
    case: Case
    element: int
    heads: tuple[int, ...]

    @classmethod
    def of(cls, case: Case, asked: Asked) -> Drawable:
        """The weights of `case` as `asked`.

        Raises:
            UsageError: it has no such batch element or head, or more weights than a picture holds.
        """
        shape: Any = case.workload.shape
        if asked.element >= shape.batch:
            raise UsageError(
                f"--element {asked.element}: {case.case_id} has {shape.batch} batch "
                f"{'element' if shape.batch == 1 else 'elements'}, counted from 0"
            )
        heads = tuple(range(min(shape.heads, MOST_HEADS))) if asked.heads is None else asked.heads
        if max(heads) >= shape.heads:
            raise UsageError(
                f"--heads {','.join(map(str, heads))}: {case.case_id} has the heads 0 to {shape.heads - 1}"
            )
        drawable = cls(case, replace(case, workload=_forward(case)), asked.element, heads)
        a_head = drawable.queries * max(drawable.keys, _LEAST_KEYS)
        if a_head > MOST_WEIGHTS or a_head * len(heads) > MOST_IN_A_PICTURE:
            fewer = "" if a_head > MOST_WEIGHTS else "fewer heads with --heads 0,1, "
            raise UsageError(
                f"{case.case_id}: {len(heads)} heads of {drawable.queries} queries × {drawable.keys} keys "
                "are more weights than a picture holds: "
                f"at most {MOST_WEIGHTS} a head, {MOST_IN_A_PICTURE} in all; draw {fewer}shorter sequences "
                "with --set matrix.seq_len=512, or another case with --case"
            )
        return drawable

    @property
    def queries(self) -> int:
        """Queries that have weights."""
        return int(cast(Any, self.case.workload.shape).q_len)

    @property
    def keys(self) -> int:
        """Keys that each query has weights for."""
        shape: Any = self.case.workload.shape
        return int(getattr(shape, "weights_len", shape.kv_len))


@dataclass(frozen=True, slots=True)
class Weights:
    """`weights` `[heads, Lq, Lk]` float32, `allowed` `[Lq, Lk]`; the last `appended` keys no mask is over."""

    of: Drawable
    weights: npt.NDArray[np.float32]
    allowed: npt.NDArray[np.bool_]
    appended: int


def chosen(scenario: Scenario, cases: Sequence[Case], text: str | None) -> list[Case]:
    """The cases with the id `text`, or else those with `text` in their ids; all without one.

    Raises:
        UsageError: there is none, or the operation has no attention weights.
    """
    if scenario.operation not in WEIGHTED:
        raise UsageError(
            f"{scenario.path}: {scenario.operation} has no attention weights to draw, as it does not return "
            f"them; draw those of a scenario of {' or '.join(WEIGHTED)}"
        )
    if text is None:
        return list(cases)
    by_id = {case.case_id: case for case in cases}
    found = [by_id[text]] if text in by_id else [case for case in cases if text in case.case_id]
    if not found:
        near = get_close_matches(text, by_id, n=_NEAR, cutoff=0.0)
        raise UsageError(
            f"--case {text}: no case of {scenario.name} has this in its id; near are\n  " + "\n  ".join(near)
        )
    return found


def first_that_can(cases: Iterable[Case], asked: Asked, scenario: Scenario, source: BenchSource) -> Weights:
    """The weights of the first of `cases` that can run here.

    Raises:
        UsageError: none has what is asked of it; told of the first.
        Failed: none can run here, or the first that can fails.
        MeasuringError: no benches can be had.
    """
    refused: list[UsageError] = []
    unable: dict[str, str] = {}
    for case in cases:
        try:
            drawable = Drawable.of(case, asked)
        except UsageError as error:
            refused.append(error)
            continue
        try:
            return weights_of(drawable, scenario, source)
        except Failed as failed:
            if failed.status not in ("unsupported", "unavailable"):
                raise
            unable.setdefault(f"{failed.status}: {failed.reason}", case.case_id)
    if not unable:
        raise refused[0]
    told = [f"{case_id}: {reason}" for reason, case_id in list(unable.items())[:_NEAR]]
    more = len(unable) - len(told)
    raise Failed(None, "no case can be drawn here", "; ".join(told) + f"; and {more} more" * bool(more))


def weights_of(drawable: Drawable, scenario: Scenario, source: BenchSource) -> Weights:
    """The weights that the kernel of a case uses, a few heads at a time, as many as an answer holds.

    Raises:
        Failed: it cannot run here, or fails.
        MeasuringError: no bench can be had.
    """
    import numpy as np

    from attnbench.judging import Judge, Seat, Trial

    measure = scenario.measure
    judge = Judge(source, measure.seed, measure.threads_count(), scenario.limits.seconds_per_case)
    trial = Trial(drawable.case)
    at_once = max(1, MOST_WEIGHTS // (drawable.queries * drawable.keys))
    parts = []
    try:
        with Seat(source) as seat:
            bench = seat.bench()
            judge.prepare(bench, trial)
            for first in range(0, len(drawable.heads), at_once):
                heads = list(drawable.heads[first : first + at_once])
                answer = judge.request(bench, "weights", trial, element=drawable.element, heads=heads)
                reply = cast(WeightsReply, answer)
                flat = np.frombuffer(b64decode(reply["weights"]), dtype="<f4")
                parts.append(flat.reshape(reply["shape"]))
    except BenchFailed as failure:
        raise Failed(drawable.asked.case_id, failure.status, failure.reason) from None
    return Weights(drawable, np.concatenate(parts), _allowed(reply), reply["appended"])


def _forward(case: Case) -> Any:
    """The workload whose weights are drawn: a forward pass, which returns them head by head if it can."""
    workload = case.workload
    shape = workload.shape
    if hasattr(shape, "need_weights"):
        shape = replace(shape, need_weights="per_head")
    return replace(workload, shape=shape, pass_="forward")


def _allowed(reply: WeightsReply) -> npt.NDArray[np.bool_]:
    """`[Lq, Lk]`, True where attention is allowed."""
    import numpy as np

    keys = np.arange(reply["shape"][-1])
    start, stop = (np.asarray(bound)[:, None] for bound in (reply["start"], reply["stop"]))
    allowed: npt.NDArray[np.bool_] = ((keys >= start) & (keys < stop)) | (
        keys >= len(keys) - reply["appended"]
    )
    return allowed
