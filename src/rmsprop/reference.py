"""The Rule in plain NumPy, in the order of the equations: the definition of correct.

Slow, short, and shipped: every kernel and front-end is tested against it, step by step.
"""

from typing import Any, NamedTuple

import numpy as np

from rmsprop.rule import Rule

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]


class State(NamedTuple):
    """What one array's optimizer remembers; v, m and b have the array's shape and dtype."""

    t: int  # steps taken
    v: Array  # average (or sum) of squared gradients
    m: Array  # average of gradients, centered only
    b: Array  # momentum buffer, or Adam's first moment


def init(rule: Rule, p: Array) -> State:
    """The state before the first step: v at `initial_scale`, m and b at zero.

    Examples
    --------
    >>> init(Rule(initial_scale=1.0), np.zeros(2)).v
    array([1., 1.])
    """
    return State(0, np.full_like(p, rule.initial_scale), np.zeros_like(p), np.zeros_like(p))


def clip(rule: Rule, grads: list[Array]) -> list[Array]:
    """The gradients of all arrays, clipped by value, by each array's norm or by the joint norm."""
    if rule.clip_value is not None:
        return [np.clip(g, -rule.clip_value, rule.clip_value) for g in grads]
    norms = [_norm(g) for g in grads]
    if rule.clip_norm is not None:
        return [
            g * min(1.0, rule.clip_norm / max(n, 1e-300)) for g, n in zip(grads, norms, strict=True)
        ]
    if rule.clip_global_norm is not None:
        scale = min(1.0, rule.clip_global_norm / max(float(np.hypot.reduce(norms)), 1e-300))
        return [g * scale for g in grads]
    return grads


def _norm(g: Array) -> float:
    """The Euclidean norm in float64, also where the squares overflow."""
    wide = g.ravel().astype(np.float64)
    largest = float(np.abs(wide).max(initial=0.0))
    return largest * float(np.linalg.norm(wide / largest)) if 0 < largest < np.inf else largest


def update(rule: Rule, p: Array, g: Array, state: State) -> tuple[Array, State]:
    """One step of one array: the new parameters and the new state; nothing is changed in place.

    Parameters
    ----------
    rule
        The update; a schedule is `rule.replace(lr=...)` at each step.
    p, g
        Parameters and their (clipped) gradient: the same shape, float32 or float64.
    state
        As `init` or the step before returned it.

    Examples
    --------
    >>> p = np.array([1.0])
    >>> p, state = update(Rule(lr=0.1, decay=0.0), p, np.array([4.0]), init(Rule(), p))
    >>> round(float(p[0]), 6)
    0.9
    """
    lr, rho, mu, wd = rule.lr, rule.decay, rule.momentum, rule.weight_decay
    t, v, m, b = state
    t = t + 1
    if rule.maximize:
        g = -g
    if wd and not rule.decoupled_weight_decay:
        g = g + wd * p
    if wd and rule.decoupled_weight_decay:
        p = p - lr * wd * p
    if rule.second_moment == "ema":
        v = rho * v + (1 - rho) * g**2
    elif rule.second_moment == "sum":
        v = v + g**2
    if rule.centered:
        m = rho * m + (1 - rho) * g
    u = g
    if rule.first_moment == "before":
        b = mu * b + (1 - mu) * g
        u = b / (1 - mu**t) if rule.bias_correction else b
    if rule.second_moment != "none":
        u = u / denominator(rule, v, m, t)
    if rule.momentum == 0 or rule.first_moment == "before":
        return p - lr * u, State(t, v, m, b)
    gain, rate = (lr, 1.0) if rule.lr_in_momentum else (1.0, lr)
    u = gain * u
    b = mu * b + u
    p = p - rate * (mu * b + u if rule.nesterov else b)
    return p, State(t, v, m, b)


def denominator(rule: Rule, v: Array, m: Array, t: Any) -> Array:
    """What the gradient is divided by at step t: sqrt(d) + eps or sqrt(d + eps).

    Parameters
    ----------
    rule
        An update with a second moment.
    v, m
        The averages after the step's own gradient has entered.
    t
        The step, counted from 1; an array of steps for arrays of averages with that first axis.

    Examples
    --------
    >>> denominator(Rule(eps=0.5), np.array([4.0]), np.array([0.0]), 1)
    array([2.5])
    """
    fix = 1 - rule.decay**t if rule.bias_correction and rule.second_moment == "ema" else 1.0
    d = v / fix
    if rule.centered:
        d = np.maximum(d - (m / fix) ** 2, 0)
    return np.sqrt(d + rule.eps) if rule.eps_in_sqrt else np.sqrt(d) + rule.eps


def step(
    rule: Rule, params: list[Array], grads: list[Array], states: list[State]
) -> tuple[list[Array], list[State]]:
    """One step of many arrays, clipping included: the new parameters and the new states."""
    # Clipping is symmetric, so it may stand before the change of sign of `maximize`.
    clipped = clip(rule, grads)
    moved = [update(rule, p, g, s) for p, g, s in zip(params, clipped, states, strict=True)]
    return [p for p, _ in moved], [s for _, s in moved]
