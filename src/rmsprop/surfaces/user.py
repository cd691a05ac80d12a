"""Surfaces from the user's own functions: in Python, or in a file."""

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

from rmsprop.surfaces.surface import Point, Surface, pair_of, ranges_of
from rmsprop.surfaces.table import get
from rmsprop.user_code import find, load_module

_STEP = sys.float_info.epsilon ** (1 / 3)  # balances truncation and rounding of central differences


def from_function(
    f: Callable[..., Any],
    gradient: Callable[..., Any] | None = None,
    *,
    name: str = "",
    domain: tuple[Point, Point] = ((-5.0, 5.0), (-5.0, 5.0)),
    start: Point | None = None,
    minima: Iterable[Point] = (),
    minimum: float | None = None,
    jit: bool = False,
    check: bool = True,
) -> Surface:
    """A surface from your own function of two numbers.

    Without a gradient, central differences stand in::

        df/dx = (f(x+h, y) - f(x-h, y)) / 2h,    h = eps^(1/3) * max(1, |x|)

    Parameters
    ----------
    f
        f(x, y) -> a real number.
    gradient
        (x, y) -> (df/dx, df/dy).
    name
        Default: the name of f.
    domain
        ((x low, x high), (y low, y high)).
    start
        Default: 0.2 of the way along x and 0.7 along y.  f must be finite there.
    minima, minimum
        Where f is least, if you know, and its value there; default f at the first of `minima`.
    jit
        True promises that Numba can compile f and gradient.  Otherwise they are called as plain
        Python, and are nan where x or y is not finite or they overflow or divide by zero.
    check
        Compare `gradient` with central differences at the start and four points of the domain; they
        must agree to 1e-4 relative.  False for an f that is not smooth, or computes in float32.

    Raises
    ------
    ValueError
        For an f that does not take two numbers and return one, a gradient that does not return two
        or is not that of f, and as `Surface` does.

    Examples
    --------
    >>> bowl = from_function(lambda x, y: x**2 + 3 * y**2, name="bowl", minima=[(0, 0)])
    >>> bowl
    Surface(bowl: f(x, y) = bowl(x, y), minimum 0 at (0, 0))
    >>> [round(g, 6) for g in bowl.gradient(1.0, 2.0)]
    [2.0, 12.0]
    """
    name = name or getattr(f, "__name__", "f").strip("<>")
    (left, right), (bottom, top) = domain = ranges_of(domain)
    if start is None:
        start = 0.8 * left + 0.2 * right, 0.3 * bottom + 0.7 * top
    start, minima = pair_of("start", start), tuple(minima)
    _check_value(f, name, start)
    if jit:
        from numba import njit

        value = getattr(f, "py_func", f)  # if already jitted, as it was written
        slope = getattr(gradient, "py_func", gradient) or differences(njit(value))
    else:
        value = calm(f, float, math.nan)
        slope = calm(gradient, _two, (math.nan, math.nan)) if gradient else differences(value)
    if minima and minimum is None:
        minimum = float(value(*minima[0]))
    surface = Surface(name, value, slope, domain, start, minima, minimum, f"{name}(x, y)", jit=jit)
    if gradient and check:
        _check_gradient(surface)
    return surface


def _two(pair: Any) -> Point:
    a, b = pair
    return float(a), float(b)


def calm(f: Callable[..., Any], convert: Callable[[Any], Any], lost: Any) -> Callable[..., Any]:
    def calm(x: float, y: float) -> Any:
        try:
            return convert(f(x, y)) if math.isfinite(x) and math.isfinite(y) else lost
        except ArithmeticError:
            return lost

    return calm


def differences(f: Callable[[float, float], float]) -> Callable[[float, float], Point]:
    def slope(x: float, y: float) -> Point:
        h, k = _STEP * max(1.0, abs(x)), _STEP * max(1.0, abs(y))
        right, left, up, down = x + h, x - h, y + k, y - k  # rounded: divide by what was stepped
        return (f(right, y) - f(left, y)) / (right - left), (f(x, up) - f(x, down)) / (up - down)

    return slope


def _check_value(f: Callable[..., Any], name: str, start: Point) -> None:
    rule = f"{name} must take two numbers, x and y, and return one, but at {start}"
    try:
        result = f(*start)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"{rule} it raises {type(error).__name__}: {error}. Mend it, give a start where it is "
            f"defined, or wrap it, as in lambda x, y: {name}([x, y])"
        ) from error
    if not hasattr(result, "__float__") or getattr(result, "shape", ()):
        raise ValueError(f"{rule} it returns {result!r}: return one float")
    if not math.isfinite(result):
        raise ValueError(f"{rule} it returns {result!r}: give a start where it is finite")


def _check_gradient(surface: Surface) -> None:
    (left, right), (bottom, top) = surface.domain
    shares = ((0.21, 0.67), (0.43, 0.13), (0.58, 0.87), (0.83, 0.38))  # on no axis of symmetry
    points = [(left + s * (right - left), bottom + t * (top - bottom)) for s, t in shares]
    for x, y in (surface.start, *points):
        try:
            given = _two(surface.gradient(x, y))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the gradient of {surface.name} must return two numbers, (df/dx, df/dy), but at "
                f"({x:g}, {y:g}) it raises {type(error).__name__}: {error}. Mend it or leave it out"
            ) from error
        expected = differences(surface.value)(x, y)
        noise = 1e-8 + 1e-9 * abs(surface.value(x, y))  # rounding of the differences
        for g, d in zip(given, expected, strict=True):
            if math.isfinite(d) and not abs(g - d) <= 1e-4 * max(abs(g), abs(d)) + noise:
                raise ValueError(
                    f"the gradient of {surface.name} must be that of its value, but at "
                    f"({x:g}, {y:g}) it gives {given} where central differences give {expected}: "
                    "correct it, leave it out to use differences, or pass check=False"
                )


def load(spec: str) -> Surface:
    """A surface by name, or from a function of (x, y) in a file or an importable module.

    A function `hill` takes its gradient from a `hill_gradient` beside it, where there is one; a
    `Surface` beside it is returned as it is.  The file is run: load only what you trust, and never
    a spec that came over a network.

    Parameters
    ----------
    spec
        A key of `SURFACES`, `path/to/file.py:function` or `module:function`.

    Raises
    ------
    ValueError
        For an unknown name, a missing file, module or function, a file that fails to import, and as
        `from_function` does.

    Examples
    --------
    >>> load("booth").minima
    ((1.0, 3.0),)
    >>> load("math:hypot").value(3.0, 4.0)
    5.0
    """
    where, colon, wanted = spec.rpartition(":")
    if not colon:
        return get(spec)
    module = load_module(where)
    found = getattr(module, wanted, None)
    if isinstance(found, Surface):
        return found
    found = find(module, wanted, " of (x, y)")
    return from_function(found, getattr(module, f"{wanted}_gradient", None), name=wanted)
