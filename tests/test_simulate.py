"""Paths over surfaces: the same steps as the NumPy optimizer, the slides' experiments, noise, divergence."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from scipy import stats

from rmsprop import DIALECTS, PRESETS, Rule, simulate
from rmsprop.numpy import Optimizer
from rmsprop.schedules import Cosine, ExponentialDecay, Schedule, StepDecay, WarmUp
from rmsprop.simulate import Path, grid, path
from rmsprop.surfaces import SURFACES, Surface, from_function

KNOWN = {**DIALECTS, **PRESETS}
RULES = {
    name: Rule.from_dialect(name, **({} if "lr" in known.fields else {"lr": 0.01}))
    for name, known in KNOWN.items()
} | {
    "everything": Rule(
        lr=0.02, decay=0.95, eps=1e-3, momentum=0.8, centered=True, nesterov=True,
        weight_decay=0.03, decoupled_weight_decay=True, eps_in_sqrt=True, lr_in_momentum=True,
        initial_scale=0.5, bias_correction=True, maximize=True, clip_global_norm=2.0,
    ),
    "coupled": Rule(lr=0.02, weight_decay=0.1, clip_norm=3.0, momentum=0.5),
    "clip-value": Rule.from_dialect("adam", lr=0.02, clip_value=0.7, weight_decay=0.01),
    "climbing": Rule.from_dialect("sgd", lr=1e-6, maximize=True),
}  # fmt: skip
SCHEDULES: dict[str, Callable[[float], Schedule]] = {
    "cosine": lambda lr: Cosine(lr, 40),
    "step": lambda lr: StepDecay(lr, 10, 0.5),
    "warm-up": lambda lr: WarmUp(7, ExponentialDecay(lr, 20)),
}
ROSENBROCK = SURFACES["rosenbrock"]
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))


def slow(surface: Surface) -> Surface:
    """The same surface in plain Python: nothing to compile, and another code path."""
    return dataclasses.replace(surface, jit=False)


def flat(x: float, y: float) -> float:
    return 0.0 * x


def stepped(surface: Surface, rule: Rule, found: Path, lr: Any = None, noise: Any = 0.0) -> Path:
    """What `rmsprop.numpy.Optimizer` makes of the gradients at a path's own positions."""
    optimizer, p = Optimizer(rule, learning_rate=lr), {"p": found.positions[0].copy()}
    positions, v = [p["p"].copy()], [np.full(2, rule.initial_scale)]
    steps = len(found.positions) - 1
    noise = np.broadcast_to(noise, (steps, 2))
    for (x, y), u in zip(found.positions[:-1], noise, strict=True):
        optimizer.update(p, {"p": np.array(surface.gradient(x, y)) + u})
        positions.append(p["p"].copy())
        v.append(optimizer.state.slots["v"]["p"].copy() if "v" in rule.slots else v[0])
    losses = [surface.value(x, y) for x, y in found.positions]
    return Path(np.array(positions), np.array(losses), np.array(v), np.empty(0))


def assert_same(found: Path, expected: Path) -> None:
    for name in ("positions", "losses", "v"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10, err_msg=name
        )


# The rule


@each_rule
def test_a_compiled_path_is_what_the_numpy_optimizer_does(rule):
    found = path(ROSENBROCK, rule, (-1.2, 1.7), 300)
    assert found.positions.shape == (301, 2)
    assert np.all(np.any(np.diff(found.positions, axis=0) != 0, axis=1))
    assert_same(found, stepped(ROSENBROCK, rule, found))


@each_rule
@pytest.mark.parametrize("name", ["quadratic", "sphere", "himmelblau", "ackley", "six-hump-camel"])
def test_a_path_in_python_is_what_the_numpy_optimizer_does(name, rule):
    surface = slow(SURFACES[name])
    for lr in (None, *(schedule(rule.lr) for schedule in SCHEDULES.values())):
        found = path(surface, rule, surface.start, 40, learning_rate=lr)
        assert_same(found, stepped(surface, rule, found, lr))


@pytest.mark.parametrize("schedule", [lambda lr: 3 * lr, *SCHEDULES.values()])
@pytest.mark.parametrize("name", ["adam", "sgd", "keras"])
def test_a_schedule_replaces_the_learning_rate(name, schedule):
    rule = RULES[name]
    lr = schedule(rule.lr)
    found = path(ROSENBROCK, rule, (0.3, 0.4), 50, learning_rate=lr)
    assert_same(found, stepped(ROSENBROCK, rule, found, lr))
    constant = path(ROSENBROCK, rule, (0.3, 0.4), 50)
    assert not np.allclose(found.positions, constant.positions)


@pytest.mark.parametrize(("name", "rule"), [("ackley", "graves"), ("rosenbrock", "adam")])
def test_compiled_and_python_agree(name, rule):
    surface = SURFACES[name]
    compiled = path(surface, RULES[rule], surface.start, 500)
    python = path(slow(surface), RULES[rule], surface.start, 500)
    for field in dataclasses.fields(Path):
        np.testing.assert_allclose(
            getattr(compiled, field.name), getattr(python, field.name), rtol=1e-9, atol=1e-12
        )


def test_a_function_of_ones_own_is_not_taken_for_the_built_in_of_its_name():
    def bowl(x: float, y: float) -> float:
        return 3.0 * x * x + x * y + 2.0 * y * y

    def slope(x: float, y: float) -> tuple[float, float]:
        return 6.0 * x + y, x + 4.0 * y

    rule, start = RULES["hinton"], (2.0, -1.0)
    path(SURFACES["rosenbrock"], rule, start, 5)  # compiled before
    mine = from_function(bowl, slope, name="rosenbrock", jit=True)
    found = path(mine, rule, start, 100)
    assert_same(found, stepped(mine, rule, found))
    assert found.losses[0] == 12.0
    python = path(from_function(bowl, slope, name="rosenbrock"), rule, start, 100)
    np.testing.assert_array_equal(found.positions, python.positions)
    np.testing.assert_array_equal(grid(mine, [1.0, 2.0], [1.0]), [[6.0, 16.0]])


def test_what_a_path_begins_with():
    rule = RULES["tf1"]
    found = path(ROSENBROCK, rule, (-1.5, 2.5), 7)
    shapes = {f.name: getattr(found, f.name).shape for f in dataclasses.fields(found)}
    assert shapes == {"positions": (8, 2), "losses": (8,), "v": (8, 2), "rates": (7, 2)}
    assert found.positions[0].tolist() == [-1.5, 2.5]
    assert found.losses[0] == ROSENBROCK.value(-1.5, 2.5) == 12.5
    assert found.v[0].tolist() == [1.0, 1.0]
    assert all(getattr(found, f.name).dtype == np.float64 for f in dataclasses.fields(found))


# Many starts


def test_many_starts_are_the_single_ones_bit_for_bit():
    starts = np.random.default_rng(3).uniform(-2, 3, (60, 2))
    starts[7] = (50.0, -80.0)  # diverges
    rule = Rule.from_dialect("sgd", lr=2e-3)
    many = path(ROSENBROCK, rule, starts, 200)
    assert not np.isfinite(many.losses[:, -1]).all()
    assert np.isfinite(many.losses[:, -1]).any()
    assert many.rates.shape == (60, 200, 2)
    for k in (0, 1, 7, 30, 59):
        single = path(ROSENBROCK, rule, starts[k], 200)
        for field in dataclasses.fields(Path):
            np.testing.assert_array_equal(
                getattr(many, field.name)[k], getattr(single, field.name), err_msg=field.name
            )


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch):
    used = []

    class Pool(simulate.ThreadPoolExecutor):
        def __init__(self, workers: int):
            used.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(simulate, "ThreadPoolExecutor", Pool)
    starts = np.random.default_rng(5).normal(0, 2, (501, 2))  # not a multiple of the threads
    before = numba.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            found.append(path(ROSENBROCK.with_noise(0.3), RULES["hinton"], starts, 500))
    finally:
        numba.set_num_threads(before)
    assert used == [2]
    for field in dataclasses.fields(Path):
        np.testing.assert_array_equal(getattr(found[0], field.name), getattr(found[1], field.name))


# Noise

FLAT = from_function(flat, lambda x, y: (0.0, 0.0), name="flat")
UNIT_SGD = Rule.from_dialect("sgd", lr=1.0)  # on a flat surface each step is minus the noise


def drawn(s: float, paths: int, steps: int, seed: int = 0) -> np.ndarray:
    """The noise itself, (paths, steps, 2)."""
    found = path(FLAT.with_noise(s), UNIT_SGD, np.zeros((paths, 2)), steps, seed=seed)
    assert not found.losses.any()
    return -np.diff(found.positions, axis=1)


def test_noise_is_normal_with_the_standard_deviation_asked_for():
    u = drawn(3.0, paths=40, steps=500)
    n = u.size
    assert abs(u.mean()) < 4 * 3.0 / math.sqrt(n)
    assert abs(u.std() / 3.0 - 1) < 4 / math.sqrt(2 * n)
    assert stats.kstest(u.ravel() / 3.0, "norm").pvalue > 1e-3
    limit = 5 / math.sqrt(u[..., 0].size)
    pairs = {
        "x and y": (u[..., 0], u[..., 1]),
        "one step and the next": (u[:, 1:], u[:, :-1]),
        "one path and the next": (u[1:], u[:-1]),
    }
    for what, (a, b) in pairs.items():
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < limit, what


def test_noise_follows_the_seed_and_not_the_number_of_paths():
    u = drawn(1.0, paths=5, steps=20, seed=7)
    np.testing.assert_allclose(drawn(1.0, paths=5, steps=20, seed=7), u, atol=0)
    np.testing.assert_allclose(drawn(1.0, paths=3, steps=20, seed=7), u[:3], atol=0)
    np.testing.assert_allclose(drawn(1.0, paths=1, steps=20, seed=7), u[:1], atol=0)
    assert not np.isclose(drawn(1.0, paths=5, steps=20, seed=8), u).any()
    assert len(np.unique(u)) == u.size  # no path, step or coordinate shares a draw


def test_noise_enters_the_gradient_of_any_rule_alike_and_leaves_the_losses():
    surface, u = ROSENBROCK.with_noise(0.5), drawn(0.5, paths=1, steps=60, seed=4)[0]
    for name in ("hinton", "adam", "everything"):
        found = path(surface, RULES[name], (-1.0, 1.0), 60, seed=4)
        assert_same(found, stepped(surface, RULES[name], found, noise=u))
        assert not np.allclose(
            found.positions, path(ROSENBROCK, RULES[name], (-1, 1), 60).positions
        )


def test_there_is_no_noise_along_a_coordinate_that_does_not_count():
    noisy = path(SURFACES["quadratic"].with_noise(2.0), RULES["sgd"], (-4.0, 0.5), 50)
    assert (noisy.positions[:, 1] == 0.5).all()
    quiet = path(SURFACES["quadratic"], RULES["sgd"], (-4.0, 0.5), 50)
    assert not np.isclose(noisy.positions[1:, 0], quiet.positions[1:, 0]).any()


# Effective rates


@each_rule
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_effective_rates_are_the_rate_over_the_denominator(rule, schedule):
    surface = slow(SURFACES["himmelblau"])
    lr = None if schedule == "constant" else Cosine(rule.lr, 30)
    found = path(surface, rule, (1.0, 3.0), 30, learning_rate=lr)
    m = np.zeros(2)
    for t, (x, y) in enumerate(found.positions[:-1]):
        g = np.array(surface.gradient(x, y)) * (-1.0 if rule.maximize else 1.0)
        if rule.clip_global_norm:
            g = g * min(1.0, rule.clip_global_norm / math.hypot(*g))
        m = rule.decay * m + (1 - rule.decay) * g
        fix = 1 - rule.decay ** (t + 1) if rule.bias_correction else 1.0
        d = found.v[t + 1] / fix - (m / fix) ** 2 * rule.centered
        bottom = np.sqrt(d + rule.eps) if rule.eps_in_sqrt else np.sqrt(d) + rule.eps
        rate = rule.lr if lr is None else lr(t)
        expected = np.full(2, rate) if rule.second_moment == "none" else rate / bottom
        np.testing.assert_allclose(found.rates[t], expected, rtol=1e-9)


def test_plain_rmsprop_moves_by_its_effective_rate_times_the_gradient():
    found = path(ROSENBROCK, RULES["torch"], (0.5, -0.5), 50)
    slopes = np.array([ROSENBROCK.gradient(x, y) for x, y in found.positions[:-1]])
    np.testing.assert_allclose(np.diff(found.positions, axis=0), -found.rates * slopes, rtol=1e-9)


# Divergence, and what is refused


@pytest.mark.parametrize("name", SURFACES)
def test_paths_that_diverge_do_so_calmly(name):
    surface = slow(SURFACES[name])
    for rule in (
        Rule.from_dialect("sgd", lr=1e10),
        Rule(lr=1e300),
        RULES["everything"].replace(lr=1e30),
    ):
        found = path(surface, rule, surface.start, 60)
        assert np.isfinite(found.positions[0]).all()


def test_a_compiled_path_that_diverges_ends_beyond_the_numbers():
    found = path(ROSENBROCK, Rule.from_dialect("sgd", lr=0.1), (-1.5, 2.5), 100)
    lost = ~np.isfinite(found.losses)
    first = int(lost.argmax())
    assert 0 < first < 100
    assert lost[first:].all()
    assert np.isfinite(found.positions[: first - 1]).all()


@pytest.mark.parametrize(
    "start",
    [3.0, (1.0,), (1.0, 2.0, 3.0), (math.nan, 0.0), (0.0, math.inf), [[1.0, 2.0, 3.0]],
     np.zeros((2, 2, 2)), [], None],
    ids=str,
)  # fmt: skip
def test_a_start_is_a_finite_point_or_many(start):
    with pytest.raises(ValueError, match="start must be a finite point"):
        path(ROSENBROCK, RULES["sgd"], start, 3)


@pytest.mark.parametrize("steps", [0, -1])
def test_steps_are_at_least_one(steps):
    with pytest.raises(ValueError, match="steps must be 1 or more; got"):
        path(ROSENBROCK, RULES["sgd"], (0, 0), steps)


@pytest.mark.parametrize(
    "lr",
    [-0.1, math.nan, math.inf, lambda t: 0.1 - t],
    ids=lambda lr: "schedule" if callable(lr) else str(lr),
)
def test_a_learning_rate_is_finite_and_not_negative(lr):
    with pytest.raises(ValueError, match="learning_rate must be finite and at least 0"):
        path(ROSENBROCK, RULES["sgd"], (0, 0), 5, learning_rate=lr)


def test_a_grid_holds_the_values_row_by_row():
    for name in ("rosenbrock", "saddle"):
        surface = slow(SURFACES[name])
        xs, ys = np.linspace(-1, 2, 4), np.linspace(0, 3, 3)
        expected = [[surface.value(x, y) for x in xs] for y in ys]
        np.testing.assert_array_equal(grid(surface, xs, ys), expected)


# What the slides sketch, done for real. The loops are written out here, in plain NumPy.


def descend(gradient: Any, start: Any, steps: int, update: Any) -> np.ndarray:
    """Every position of the slides' loop, the start first; `update(g, t)` is what to subtract."""
    point = np.array(start, dtype=float)
    trajectory = [point.copy()]
    for t in range(1, steps + 1):
        point -= update(np.asarray(gradient(*point)), t)
        trajectory.append(point.copy())
    return np.array(trajectory)


class Plain:
    """The slides' optimizers, one object a run: nothing is shared, nothing is re-created."""

    def __init__(self, name: str, lr: float):
        self.lr, self.cache, self.mean = lr, np.zeros(2), np.zeros(2)
        self.update = getattr(self, name)

    def sgd(self, g, t):
        return self.lr * g

    def adagrad(self, g, t):
        self.cache = self.cache + g**2
        return self.lr * g / (np.sqrt(self.cache) + 1e-10)

    def rmsprop(self, g, t):
        self.cache = 0.9 * self.cache + 0.1 * g**2
        return self.lr * g / (np.sqrt(self.cache) + 1e-8)

    def adam(self, g, t):  # t advances once a step, not once a parameter
        self.mean = 0.9 * self.mean + 0.1 * g
        self.cache = 0.999 * self.cache + 0.001 * g**2
        m, v = self.mean / (1 - 0.9**t), self.cache / (1 - 0.999**t)
        return self.lr * m / (np.sqrt(v) + 1e-8)


def rule_of(name: str, lr: float) -> Rule:
    return Rule.from_dialect("hinton" if name == "rmsprop" else name, lr=lr)


B9_B13 = [((-1.5, 2.5), "sgd", 0.001), ((-1.5, 2.5), "rmsprop", 0.01), ((-1.5, 2.5), "adam", 0.01)]
A9 = [((-1.0, 2.0), name, 0.01) for name in ("adagrad", "rmsprop", "adam")]


@pytest.mark.parametrize(("start", "name", "lr"), B9_B13 + A9)
def test_slides_a9_b9_b13_the_trajectories_on_rosenbrock(start, name, lr):
    found = path(ROSENBROCK, rule_of(name, lr), start, 1000)
    expected = descend(ROSENBROCK.gradient, start, 1000, Plain(name, lr).update)
    assert found.positions.shape == (1001, 2)
    assert found.positions[0].tolist() == list(start)
    assert np.all(np.any(np.diff(found.positions, axis=0) != 0, axis=1))
    # The valley magnifies rounding: a thousand steps of RMSprop lose six digits of sixteen.
    np.testing.assert_allclose(found.positions, expected, rtol=1e-7, atol=1e-9)
    assert found.losses[-1] < found.losses[0] / 2
    np.testing.assert_allclose(found.losses, [ROSENBROCK.value(x, y) for x, y in found.positions])


@pytest.mark.parametrize(("lr", "steps"), [(0.01, 100), (0.1, 50)], ids=["A1", "A3"])
def test_slides_a1_a3_rmsprop_on_a_parabola(lr, steps):
    quadratic = SURFACES["quadratic"]
    found = path(quadratic, rule_of("rmsprop", lr), (4.0, 0.0), steps)
    expected = descend(quadratic.gradient, (4.0, 0.0), steps, Plain("rmsprop", lr).update)
    np.testing.assert_allclose(found.positions, expected, rtol=1e-12, atol=1e-13)
    x = found.positions[:, 0]
    assert np.all(np.diff(x) < 0)
    assert x[0] - x[1] == pytest.approx(lr * math.sqrt(10))  # v has a tenth of the first square


def test_slides_a2_b2_fixed_rates_that_are_slow_good_oscillating_and_diverging():
    starts = np.array([[4.0, 0.0], [5.0, 0.0]])
    x = {}
    for lr in (0.01, 0.1, 0.9, 1.01):
        x[lr] = path(SURFACES["quadratic"], rule_of("sgd", lr), starts, 50).positions[..., 0]
        factor = (1 - 2 * lr) ** np.arange(51)
        np.testing.assert_allclose(x[lr], starts[:, :1] * factor, rtol=1e-11)
    assert np.all(x[0.01][:, -1] > 1)  # slow: still far away
    assert np.all(np.diff(x[0.1]) < 0)  # good: never turns, and arrives
    assert np.all(np.abs(x[0.1][:, -1]) < 1e-3)
    assert np.all(x[0.9][:, 1:] * x[0.9][:, :-1] < 0)  # oscillates, and yet shrinks
    assert np.all(np.diff(np.abs(x[0.9])) < 0)
    assert np.all(x[1.01][:, 1:] * x[1.01][:, :-1] < 0)  # oscillates and grows
    assert np.all(np.diff(np.abs(x[1.01])) > 0)


def test_slide_a5_gradients_of_very_different_scale():
    slope = from_function(lambda x, y: 0.1 * x + 0.01 * y, lambda x, y: (0.1, 0.01), name="slope")
    rmsprop = path(slope, rule_of("rmsprop", 0.1), (1.0, 1.0), 50)
    sgd = path(slope, rule_of("sgd", 0.1), (1.0, 1.0), 50)
    first = -np.diff(rmsprop.positions, axis=0)[0]
    np.testing.assert_allclose(first, 0.1 * math.sqrt(10), rtol=1e-5)  # the scale does not count
    np.testing.assert_allclose(*np.diff(rmsprop.positions, axis=0).T, rtol=1e-5)
    np.testing.assert_allclose(np.diff(sgd.positions, axis=0), [[-0.01, -0.001]] * 50, rtol=1e-9)


def test_slide_b1_an_effective_rate_follows_the_gradients_and_can_rise():
    sphere = SURFACES["sphere"]
    rmsprop = path(slow(sphere), rule_of("rmsprop", 0.05), (-4.0, 3.0), 100)
    adagrad = path(slow(sphere), rule_of("adagrad", 0.05), (-4.0, 3.0), 100)
    assert rmsprop.rates[-1, 0] > 5 * rmsprop.rates[10, 0]  # the gradient has shrunk
    assert np.all(np.diff(adagrad.rates, axis=0) <= 0)  # never rises, whatever the gradients do


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
def test_slide_b5_the_average_of_a_constant_gradient(decay):
    slope = from_function(lambda x, y: x + y, lambda x, y: (1.0, 1.0), name="slope")
    found = path(slope, Rule(lr=0.01, decay=decay), (0.0, 0.0), 100)
    expected = 1 - decay ** np.arange(101)
    np.testing.assert_allclose(found.v[:, 0], expected, rtol=1e-10, atol=1e-15)


def test_slide_b7_gradient_descent_against_rmsprop():
    quadratic = SURFACES["quadratic"]
    for name in ("sgd", "rmsprop"):
        found = path(quadratic, rule_of(name, 0.1), (5.0, 0.0), 50)
        expected = descend(quadratic.gradient, (5.0, 0.0), 50, Plain(name, 0.1).update)
        np.testing.assert_allclose(found.positions, expected, rtol=1e-11, atol=1e-13)
