"""Intervals against SciPy's, paired differences, first reaches."""

import math
import statistics as standard
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from rmsprop.statistics import difference, excludes_zero, first_reach, interval, mean, median

numbers = st.floats(-1e6, 1e6).map(lambda x: round(x, 6))
samples = st.lists(numbers, min_size=2, max_size=40)
curves = st.lists(st.none() | st.floats(-10, 10), max_size=20)
by_seed = st.dictionaries(st.integers(0, 9), numbers)


@given(samples)
def test_an_interval_is_students(values):
    found: Any = interval(values)
    assert found["n"] == len(values)
    scale = max(map(abs, values))
    assert found["mean"] == pytest.approx(np.mean(values), rel=1e-12, abs=1e-12 * scale)
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    assert found["high"] - found["mean"] == pytest.approx(half, rel=1e-6, abs=1e-9 * scale)
    assert found["mean"] - found["low"] == pytest.approx(half, rel=1e-6, abs=1e-9 * scale)
    if np.std(values) > 1e-6 * scale:  # SciPy's own is nan without a spread
        low, high = stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
        )
        assert (found["low"], found["high"]) == pytest.approx(
            (low, high), rel=1e-6, abs=1e-9 * scale
        )


def test_an_interval_by_hand():
    found = interval([0.90, 0.92, 0.97])
    assert found["mean"] == pytest.approx(0.93)
    assert found["low"] == pytest.approx(0.93 - 4.302653 * 0.0360555 / math.sqrt(3), abs=1e-6)
    assert found["high"] == pytest.approx(0.93 + 4.302653 * 0.0360555 / math.sqrt(3), abs=1e-6)


def test_an_interval_of_few_values_is_not_made_up():
    assert interval([]) == {"mean": None, "low": None, "high": None, "n": 0}
    assert interval([0.5]) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert interval([0.5, 0.5, 0.5]) == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 3}


def test_an_interval_of_values_whose_squares_overflow():
    found = interval([1e200, 2e200, 3e200])
    assert found["mean"] == pytest.approx(2e200)
    assert found["high"] == pytest.approx(2e200 + 4.302653e200 / math.sqrt(3))


def test_95_of_100_intervals_hold_the_truth():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    hit = [i["low"] <= 3.0 <= i["high"] for i in map(interval, draws.tolist())]  # type: ignore[operator]
    assert abs(np.mean(hit) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


@given(by_seed, by_seed)
def test_a_difference_is_over_the_seeds_that_both_have(a, b):
    shared = [seed for seed in a if seed in b]
    assert difference(a, b) == interval([a[seed] - b[seed] for seed in shared])
    turned = difference(b, a)
    if not shared:
        assert turned["mean"] is None
        return
    assert turned["mean"] == -difference(a, b)["mean"]  # type: ignore[operator]


def test_a_difference_is_paired():
    """What all seeds share, as a hard start, does not count."""
    base = {seed: 10.0 * seed for seed in range(5)}
    better = {seed: x + 1 + 0.01 * seed for seed, x in base.items()}
    found = difference(better, base)
    assert found["mean"] == pytest.approx(1.02)
    assert found["low"] > 0.9  # type: ignore[operator]
    assert excludes_zero(found)


@given(samples, st.floats(-5, 5))
def test_an_interval_excludes_zero_where_the_t_test_does(values, shift):
    a = {k: x / 1e5 + shift for k, x in enumerate(values)}
    b = dict.fromkeys(a, 0.0)
    assume(np.std(list(a.values())) > 1e-6)
    p = stats.ttest_rel(list(a.values()), list(b.values())).pvalue
    assume(abs(p - 0.05) > 1e-6)
    assert excludes_zero(difference(a, b)) == (p < 0.05)


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False), (-0.1, 0.0, False),
     (None, None, False)],
)  # fmt: skip
def test_excludes_zero(low, high, excludes):
    assert excludes_zero({"mean": 0.0, "low": low, "high": high, "n": 3}) is excludes


@given(curves, st.floats(-10, 10), st.booleans())
def test_the_first_reach(values, target, rising):
    k = first_reach(values, target, rising)
    there = [x is not None and (x >= target if rising else x <= target) for x in values]
    assert k == (there.index(True) if any(there) else None)


def test_the_first_reach_by_hand():
    curve = [0.5, None, 0.9, 0.8, 0.95]
    assert first_reach(curve, 0.9, rising=True) == 2
    assert first_reach(curve, 0.96, rising=True) is None
    assert first_reach(curve, 0.5, rising=False) == 0
    assert first_reach([None, None], 0.0, rising=True) is None
    assert first_reach([], 0.0, rising=True) is None


@given(st.lists(numbers, min_size=1))
def test_the_median_is_the_standard_librarys(values):
    assert median(values) == pytest.approx(standard.median(values))
    assert median([]) is None


@given(curves)
def test_the_mean_of_what_is_there(values):
    there = [x for x in values if x is not None]
    assert mean(values) == (pytest.approx(np.mean(there), abs=1e-12) if there else None)
