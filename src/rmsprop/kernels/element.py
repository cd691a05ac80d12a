"""The arithmetic of one step of one number: the lines of `rmsprop.reference`, for compiled loops.

`flags` is a constant of the loop that calls `element`, so what a rule does not use is not compiled.
"""

import pkgutil
import zlib
from typing import Any

import numpy as np
from numba import njit

from rmsprop.rule import Rule


def fingerprint(module: str) -> int:
    """A number that changes with the source of a module.

    Numba's disk cache looks for changes in the file of the function that it compiled, not in those that it
    calls.  A loop that closes over this number of theirs is compiled anew when they change.
    """
    package, _, name = module.rpartition(".")
    return zlib.crc32(pkgutil.get_data(package, f"{name}.py") or b"")


FINGERPRINT = fingerprint(__name__)
"""Of the arithmetic below."""

# One bit for each switch. Numba compiles them as constants.
SCALE = 1 << 0  # multiply g by `scale`: clipping by norm, and the minus sign of maximize
CLIP = 1 << 1
COUPLED = 1 << 2
DECOUPLED = 1 << 3
EMA = 1 << 4
SUM = 1 << 5
BEFORE = 1 << 6  # Adam's place for the first moment
CENTERED = 1 << 7
CORRECT = 1 << 8
EPS_IN_SQRT = 1 << 9
MOMENTUM = 1 << 10  # after the division
NESTEROV = 1 << 11
LR_IN_MOMENTUM = 1 << 12

HAS_V = EMA | SUM
HAS_M = CENTERED
HAS_B = BEFORE | MOMENTUM


def flags_of(rule: Rule) -> int:
    """The switches of a rule as bits.

    Examples
    --------
    >>> flags_of(Rule()) == EMA
    True
    """
    before = rule.first_moment == "before"
    coupled = rule.weight_decay > 0 and not rule.decoupled_weight_decay
    bits = {
        SCALE: rule.maximize or bool(rule.clip_norm or rule.clip_global_norm),
        CLIP: rule.clip_value is not None,
        COUPLED: coupled,
        DECOUPLED: rule.weight_decay > 0 and not coupled,
        EMA: rule.second_moment == "ema",
        SUM: rule.second_moment == "sum",
        BEFORE: before,
        CENTERED: rule.centered,
        CORRECT: rule.bias_correction,
        EPS_IN_SQRT: rule.eps_in_sqrt,
        MOMENTUM: rule.momentum > 0 and not before,
        NESTEROV: rule.nesterov,
        LR_IN_MOMENTUM: rule.lr_in_momentum and rule.momentum > 0,
    }
    return sum(bit for bit, on in bits.items() if on)


def scalars_of(rule: Rule, lr: float, t: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The numbers of step `t` (from 1), in the order in which `element` unpacks them."""
    rho, mu, wd = rule.decay, rule.momentum, rule.weight_decay
    fix_v = 1 / (1 - rho**t) if rule.bias_correction else 1.0
    fix_b = 1 / (1 - mu**t) if rule.bias_correction and mu < 1 else 1.0
    clip = rule.clip_value or 0.0
    return np.array([lr, rho, 1 - rho, rule.eps, mu, 1 - mu, wd, lr * wd, fix_v, fix_b, clip])


@njit(inline="always", error_model="numpy")
def element(flags, p, g, v, m, b, scale, h):
    """One step of one number: the new (p, v, m, b). `h` holds `scalars_of`, then a typed zero."""
    lr, rho, rho1, eps, mu, mu1, wd, lr_wd, fix_v, fix_b, clip, zero = h
    if flags & SCALE:
        g = g * scale
    if flags & CLIP:  # written so that a NaN stays a NaN
        if g > clip:
            g = clip
        if g < -clip:
            g = -clip
    if flags & COUPLED:
        g = g + wd * p
    if flags & DECOUPLED:
        p = p - lr_wd * p
    if flags & EMA:
        v = rho * v + rho1 * (g * g)
    if flags & SUM:
        v = v + g * g
    u = g
    if flags & BEFORE:
        b = mu * b + mu1 * g
        u = b
        if flags & CORRECT:
            u = b * fix_b
    if flags & HAS_V:
        d = v
        if flags & CORRECT and flags & EMA:
            d = v * fix_v
        if flags & CENTERED:
            m = rho * m + rho1 * g
            mean = m
            if flags & CORRECT:
                mean = m * fix_v
            d = d - mean * mean
            if d < zero:  # rounding; a NaN stays a NaN
                d = zero
        if flags & EPS_IN_SQRT:
            u = u / np.sqrt(d + eps)
        else:
            u = u / (np.sqrt(d) + eps)
    if flags & MOMENTUM:
        if flags & LR_IN_MOMENTUM:
            u = lr * u
        b = mu * b + u
        s = b
        if flags & NESTEROV:
            s = mu * b + u
        if flags & LR_IN_MOMENTUM:
            p = p - s
        else:
            p = p - lr * s
    else:
        p = p - lr * u
    return p, v, m, b
