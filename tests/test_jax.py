"""rmsprop.jax against the reference, and what it promises of dtypes, trees, rounding and errors."""

import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import needs
import rmsprop
from cases import FLOAT32, RULES, allowance, assert_within, mixed_gradients
from rmsprop import Rule, reference

jax = needs.package("jax")
optax = needs.package("optax")
jnp = jax.numpy

import rmsprop.jax  # noqa: E402
from rmsprop.jax import State  # noqa: E402
from rmsprop.jax.arithmetic import Slots  # noqa: E402
from rmsprop.jax.rounding import stochastic  # noqa: E402

make: Any = rmsprop.jax.rmsprop
from_rule: Any = rmsprop.jax.from_rule

Array = np.ndarray[Any, Any]
STEPS = 30
RATES = 0.02 * np.random.default_rng(1).uniform(0.5, 1.5, STEPS)
SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 3), "one": ()}


@pytest.fixture
def x64() -> Iterator[None]:
    """JAX keeps float64 as float64."""
    with jax.enable_x64(True):
        yield


def some(seed: int, steps: int | None = None) -> dict[str, Array]:
    """Arrays of SHAPES, or as many rows of them."""
    rng, lead = np.random.default_rng(seed), () if steps is None else (steps,)
    return {name: rng.normal(0, 1, (*lead, *shape)) for name, shape in SHAPES.items()}


def run(optimizer: Any, params: Any, grads: Any) -> Any:
    """Parameters and states after each of the steps, stacked."""

    def step(carry: Any, g: Any) -> Any:
        updates, state = optimizer.update(g, carry[1], carry[0])
        carry = optax.apply_updates(carry[0], updates), state
        return carry, carry

    return jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), grads)[1])(params)


def schedule(count: Any) -> Any:
    return jnp.asarray(RATES)[count]


# All rules in one program, as compiling one at a time would take twice as long.


def rule_of(name: str) -> Rule:
    """In float64, from a variance above zero: else it is 0 at first, and rounding all that is left."""
    rule = RULES[name]
    return rule.replace(initial_scale=0.5) if rule.centered and rule.bias_correction else rule


def together(each: dict[str, Any]) -> Any:
    """Transformations side by side, as one; a dict has for each its parameters, and its state."""

    def update(grads: Any, states: Any, params: Any) -> Any:
        both = {name: x.update(grads[name], states[name], params[name]) for name, x in each.items()}
        return {k: pair[0] for k, pair in both.items()}, {k: pair[1] for k, pair in both.items()}

    return optax.GradientTransformationExtraArgs(
        lambda params: {name: x.init(params[name]) for name, x in each.items()}, update
    )


@functools.cache
def free_runs() -> Any:
    """Parameters and states after each of the steps, in float64; each a dict by rule."""
    with jax.enable_x64(True):
        each = {name: from_rule(rule_of(name), schedule) for name in RULES}
        params, grads = dict.fromkeys(each, some(0)), dict.fromkeys(each, some(2, STEPS))
        return run(together(each), params, grads)


@functools.cache
def single_steps() -> dict[str, Any]:
    """By rule, what float32 steps start from, p, g, the states, and the updates and states they lead to."""
    before: dict[str, Any] = {}
    grads = mixed_gradients(STEPS, 24, FLOAT32.dtype)
    for name, rule in RULES.items():
        p = np.random.default_rng(2).normal(0, 1, 24).astype(np.float32)
        state, seen = reference.init(rule, p), []
        for g in grads:
            seen.append((p, state))
            (p,), (state,) = reference.step(rule, [p], [g], [state])
        seen.append((p, state))
        kept = {s: np.stack([getattr(state, s) for _, state in seen]) for s in "vmb"}
        before[name] = np.stack([p for p, _ in seen]), grads, kept

    def steps(start: dict[str, Any]) -> dict[str, Any]:
        after = {}
        for name, (ps, g, kept) in start.items():
            slots = {slot: kept[slot][:-1] for slot in RULES[name].slots}
            states = State(jnp.arange(STEPS, dtype=jnp.int32), **slots)
            after[name] = jax.vmap(from_rule(RULES[name]).update)(g, states, ps[:-1])
        return after

    after = jax.jit(steps)(before)
    return {name: (*before[name], *after[name]) for name in RULES}


class TestReference:
    @pytest.mark.parametrize("name", RULES)
    def test_float64_at_every_step(self, name: str) -> None:
        rule, params, grads = rule_of(name), some(0), some(2, STEPS)
        moved, state = (part[name] for part in free_runs())
        assert state.count.tolist() == list(range(1, STEPS + 1))
        assert tuple(s for s in "vmb" if getattr(state, s) is not None) == rule.slots
        found = {"p": moved} | {slot: getattr(state, slot) for slot in rule.slots}
        found = {k: {path: np.asarray(x) for path, x in tree.items()} for k, tree in found.items()}
        p = list(params.values())
        states = [reference.init(rule, x) for x in p]
        for t in range(STEPS):
            gs = [grads[path][t] for path in params]
            p, states = reference.step(rule.replace(lr=RATES[t]), p, gs, states)
            for k, path in enumerate(params):
                for letter, ours in found.items():
                    theirs = p[k] if letter == "p" else getattr(states[k], letter)
                    bound = 1e-12 * max(1.0, float(np.abs(theirs).max(initial=0)))
                    assert ours[path].dtype == np.float64
                    assert_within(ours[path][t], theirs, bound, f"{letter} of {path}, step {t}")

    @pytest.mark.parametrize("name", RULES)
    def test_float32_steps_from_the_references_states(self, name: str) -> None:
        """As many members of one vmap as there are steps, each at another count."""
        rule = RULES[name]
        ps, grads, kept, updates, after = single_steps()[name]
        found = {"p": ps[:-1] + np.asarray(updates)} | {s: getattr(after, s) for s in rule.slots}
        clipped = np.concatenate([reference.clip(rule, [g]) for g in grads])
        column: Any = np.arange(STEPS).reshape(-1, 1)
        start = reference.State(column, *(kept[s][:-1] for s in "vmb"))
        bounds = allowance(rule, ps[:-1], clipped, start, FLOAT32.dtype, FLOAT32.ulps)
        for letter, ours in found.items():
            theirs = ps if letter == "p" else kept[letter]
            assert ours.dtype == np.float32
            assert_within(ours, theirs[1:], bounds[letter], f"{letter}[step, element]")

    @pytest.mark.parametrize("name", ["corrected-all", "decoupled-all", "clip-norm"])
    def test_traced_numbers_compute_the_same(self, name: str, x64: None) -> None:
        rule, params, grads = RULES[name], some(0), some(2, 5)
        fields = rule.to_dict()
        switches = {k: x for k, x in fields.items() if isinstance(x, bool | str)}
        assert (switches.pop("second_moment"), switches.pop("first_moment")) == ("ema", "after")
        numbers = {k: x for k, x in fields.items() if k not in switches and isinstance(x, float)}
        numbers["learning_rate"] = numbers.pop("lr")

        def traced(numbers: dict[str, Any]) -> Any:
            return run(make(**numbers, **switches), params, grads)

        moved, state = jax.jit(traced)(numbers)
        expected, theirs = run(from_rule(rule), params, grads)
        if rule.momentum == 0:  # a traced momentum has a buffer, at zero too
            assert theirs.b is None
            state = state._replace(b=None)
        for ours, other in zip(
            jax.tree.leaves((moved, state)), jax.tree.leaves((expected, theirs)), strict=True
        ):
            np.testing.assert_allclose(ours, other, rtol=1e-12, atol=1e-14)

    def test_traced_zeros_are_no_momentum_and_no_decay(self, x64: None) -> None:
        params, grads = some(0), some(2, 5)
        zero = jnp.zeros(())
        still = make(0.01, momentum=zero, weight_decay=zero, dialect="torch")
        plain = make(0.01, dialect="torch")
        ours, theirs = run(still, params, grads)[0], run(plain, params, grads)[0]
        for name in params:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-14)

    @pytest.mark.parametrize(
        "name", ["plain", "centered-all", "clip-value", "clip-norm", "clip-global-norm"]
    )
    def test_what_is_not_finite_goes_where_it_goes_in_the_reference(self, name: str) -> None:
        rule, optimizer, p = RULES[name], from_rule(RULES[name]), np.ones(3, np.float32)
        grads = np.array([[1.0, x, -2.0] for x in (np.nan, np.inf, -np.inf)], np.float32)
        step = jax.jit(jax.vmap(lambda g: optimizer.update(g, optimizer.init(p), p)))
        updates, after = step(grads)
        for k, g in enumerate(grads):
            with np.errstate(invalid="ignore"):
                (q,), (state,) = reference.step(rule, [p], [g], [reference.init(rule, p)])
            np.testing.assert_allclose(p + np.asarray(updates)[k], q, rtol=1e-5)
            np.testing.assert_allclose(np.asarray(after.v)[k], state.v, rtol=1e-5)

    def test_norms_of_gradients_whose_squares_overflow(self) -> None:
        for clips in ({"clip_norm": 1.0}, {"clip_global_norm": 1.0}):
            optimizer = from_rule(Rule.from_dialect("sgd", lr=1.0, **clips))
            g = {"w": jnp.array([3e38, 0.0]), "b": jnp.zeros(2)}
            updates, _ = optimizer.update(g, optimizer.init(g))
            np.testing.assert_allclose(updates["w"], [-1.0, 0.0], rtol=1e-6)

    def test_a_variance_that_rounds_below_zero(self) -> None:
        """Of one gradient it is zero, up to rounding; Optax takes the root of what is left."""
        g = jnp.asarray(np.random.default_rng(0).normal(0, 10, 1000), jnp.float32)
        theirs, ours = (
            run(module.rmsprop(0.01, centered=True, bias_correction=True), jnp.ones(1000), g[None])[
                0
            ]
            for module in (optax, rmsprop.jax)
        )
        assert np.isnan(theirs).any()
        assert np.isfinite(ours).all()
        assert (np.abs(ours - 1) <= 0.01 * np.abs(g) / 1e-4 * 1.001).all(), (
            "d >= 0: u is at most g/sqrt(eps)"
        )


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


def types(tree: Any) -> Any:
    """What a second trace would come from."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


class TestDtypes:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    def test_one_trace_and_stable_types(self, dtype: str) -> None:
        with jax.enable_x64(dtype == "float64"):
            each = {
                f"{name} {kept}": from_rule(
                    RULES[name], lambda count: 0.1 / (1 + count), state_dtype=kept
                )
                for name in ("corrected-all", "adamw")
                for kept in (None, "bfloat16")
            }
            optimizer, traces = together(each), []

            @jax.jit
            def step(params: Any, state: Any) -> Any:
                traces.append(1)
                updates, state = optimizer.update(params, state, params)
                return optax.apply_updates(params, updates), state

            start = {"w": jnp.ones((2, 3), dtype), "s": jnp.ones((), dtype)}
            params = dict.fromkeys(each, start)
            state = jax.jit(optimizer.init)(params)
            for name, one in state.items():
                kept = {x.dtype.name for x in jax.tree.leaves((one.v, one.m, one.b))}
                wide = "float64" if dtype == "float64" else "float32"
                assert kept == {"bfloat16" if name.endswith("bfloat16") else wide}
            before = types((params, state))
            for _ in range(3):
                params, state = step(params, state)
            assert types((params, state)) == before
            assert len(traces) == 1

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_halves_are_computed_in_float32(self, dtype: str) -> None:
        rule = RULES["corrected-all"]
        p, g = (jnp.asarray(some(k)["w"], dtype) for k in (0, 1))
        optimizer = from_rule(rule)
        updates, state = optimizer.update(g, optimizer.init(p), p)
        p32, g32 = p.astype(jnp.float32), g.astype(jnp.float32)
        wide, expected = optimizer.update(g32, optimizer.init(p32), p32)
        np.testing.assert_array_equal(updates, wide.astype(dtype))
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        assert updates.dtype == dtype

    def test_gradients_wider_than_the_parameters_keep_their_digits(self) -> None:
        params = jnp.ones(2, jnp.bfloat16)
        optimizer = make(1e-3, decay=0.0)
        updates, _ = optimizer.update(jnp.ones(2, jnp.float32), optimizer.init(params))
        assert updates.dtype == jnp.float32

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_zero_gradients_give_no_nan(self, dtype: str) -> None:
        for dialect in rmsprop.DIALECTS:
            optimizer = make(0.1, dialect=dialect)
            p = jnp.ones(3, dtype)
            updates, _ = optimizer.update(jnp.zeros(3, dtype), optimizer.init(p))
            assert not updates.any(), dialect

    def test_a_decay_near_one_corrects_well_in_float32(self) -> None:
        """At first v/(1 - rho) is g^2, so that the step is lr; 1 - rho^1 in float32 would miss it."""
        optimizer = from_rule(Rule.from_dialect("adam", lr=1.0, eps=0.0, decay=0.9999))
        updates, _ = optimizer.update(jnp.full(3, 2.0), optimizer.init(jnp.ones(3)))
        np.testing.assert_allclose(updates, -1.0, rtol=1e-6)


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


class TestRounding:
    def test_right_on_average(self) -> None:
        x = jnp.asarray(np.random.default_rng(0).normal(0, 1, 500), jnp.float32)
        seeds = jax.random.bits(jax.random.key(0), (4000, 2), jnp.uint32)
        found = np.asarray(jax.vmap(lambda s: stochastic(x, s))(seeds), np.float64)
        low, high = found.min(0), found.max(0)
        gap = np.where(high > low, high - low, 1)
        part = np.abs(np.asarray(x, float) - low) / gap
        spread = gap * np.sqrt(np.maximum(part * (1 - part), 1e-12) / len(seeds))
        off = np.abs(found.mean(0) - np.asarray(x, float)) / spread
        assert (np.unique(found, axis=0).shape[0]) > 3900
        assert all(len(np.unique(column)) <= 2 for column in found.T)
        assert off.max() < 5
        assert 0.8 < np.sqrt((off[part > 0.05] ** 2).mean()) < 1.2, "and as wide as chance"

    @pytest.mark.parametrize("shape", [(65536,), (256, 256), (16, 4, 1024)])
    def test_neighbours_are_independent(self, shape: tuple[int, ...]) -> None:
        x = jnp.full(shape, 1 + 2.0**-8)  # halfway between two neighbours: up or down
        for k in range(5):
            seeds = jax.random.bits(jax.random.key(k), (2, 2), jnp.uint32)
            one, two = (np.asarray(stochastic(x, s) > 1, float).ravel() for s in seeds)
            sigma = 0.5 / np.sqrt(x.size)
            assert abs(one.mean() - 0.5) < 5 * sigma
            for lag in (1, 2, shape[-1] % x.size or 3, 64):
                assert abs(np.corrcoef(one[:-lag], one[lag:])[0, 1]) < 10 * sigma
            assert abs(np.corrcoef(one, two)[0, 1]) < 10 * sigma

    def test_what_needs_no_rounding_stays(self) -> None:
        x = jnp.array([0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan, 2.0**-126])
        for k in range(20):
            found = stochastic(x, jnp.array([k, k], jnp.uint32))
            np.testing.assert_array_equal(found.astype(jnp.float32), x)
            np.testing.assert_array_equal(jnp.signbit(found[:2]), [False, True])

    def test_an_average_does_not_stall(self) -> None:
        """Where bfloat16 to the nearest stops at 0.5 for a decay of 0.999."""
        optimizer = make(0.0, decay=0.999, state_dtype="bfloat16")
        ones = jnp.ones(1000)
        state = jax.lax.fori_loop(
            0, 4000, lambda _, state: optimizer.update(ones, state)[1], optimizer.init(ones)
        )
        assert state.v.dtype == jnp.bfloat16
        mean = float(state.v.astype(jnp.float32).mean())
        assert mean == pytest.approx(1 - 0.999**4000, abs=3e-3)

    def test_close_to_float32(self) -> None:
        rule = RULES["centered-all"]
        params, grads = jnp.ones(20_000), jnp.asarray(mixed_gradients(10, 20_000, FLOAT32.dtype))
        _, theirs = run(from_rule(rule), params, grads)
        _, ours = run(from_rule(rule, state_dtype="bfloat16"), params, grads)
        for slot in rule.slots:
            a, b = (np.asarray(getattr(s, slot)[-1], float) for s in (ours, theirs))
            assert np.linalg.norm(a - b) < 0.02 * np.linalg.norm(b), slot

    def test_a_key_decides(self) -> None:
        third = {"a": jnp.full((3, 300), 1 / 3), "b": jnp.full((3, 300), 1 / 3)}
        params = {"a": jnp.ones(300), "b": jnp.ones(300)}
        keys = {
            "seed": 0,
            "typed": jax.random.key(0),
            "raw": jax.random.key_data(jax.random.key(0)),
            "traced": jnp.zeros((), jnp.int32),
        }
        start = make(0.1, state_dtype="bfloat16").init(params)
        for name, key in keys.items():
            other = make(0.1, state_dtype="bfloat16", key=key).init(params)
            np.testing.assert_array_equal(other.key, start.key, name)
        draws = {"default": None, "again": None, "other": 1, "rbg": jax.random.key(0, impl="rbg")}
        seen = {
            name: run(make(0.1, state_dtype="bfloat16", key=key), params, third)[1]
            for name, key in draws.items()
        }
        v = {name: np.asarray(state.v["a"], float) for name, state in seen.items()}
        np.testing.assert_array_equal(v["default"], v["again"])
        for name in ("other", "rbg"):
            assert (v["default"] != v[name]).any()
        assert (v["default"] != np.asarray(seen["default"].v["b"], float)).any(), (
            "leaves draw apart"
        )
        keys = np.unique(np.asarray(seen["default"].key), axis=0)
        assert len(keys) == 3, "each step draws anew"

    def test_members_of_a_vmap_with_keys_of_their_own(self) -> None:
        keys = jax.random.split(jax.random.key(0), 3)
        optimizer = make(0.1, state_dtype="bfloat16")
        g = jnp.full(500, 1 / 3)
        states = jax.vmap(lambda key: make(0.1, state_dtype="bfloat16", key=key).init(g))(keys)
        _, states = jax.jit(jax.vmap(lambda s: optimizer.update(g, s)))(states)
        assert len(np.unique(np.asarray(states.v, float), axis=0)) == 3

    def test_a_saved_state_goes_on_with_the_same_bits(self) -> None:
        """All of it is plain arrays, which NumPy and any checkpoint hold."""
        optimizer = from_rule(RULES["corrected-all"], state_dtype="bfloat16")
        params, grads = jnp.ones(100), jnp.asarray(mixed_gradients(6, 100, FLOAT32.dtype))
        moved, states = run(optimizer, params, grads)
        p, state = jax.tree.map(lambda x: x[2], (moved, states))
        plain = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, state)))
        for k in (3, 4, 5):
            updates, plain = jax.jit(optimizer.update)(grads[k], plain, p)
            p = optax.apply_updates(p, updates)
        np.testing.assert_array_equal(plain.key, states.key[-1])
        np.testing.assert_allclose(p, moved[-1], rtol=1e-3)

    def test_float64_parameters(self, x64: None) -> None:
        optimizer = make(0.1, state_dtype=jnp.bfloat16)
        p = jnp.ones(3)
        updates, state = jax.jit(optimizer.update)(jnp.ones(3), optimizer.init(p))
        assert (p.dtype, updates.dtype, state.v.dtype) == ("float64", "float64", "bfloat16")


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


def test_the_state_has_the_rules_slots() -> None:
    assert State._fields == ("count", *Slots._fields, "key")
    assert set(Slots._fields) == {"v", "m", "b"}
