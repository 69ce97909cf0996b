"""How others would judge the same times: is the head slower than the base?

Each rule is given seconds a call of both arms, and says whether it would raise an alarm. They are written
afresh after what the tools' sources say (named at each), with the tools' defaults.

- `mean_over`: the mean is more than 5% above the baseline's, as home-made gates have it.
- `pyperf`: `pyperf compare_to`, a pooled two-sample t-test at 95% (pyperf/_utils.py, `is_significant`).
- `asv`: `asv continuous` and `asv compare`, whose median must be beyond the factor 1.1 and which ask a
  Mann-Whitney test for p < 0.002 (asv/statistics.py, `is_different`; asv/commands/compare.py).
- `criterion`: `cargo bench` against a saved baseline: a bootstrapped t-test at 5%, and the 95% interval of
  the change of the mean beyond a noise threshold of 1% (criterion.rs, src/analysis/compare.rs,
  src/report.rs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any, Literal

import numpy as np

__all__ = ["RULES", "asv", "criterion", "mean_over", "pyperf"]

Rule = Callable[[Sequence[float], Sequence[float]], bool]

#: What a mean may rise by.
MEAN_TOLERANCE = 0.05

#: pyperf's confidence, asv's factor and significance, criterion's significance and noise threshold.
PYPERF_LEVEL = 0.95
ASV_FACTOR, ASV_P = 1.1, 0.002
CRITERION_P, CRITERION_NOISE, CRITERION_LEVEL = 0.05, 0.01, 0.95

#: Fewer than criterion's 100 000; the p-value that is asked for is 5%.
RESAMPLES = 1000


def mean_over(base_s: Sequence[float], head_s: Sequence[float]) -> bool:
    """Is the mean more than `MEAN_TOLERANCE` above the base's?"""
    return fmean(head_s) > (1 + MEAN_TOLERANCE) * fmean(base_s)


def pyperf(base_s: Sequence[float], head_s: Sequence[float]) -> bool:
    """Student's t of two samples with pooled variance, two-sided; and slower.

    pyperf looks the critical value up in a table that agrees with Student's distribution.
    """
    from scipy.special import stdtrit

    degrees = len(base_s) + len(head_s) - 2
    squares = sum(len(each) * float(np.var(each)) for each in (base_s, head_s))
    error = math.sqrt(squares / degrees * (1 / len(base_s) + 1 / len(head_s)))
    difference = fmean(head_s) - fmean(base_s)
    return difference > 0 and difference >= error * float(stdtrit(degrees, (1 + PYPERF_LEVEL) / 2))


def asv(base_s: Sequence[float], head_s: Sequence[float]) -> bool:
    """The median beyond the factor, and the samples told apart by Mann and Whitney's test, two-sided."""
    if median(head_s) <= ASV_FACTOR * median(base_s):
        return False
    from scipy.stats import mannwhitneyu

    exact = max(len(base_s), len(head_s)) <= 20  # asv approximates beyond
    method: Literal["exact", "asymptotic"] = "exact" if exact else "asymptotic"
    found = mannwhitneyu(np.asarray(base_s), np.asarray(head_s), method=method, use_continuity=exact)
    return bool(found.pvalue < ASV_P)


def criterion(base_s: Sequence[float], head_s: Sequence[float]) -> bool:
    """Welch's t beyond that of both samples mixed and resampled, and a change beyond the noise threshold."""
    rng = np.random.default_rng(0)
    base, head = np.asarray(base_s), np.asarray(head_s)
    together = np.concatenate([head, base])
    mixed = rng.choice(together, (RESAMPLES, len(together)))
    null = _welch(mixed[:, : len(head)], mixed[:, len(head) :])
    below = int((null < _welch(head[None], base[None])[0]).sum())
    if 2 * min(below, RESAMPLES - below) / RESAMPLES >= CRITERION_P:
        return False
    means = [rng.choice(each, (RESAMPLES, len(each))).mean(axis=1) for each in (head, base)]
    low = float(np.quantile(means[0] / means[1] - 1, (1 - CRITERION_LEVEL) / 2))
    return low > CRITERION_NOISE


def _welch(a: Any, b: Any) -> Any:
    """Welch's t of each row."""
    error = np.sqrt(a.var(axis=1, ddof=1) / a.shape[1] + b.var(axis=1, ddof=1) / b.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((a.mean(axis=1) - b.mean(axis=1)) / error)


#: By the name under which the page shows them.
RULES: Mapping[str, Rule] = {
    "mean > 5%": mean_over,
    "pyperf (t-test)": pyperf,
    "asv (factor 1.1 and Mann-Whitney)": asv,
    "criterion (bootstrapped t, 1%)": criterion,
}
