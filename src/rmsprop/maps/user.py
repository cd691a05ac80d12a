"""Surfaces in plain Python, compiled where Numba can: a map has too many steps for Python."""

import dataclasses
import functools
import math
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from rmsprop.kernels.threads import INTERPRETED
from rmsprop.surfaces import Surface
from rmsprop.surfaces.user import calm, differences

Function = Callable[..., Any]


@functools.lru_cache(maxsize=32)
def compiled_surface(surface: Surface) -> Surface:
    """The surface with functions that Numba compiles, or as it is where it cannot.

    Parameters
    ----------
    surface
        One with `jit` False. Its compiled functions must agree with it at five points of the domain: what
        Numba would compute otherwise, such as whole numbers beyond 64 bits, stays in Python.

    Examples
    --------
    >>> from rmsprop.surfaces import from_function
    >>> compiled_surface(from_function(lambda x, y: x**2 + 3 * y**2, name="bowl")).jit
    True
    """
    if surface.jit or INTERPRETED:
        return surface
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = _compilable(surface.value)
            gradient = _compilable(surface.gradient)
            agree = _agree(surface, njit(value), njit(gradient))
    except Exception:  # whatever Numba says of a function that it cannot compile
        return surface
    return (
        dataclasses.replace(surface, value=value, gradient=gradient, jit=True) if agree else surface
    )


def _compilable(function: Function) -> Function:
    """What stands in for a function of `from_function`; for another, the function itself."""
    inside = _closed_over(function)
    code = getattr(function, "__code__", None)
    if code is _CALM:
        return _calm_number(_jitted(inside["f"])) if inside["convert"] is float else (
            _calm_pair(_jitted(inside["f"]))
        )  # fmt: skip
    if code is _DIFFERENCES:
        return differences(njit(error_model="numpy")(_compilable(inside["f"])))
    return getattr(function, "py_func", function)


def _jitted(function: Function) -> Function:
    """Compiled, if it is written in Python; Numba knows others, such as `math.hypot`, itself."""
    python = isinstance(function, types.FunctionType)
    return njit(error_model="numpy")(function) if python else function


def _calm_number(f: Function) -> Function:
    def value(x, y):
        if math.isfinite(x) and math.isfinite(y):
            return float(f(x, y))
        return math.nan

    return value


def _calm_pair(f: Function) -> Function:
    def gradient(x, y):
        if math.isfinite(x) and math.isfinite(y):
            a, b = f(x, y)
            return float(a), float(b)
        return math.nan, math.nan

    return gradient


def _closed_over(function: Function) -> dict[str, Any]:
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars if cells else ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}


# Two wrappers of `from_function`: Numba compiles what they wrap, but not them.
_CALM, _DIFFERENCES = calm(abs, float, 0.0).__code__, differences(max).__code__


def _agree(surface: Surface, value: Function, gradient: Function) -> bool:
    (left, right), (low, high) = surface.domain
    shares = ((0.21, 0.67), (0.43, 0.13), (0.58, 0.87), (0.83, 0.38))
    points = [(left + s * (right - left), low + t * (high - low)) for s, t in shares]
    for x, y in (surface.start, *points):
        expected, slope = surface.value(x, y), surface.gradient(x, y)
        if not np.isclose(value(x, y), expected, rtol=1e-9, atol=0.0, equal_nan=True):
            return False
        # Differences magnify what rounding does to the value by 1e5.
        noise = 1e-8 * abs(expected) if math.isfinite(expected) else 0.0
        if not np.allclose(gradient(x, y), slope, rtol=1e-6, atol=noise, equal_nan=True):
            return False
    return True
