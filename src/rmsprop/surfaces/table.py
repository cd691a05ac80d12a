"""Every built-in surface, with its coefficients, domain, start and minima."""

import difflib
import math

from rmsprop.surfaces import functions as f
from rmsprop.surfaces.surface import Point, Surface


def _box(half: float) -> tuple[Point, Point]:
    return (-half, half), (-half, half)


_ORIGIN = ((0.0, 0.0),)
_HIMMELBLAU = (
    (3.0, 2.0),
    (-2.805118086952745, 3.131312518250573),
    (-3.779310253377747, -3.2831859912861696),
    (3.5844283403304917, -1.8481265269644036),
)
_SIX_HUMP = (
    (0.08984201310031806, -0.7126564030207396),
    (-0.08984201310031806, 0.7126564030207396),
)
_MCCORMICK = ((0.5 - math.pi / 3, -0.5 - math.pi / 3),)
_BRANIN = ((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475))
_STYBLINSKI_TANG = ((-2.903534027771177, -2.903534027771177),)

# fmt: off
SURFACES: dict[str, Surface] = {surface.name: surface for surface in (
    # name, value, gradient, domain, start, minima, minimum, formula
    Surface("quadratic", f.quadratic, f.quadratic_gradient, _box(5), (-4, 0), _ORIGIN, 0.0,
            "x^2", dim=1),
    Surface("ravine", f.ravine, f.ravine_gradient, _box(5), (-4.5, 1.5), _ORIGIN, 0.0,
            "(x^2 + 100*y^2)/2"),
    Surface("sphere", f.sphere, f.sphere_gradient, _box(5.12), (-4, 3), _ORIGIN, 0.0,
            "x^2 + y^2"),
    Surface("booth", f.booth, f.booth_gradient, _box(10), (-8, -6), ((1, 3),), 0.0,
            "(x + 2*y - 7)^2 + (2*x + y - 5)^2"),
    Surface("matyas", f.matyas, f.matyas_gradient, _box(10), (-9, 4), _ORIGIN, 0.0,
            "0.26*(x^2 + y^2) - 0.48*x*y"),
    Surface("rosenbrock", f.rosenbrock, f.rosenbrock_gradient, ((-2, 2), (-1, 3)), (-1.5, 2.5),
            ((1, 1),), 0.0,
            "(1 - x)^2 + 100*(y - x^2)^2"),
    Surface("beale", f.beale, f.beale_gradient, _box(4.5), (-1, -1), ((3, 0.5),), 0.0,
            "(1.5 - x + x*y)^2 + (2.25 - x + x*y^2)^2 + (2.625 - x + x*y^3)^2"),
    Surface("himmelblau", f.himmelblau, f.himmelblau_gradient, _box(5), (-0.5, -4.5),
            _HIMMELBLAU, 0.0,
            "(x^2 + y - 11)^2 + (x + y^2 - 7)^2"),
    Surface("goldstein-price", f.goldstein_price, f.goldstein_price_gradient, _box(2), (1, -1.8),
            ((0, -1),), 3.0,
            "(1 + (x + y + 1)^2*(19 - 14*x + 3*x^2 - 14*y + 6*x*y + 3*y^2))"
            " * (30 + (2*x - 3*y)^2*(18 - 32*x + 12*x^2 + 48*y - 36*x*y + 27*y^2))"),
    Surface("three-hump-camel", f.three_hump_camel, f.three_hump_camel_gradient, _box(5), (-0.8, -3),
            _ORIGIN, 0.0,
            "2*x^2 - 1.05*x^4 + x^6/6 + x*y + y^2"),
    Surface("six-hump-camel", f.six_hump_camel, f.six_hump_camel_gradient, ((-3, 3), (-2, 2)),
            (1, 1.8), _SIX_HUMP, -1.0316284534898774,
            "(4 - 2.1*x^2 + x^4/3)*x^2 + x*y + (4*y^2 - 4)*y^2"),
    # least on its domain only: along (-1, -1) it falls without bound
    Surface("mccormick", f.mccormick, f.mccormick_gradient, ((-1.5, 4), (-3, 4)), (3.5, -2.5),
            _MCCORMICK, -math.sqrt(3) / 2 - math.pi / 3,
            "sin(x + y) + (x - y)^2 - 1.5*x + 2.5*y + 1"),
    # beyond its domain lie more minima, one for each 2*pi of x
    Surface("branin", f.branin, f.branin_gradient, ((-5, 10), (0, 15)), (5, 14),
            _BRANIN, 1.25 / math.pi,
            "(y - 5.1/(4*pi^2)*x^2 + 5/pi*x - 6)^2 + 10*(1 - 1/(8*pi))*cos(x) + 10"),
    Surface("styblinski-tang", f.styblinski_tang, f.styblinski_tang_gradient, _box(5), (0.1, -4.5),
            _STYBLINSKI_TANG, -78.33233140754282,
            "((x^4 - 16*x^2 + 5*x) + (y^4 - 16*y^2 + 5*y))/2"),
    Surface("levy13", f.levy13, f.levy13_gradient, _box(10), (-3.4, 4.6), ((1, 1),), 0.0,
            "sin(3*pi*x)^2 + (x - 1)^2*(1 + sin(3*pi*y)^2) + (y - 1)^2*(1 + sin(2*pi*y)^2)"),
    Surface("easom", f.easom, f.easom_gradient, _box(100), (1.5, 4.5),
            ((math.pi, math.pi),), -1.0,
            "-cos(x)*cos(y)*exp(-((x - pi)^2 + (y - pi)^2))"),
    Surface("ackley", f.ackley, f.ackley_gradient, _box(32), (-8.4, 5.3), _ORIGIN, 0.0,
            "20*(1 - exp(-0.2*sqrt((x^2 + y^2)/2))) + e - exp((cos(2*pi*x) + cos(2*pi*y))/2)"),
    Surface("rastrigin", f.rastrigin, f.rastrigin_gradient, _box(5.12), (-1.6, 1.4), _ORIGIN, 0.0,
            "20 + x^2 - 10*cos(2*pi*x) + y^2 - 10*cos(2*pi*y)"),
    Surface("griewank", f.griewank, f.griewank_gradient, _box(600), (-250, 400), _ORIGIN, 0.0,
            "(x^2 + y^2)/4000 - cos(x)*cos(y/sqrt(2)) + 1"),
    Surface("drop-wave", f.drop_wave, f.drop_wave_gradient, _box(5.12), (2.3, -2), _ORIGIN, -1.0,
            "-(1 + cos(12*sqrt(x^2 + y^2)))/((x^2 + y^2)/2 + 2)"),
    # a hair off the axis that leads into the saddle: how long until it escapes?
    Surface("saddle", f.saddle, f.saddle_gradient, _box(2), (1.5, 0.001), (), None,
            "x^2 - y^2"),
    Surface("monkey-saddle", f.monkey_saddle, f.monkey_saddle_gradient, _box(2), (1.5, 0.001),
            (), None,
            "x^3 - 3*x*y^2"),
)}
"""Every built-in surface by name; each states its coefficients in `formula`.

Examples
--------
>>> SURFACES["rosenbrock"].minima
((1.0, 1.0),)
"""
# fmt: on


def get(name: str) -> Surface:
    """The built-in surface of that name.

    Parameters
    ----------
    name
        A key of `SURFACES`; ValueError for any other, with the near ones.

    Examples
    --------
    >>> get("himmelblau").value(3.0, 2.0)
    0.0
    """
    if name in SURFACES:
        return SURFACES[name]
    near = difflib.get_close_matches(name.lower(), SURFACES, n=3, cutoff=0.5)
    raise ValueError(
        f"No surface is named {name!r}. {'Near: ' + ', '.join(near) + '. ' if near else ''}"
        "List all with `list(rmsprop.surfaces.SURFACES)`, or give a function of (x, y) of your own "
        "as `path/to/file.py:function` or `module:function`"
    )
