"""Surfaces: minima, gradients, the same numbers jitted or not, and functions of one's own."""

import dataclasses
import json
import math
import pickle
from typing import Any

import numba
import numpy as np
import pytest

from rmsprop.surfaces import SURFACES, Surface, from_function, get, load

njit: Any = numba.njit  # its annotations know the decorator only
pytestmark = pytest.mark.filterwarnings("error")
ALL = list(SURFACES.values())
BOUNDED = [surface for surface in ALL if surface.minima]
SADDLES = [SURFACES["saddle"], SURFACES["monkey-saddle"]]
TABLE = {  # the published values, to the digits published
    "six-hump-camel": (-1.03163, (0.0898, -0.7126)),
    "mccormick": (-1.91322, (-0.54719, -1.54719)),
    "branin": (0.39789, (math.pi, 2.275)),
    "styblinski-tang": (-78.33233, (-2.903534, -2.903534)),
    "himmelblau": (0.0, (-3.779310, -3.283186)),
    "goldstein-price": (3.0, (0.0, -1.0)),
    "beale": (0.0, (3.0, 0.5)),
    "easom": (-1.0, (math.pi, math.pi)),
    "drop-wave": (-1.0, (0.0, 0.0)),
}

ELSEWHERE = [  # a value away from the minima, by hand from the published formula
    ("ravine", (2.0, 3.0), 452.0),
    ("matyas", (1.0, -1.0), 1.0),
    ("rosenbrock", (-1.5, 2.5), 12.5),
    ("beale", (0.0, 0.0), 14.203125),
    ("goldstein-price", (0.0, 0.0), 600.0),
    ("three-hump-camel", (1.0, 1.0), 4.95 - 2.0 + 1 / 6),
    ("six-hump-camel", (1.0, 1.0), 4.0 - 2.1 + 1 / 3 + 1.0),
    ("branin", (0.0, 0.0), 56.0 - 1.25 / math.pi),
    ("levy13", (0.5, 0.25), 1.0 + 0.25 * 1.5 + 0.5625 * 2.0),
    ("ackley", (1.0, 1.0), 20.0 * (1.0 - math.exp(-0.2))),
    ("rastrigin", (0.5, 1.0), 21.25),
    ("griewank", (math.pi, 0.0), math.pi**2 / 4000 + 2.0),
    ("drop-wave", (math.pi / 12, 0.0), 0.0),
    ("monkey-saddle", (2.0, 1.0), 2.0),
]

each = pytest.mark.parametrize("surface", ALL, ids=lambda surface: surface.name)
each_bounded = pytest.mark.parametrize("surface", BOUNDED, ids=lambda surface: surface.name)


def points(surface: Surface, count: int) -> np.ndarray:
    """Random points of the domain, the same ones at every run; shape (count, 2)."""
    low, high = np.array(surface.domain).T
    return np.random.default_rng(7).uniform(low, high, (count, 2))


def differences(f, x: float, y: float) -> tuple[float, float]:
    """Fourth-order central differences, far more exact than the 1e-5 asked for."""
    h = 1e-3 * min(1.0, max(abs(x), abs(y), 0.1))

    def slope(g):
        return (8 * (g(h) - g(-h)) - (g(2 * h) - g(-2 * h))) / (12 * h)

    return slope(lambda d: f(x + d, y)), slope(lambda d: f(x, y + d))


# The built-in surfaces


def test_every_surface_of_the_list_is_there():
    assert list(SURFACES) == [surface.name for surface in ALL]
    assert set(SURFACES) == {
        *("quadratic", "ravine", "sphere", "booth", "matyas", "rosenbrock", "beale"),
        *("himmelblau", "goldstein-price", "three-hump-camel", "six-hump-camel", "mccormick"),
        *("branin", "styblinski-tang", "levy13", "easom", "ackley", "rastrigin", "griewank"),
        *("drop-wave", "saddle", "monkey-saddle"),
    }


@each
def test_start_lies_in_the_domain_and_has_a_slope(surface):
    assert surface.contains(*surface.start)
    assert math.hypot(*surface.gradient(*surface.start)) > 1e-4
    assert all(surface.contains(*point) for point in surface.minima)


@each
def test_formula_computes_the_value(surface):
    names = {k: getattr(math, k) for k in ("sin", "cos", "exp", "sqrt", "pi", "e")}
    code = compile(surface.formula.replace("^", "**"), surface.name, "eval")
    for x, y in points(surface, 50):
        expected = eval(code, {**names, "x": float(x), "y": float(y)})
        assert surface.value(x, y) == pytest.approx(expected, rel=1e-11, abs=1e-12)


@each_bounded
def test_value_and_gradient_at_each_minimum(surface):
    for x, y in surface.minima:
        assert surface.value(x, y) == pytest.approx(surface.minimum, rel=1e-14, abs=1e-24)
        assert surface.gradient(x, y) == pytest.approx((0.0, 0.0), abs=1e-12)
        assert surface.distance(x, y) == 0.0


@pytest.mark.parametrize("name", TABLE)
def test_minima_are_the_published_ones(name):
    value, point = TABLE[name]
    assert SURFACES[name].minimum == pytest.approx(value, abs=5e-6)
    assert SURFACES[name].distance(*point) < 1e-4


@pytest.mark.parametrize(("name", "point", "value"), ELSEWHERE)
def test_values_away_from_the_minima(name, point, value):
    assert SURFACES[name].value(*point) == pytest.approx(value, rel=1e-13, abs=1e-15)


@each_bounded
def test_nothing_on_a_grid_is_below_the_minimum(surface):
    (left, right), (bottom, top) = surface.domain
    value = surface.value
    grid = [
        value(x, y)
        for x in np.linspace(left, right, 200).tolist()
        for y in np.linspace(bottom, top, 200).tolist()
    ]
    assert min(grid) >= surface.minimum - 1e-12


@each
def test_gradient_is_that_of_the_value(surface):
    centre = np.array(surface.minima[0] if surface.minima else (0.0, 0.0))
    near = centre + np.random.default_rng(8).normal(size=(100, 2))  # where easom is not flat
    for x, y in np.concatenate([points(surface, 200), near]).tolist():
        expected = differences(surface.value, x, y)
        rounding = 1e-11 * abs(surface.value(x, y)) + 1e-9
        size = math.hypot(*expected)
        assert surface.gradient(x, y) == pytest.approx(expected, abs=1e-5 * size + rounding), (x, y)


@each
def test_gradient_is_finite_at_and_around_the_origin(surface):
    for x, y in [(0.0, 0.0), (-0.0, 0.0), (1e-12, 0.0), (0.0, -1e-200), (5e-324, 5e-324)]:
        assert all(map(math.isfinite, surface.gradient(x, y)))


@pytest.mark.parametrize("name", ["ackley", "drop-wave"])
def test_gradient_at_a_singular_origin_is_zero(name):
    assert SURFACES[name].gradient(0.0, 0.0) == (0.0, 0.0)


@pytest.mark.parametrize("surface", SADDLES, ids=lambda surface: surface.name)
def test_saddles_are_flat_at_the_origin_and_unbounded(surface):
    assert surface.gradient(0.0, 0.0) == (0.0, 0.0)
    assert (surface.minima, surface.minimum) == ((), None)
    assert math.isnan(surface.distance(1.0, 1.0))
    assert min(surface.value(0.0, 1e9), surface.value(-1e9, 0.0)) < -1e17


def test_quadratic_ignores_y():
    quadratic = SURFACES["quadratic"]
    assert quadratic.dim == 1
    assert quadratic.gradient(3.0, 99.0) == (6.0, 0.0)
    assert quadratic.value(3.0, 99.0) == 9.0
    assert quadratic.distance(3.0, 99.0) == 3.0


EXTREME = [0.0, -1.0, 1e-200, 1e8, -1e77, 1e154, -1e160, 1e299, 2e300, -1.7e308]
EXTREME += [math.inf, -math.inf, math.nan]


@each
def test_python_and_numba_agree_and_neither_raises(surface):
    value, gradient = njit(surface.value), njit(surface.gradient)
    extreme = [(x, y) for x in EXTREME for y in EXTREME]
    for x, y in [*points(surface, 100).tolist(), *extreme]:
        plain = [surface.value(x, y), *surface.gradient(x, y)]
        jitted = [value(x, y), *gradient(x, y)]
        # the two may use different sines and exponentials, one unit in the last place apart
        np.testing.assert_allclose(jitted, plain, rtol=1e-12, atol=1e-12, equal_nan=True)


@each
def test_plain_descent_diverges_in_peace(surface):
    x, y = surface.start
    for _ in range(300):
        gx, gy = surface.gradient(x, y)
        x, y = x - 1e3 * gx, y - 1e3 * gy
        assert isinstance(surface.value(x, y), float)


# Surface


@each
def test_surfaces_pickle_compare_and_survive_lists(surface):
    assert pickle.loads(pickle.dumps(surface)) == surface
    assert hash(surface) == hash(dataclasses.replace(surface))
    plain = {k: getattr(surface, k) for k in ("domain", "start", "minima")}
    assert dataclasses.replace(surface, **json.loads(json.dumps(plain))) == surface


def test_repr_reads():
    assert repr(SURFACES["rosenbrock"]) == (
        "Surface(rosenbrock: f(x, y) = (1 - x)^2 + 100*(y - x^2)^2, minimum 0 at (1, 1))"
    )
    assert repr(SURFACES["saddle"].with_noise(0.25)) == (
        "Surface(saddle: f(x, y) = x^2 - y^2, noise 0.25)"
    )


def test_with_noise_changes_nothing_else():
    sphere = SURFACES["sphere"]
    noisy = sphere.with_noise(0.5)
    assert (sphere.noise, noisy.noise) == (0.0, 0.5)
    assert noisy.with_noise(0) == sphere
    assert noisy.gradient(1.0, 2.0) == sphere.gradient(1.0, 2.0)


def test_distance_is_to_the_nearest_minimum():
    assert SURFACES["himmelblau"].distance(3.0, 2.5) == 0.5
    assert SURFACES["himmelblau"].distance(-3.78, -3.28) < 0.01
    assert math.isnan(SURFACES["sphere"].distance(math.nan, 0.0))
    assert SURFACES["sphere"].distance(-math.inf, 0.0) == math.inf


def test_contains_counts_the_edges():
    rosenbrock = SURFACES["rosenbrock"]
    assert rosenbrock.contains(-2.0, 3.0)
    assert not rosenbrock.contains(-2.0, 3.1)
    assert not rosenbrock.contains(math.nan, 0.0)


BAD_FIELDS = [
    ({"noise": -1.0}, "noise must be finite and at least 0, got -1.0: .* 0 turns it off"),
    ({"noise": math.inf}, "noise must be finite and at least 0, got inf"),
    ({"noise": math.nan}, "noise must be finite and at least 0, got nan"),
    ({"dim": 3}, "dim must be 1 or 2, got 3: use 1 where f ignores y"),
    ({"start": (1.0, math.inf)}, r"start must be two finite numbers, got \(1.0, inf\): write"),
    ({"start": (1.0,)}, r"start must be two finite numbers, got \(1.0,\)"),
    ({"start": 3.0}, "start must be two finite numbers, got 3.0"),
    ({"minima": ((1.0, math.nan),)}, "each of minima must be two finite numbers"),
    (
        {"domain": ((1, 1), (0, 1))},
        r"domain must be two finite ranges, .* got \(\(1, 1\), \(0, 1\)",
    ),
    ({"domain": ((0, 1), (2, -2))}, "domain must be two finite ranges, each from low to high"),
    ({"domain": ((0, math.inf), (0, 1))}, r"domain must .* write it as \(\(-5, 5\), \(-5, 5\)\)"),
    ({"domain": (0, 1)}, "domain must be two finite ranges"),
    ({"domain": ((0, 1),)}, "domain must be two finite ranges"),
    ({"domain": None}, "domain must be two finite ranges"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SURFACES["sphere"], **fields)


def test_with_noise_refuses_what_noise_refuses():
    with pytest.raises(ValueError, match="noise must be finite"):
        SURFACES["sphere"].with_noise(-0.1)


def test_get():
    assert get("booth") is SURFACES["booth"]
    with pytest.raises(
        ValueError, match=r"'Rosenbrok'. Near: rosenbrock. List all with `list\(rms"
    ):
        get("Rosenbrok")
    with pytest.raises(ValueError, match=r"'qqq'. List all with .*path/to/file.py:function"):
        get("qqq")


# Functions of one's own


def bowl(x, y):
    return x**2 + 3 * x * y + 5 * y**2


def bowl_gradient(x, y):
    return 2 * x + 3 * y, 3 * x + 10 * y


def test_a_function_without_a_gradient_uses_differences():
    surface = from_function(bowl)
    for x, y in [(0.0, 0.0), (1.5, -2.0), (-300.0, 4e3)]:
        expected = pytest.approx(bowl_gradient(x, y), rel=1e-8, abs=1e-8)
        assert surface.gradient(x, y) == expected


def test_defaults_of_a_function():
    surface = from_function(bowl)
    assert (surface.name, surface.formula, surface.jit) == ("bowl", "bowl(x, y)", False)
    assert surface.domain == ((-5.0, 5.0), (-5.0, 5.0))
    assert surface.start == pytest.approx((-3.0, 2.0))
    assert (surface.minima, surface.minimum) == ((), None)
    assert from_function(lambda x, y: x + y).name == "lambda"


def test_a_right_gradient_is_used():
    surface = from_function(bowl, bowl_gradient, name="b", start=(1, 2), minima=[(0, 0)])
    assert surface.gradient(1.0, 2.0) == (8.0, 23.0)
    assert (surface.name, surface.minimum, surface.minima) == ("b", 0.0, ((0.0, 0.0),))
    assert from_function(bowl, minima=[(0, 0)], minimum=-1.0).minimum == -1.0


@each
def test_the_check_accepts_every_analytic_gradient(surface):
    where = {"domain": surface.domain, "start": surface.start}
    own = from_function(surface.value, surface.gradient, **where)
    assert own.gradient(*surface.start) == surface.gradient(*surface.start)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, y: (2 * x + 3 * y, 3 * x + 9.99 * y),
        lambda x, y: (-2 * x - 3 * y, -3 * x - 10 * y),
        lambda x, y: (3 * x + 10 * y, 2 * x + 3 * y),
        lambda x, y: (math.nan, math.nan),
        lambda x, y: (2 * x + 3 * y, 10 * y) if x > 0 else bowl_gradient(x, y),
    ],
    ids=["factor", "sign", "swapped", "nan", "far from the start"],
)
def test_a_wrong_gradient_is_refused_unless_unchecked(wrong):
    message = r"gradient of bowl must .* it gives \(.*\) where central .* give \(.*\): correct it"
    with pytest.raises(ValueError, match=message):
        from_function(bowl, wrong)
    assert from_function(bowl, wrong, check=False).name == "bowl"


@pytest.mark.parametrize("wrong", [lambda x, y: x, lambda x, y: (x, y, x), lambda x: (x, x)])
def test_a_gradient_that_is_not_two_numbers_is_refused(wrong):
    with pytest.raises(ValueError, match=r"bowl must return two numbers, .* Mend it"):
        from_function(bowl, wrong)


BAD_FUNCTIONS = [
    (lambda x: x, {}, "must take two numbers, .* raises TypeError: .* takes 1 positional argument"),
    (lambda p: p[0] + p[1], {}, r"wrap it, as in lambda x, y: lambda\(\[x, y\]\)"),
    (lambda x, y, z: x, {}, "missing 1 required positional argument"),
    (lambda x, y: x[0], {}, "raises TypeError: 'float' object is not subscriptable"),
    (lambda x, y: None, {}, r"at \(-3.0, 2.0\) it returns None: return one float"),
    (lambda x, y: "3", {}, "it returns '3': return one float"),
    (lambda x, y: (x, y), {}, "return one float"),
    (lambda x, y: complex(x, y), {}, "return one float"),
    (lambda x, y: np.array([x]), {}, "return one float"),
    (lambda x, y: math.nan, {}, "it returns nan: give a start where it is finite"),
    (lambda x, y: math.log(x), {}, "raises ValueError: .* give a start where it is defined"),
    (bowl, {"domain": ((5, -5), (0, 1))}, "domain must be two finite ranges"),
    (bowl, {"start": (0, "a")}, "start must be two finite numbers"),
]


@pytest.mark.parametrize(("function", "options", "message"), BAD_FUNCTIONS)
def test_bad_functions_are_refused(function, options, message):
    with pytest.raises(ValueError, match=message):
        from_function(function, **options)


def test_plain_functions_diverge_in_peace():
    surface = from_function(lambda x, y: x**4 + math.sin(y), lambda x, y: (4 * x**3, math.cos(y)))
    assert math.isnan(surface.value(1e200, 0.0))
    assert all(map(math.isnan, surface.gradient(1e200, 0.0)))
    assert math.isnan(surface.value(0.0, math.inf))
    assert all(map(math.isnan, surface.gradient(0.0, math.nan)))
    assert all(map(math.isnan, from_function(bowl).gradient(1e308, 1e308)))


def test_numpy_scalars_and_arrays_become_floats():
    surface = from_function(
        lambda x, y: np.float64(x * x + y * y), lambda x, y: np.array([2 * x, 2 * y])
    )
    assert type(surface.value(1.0, 2.0)) is float
    assert surface.gradient(1.0, 2.0) == (2.0, 4.0)
    assert type(surface.gradient(1.0, 2.0)) is tuple


@pytest.mark.parametrize("given", [None, bowl_gradient])
@pytest.mark.parametrize("already", [False, True])
def test_a_function_that_numba_can_compile(given, already):
    f = njit(bowl) if already else bowl
    gradient = njit(given) if already and given else given
    surface = from_function(f, gradient, jit=True)
    assert surface.jit
    assert njit(surface.value)(1.0, 2.0) == bowl(1.0, 2.0)
    assert njit(surface.gradient)(1.0, 2.0) == pytest.approx(bowl_gradient(1.0, 2.0), rel=1e-8)
    assert surface.gradient(1.0, 2.0) == pytest.approx(bowl_gradient(1.0, 2.0), rel=1e-8)


# load


HILLS = """
import math
from dataclasses import dataclass
from rmsprop.surfaces import from_function

@dataclass
class Constants:
    a: float = 3.0

c = Constants()
number = 7

def hill(x, y):
    return -math.exp(-x * x - y * y)

def hill_gradient(x, y):
    return -2 * x * hill(x, y), -2 * y * hill(x, y)

def plain(x, y):
    return c.a * x * x + y * y

def wrong(x, y):
    return x * y

def wrong_gradient(x, y):
    return x, y

def vector(p):
    return p[0] + p[1]

def words(x, y):
    return "words"

made = from_function(plain, name="made", domain=((0, 1), (0, 2)))
"""


@pytest.fixture
def hills(tmp_path):
    path = tmp_path / "hills.py"
    path.write_text(HILLS)
    return path


def test_load_a_name_or_a_module():
    assert load("ackley") is SURFACES["ackley"]
    assert load("math:hypot").value(3.0, 4.0) == 5.0


def test_load_a_file(hills, monkeypatch):
    hill = load(f"{hills}:hill")
    assert (hill.name, hill.value(0.0, 0.0)) == ("hill", -1.0)
    assert hill.gradient(0.5, 0.0) == (math.exp(-0.25), 0.0)
    plain = load(f"{hills}:plain")
    assert plain.gradient(1.0, 1.0) == pytest.approx((6.0, 2.0), rel=1e-8)
    monkeypatch.chdir(hills.parent)
    assert load("hills.py:made").domain == ((0.0, 1.0), (0.0, 2.0))


BAD_SPECS = [
    ("rosenbrok", "No surface is named 'rosenbrok'. Near: rosenbrock"),
    ("hills.py", "No surface is named 'hills.py'. .*path/to/file.py:function"),
    ("no/such.py:f", "No file 'no/such.py' from .*: give its path, as dir/file.py:function"),
    (
        "no_such_module:f",
        "'no_such_module' must import .* ModuleNotFoundError.* write path/to/file",
    ),
    (":f", "'' must import without error, but raises ValueError"),
    ("hills.py:hil", "hills.py must define a function 'hil' of .*; it has hill"),
    ("hills.py:zzz", "function 'zzz' of .*; it has .*plain, wrong"),
    ("hills.py:number", "must define a function 'number'"),
    ("hills.py:", "must define a function ''"),
    ("empty.py:f", "function 'f' of .*; it has none"),
    ("broken.py:f", r"'broken.py' must import without error, but raises SyntaxError: .* Mend it"),
    ("hills.py:wrong", r"the gradient of wrong must be that of its value.*it gives \(-3.0, 2.0\)"),
    ("hills.py:vector", "vector must take two numbers, x and y, .* raises TypeError"),
    ("hills.py:words", "words must take two numbers, x and y, and return one,.* returns 'words'"),
]


@pytest.mark.parametrize(("spec", "message"), BAD_SPECS)
def test_bad_specs_are_refused(spec, message, hills, monkeypatch):
    monkeypatch.chdir(hills.parent)
    (hills.parent / "empty.py").write_text("")
    (hills.parent / "broken.py").write_text("def f(x, y) return x\n")
    with pytest.raises(ValueError, match=message):
        load(spec)
