"""rmsprop.jax against the reference, and what it promises of dtypes and rounding."""

import functools
import pickle
from typing import Any

import numpy as np
import pytest

import rmsprop
from cases import FLOAT32, RULES, allowance, assert_within, mixed_gradients
from jax_runs import from_rule, jax, make, optax, run, some, together
from rmsprop import Rule, reference
from rmsprop.jax import State
from rmsprop.jax.arithmetic import Slots
from rmsprop.jax.rounding import stochastic

jnp = jax.numpy

STEPS = 30
RATES = 0.02 * np.random.default_rng(1).uniform(0.5, 1.5, STEPS)


def schedule(count: Any) -> Any:
    return jnp.asarray(RATES)[count]


# All rules in one program, as compiling one at a time would take twice as long.


def rule_of(name: str) -> Rule:
    """In float64, from a variance above zero: else it is 0 at first, and rounding all that is left."""
    rule = RULES[name]
    return rule.replace(initial_scale=0.5) if rule.centered and rule.bias_correction else rule


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


def test_the_state_has_the_rules_slots() -> None:
    assert State._fields == ("count", *Slots._fields, "key")
    assert set(Slots._fields) == {"v", "m", "b"}
