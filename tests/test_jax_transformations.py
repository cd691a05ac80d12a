"""rmsprop.jax over any tree, under JAX's transformations and on a mesh, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import rmsprop
from jax_runs import from_rule, jax, make, optax, run, some
from rmsprop import Rule

jnp = jax.numpy


class Pair(NamedTuple):
    first: Any
    second: Any


ANY: dict[str, Any] = {
    "empty dict": {},
    "empty tuple": (),
    "nothing": None,
    "empty list": [],
    "nothing in a dict": {"a": None},
    "empty in a dict": {"a": {}},
    "vector": jnp.ones(3),
    "scalar": jnp.ones(()),
    "no elements": jnp.ones((0, 2)),
    "a number of Python": 1.5,
    "array of NumPy": np.ones(2, np.float32),
    "list and tuple": {"a": [jnp.ones(2), None], "b": (jnp.ones((2, 1)),)},
    "named tuples": Pair(jnp.ones(2), Pair(None, jnp.ones(()))),
}


class TestTrees:
    @pytest.mark.parametrize("name", ANY)
    def test_any_tree(self, name: str) -> None:
        tree = ANY[name]
        rule = Rule(lr=0.1, momentum=0.9, centered=True, clip_global_norm=1.0)
        structure = jax.tree.structure(tree)
        shapes = [np.shape(x) for x in jax.tree.leaves(tree)]
        for state_dtype in (None, "bfloat16"):
            optimizer = from_rule(rule, state_dtype=state_dtype)
            found, after = jax.eval_shape(optimizer.update, tree, optimizer.init(tree), tree)
            for part in (found, after.v, after.m, after.b):
                assert jax.tree.structure(part) == structure
                assert [x.shape for x in jax.tree.leaves(part)] == shapes
        optimizer = from_rule(rule)
        updates, _ = jax.jit(optimizer.update)(tree, optimizer.init(tree), tree)
        moved = optax.apply_updates(tree, updates)
        for new, old in zip(jax.tree.leaves(moved), jax.tree.leaves(tree), strict=True):
            assert (np.asarray(new) < np.asarray(old)).all(), "downhill"

    def test_a_leaf_without_gradient_stays(self) -> None:
        params = {"w": jnp.ones(2), "frozen": jnp.ones(3)}
        for state_dtype in (None, "bfloat16"):
            optimizer = make(0.1, momentum=0.9, state_dtype=state_dtype)
            state = optimizer.init(params)
            grads = {"w": jnp.ones(2), "frozen": None}
            updates, state = jax.jit(optimizer.update)(grads, state, params)
            assert updates["frozen"] is None
            assert state.v["frozen"].tolist() == [0.0] * 3
            assert state.v["w"].astype(float).min() > 0.09

    @pytest.mark.parametrize("weight_decay", [0.0, 0.1])
    def test_gradients_of_another_shape(self, weight_decay: float) -> None:
        optimizer = make(0.1, weight_decay=weight_decay)
        params = {"w": jnp.ones((2, 3))}
        with pytest.raises(ValueError, match=r"\['w'\] has the shape \(3,\), .* \[\(2, 3\)"):
            optimizer.update({"w": jnp.ones(3)}, optimizer.init(params), params)

    def test_gradients_of_another_tree(self) -> None:
        optimizer = make(0.1)
        state = optimizer.init({"w": jnp.ones(2)})
        with pytest.raises(ValueError, match="w"):
            optimizer.update({"u": jnp.ones(2)}, state)


MESH = """
import jax, numpy as np, optax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from rmsprop import Rule
from rmsprop.jax import from_rule

mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
print(jax.device_count())
specs = {"w": P("x", "y"), "b": P("y"), "s": P()}
shapes = {"w": (8, 6), "b": (4,), "s": ()}
rng = np.random.default_rng(0)
draw = lambda: {k: rng.normal(0, 1, shape).astype(np.float32) for k, shape in shapes.items()}
spread = lambda tree: {k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in tree.items()}
params, grads = draw(), [draw() for _ in range(3)]
rule = Rule(lr=0.1, momentum=0.9, centered=True, weight_decay=0.1, bias_correction=True)
for clip, state_dtype, digits in ((None, "bfloat16", 0), (0.5, None, 1e-5)):
    optimizer = from_rule(rule.replace(clip_global_norm=clip), state_dtype=state_dtype)

    @jax.jit
    def step(p, state, g):
        updates, state = optimizer.update(g, state, p)
        return optax.apply_updates(p, updates), state

    alone, one = params, optimizer.init(params)
    shared = spread(params)
    eight = optimizer.init(shared)
    for g in grads:
        alone, one = step(alone, one, g)
        shared, eight = step(shared, eight, spread(g))
    for tree in (shared, eight.v, eight.m, eight.b):
        for k, x in tree.items():
            assert x.sharding.is_equivalent_to(NamedSharding(mesh, specs[k]), x.ndim), k
    same = lambda a, b: np.testing.assert_allclose(
        np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=digits, atol=digits)
    jax.tree.map(same, (alone, one), (shared, eight))
print("good")
"""


class TestTransformations:
    def test_a_sweep_over_learning_rates_and_momenta(self) -> None:
        grads = jnp.asarray(some(1, 5)["w"], jnp.float32)
        start = jnp.ones((4, 3))

        def final(lr: Any, mu: Any) -> Any:
            return run(make(lr, momentum=mu), start, grads)[0][-1]

        lrs, mus = jnp.array([0.1, 0.01]), jnp.array([0.5, 0.9])
        swept = jax.vmap(final)(lrs, mus)
        for k, (lr, mu) in enumerate([(0.1, 0.5), (0.01, 0.9)]):
            np.testing.assert_allclose(swept[k], final(lr, mu), rtol=1e-5)

    def test_a_derivative_by_the_learning_rate(self, x64: None) -> None:
        grads = jnp.asarray(some(1, 4)["w"])

        def loss(lr: Any) -> Any:
            return (
                run(make(lr, momentum=0.9, centered=True, eps=0.1), jnp.ones((4, 3)), grads)[0][-1]
                ** 2
            ).sum()

        slope = (loss(0.1 + 1e-6) - loss(0.1 - 1e-6)) / 2e-6
        assert float(jax.grad(loss)(0.1)) == pytest.approx(float(slope), rel=1e-6)

    @pytest.mark.parametrize("state_dtype", [None, "bfloat16"])
    def test_donated_state_is_written_over(self, state_dtype: str | None) -> None:
        optimizer = make(0.1, momentum=0.9, state_dtype=state_dtype)

        def step(params: Any, state: Any, g: Any) -> Any:
            updates, state = optimizer.update(g, state, params)
            return optax.apply_updates(params, updates), state

        g = jnp.ones(1000)
        first = jax.jit(step)
        second = jax.jit(step, donate_argnums=(0, 1))
        expected = first(*first(jnp.ones(1000), optimizer.init(g), g), g)
        params, state = jnp.ones(1000), optimizer.init(g)
        for _ in range(2):
            old = params, state.v, state.b
            params, state = second(params, state, g)
            assert all(x.is_deleted() for x in old)
        jax.tree.map(np.testing.assert_array_equal, (params, state), expected)

    def test_init_again_after_its_state_was_donated(self) -> None:
        key = jax.random.key(3)
        optimizer = make(0.1, state_dtype="bfloat16", key=key)
        for _ in range(2):
            state = optimizer.init(jnp.ones(2))
            jax.jit(lambda state: optimizer.update(jnp.ones(2), state), donate_argnums=0)(state)
            assert state.key.is_deleted()
        assert jax.random.key_data(key).tolist() == [0, 3]

    def test_eight_devices(self) -> None:
        """The same bits on a mesh, in arrays that lie where the parameters lie."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", MESH],
            env=os.environ | {
                "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": str(Path(rmsprop.__file__).parent.parent),
            },
            capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["8", "good"]


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({}, ValueError, ["no default", "learning_rate="]),
            ({"learning_rate": -0.1}, ValueError, ["learning_rate", "at least 0", "-0.1"]),
            ({"learning_rate": float("nan")}, ValueError, ["learning_rate", "finite"]),
            ({"learning_rate": "0.1"}, TypeError, ["learning_rate", "'0.1'"]),
            ({"learning_rate": True}, TypeError, ["learning_rate", "True"]),
            ({"learning_rate": np.ones(2)}, ValueError, ["learning_rate", "(2,)"]),
            ({"learning_rate": np.array(1j)}, TypeError, ["learning_rate", "complex"]),
            ({"learning_rate": np.array(True)}, TypeError, ["learning_rate", "bool"]),
            ({"learning_rate": 0.1, "decay": 1.0}, ValueError, ["decay", "[0, 1)"]),
            ({"learning_rate": 0.1, "eps": -1.0}, ValueError, ["eps", "-1.0"]),
            ({"learning_rate": 0.1, "centered": 1}, TypeError, ["centered", "True or False"]),
            ({"learning_rate": 0.1, "nesterov": True}, ValueError, ["nesterov", "momentum"]),
            ({"learning_rate": 0.1, "dialect": "pytorch"}, ValueError, ["pytorch", "torch"]),
            ({"learning_rate": 0.1, "state_dtype": "float16"}, ValueError, ["float16", "bfloat16"]),
            ({"learning_rate": 0.1, "state_dtype": 8}, ValueError, ["state_dtype", "8"]),
            ({"learning_rate": 0.1, "state_dtype": "bfloat16", "key": 0.5}, TypeError, ["key", "float"]),
            ({"learning_rate": 0.1, "state_dtype": "bfloat16", "key": jax.random.split(jax.random.key(0))},
             ValueError, ["key", "(2,)"]),
        ],
        ids=str,
    )  # fmt: skip
    def test_arguments(
        self, arguments: dict[str, Any], error: type[Exception], words: list[str]
    ) -> None:
        with pytest.raises(error) as caught:
            make(**arguments)
        assert all(word in str(caught.value) for word in words), caught.value

    def test_a_learning_rate_of_zero_moves_nothing(self) -> None:
        optimizer = make(0.0, momentum=0.9)
        updates, state = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
        assert not updates.any()
        assert state.v.all()

    def test_from_rule(self) -> None:
        with pytest.raises(TypeError, match=r"rmsprop\.Rule; got 0\.1"):
            from_rule(0.1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="learning_rate must be a number at least 0"):
            from_rule(Rule(), -1.0)
        with pytest.raises(ValueError, match="learning_rate must be one number"):
            from_rule(Rule(), lambda count: jnp.ones(2)).update(
                jnp.ones(1), from_rule(Rule()).init(jnp.ones(1))
            )

    @pytest.mark.parametrize(
        ("leaf", "words"),
        [
            (jnp.ones(2, jnp.complex64), ["complex64", "['x']", "imaginary"]),
            (jnp.ones(2, jnp.int32), ["int32", "['x']", "optax.masked"]),
            (np.ones(2, bool), ["bool", "optax.masked"]),
            (jax.random.key(0), ["key", "optax.masked"]),
        ],
        ids=str,
    )  # fmt: skip
    def test_leaves(self, leaf: Any, words: list[str]) -> None:
        optimizer = make(0.1)
        for attempt in (
            lambda: optimizer.init({"w": jnp.ones(1), "x": leaf}),
            lambda: optimizer.update({"x": leaf}, optimizer.init({"x": jnp.ones(2)})),
        ):
            with pytest.raises(TypeError) as caught:
                attempt()
            assert all(word in str(caught.value) for word in words), caught.value

    @pytest.mark.parametrize("decoupled", [False, True])
    def test_weight_decay_without_parameters(self, decoupled: bool) -> None:
        optimizer = make(0.1, weight_decay=0.1, decoupled_weight_decay=decoupled)
        with pytest.raises(ValueError, match="weight_decay needs the parameters"):
            optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))

    def test_a_state_that_another_rule_made(self) -> None:
        state = make(0.1).init(jnp.ones(2))
        with pytest.raises(ValueError, match="the state has no b"):
            make(0.1, momentum=0.9).update(jnp.ones(2), state)

    @pytest.mark.parametrize("name", ["jax", "optax"])
    def test_a_missing_framework(self, name: str) -> None:
        code = f"import sys; sys.modules[{name!r}] = None\nimport rmsprop.jax"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(Path(rmsprop.__file__).parent.parent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert (
            last
            == "ModuleNotFoundError: rmsprop.jax needs JAX and Optax: pip install 'rmsprop[jax]'"
        )
