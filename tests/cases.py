"""The one table that drives the test matrices: rules, shapes, dtypes with their tolerances, error cases.

Tests import what they need from here.  The measure of "equal up to rounding" stands here too: `allowance`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rmsprop import DIALECTS, PRESETS, Rule
from rmsprop.reference import State

Array = np.ndarray[Any, Any]

# Every switch, and every pair of switches that can stand together (test_kernels asserts it).
RULES: dict[str, Rule] = {
    "plain": Rule(lr=0.01),
    "inside": Rule(lr=0.01, eps_in_sqrt=True, initial_scale=1.0),
    "momentum": Rule(lr=0.01, momentum=0.9),
    "lr-in-buffer": Rule(lr=0.01, momentum=0.9, lr_in_momentum=True),
    "heavy": Rule(lr=0.01, momentum=1.0, decay=0.0, eps=1e-3),
    "nesterov": Rule(lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "nesterov-in": Rule(
        lr=0.01, momentum=0.5, nesterov=True, lr_in_momentum=True, eps_in_sqrt=True, clip_value=0.5
    ),
    "centered": Rule(lr=0.01, centered=True, decay=0.99),
    "graves": Rule.from_dialect("graves", lr=0.01),
    "centered-all": Rule(
        lr=0.01, centered=True, momentum=0.9, nesterov=True, lr_in_momentum=True, maximize=True,
        weight_decay=0.1,
    ),
    "coupled": Rule(lr=0.01, weight_decay=0.1, eps_in_sqrt=True, lr_in_momentum=True),
    "decoupled": Rule(lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "decoupled-all": Rule(
        lr=0.01, weight_decay=0.1, decoupled_weight_decay=True, momentum=0.9, nesterov=True,
        lr_in_momentum=True, centered=True, eps_in_sqrt=True, clip_norm=0.7,
    ),
    "corrected": Rule(lr=0.01, bias_correction=True),
    "corrected-centered": Rule(lr=0.01, bias_correction=True, centered=True, clip_value=0.5),
    "corrected-all": Rule(
        lr=0.01, bias_correction=True, centered=True, momentum=0.9, nesterov=True, maximize=True,
        lr_in_momentum=True, weight_decay=0.1, eps_in_sqrt=True, initial_scale=0.5,
    ),
    "corrected-decoupled": Rule(
        lr=0.01, bias_correction=True, weight_decay=0.1, decoupled_weight_decay=True, maximize=True,
        clip_value=0.5, momentum=0.9,
    ),
    "maximize": Rule(lr=0.01, maximize=True),
    "clip-value": Rule(lr=0.01, clip_value=0.5, maximize=True, weight_decay=0.1),
    "clip-norm": Rule(lr=0.01, clip_norm=0.7, maximize=True),
    "clip-global-norm": Rule(lr=0.01, clip_global_norm=0.7, momentum=0.9, lr_in_momentum=True),
    "sgd": Rule.from_dialect("sgd", lr=0.01),
    "sgd-all": Rule.from_dialect("nesterov", lr=0.01, weight_decay=0.1, clip_norm=0.7),
    "sgd-decoupled": Rule.from_dialect(
        "momentum", lr=0.01, weight_decay=0.1, decoupled_weight_decay=True, lr_in_momentum=True
    ),
    "mean-gradient": Rule(
        lr=0.01, second_moment="none", first_moment="before", momentum=0.9, bias_correction=True
    ),
    "adagrad": Rule.from_dialect("adagrad", lr=0.01),
    "adagrad-all": Rule.from_dialect(
        "adagrad", lr=0.01, momentum=0.9, nesterov=True, lr_in_momentum=True, eps_in_sqrt=True,
        weight_decay=0.1, clip_value=0.5, maximize=True, initial_scale=0.1,
    ),
    "adagrad-decoupled": Rule.from_dialect(
        "adagrad", lr=0.01, weight_decay=0.1, decoupled_weight_decay=True
    ),
    "adam": Rule.from_dialect("adam", lr=0.01),
    "adamw": Rule.from_dialect("adamw", lr=0.01, clip_global_norm=0.7),
    "adam-coupled": Rule.from_dialect("adam", lr=0.01, weight_decay=0.1, clip_value=0.5),
    "adam-centered": Rule(
        lr=0.01, first_moment="before", momentum=0.9, centered=True, eps_in_sqrt=True
    ),
    "adam-sum": Rule(
        lr=0.01, first_moment="before", momentum=0.5, second_moment="sum", bias_correction=True
    ),
}  # fmt: skip
"""Rules by name: the matrix of every test that compares the kernel with something."""


class Precision(NamedTuple):
    """A dtype and what is equal in it."""

    dtype: np.dtype[Any]
    rtol: float
    """Of a run of hundreds of steps, relative to the largest value so far; 0 where runs drift apart."""
    ulps: int
    """Of one step, in units in the last place of the largest operand."""


FLOAT64 = Precision(np.dtype("float64"), 1e-12, 4)
FLOAT32 = Precision(np.dtype("float32"), 0.0, 4)
FLOAT16 = Precision(np.dtype("float16"), 0.0, 4)
PRECISIONS = {p.dtype.name: p for p in (FLOAT64, FLOAT32, FLOAT16)}

# 0, 1 and the sizes around what a vector loop takes at a time, unrolled or not.
SHAPES: list[tuple[int, ...]] = [
    (), (0,), (1,), (7,), (16,), (17,), (3, 5), (4, 1, 6), (2, 0, 3), (15,), (63,), (64,), (65,),
    (127,), (128,), (129,),
]  # fmt: skip
# The parallel path begins at 2 * 65,536 elements for two threads.
LARGE_SHAPES: list[tuple[int, ...]] = [(131_072,), (131_073,), (401, 333)]

# A field of Rule, a value that it refuses, the exception, and a word of the message beside the field's name.
BAD_FIELDS: list[tuple[str, Any, type[Exception], str]] = [
    *[
        (name, value, ValueError, "at least 0")
        for name in ("lr", "eps", "weight_decay", "initial_scale")
        for value in (-1e-9, math.nan, math.inf, -math.inf, 10**400)
    ],
    *[("decay", value, ValueError, "[0, 1)") for value in (-0.1, 1.0, 1.5, math.nan, math.inf)],
    *[("momentum", value, ValueError, "[0, 1]") for value in (-0.1, 1.1, math.nan, math.inf)],
    *[
        (name, value, ValueError, "above 0")
        for name in ("clip_value", "clip_norm", "clip_global_norm")
        for value in (0, -1.0, math.nan, math.inf)
    ],
    *[
        (name, value, TypeError, "number")
        for name in (
            "lr", "decay", "eps", "momentum", "weight_decay", "initial_scale", "clip_value",
            "clip_norm", "clip_global_norm",
        )
        for value in ("0.1", True, 0.1j, [0.1], np.array([0.1]))
    ],
    *[
        (name, None, TypeError, "number")
        for name in ("lr", "decay", "eps", "momentum", "weight_decay", "initial_scale")
    ],
    *[
        (name, value, TypeError, "True or False")
        for name in (
            "centered", "nesterov", "decoupled_weight_decay", "eps_in_sqrt", "lr_in_momentum",
            "bias_correction", "maximize",
        )
        for value in (1, 0, "yes", None)
    ],
    *[("second_moment", value, ValueError, "ema, sum, none") for value in ("EMA", "", None, 1)],
    *[("first_moment", value, ValueError, "after, before") for value in ("none", True, None)],
]  # fmt: skip

# Switches that exclude each other, and words of the message: the switch and the remedy's name.
CONFLICTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"nesterov": True}, ["nesterov", "momentum"]),
    ({"nesterov": True, "momentum": 0.9, "first_moment": "before"}, ["nesterov", "first_moment"]),
    (
        {"lr_in_momentum": True, "momentum": 0.9, "first_moment": "before"},
        ["lr_in_momentum", "first_moment"],
    ),
    ({"first_moment": "before", "momentum": 1.0}, ["first_moment", "momentum"]),
    ({"centered": True, "second_moment": "sum"}, ["centered", "second_moment"]),
    ({"centered": True, "second_moment": "none"}, ["centered", "second_moment"]),
    ({"bias_correction": True, "second_moment": "sum"}, ["bias_correction", "second_moment"]),
    ({"bias_correction": True, "second_moment": "none"}, ["bias_correction", "second_moment"]),
    ({"clip_value": 1.0, "clip_norm": 1.0}, ["clip_value", "clip_norm"]),
    ({"clip_norm": 1.0, "clip_global_norm": 1.0}, ["clip_norm", "clip_global_norm"]),
]

# What cannot be a parameter or a gradient, and a word of the message.
BAD_ARRAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "integer": (lambda: np.ones(3, np.int64), "int64"),
    "complex": (lambda: np.ones(3, np.complex128), "imaginary"),
    "bool": (lambda: np.ones(3, bool), "bool"),
    "object": (lambda: np.array([1.0, 2.0, None]), "object"),
    "string": (lambda: np.array(["a", "b", "c"]), "<U1"),
    "longdouble": (lambda: np.ones(3, np.longdouble), "float"),
    "big-endian": (lambda: np.ones(3, np.dtype("float64").newbyteorder()), "byte order"),
    "masked": (lambda: np.ma.masked_array(np.ones(3), np.arange(3) == 1), "mask"),
    "structured": (lambda: np.ones(3, [("x", "f8")]), "float16, float32 or float64"),
    "list of floats": (lambda: [1.0, 2.0, 3.0], "float"),
    "number": (lambda: 1.0, "float"),
    "NumPy scalar": (lambda: np.float64(1.0), "float64"),
    "None": (lambda: None, "NoneType"),
    "string leaf": (lambda: "w", "str"),
}


def dialect_rules() -> dict[str, Rule]:
    """Every dialect and preset with its defaults, and lr = 0.01 where it has none."""
    known = {**DIALECTS, **PRESETS}
    return {
        name: Rule.from_dialect(name, **({} if "lr" in entry.fields else {"lr": 0.01}))
        for name, entry in known.items()
    }


def mixed_gradients(steps: int, size: int, dtype: np.dtype[Any], seed: int = 0) -> Array:
    """Random gradients [steps, size]: each column has its own scale, 1e-6 to 1e3, each row its spikes."""
    rng = np.random.default_rng(seed)
    scales = np.logspace(-6, 3, size) * 10 ** rng.normal(0, 0.5, (steps, size))
    return (rng.normal(0, 1, (steps, size)) * scales).astype(dtype)


def ulp(dtype: np.dtype[Any], *operands: Any) -> Array:
    """One unit in the last place of the largest operand, elementwise, as float64."""
    largest = np.max(np.abs(np.broadcast_arrays(*operands)), axis=0)
    most = np.nextafter(
        np.finfo(dtype).max, dtype.type(0)
    )  # infinity has no spacing, the last no next
    with np.errstate(invalid="ignore"):  # of a NaN
        return np.spacing(np.minimum(largest.astype(float), float(most)).astype(dtype)).astype(
            float
        )


def allowance(
    rule: Rule,
    p: Array,
    g: Array,
    before: State,
    dtype: np.dtype[Any],
    ulps: float,
    lr: Any = None,
) -> dict[str, Array]:
    """How far two right computations of one step may stand apart: for p, v, m and b, elementwise.

    An operation may be off by `ulps` units in the last place of its largest operand, as where operands
    cancel (v - m^2 when centered, g + wd*p, mu*b + u, p - lr*u) the digits are lost that they had.  What
    an operand is off by is carried on: through the root by evaluating it at both ends.

    Parameters
    ----------
    rule, p, g, before
        What the step starts from. g is clipped already.
    dtype
        What the step computes in.
    lr
        In place of the rule's. With a column of rates, and a column of steps in `before.t`, the rows of the
        other arrays are many steps at once.
    """
    rho, mu, wd = rule.decay, rule.momentum, rule.weight_decay
    lr = rule.lr if lr is None else lr
    p, g, v, m, b = (np.asarray(x, np.float64) for x in (p, g, *before[1:]))
    t = before.t + 1

    def off(*operands: Any) -> Array:
        return ulps * ulp(dtype, *operands)

    # A norm is a sum, and its last digits follow the order in which it was added up.
    dg = 4 * off(g) if rule.clip_norm or rule.clip_global_norm else np.zeros_like(g)
    g = -g if rule.maximize else g
    if wd and not rule.decoupled_weight_decay:
        dg = dg + off(g, wd * p)
        g = g + wd * p
    # Whether a square overflows beside the largest number depends on fusing: nothing is known there.
    unknown = np.abs(g) > np.sqrt(float(np.finfo(dtype).max)) / 4
    dp = np.zeros_like(p)
    if wd and rule.decoupled_weight_decay:
        dp = off(p)
        p = p - lr * wd * p
    dv, dm, db = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    if rule.second_moment == "ema":
        dv = off(rho * v, (1 - rho) * g * g) + 2 * (1 - rho) * np.abs(g) * dg
        v = rho * v + (1 - rho) * g * g
    elif rule.second_moment == "sum":
        dv = off(v, g * g) + 2 * np.abs(g) * dg
        v = v + g * g
    u, du = g, dg
    if rule.first_moment == "before":
        db = off(mu * b, (1 - mu) * g) + (1 - mu) * dg
        b = mu * b + (1 - mu) * g
        fix = 1 - mu**t if rule.bias_correction else 1.0
        u, du = b / fix, (db + off(b)) / fix
    if rule.second_moment != "none":
        fix = 1 - rho**t if rule.bias_correction and rule.second_moment == "ema" else 1.0
        d, dd = v / fix, (dv + off(v)) / fix
        if rule.centered:
            dm = off(rho * m, (1 - rho) * g) + (1 - rho) * dg
            m = rho * m + (1 - rho) * g
            mean = m / fix
            dd = dd + off(d, mean**2) + 2 * np.abs(mean) * (dm + off(m)) / fix
            d = np.maximum(d - mean**2, 0)

        def root(x: Array) -> Array:
            x = np.maximum(x, 0)
            return np.sqrt(x + rule.eps) if rule.eps_in_sqrt else np.sqrt(x) + rule.eps

        with np.errstate(all="ignore"):
            low, high = np.abs(u) / root(d + dd), np.abs(u) / root(d - dd)
            u = u / root(d)
            du = np.where(high > low, high - low, 0) + off(high) + du / root(d - dd)
    with np.errstate(invalid="ignore"):
        if rule.momentum == 0 or rule.first_moment == "before":
            found = {"p": dp + off(p, lr * (np.abs(u) + du)) + lr * du, "v": dv, "m": dm, "b": db}
        else:
            gain, rate = (lr, 1.0) if rule.lr_in_momentum else (1.0, lr)
            u, du = gain * u, gain * du + off(gain * (np.abs(u) + du))
            db = off(mu * b, np.abs(u) + du) + du
            b = mu * b + u
            move, dmove = b, db
            if rule.nesterov:
                move, dmove = mu * b + u, off(mu * b, np.abs(u) + du) + mu * db + du
            p_slack = dp + off(p, rate * (np.abs(move) + dmove)) + rate * dmove
            found = {"p": p_slack, "v": dv, "m": dm, "b": db}
    return {name: np.where(unknown, np.inf, x) for name, x in found.items()}


def assert_within(found: Any, expected: Any, allowed: Any, what: str = "") -> None:
    """Every element within its allowance; NaN and infinities in the same places with the same sign."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, what
    allowed = np.broadcast_to(allowed, expected.shape)
    with np.errstate(invalid="ignore"):
        good = (found == expected) | (np.isnan(found) & np.isnan(expected))
        good |= np.abs(found - expected) <= allowed
        good |= np.isposinf(allowed)  # a cancellation to nothing, divided by it: nothing is known
    if not good.all():
        at = tuple(int(k) for k in np.argwhere(~good)[0])
        raise AssertionError(
            f"{what} at {at}: {found[at]!r} is not {expected[at]!r} within {allowed[at]!r} "
            f"({(~good).sum()} of {good.size} are off)"
        )
