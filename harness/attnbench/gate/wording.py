"""The gate's sentences: what a case is called, and what became of it, in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attnbench.case import Case
from attnbench.gate.verdict import Change, Latency, Outcome
from attnbench.scenario import Check
from attnbench.stats import Interval
from attnbench.units import significant

__all__ = ["case_names", "per_cent", "sentence", "slow_down"]

#: What is so by default needs no telling.
_DEFAULTS = {"dtype": "float32", "mask": "none", "pass": "forward", "inputs": "normal", "device": "cpu"}


def case_names(cases: Sequence[Case]) -> dict[str, str]:
    """What each case is called, by its id: `sdpa B1 H8 L2048`, `sdpa B1 H8 L2048 causal bfloat16`.

    Sizes of heads are told where the cases differ in them, other conditions where they are not the default.
    """
    sizes = {_size(case) for case in cases}
    return {case.case_id: _name(case, with_size=len(sizes) > 1) for case in cases}


def _parts(case: Case) -> list[str]:
    # A part begins with a letter: the hyphen before a digit is that of an exponent, as in drop1e-05.
    return re.split(r"-(?!\d)", case.workload.shape.label)


def _size(case: Case) -> str:
    return next((part for part in _parts(case) if part.startswith("D")), "")


def _name(case: Case, *, with_size: bool) -> str:
    workload = case.workload
    parts = [part for part in _parts(case) if with_size or part != _size(case)]
    values = {
        "mask": workload.mask,
        "dtype": workload.dtype,
        "pass": workload.pass_,
        "inputs": workload.inputs,
        "device": case.device,
    }
    conditions = [value for name, value in values.items() if value != _DEFAULTS[name]]
    return " ".join([case.variant.label, *parts, *conditions])


def per_cent(share: float) -> str:
    """A setting as people read it: `5%`, `2.5%`."""
    return f"{100 * share:.6g}%"


def slow_down(ratio: float, interval: Interval | None) -> str:
    """A ratio of times in words, with its interval in per cent: `7.9% slower [6.8, 9.1]`."""
    sign, word = (1, "slower") if ratio >= 1 else (-1, "faster")
    text = f"{_number(sign * 100 * (ratio - 1))}% {word}"
    if interval is None:
        return text
    ends = sorted(sign * 100 * (end - 1) for end in (interval.low, interval.high))
    return f"{text} [{_number(ends[0])}, {_number(ends[1])}]"


def _number(value: float) -> str:
    """To a tenth, or to three digits where that is less."""
    text = f"{value:.1f}" if abs(value) < 100 else significant(value)
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def sentence(
    name: str, outcome: Outcome, changes: Sequence[Change], latency: Latency | None, check: Check
) -> str:
    """What became of a case, without its outcome; what decided comes first."""
    told = [change.text for change in changes]
    if latency is not None:
        decisive = latency.outcome is outcome
        told.insert(0 if decisive else len(told), _of_latency(latency, check))
    return f"{name}: {'; '.join(told) or 'as before'}"


def _of_latency(latency: Latency, check: Check) -> str:
    pairs = len(latency.first.d)
    told = slow_down(latency.ratio, latency.interval)
    slower = f"{latency.first.slower} of {pairs} pairs beyond {per_cent(check.tolerated())}"
    within = f"{latency.first.within} of {pairs} pairs within {per_cent(check.gate)}"
    said = {Outcome.PASS: within, Outcome.FAIL: slower}.get(latency.first.verdict, f"{slower}, {within}")
    return f"{told}, {said}" + (f"; {latency.reason}" if latency.reason else "")
