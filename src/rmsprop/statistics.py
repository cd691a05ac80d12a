"""Means with 95% intervals, paired differences, and when a curve reaches a target."""

import math
from collections.abc import Sequence
from typing import Any

from scipy import stats

Interval = dict[str, float | int | None]


def interval(values: Sequence[float]) -> Interval:
    """The mean and its 95% interval by Student's t: mean +- t * s / sqrt(n).

    Returns
    -------
    dict
        mean, low, high, n; low and high are None for fewer than two values, the mean too for none.

    Examples
    --------
    >>> found = interval([1.0, 2.0, 3.0])
    >>> [round(found[k], 2) for k in ("mean", "low", "high")]
    [2.0, -0.48, 4.48]
    """
    n = len(values)
    if n == 0:
        return {"mean": None, "low": None, "high": None, "n": 0}
    try:
        mean = math.fsum(values) / n
    except OverflowError:
        mean = math.fsum(x / n for x in values)
    if n == 1:
        return {"mean": mean, "low": None, "high": None, "n": 1}
    # hypot, as the squares of paths that run away overflow.
    spread = math.hypot(*(x - mean for x in values)) / math.sqrt(n - 1)
    half = float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def difference(a: dict[int, float], b: dict[int, float]) -> Interval:
    """The interval of a - b over the seeds that both have: paired, as they share starts and batches.

    Examples
    --------
    >>> difference({0: 2.0, 1: 3.0, 2: 9.0}, {0: 1.0, 1: 2.0})["mean"]
    1.0
    """
    return interval([a[seed] - b[seed] for seed in a if seed in b])


def excludes_zero(found: Interval) -> bool:
    """Whether an interval lies wholly above or wholly below zero.

    Examples
    --------
    >>> excludes_zero({"mean": 1.0, "low": 0.5, "high": 1.5, "n": 5})
    True
    """
    low, high = found["low"], found["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def first_reach(values: Sequence[float | None], target: float, rising: bool) -> int | None:
    """The first position at which a curve is at the target or beyond; None if never.

    Examples
    --------
    >>> first_reach([0.1, 0.9, 0.95], 0.9, rising=True), first_reach([3.0, 2.0], 1.0, rising=False)
    (1, None)
    """
    for k, x in enumerate(values):
        if x is not None and (x >= target if rising else x <= target):
            return k
    return None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there; None of nothing.

    Examples
    --------
    >>> mean([1.0, None, 2.0]), mean([])
    (1.5, None)
    """
    there = [x for x in values if x is not None]
    return math.fsum(there) / len(there) if there else None


def median(values: Sequence[Any]) -> float | None:
    """The median; None of nothing.

    Examples
    --------
    >>> median([3, 1, 2]), median([])
    (2.0, None)
    """
    ordered = sorted(values)
    n = len(ordered)
    if not n:
        return None
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
