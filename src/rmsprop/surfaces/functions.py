"""The test functions and their gradients, as scalar Python on floats.

`numba.njit` compiles them as they stand; for that each is self-contained.  They never raise, so an
optimizer may diverge in peace: powers are products (`**` raises OverflowError), and since `math.sin(inf)`
raises in Python but is nan in Numba, functions with a sine or cosine return nan beyond `_FAR` in both.
"""

import math

Point = tuple[float, float]

_FAR = 1e300  # |x| + |y| up to here keeps every argument of sin and cos finite
_ROOT2 = math.sqrt(2.0)
_BRANIN_B = 5.1 / (4.0 * math.pi * math.pi)
_BRANIN_C = 5.0 / math.pi
_BRANIN_S = 10.0 * (1.0 - 1.0 / (8.0 * math.pi))


def quadratic(x: float, y: float) -> float:
    return x * x


def quadratic_gradient(x: float, y: float) -> Point:
    return 2.0 * x, 0.0


def ravine(x: float, y: float) -> float:
    return 0.5 * (x * x + 100.0 * y * y)


def ravine_gradient(x: float, y: float) -> Point:
    return x, 100.0 * y


def sphere(x: float, y: float) -> float:
    return x * x + y * y


def sphere_gradient(x: float, y: float) -> Point:
    return 2.0 * x, 2.0 * y


def booth(x: float, y: float) -> float:
    a, b = x + 2.0 * y - 7.0, 2.0 * x + y - 5.0
    return a * a + b * b


def booth_gradient(x: float, y: float) -> Point:
    return 10.0 * x + 8.0 * y - 34.0, 8.0 * x + 10.0 * y - 38.0


def matyas(x: float, y: float) -> float:
    return 0.26 * (x * x + y * y) - 0.48 * x * y


def matyas_gradient(x: float, y: float) -> Point:
    return 0.52 * x - 0.48 * y, 0.52 * y - 0.48 * x


def rosenbrock(x: float, y: float) -> float:
    a, b = 1.0 - x, y - x * x
    return a * a + 100.0 * b * b


def rosenbrock_gradient(x: float, y: float) -> Point:
    b = y - x * x
    return -2.0 * (1.0 - x) - 400.0 * x * b, 200.0 * b


def beale(x: float, y: float) -> float:
    a = 1.5 - x + x * y
    b = 2.25 - x + x * y * y
    c = 2.625 - x + x * y * y * y
    return a * a + b * b + c * c


def beale_gradient(x: float, y: float) -> Point:
    a = 1.5 - x + x * y
    b = 2.25 - x + x * y * y
    c = 2.625 - x + x * y * y * y
    gx = 2.0 * a * (y - 1.0) + 2.0 * b * (y * y - 1.0) + 2.0 * c * (y * y * y - 1.0)
    return gx, 2.0 * a * x + 4.0 * b * x * y + 6.0 * c * x * y * y


def himmelblau(x: float, y: float) -> float:
    a, b = x * x + y - 11.0, x + y * y - 7.0
    return a * a + b * b


def himmelblau_gradient(x: float, y: float) -> Point:
    a, b = x * x + y - 11.0, x + y * y - 7.0
    return 4.0 * x * a + 2.0 * b, 2.0 * a + 4.0 * y * b


def goldstein_price(x: float, y: float) -> float:
    s, d = x + y + 1.0, 2.0 * x - 3.0 * y
    p = 19.0 - 14.0 * x + 3.0 * x * x - 14.0 * y + 6.0 * x * y + 3.0 * y * y
    q = 18.0 - 32.0 * x + 12.0 * x * x + 48.0 * y - 36.0 * x * y + 27.0 * y * y
    return (1.0 + s * s * p) * (30.0 + d * d * q)


def goldstein_price_gradient(x: float, y: float) -> Point:
    s, d = x + y + 1.0, 2.0 * x - 3.0 * y
    p = 19.0 - 14.0 * x + 3.0 * x * x - 14.0 * y + 6.0 * x * y + 3.0 * y * y
    q = 18.0 - 32.0 * x + 12.0 * x * x + 48.0 * y - 36.0 * x * y + 27.0 * y * y
    a, b = 1.0 + s * s * p, 30.0 + d * d * q
    slope_a = 2.0 * s * p + s * s * (6.0 * x + 6.0 * y - 14.0)  # along x and along y alike
    bx = 4.0 * d * q + d * d * (24.0 * x - 36.0 * y - 32.0)
    by = -6.0 * d * q + d * d * (54.0 * y - 36.0 * x + 48.0)
    return slope_a * b + a * bx, slope_a * b + a * by


def three_hump_camel(x: float, y: float) -> float:
    xx = x * x
    return 2.0 * xx - 1.05 * xx * xx + xx * xx * xx / 6.0 + x * y + y * y


def three_hump_camel_gradient(x: float, y: float) -> Point:
    xx = x * x
    return 4.0 * x - 4.2 * xx * x + xx * xx * x + y, x + 2.0 * y


def six_hump_camel(x: float, y: float) -> float:
    xx, yy = x * x, y * y
    return (4.0 - 2.1 * xx + xx * xx / 3.0) * xx + x * y + (4.0 * yy - 4.0) * yy


def six_hump_camel_gradient(x: float, y: float) -> Point:
    xx = x * x
    return x * (8.0 - 8.4 * xx + 2.0 * xx * xx) + y, x + y * (16.0 * y * y - 8.0)


def mccormick(x: float, y: float) -> float:
    if not abs(x) + abs(y) < _FAR:
        return math.nan
    return math.sin(x + y) + (x - y) * (x - y) - 1.5 * x + 2.5 * y + 1.0


def mccormick_gradient(x: float, y: float) -> Point:
    if not abs(x) + abs(y) < _FAR:
        return math.nan, math.nan
    c = math.cos(x + y)
    return c + 2.0 * (x - y) - 1.5, c - 2.0 * (x - y) + 2.5


def branin(x: float, y: float) -> float:
    if not abs(x) + abs(y) < _FAR:
        return math.nan
    t = y - _BRANIN_B * x * x + _BRANIN_C * x - 6.0
    return t * t + _BRANIN_S * math.cos(x) + 10.0


def branin_gradient(x: float, y: float) -> Point:
    if not abs(x) + abs(y) < _FAR:
        return math.nan, math.nan
    t = y - _BRANIN_B * x * x + _BRANIN_C * x - 6.0
    return 2.0 * t * (_BRANIN_C - 2.0 * _BRANIN_B * x) - _BRANIN_S * math.sin(x), 2.0 * t


def styblinski_tang(x: float, y: float) -> float:
    xx, yy = x * x, y * y
    return 0.5 * (xx * xx - 16.0 * xx + 5.0 * x + yy * yy - 16.0 * yy + 5.0 * y)


def styblinski_tang_gradient(x: float, y: float) -> Point:
    return 2.0 * x * x * x - 16.0 * x + 2.5, 2.0 * y * y * y - 16.0 * y + 2.5


def levy13(x: float, y: float) -> float:
    if not abs(x) + abs(y) < _FAR:
        return math.nan
    a, b, c = math.sin(3 * math.pi * x), math.sin(3 * math.pi * y), math.sin(2 * math.pi * y)
    x1, y1 = x - 1.0, y - 1.0
    return a * a + x1 * x1 * (1.0 + b * b) + y1 * y1 * (1.0 + c * c)


def levy13_gradient(x: float, y: float) -> Point:
    if not abs(x) + abs(y) < _FAR:
        return math.nan, math.nan
    u, v, w = 3 * math.pi * x, 3 * math.pi * y, 2 * math.pi * y
    b, c = math.sin(v), math.sin(w)
    x1, y1 = x - 1.0, y - 1.0
    gx = 6 * math.pi * math.sin(u) * math.cos(u) + 2.0 * x1 * (1.0 + b * b)
    gy = 6 * math.pi * x1 * x1 * b * math.cos(v) + 4 * math.pi * y1 * y1 * c * math.cos(w)
    return gx, gy + 2.0 * y1 * (1.0 + c * c)


def easom(x: float, y: float) -> float:
    if not abs(x) + abs(y) < _FAR:
        return math.nan
    a, b = x - math.pi, y - math.pi
    return -math.cos(x) * math.cos(y) * math.exp(-(a * a + b * b))


def easom_gradient(x: float, y: float) -> Point:
    if not abs(x) + abs(y) < _FAR:
        return math.nan, math.nan
    a, b = x - math.pi, y - math.pi
    e = math.exp(-(a * a + b * b))
    gx = math.cos(y) * (math.sin(x) + 2.0 * a * math.cos(x)) * e
    return gx, math.cos(x) * (math.sin(y) + 2.0 * b * math.cos(y)) * e


def ackley(x: float, y: float) -> float:
    if not abs(x) + abs(y) < _FAR:
        return math.nan
    bowl = 20.0 * (1.0 - math.exp(-0.2 * math.hypot(x, y) / _ROOT2))
    waves = 0.5 * (math.cos(2 * math.pi * x) + math.cos(2 * math.pi * y))
    return bowl + (math.e - math.exp(waves))


def ackley_gradient(x: float, y: float) -> Point:
    if not abs(x) + abs(y) < _FAR:
        return math.nan, math.nan
    r = math.hypot(x, y)
    if r == 0.0:  # the tip of a cone: 0 is the middle of the slopes around it
        return 0.0, 0.0
    bowl = 4.0 / _ROOT2 * math.exp(-0.2 * r / _ROOT2)
    waves = math.exp(0.5 * (math.cos(2 * math.pi * x) + math.cos(2 * math.pi * y))) * math.pi
    gx = bowl * (x / r) + waves * math.sin(2 * math.pi * x)
    return gx, bowl * (y / r) + waves * math.sin(2 * math.pi * y)


def rastrigin(x: float, y: float) -> float:
    if not abs(x) + abs(y) < _FAR:
        return math.nan
    waves = (1.0 - math.cos(2 * math.pi * x)) + (1.0 - math.cos(2 * math.pi * y))
    return x * x + y * y + 10.0 * waves


def rastrigin_gradient(x: float, y: float) -> Point:
    if not abs(x) + abs(y) < _FAR:
        return math.nan, math.nan
    gx = 2.0 * x + 20 * math.pi * math.sin(2 * math.pi * x)
    return gx, 2.0 * y + 20 * math.pi * math.sin(2 * math.pi * y)


def griewank(x: float, y: float) -> float:
    if not abs(x) + abs(y) < _FAR:
        return math.nan
    return (x * x + y * y) / 4000.0 + (1.0 - math.cos(x) * math.cos(y / _ROOT2))


def griewank_gradient(x: float, y: float) -> Point:
    if not abs(x) + abs(y) < _FAR:
        return math.nan, math.nan
    gx = x / 2000.0 + math.sin(x) * math.cos(y / _ROOT2)
    return gx, y / 2000.0 + math.cos(x) * math.sin(y / _ROOT2) / _ROOT2


def drop_wave(x: float, y: float) -> float:
    # Not hypot: Numba's differs in the last bit, and 12*r magnifies that far out.
    r = math.sqrt(x * x + y * y)
    if not r < _FAR:
        return math.nan
    return -(1.0 + math.cos(12.0 * r)) / (0.5 * r * r + 2.0)


def drop_wave_gradient(x: float, y: float) -> Point:
    r = math.sqrt(x * x + y * y)
    if not r < _FAR:
        return math.nan, math.nan
    if r == 0.0:
        return 0.0, 0.0
    d = 0.5 * r * r + 2.0
    slope = (12.0 * math.sin(12.0 * r) + (1.0 + math.cos(12.0 * r)) * (r / d)) / d
    return slope * (x / r), slope * (y / r)


def saddle(x: float, y: float) -> float:
    return x * x - y * y


def saddle_gradient(x: float, y: float) -> Point:
    return 2.0 * x, -2.0 * y


def monkey_saddle(x: float, y: float) -> float:
    return x * (x * x - 3.0 * y * y)


def monkey_saddle_gradient(x: float, y: float) -> Point:
    return 3.0 * (x * x - y * y), -6.0 * x * y
