"""The reference: numbers worked out by hand, nothing changed in place, clipping by its definition."""

import inspect
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import RULES
from rmsprop import Rule, reference


def two_steps(rule: Rule, first: float, second: float) -> list[tuple[float, float, float, float]]:
    """p, v, m and b after each of two steps from p = 1 with these gradients."""
    p = np.array([1.0])
    state, seen = reference.init(rule, p), []
    for g in (first, second):
        p, state = reference.update(rule, p, np.array([g]), state)
        seen.append((float(p[0]), float(state.v[0]), float(state.m[0]), float(state.b[0])))
    return seen


class TestByHand:
    """Numbers with short decimals, worked out on paper from the equations in the docstring of `Rule`."""

    def test_rmsprop(self) -> None:
        rule = Rule(lr=0.5, decay=0.75, eps=1.0)
        # v = 16/4 = 4, u = 4/(2+1); v = 3/4*4 + 24/4 = 9, u = sqrt(24)/(3+1)
        seen = two_steps(rule, 4.0, math.sqrt(24))
        assert seen[0] == pytest.approx((1 - 0.5 * 4 / 3, 4, 0, 0), rel=1e-15)
        assert seen[1] == pytest.approx((seen[0][0] - 0.5 * math.sqrt(24) / 4, 9, 0, 0), rel=1e-15)

    def test_eps_inside_and_initial_scale(self) -> None:
        rule = Rule(lr=1.0, decay=0.5, eps=1.0, eps_in_sqrt=True, initial_scale=2.0)
        # v = 1 + 4/2 = 3, u = 2/sqrt(4); v = 1.5 + 2 = 3.5, u = 2/sqrt(4.5)
        seen = two_steps(rule, 2.0, 2.0)
        assert seen[0] == (0.0, 3.0, 0.0, 0.0)
        assert seen[1] == pytest.approx((-2 / math.sqrt(4.5), 3.5, 0, 0), rel=1e-15)

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_momentum_and_where_lr_stands(self, nesterov: bool) -> None:
        outside = Rule(lr=0.5, second_moment="none", momentum=0.5, nesterov=nesterov)
        inside = outside.replace(lr_in_momentum=True)
        # b = 2, then 1 + 4 = 5; nesterov moves by b/2 + g: 3, then 6.5
        moves = (3.0, 6.5) if nesterov else (2.0, 5.0)
        expected = (1 - 0.5 * moves[0], 1 - 0.5 * sum(moves))
        for rule, gain in ((outside, 1.0), (inside, 0.5)):
            seen = two_steps(rule, 2.0, 4.0)
            assert [row[0] for row in seen] == list(expected)
            assert [row[3] for row in seen] == [2.0 * gain, 5.0 * gain]

    def test_centered(self) -> None:
        rule = Rule(lr=1.0, decay=0.5, eps=0.0, centered=True)
        # m = 1, v = 2, d = 1, u = 2; m = 0.5 - 2 = -1.5, v = 1 + 8 = 9, d = 6.75
        seen = two_steps(rule, 2.0, -4.0)
        assert seen[0] == (-1.0, 2.0, 1.0, 0.0)
        assert seen[1] == pytest.approx((-1 + 4 / math.sqrt(6.75), 9, -1.5, 0), rel=1e-15)

    def test_weight_decay(self) -> None:
        coupled = Rule(lr=0.5, second_moment="none", weight_decay=0.25)
        assert two_steps(coupled, 1.0, 1.0)[0][0] == 1 - 0.5 * 1.25
        entered = Rule(lr=0.5, decay=0.0, eps=0.0, weight_decay=0.25)
        assert two_steps(entered, 1.0, 1.0)[0][1] == 1.25**2, "coupled: it enters the average"
        decoupled = entered.replace(decoupled_weight_decay=True)
        assert two_steps(decoupled, 1.0, 1.0)[0][:2] == (1 - 0.5 * 0.25 - 0.5, 1.0)

    def test_bias_correction(self) -> None:
        rule = Rule(lr=1.0, decay=0.75, eps=0.0, bias_correction=True)
        # The first v/(1 - 0.75) is g^2 itself; the second is (0.75*v + 0.25*g^2)/(1 - 0.5625).
        seen = two_steps(rule, 3.0, 1.0)
        assert seen[0] == pytest.approx((0.0, 2.25, 0, 0), abs=1e-15)
        v = 0.75 * 2.25 + 0.25
        assert seen[1][0] == pytest.approx(-1 / math.sqrt(v / 0.4375), rel=1e-14)

    def test_adam(self) -> None:
        rule = Rule.from_dialect("adam", lr=0.5, eps=0.0)
        # Whatever the gradient, the first step is lr.
        seen = two_steps(rule, 3.0, 3.0)
        assert seen[0][0] == pytest.approx(0.5, rel=1e-12)
        assert seen[1][0] == pytest.approx(0.0, abs=1e-12)

    def test_adagrad_sums(self) -> None:
        rule = Rule.from_dialect("adagrad", lr=1.0, eps=0.0, initial_scale=7.0)
        assert [row[1] for row in two_steps(rule, 3.0, 3.0)] == [16.0, 25.0]

    def test_maximize_climbs(self) -> None:
        rule = Rule(lr=0.5, second_moment="none", maximize=True)
        assert two_steps(rule, 1.0, -1.0)[0][0] == 1.5

    def test_long_average_against_exact_arithmetic(self) -> None:
        grads = [Fraction(k % 7 - 3, 4) for k in range(40)]
        v, rho = Fraction(0), Fraction(7, 8)
        state = reference.init(Rule(decay=0.875), np.zeros(1))
        for g in grads:
            v = rho * v + (1 - rho) * g**2
            _, state = reference.update(Rule(decay=0.875), np.zeros(1), np.array([float(g)]), state)
        assert float(state.v[0]) == pytest.approx(float(v), rel=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_changes_nothing_in_place_and_keeps_the_dtype(rule: Rule, dtype: str) -> None:
    rng = np.random.default_rng(0)
    params = [rng.normal(0, 1, shape).astype(dtype) for shape in [(3, 2), (), (0,)]]
    grads = [rng.normal(0, 1, p.shape).astype(dtype) for p in params]
    states = [reference.init(rule, p) for p in params]
    kept = [x.copy() for x in (*params, *grads, *(a for s in states for a in s[1:]))]
    moved, after = reference.step(rule, params, grads, states)
    now = [*params, *grads, *(a for s in states for a in s[1:])]
    for before, x in zip(kept, now, strict=True):
        np.testing.assert_array_equal(before, x)
    for p, q, s in zip(params, moved, after, strict=True):
        assert s.t == 1
        for x in (q, *s[1:]):
            assert (x.dtype, np.shape(x)) == (p.dtype, p.shape)


class TestClip:
    @pytest.mark.parametrize("scale", [1e-160, 1e-3, 1.0, 1e3, 1e160, 1e300])
    def test_by_norm_also_where_squares_overflow(self, scale: float) -> None:
        g = np.array([3.0, -4.0]) * scale
        rule = Rule(clip_norm=2.0)
        expected = g if 5 * scale <= 2 else np.array([1.2, -1.6])
        (clipped,) = reference.clip(rule, [g])
        np.testing.assert_allclose(clipped, expected, rtol=1e-14)

    def test_by_joint_norm(self) -> None:
        clipped = reference.clip(
            Rule(clip_global_norm=6.5), [np.array([3.0, 4.0]), np.array([[12.0]])]
        )
        np.testing.assert_allclose(clipped[0], [1.5, 2.0])
        np.testing.assert_allclose(clipped[1], [[6.0]])
        assert reference.clip(Rule(clip_global_norm=1.0), []) == []

    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.floats(1e-3, 1e3))
    def test_bounds(self, values: list[float], most: float) -> None:
        g = np.array(values)
        (by_value,) = reference.clip(Rule(clip_value=most), [g])
        assert (np.abs(by_value) <= most).all()
        (by_norm,) = reference.clip(Rule(clip_norm=most), [g])
        assert np.linalg.norm(by_norm) <= most * (1 + 1e-12)
        if np.linalg.norm(g) <= most:
            np.testing.assert_array_equal(by_norm, g)

    def test_zero_and_nan(self) -> None:
        for rule in (Rule(clip_norm=1.0), Rule(clip_global_norm=1.0), Rule(clip_value=1.0)):
            (zero,) = reference.clip(rule, [np.zeros(3)])
            np.testing.assert_array_equal(zero, np.zeros(3))
            (nan,) = reference.clip(rule, [np.array([np.nan, 0.5])])
            assert np.isnan(nan[0]), "a NaN is never clipped away"


def test_is_as_short_as_it_says() -> None:
    """The definition of correct must stay readable at one glance: under 100 lines of code."""
    source = inspect.getsource(reference)
    documented = [inspect.getdoc(x) or "" for x in vars(reference).values() if callable(x)]
    prose = sum(len(text.splitlines()) for text in documented)
    assert len([line for line in source.splitlines() if line.strip()]) - prose < 100
