"""Optimizer paths over two-dimensional surfaces: compiled, and thousands at once."""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from rmsprop.kernels.element import FINGERPRINT, element, fingerprint, flags_of, scalars_of
from rmsprop.kernels.threads import INTERPRETED, compiled, threads
from rmsprop.reference import denominator
from rmsprop.rule import Rule
from rmsprop.schedules import Schedule, as_schedule
from rmsprop.surfaces import SURFACES, Surface

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Path:
    """What happened at each of `steps` + 1 moments, the start first; float64.

    With several starts, every array has one more axis in front.
    """

    positions: Array
    """(steps + 1, 2)"""
    losses: Array
    """(steps + 1,): the surface without its noise"""
    v: Array
    """(steps + 1, 2): average of squared gradients"""
    rates: Array
    """(steps, 2): effective learning rate of each coordinate, lr over the denominator of the step"""


def path(
    surface: Surface,
    rule: Rule,
    start: Any,
    steps: int,
    *,
    learning_rate: Schedule | float | None = None,
    seed: int = 0,
) -> Path:
    """Follow a rule over a surface.

    Parameters
    ----------
    surface
        With `surface.noise` s above 0, each step's gradient is that of f(x) + u.x, u ~ N(0, s^2 I).
    rule
        The update. Clipping by norm takes the norm of the two components together.
    start
        A point, (2,), or many, (n, 2).
    steps
        How many updates.
    learning_rate
        A number or a schedule in place of `rule.lr`.
    seed
        Of the noise. Path k of n draws from a stream of its own, whatever n is.

    Raises
    ------
    ValueError
        For a start that is not a point or points, not finite, or steps below 1.

    Examples
    --------
    >>> from rmsprop.surfaces import SURFACES
    >>> found = path(SURFACES["sphere"], Rule(lr=0.1), (3.0, -4.0), 200)
    >>> found.positions.shape, bool(found.losses[-1] < 0.01)
    ((201, 2), True)
    """
    starts = np.asarray(start, dtype=np.float64)
    if starts.ndim not in (1, 2) or starts.shape[-1] != 2 or not np.isfinite(starts).all():
        raise ValueError(f"start must be a finite point (x, y), or an array (n, 2); got {start!r}")
    if steps < 1:
        raise ValueError(f"steps must be 1 or more; got {steps}")
    schedule = as_schedule(rule.lr if learning_rate is None else learning_rate)
    lrs = np.array([schedule(t) for t in range(steps)], dtype=np.float64)
    if not (np.isfinite(lrs) & (lrs >= 0)).all():
        raise ValueError("learning_rate must be finite and at least 0 at every step")
    flat = np.ascontiguousarray(starts.reshape(-1, 2))
    p, losses, v, m = _run(surface, rule, flat, lrs, noise_of(surface, len(flat), steps, seed))
    found = Path(p, losses, v, _rates(rule, lrs, v, m))
    if starts.ndim == 2:
        return found
    return Path(found.positions[0], found.losses[0], found.v[0], found.rates[0])


def grid(surface: Surface, xs: Any, ys: Any) -> Array:
    """The surface's values, (len(ys), len(xs)), for a contour plot.

    Examples
    --------
    >>> from rmsprop.surfaces import SURFACES
    >>> grid(SURFACES["sphere"], [0.0, 1.0], [0.0, 2.0]).tolist()
    [[0.0, 1.0], [4.0, 5.0]]
    """
    fill = specialise(_fill_of, (surface_key(surface),), _FILL, surface)
    out = np.empty((len(ys), len(xs)))
    fill(np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64), out)
    return out


def _rates(rule: Rule, lrs: Array, v: Array, m: Array) -> Array:
    rates = np.broadcast_to(lrs[:, None], v[:, 1:].shape)
    if rule.second_moment == "none":
        return rates.copy()
    t = np.arange(1, len(lrs) + 1)[:, None]
    with np.errstate(all="ignore"):
        return rates / denominator(rule, v[:, 1:], m[:, 1:], t)


def noise_of(surface: Surface, paths: int, steps: int, seed: int) -> Array:
    """(paths, steps, 2), or (paths, 0, 2) without noise."""
    if not surface.noise:
        return np.empty((paths, 0, 2))
    streams = [np.random.default_rng([seed, k]) for k in range(paths)]
    noise = np.stack([stream.normal(0.0, surface.noise, (steps, 2)) for stream in streams])
    noise[..., surface.dim :] = 0.0
    return noise


def _run(surface: Surface, rule: Rule, starts: Array, lrs: Array, noise: Array) -> Any:
    n, steps = len(starts), len(lrs)
    p, v = np.empty((n, steps + 1, 2)), np.empty((n, steps + 1, 2))
    m, losses = np.empty((n, steps + 1, 2)), np.empty((n, steps + 1))
    walk = specialise(_walk_of, (surface_key(surface), flags_of(rule)), _WALK, surface)
    h = scalars_of(rule, rule.lr, 1)
    clip = np.array([rule.clip_norm or np.inf, rule.clip_global_norm or np.inf])
    sign = -1.0 if rule.maximize else 1.0

    def share(k: slice) -> None:
        numbers = (rule.initial_scale, clip.min(), sign)
        walk(starts[k], lrs, noise[k], h, numbers, p[k], v[k], m[k], losses[k])

    # One compiled function for one path and for thousands: the threads are Python's, without the GIL.
    parts = 1 if interpreted(surface) else max(1, min(threads(), n * steps // 100_000))
    cuts = [n * part // parts for part in range(parts + 1)]
    slices = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    with np.errstate(all="ignore"):
        if parts == 1:
            share(slices[0])
        else:
            with ThreadPoolExecutor(parts) as pool:
                list(pool.map(share, slices))
    return p, losses, v, m


# Numba caches compiled code on disk by the constants that a function closes over, and cannot do so for
# functions. So the surface goes in by name, and `value_at` and `gradient_at` look it up as they compile.
# It does not see either that a function changed in another file: that is what the stamp is for.
_others: dict[str, Surface] = {}
STAMP = FINGERPRINT ^ fingerprint("rmsprop.surfaces.functions")


def surface_key(surface: Surface) -> str:
    known = SURFACES.get(surface.name)
    if known is not None and known.value is surface.value and known.gradient is surface.gradient:
        return surface.name
    key = f"{surface.name}@{id(surface.value)}@{id(surface.gradient)}"
    _others[key] = surface  # keeps the functions alive, so that the ids stay theirs
    return key


def _named(key: str) -> Surface:
    return SURFACES[key] if key in SURFACES else _others[key]


def interpreted(surface: Surface) -> bool:
    return INTERPRETED or not surface.jit


def value_at(key: str, x: float, y: float) -> float:
    return _named(key).value(x, y)


def gradient_at(key: str, x: float, y: float) -> tuple[float, float]:
    return _named(key).gradient(x, y)


@overload(value_at)
def _compile_value(key, x, y):
    if isinstance(key, types.StringLiteral):
        function = njit(error_model="numpy")(_named(key.literal_value).value)
        return lambda key, x, y: function(x, y)
    return None  # Numba asks again with the literal type


@overload(gradient_at)
def _compile_gradient(key, x, y):
    if isinstance(key, types.StringLiteral):
        function = njit(error_model="numpy")(_named(key.literal_value).gradient)
        return lambda key, x, y: function(x, y)
    return None


def _walk_of(key: str, flags: int) -> Callable[..., None]:
    """The loop over paths and steps, for one surface and the switches of one rule."""
    rho_at, mu_at, fix_v_at, fix_b_at = 1, 4, 8, 9  # places in `scalars_of`
    stamp = STAMP

    def walk(starts, lrs, noise, h, numbers, p, v, m, losses):
        initial, clip, sign = numbers
        for k in range(starts.shape[0]):
            bx = by = 0.0 * stamp
            for axis in range(2):
                p[k, 0, axis] = starts[k, axis]
                v[k, 0, axis] = initial
                m[k, 0, axis] = 0.0
            losses[k, 0] = value_at(key, starts[k, 0], starts[k, 1])
            for t in range(lrs.size):
                x, y = p[k, t, 0], p[k, t, 1]
                gx, gy = gradient_at(key, x, y)
                if noise.shape[1]:
                    gx += noise[k, t, 0]
                    gy += noise[k, t, 1]
                scale = sign
                norm = np.hypot(gx, gy)
                if norm > clip:
                    scale = sign * clip / norm
                lr = lrs[t]
                fix_v = 1.0 / (1.0 - h[rho_at] ** (t + 1)) if h[fix_v_at] != 1.0 else 1.0
                fix_b = 1.0 / (1.0 - h[mu_at] ** (t + 1)) if h[fix_b_at] != 1.0 else 1.0
                hyper = (
                    lr, h[1], h[2], h[3], h[4], h[5], h[6], lr * h[6], fix_v, fix_b, h[10], 0.0
                )  # fmt: skip
                x, vx, mx, bx = element(flags, x, gx, v[k, t, 0], m[k, t, 0], bx, scale, hyper)
                y, vy, my, by = element(flags, y, gy, v[k, t, 1], m[k, t, 1], by, scale, hyper)
                p[k, t + 1, 0], p[k, t + 1, 1] = x, y
                v[k, t + 1, 0], v[k, t + 1, 1] = vx, vy
                m[k, t + 1, 0], m[k, t + 1, 1] = mx, my
                losses[k, t + 1] = value_at(key, x, y)

    return walk


def _fill_of(key: str) -> Callable[..., None]:
    """The loop over the points of a grid."""
    stamp = STAMP

    def fill(xs, ys, out):
        for j in range(ys.size):
            for i in range(xs.size):
                out[j, i] = value_at(key, xs[i], ys[j]) + 0 * stamp

    return fill


_ONE, _TWO, _THREE = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
_NUMBERS = types.UniTuple(types.float64, 3)
_FILL = types.void(_ONE, _ONE, _TWO)
_WALK = types.void(_TWO, _ONE, _THREE, _ONE, _NUMBERS, _THREE, _THREE, _THREE, _TWO)


@functools.cache
def _compile(build: Callable[..., Any], constants: tuple[Any, ...], signature: Any) -> Any:
    lasting = constants[0] in SURFACES
    return compiled(
        lambda cache: njit([signature], cache=cache and lasting, nogil=True, error_model="numpy")(
            build(*constants)
        )
    )


def specialise(build: Any, constants: tuple[Any, ...], signature: Any, surface: Surface) -> Any:
    return build(*constants) if interpreted(surface) else _compile(build, constants, signature)
