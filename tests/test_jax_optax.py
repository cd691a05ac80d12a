"""rmsprop.jax against `optax.rmsprop`, and inside everything that Optax wraps around a transformation.

What Optax's own tests ask of each of its optimizers is asked here too: that it finds minima, takes extra
arguments, keeps dtypes, is mapped over by `tree.map_params`, and lives in its wrappers.
"""

import functools
import inspect
import itertools
from typing import Any

import numpy as np
import pytest

from cases import assert_within
from jax_runs import from_rule, jax, make, optax, run
from rmsprop import Rule

jnp = jax.numpy

STEPS = 40
RATES = 0.02 * np.random.default_rng(1).uniform(0.5, 1.5, STEPS)
Tree = Any


def close(ours: Tree, theirs: Tree, rtol: float = 1e-6) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=rtol, atol=rtol)


# Every combination of its switches, in one program: to compile them one by one takes three times as long.

SWITCHES: dict[str, dict[str, Any]] = {}
for row in itertools.product(
    (True, False), (False, True), (None, 0.9), (False, True), (False, True)
):
    inside, centered, momentum, nesterov, corrected = row
    if nesterov and momentum is None:
        continue
    on = {"inside": inside, "centered": centered, "momentum": momentum, "nesterov": nesterov}
    SWITCHES["-".join(k for k, x in {**on, "corrected": corrected}.items() if x) or "none"] = {
        "eps_in_sqrt": inside,
        "centered": centered,
        "momentum": momentum,
        "nesterov": nesterov,
        "bias_correction": corrected,
        "initial_scale": 0.25,
        "decay": 0.97,
        "eps": 1e-5,
    }


@functools.cache
def both() -> dict[str, Any]:
    """By combination, what Optax's and ours come to at every step, in float64."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(0, 1, (3, 4)), "s": rng.normal()}
    grads = {"w": rng.normal(0, 1, (STEPS, 3, 4)), "s": rng.normal(0, 10, STEPS)}
    with jax.enable_x64(True):
        rates = jnp.asarray(RATES)

        def all_of_them(params: Tree) -> Any:
            return {
                name: [
                    run(rmsprop_of(lambda count: rates[count], **options), params, grads)
                    for rmsprop_of in (optax.rmsprop, make)
                ]
                for name, options in SWITCHES.items()
            }

        return jax.jit(all_of_them)(params)


class TestOptaxsRmsprop:
    @pytest.mark.parametrize("name", SWITCHES)
    def test_the_same_numbers(self, name: str) -> None:
        (theirs, their_state), (ours, state) = both()[name]
        kept = {"p": (ours, theirs), "v": (state.v, optax.tree.get(their_state, "nu"))}
        if SWITCHES[name]["centered"]:
            kept["m"] = state.m, optax.tree.get(their_state, "mu")
        if SWITCHES[name]["momentum"]:
            trace = optax.tree.get(their_state, "trace")
            kept["b"] = state.b, jax.tree.map(jnp.negative, trace)
        assert (state.m is None, state.b is None) == ("m" not in kept, "b" not in kept)
        for letter, (mine, other) in kept.items():
            for path in ("w", "s"):
                a, b = np.asarray(mine[path]), np.asarray(other[path])
                assert a.dtype == b.dtype == np.float64
                largest = np.maximum.accumulate(np.abs(b), axis=0)
                assert_within(a, b, 1e-12 * largest, f"{letter} of {path}")

    def test_the_same_arguments_in_the_same_order(self) -> None:
        theirs = list(inspect.signature(optax.rmsprop).parameters.values())
        ours = list(inspect.signature(make).parameters.values())
        assert [x.name for x in ours[: len(theirs)]] == [x.name for x in theirs]
        assert all(x.kind == inspect.Parameter.KEYWORD_ONLY for x in ours[len(theirs) :])
        rest = {x.name for x in inspect.signature(Rule).parameters.values()} - {"lr"}
        rest -= {"second_moment", "first_moment"}
        assert rest <= {x.name for x in ours}

    def test_nothing_given_is_optaxs_default(self) -> None:
        params, grads = jnp.arange(3.0), jnp.array(np.random.default_rng(0).normal(0, 1, (9, 3)))
        close(run(make(0.1), params, grads)[0], run(optax.rmsprop(0.1), params, grads)[0])

    def test_torchs_dialect_by_optaxs_switch(self) -> None:
        params, grads = jnp.arange(3.0), jnp.array(np.random.default_rng(0).normal(0, 1, (9, 3)))
        theirs = optax.rmsprop(0.1, decay=0.99, eps_in_sqrt=False)
        close(run(make(0.1, dialect="torch"), params, grads)[0], run(theirs, params, grads)[0])

    @pytest.mark.parametrize(
        ("rule", "theirs"),
        [
            (Rule.from_dialect("sgd", lr=0.1), optax.sgd(0.1)),
            (Rule.from_dialect("nesterov", lr=0.1), optax.sgd(0.1, momentum=0.9, nesterov=True)),
            (
                Rule.from_dialect("adagrad", lr=0.1, eps_in_sqrt=True, eps=1e-7, initial_scale=0.1),
                optax.adagrad(0.1),
            ),
            (Rule.from_dialect("adam", lr=0.1), optax.adam(0.1)),
            (Rule.from_dialect("adamw", lr=0.1), optax.adamw(0.1, weight_decay=0.01)),
            (
                Rule.from_dialect("optax", lr=0.1, clip_global_norm=1.0),
                optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(0.1)),
            ),
            (
                Rule.from_dialect("optax", lr=0.1, clip_value=0.5, weight_decay=0.1, maximize=True),
                optax.chain(
                    optax.clip(0.5),
                    optax.scale(-1.0),
                    optax.add_decayed_weights(0.1),
                    optax.rmsprop(0.1),
                ),
            ),
        ],
        ids=[
            "sgd",
            "nesterov",
            "adagrad",
            "adam",
            "adamw",
            "global norm",
            "value, decay, maximize",
        ],
    )
    def test_other_rules_are_other_transformations(self, rule: Rule, theirs: Any) -> None:
        rng = np.random.default_rng(0)
        params = {"w": jnp.asarray(rng.normal(0, 1, (3, 2)))}
        grads = {"w": jnp.asarray(rng.normal(0, 1, (9, 3, 2)))}
        close(run(from_rule(rule), params, grads)[0], run(theirs, params, grads)[0], 1e-5)


OURS: dict[str, Any] = {
    "plain": lambda: make(learning_rate=5e-3),
    "momentum": lambda: make(learning_rate=5e-3, momentum=0.9),
    "bfloat16": lambda: make(learning_rate=5e-3, momentum=0.9, state_dtype="bfloat16"),
    "adam": lambda: from_rule(Rule.from_dialect("adam", lr=0.1)),
}


def parabola(p: Any) -> Any:
    return jnp.sum((p - jnp.array([1.0, -1.0, 1.0])) ** 2)


def rosenbrock(p: Any) -> Any:
    return (1.0 - p[0]) ** 2 + 100.0 * (p[1] - p[0] ** 2) ** 2


class TestWhatOptaxAsksOfItsOwn:
    @pytest.mark.parametrize("name", OURS)
    def test_minima_are_found(self, name: str) -> None:
        optimizer = OURS[name]()
        tasks = {
            parabola: ([-1.0, 10.0, 1.0], [1.0, -1.0, 1.0]),
            rosenbrock: ([0.0, 0.0], [1.0, 1.0]),
        }
        for loss, (start, end) in tasks.items():

            def step(_: Any, carry: Any, loss: Any = loss) -> Any:
                updates, state = optimizer.update(jax.grad(loss)(carry[0]), carry[1], carry[0])
                return optax.apply_updates(carry[0], updates), state

            p = jnp.array(start)
            p, _ = jax.jit(
                lambda p, step=step: jax.lax.fori_loop(0, 10_000, step, (p, optimizer.init(p)))
            )(p)
            np.testing.assert_allclose(p, end, rtol=3e-2, atol=3e-2)

    @pytest.mark.parametrize("name", OURS)
    @pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
    def test_it_fits_everywhere(self, name: str, dtype: str) -> None:
        """Extra arguments, either branch of a cond, and the gradients' dtype."""
        optimizer = OURS[name]()
        p = jnp.array([1.0, 2.0], dtype)
        state = optimizer.init(p)
        state = optax.tree.map_params(optimizer, lambda x: x, state)

        @jax.jit
        def step(p: Any, state: Any, there: Any) -> Any:
            updates, state = jax.lax.cond(
                there,
                lambda: optimizer.update(p, state, p, value=1.0, nothing_that_it_knows=1),
                lambda: (p, state),
            )
            return updates, state

        for there in (True, False):
            updates, state = step(p, state, there)
            assert updates.dtype == p.dtype
            assert int(state.count) == 1

    @pytest.mark.parametrize("name", OURS)
    def test_a_map_over_what_mirrors_the_parameters(self, name: str) -> None:
        optimizer = OURS[name]()
        params = {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}
        state = optimizer.init(params)
        doubled = optax.tree.map_params(
            optimizer, lambda x, name: x + len(name), state, {"w": "w", "b": "bias"}
        )
        assert int(doubled.count) == 0
        assert doubled.v["w"].tolist() == (state.v["w"] + 1).tolist()
        assert doubled.v["b"].tolist() == (state.v["b"] + 4).tolist()
        if state.key is not None:
            np.testing.assert_array_equal(doubled.key, state.key)


PARAMS = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.array([0.5, -0.5])}
GRADS = {"w": jnp.array([[0.1, -0.2], [0.3, 0.4]]), "b": jnp.array([1.0, 2.0])}


def after(optimizer: Any, steps: int, grads: Tree = GRADS) -> Tree:
    """The parameters after some steps with one gradient."""

    def step(_: Any, carry: Any) -> Any:
        updates, state = optimizer.update(grads, carry[1], carry[0])
        return optax.apply_updates(carry[0], updates), state

    start = PARAMS, optimizer.init(PARAMS)
    return jax.jit(lambda carry: jax.lax.fori_loop(0, steps, step, carry))(start)[0]


class TestWrappers:
    def test_chain(self) -> None:
        ours, theirs = (
            optax.chain(optax.clip(0.25), x(0.1), optax.scale(0.5)) for x in (make, optax.rmsprop)
        )
        close(after(ours, 3), after(theirs, 3))

    @pytest.mark.parametrize("state_dtype", [None, "bfloat16"])
    def test_masked(self, state_dtype: str | None) -> None:
        mask = {"w": True, "b": False}
        inner = make(0.1, clip_global_norm=0.5, weight_decay=0.1, state_dtype=state_dtype)
        optimizer = optax.masked(inner, mask)
        moved = after(optimizer, 1)
        np.testing.assert_allclose(moved["b"], PARAMS["b"] + GRADS["b"])
        norm = float(np.linalg.norm(GRADS["w"]))
        g = GRADS["w"] * min(1.0, 0.5 / norm) + 0.1 * PARAMS["w"]
        np.testing.assert_allclose(
            moved["w"], PARAMS["w"] - 0.1 * g / np.sqrt(0.1 * g**2), rtol=1e-4
        )

    def test_partition(self) -> None:
        labels = {"w": "slow", "b": "fast"}
        parts = {
            "slow": make(0.01, momentum=0.9),
            "fast": from_rule(Rule.from_dialect("adam", lr=0.1)),
        }
        moved = after(optax.partition(parts, labels), 3)
        close(moved["w"], after(parts["slow"], 3)["w"])
        close(moved["b"], after(parts["fast"], 3)["b"])

    def test_apply_if_finite(self) -> None:
        optimizer = optax.apply_if_finite(make(0.1, momentum=0.9, state_dtype="bfloat16"), 2)
        bad = jax.tree.map(lambda g: g.at[0].set(jnp.nan), GRADS)
        state = optimizer.init(PARAMS)
        update = jax.jit(optimizer.update)
        updates, skipped = update(bad, state, PARAMS)
        assert not any(x.any() for x in jax.tree.leaves(updates))
        jax.tree.map(np.testing.assert_array_equal, skipped.inner_state, state.inner_state)
        updates, moved = update(GRADS, skipped, PARAMS)
        assert int(moved.inner_state.count) == 1
        assert all(x.all() for x in jax.tree.leaves(updates))

    @pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
    def test_multi_steps(self, dtype: str) -> None:
        """Three gradients make one step, with their mean."""
        inner = make(0.1, momentum=0.9)
        optimizer = optax.MultiSteps(inner, every_k_schedule=3)
        p = jnp.array([1.0, 2.0], dtype)
        state, update, updates = optimizer.init(p), jax.jit(optimizer.update), p
        for k in range(3):
            updates, state = update(jnp.array([0.5, 1.0], dtype) * (k + 1), state, p)
            assert updates.any() == (k == 2)
            assert updates.dtype == dtype
        expected, _ = inner.update(jnp.array([1.0, 2.0], dtype), inner.init(p), p)
        close(updates, expected, 1e-2 if dtype == "bfloat16" else 1e-6)

    def test_injected_hyperparameters_change_without_a_new_trace(self) -> None:
        numbers = {
            "learning_rate": 0.1,
            "decay": 0.9,
            "eps": 1e-3,
            "momentum": 0.9,
            "weight_decay": 0.1,
        }
        optimizer = optax.inject_hyperparams(make)(**numbers, centered=True)
        traces = []

        @jax.jit
        def step(p: Tree, state: Any) -> Any:
            traces.append(1)
            updates, state = optimizer.update(GRADS, state, p)
            return optax.apply_updates(p, updates), state

        p, state = step(PARAMS, optimizer.init(PARAMS))
        close(p, after(make(**numbers, centered=True), 1))
        rest = {
            "learning_rate": 0.2,
            "decay": 0.5,
            "eps": 1e-2,
            "momentum": 0.5,
            "weight_decay": 0.0,
        }
        for name, x in rest.items():
            state.hyperparams[name] = jnp.float32(x)  # as strongly typed as what it replaces
        moved, _ = step(p, state)
        updates, _ = make(**rest, centered=True).update(GRADS, state.inner_state, p)
        close(moved, optax.apply_updates(p, updates))
        assert len(traces) == 1

    def test_injected_schedules(self) -> None:
        """Of any number, where `learning_rate` takes one by itself."""
        rate, mu = optax.exponential_decay(0.1, 1, 0.5), optax.linear_schedule(0.5, 0.9, 3)
        injected = optax.inject_hyperparams(make)(rate, momentum=mu, key=3, state_dtype="bfloat16")
        assert jax.tree.leaves(after(injected, 3))[0].dtype == jnp.float32
        close(after(optax.inject_hyperparams(make)(rate), 3), after(make(rate), 3))
        theirs = optax.inject_hyperparams(optax.rmsprop)(rate, momentum=mu)
        close(after(optax.inject_hyperparams(make)(rate, momentum=mu), 3), after(theirs, 3))

    @pytest.mark.parametrize("dialect", ["optax", "torch"])
    def test_schedules_count_from_zero(self, dialect: str) -> None:
        """The rate inside the buffer, or outside it."""
        rates = [0.1, 0.01, 0.5]
        optimizer = make(
            lambda count: jnp.array(rates)[count], momentum=0.9, decay=0.0, eps=0.0, dialect=dialect
        )
        moved = after(optimizer, 3, jax.tree.map(jnp.ones_like, GRADS))
        b, p = 0.0, 0.0
        for lr in rates:  # u is 1
            b = 0.9 * b + (lr if dialect == "optax" else 1.0)
            p -= b if dialect == "optax" else lr * b
        np.testing.assert_allclose(moved["w"], PARAMS["w"] + p, rtol=1e-5)
