"""Each dialect against the framework that it names: parameters and state, at every one of 200 steps.

A framework runs once for each case and dtype; the reference and the kernel are both compared with what it
did.  In float64 they run freely, from the same start, and may be off by 1e-12 of the largest value so
far.  In float32 free runs drift apart by rounding alone, so each step starts from the framework's own
state and may be off by 4 units in the last place of its operands (`cases.allowance`).

timm, stable-baselines3 and TensorFlow 1 are not installed: their formulas are written down here, in NumPy,
in the order in which their own code computes.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import needs
import rmsprop.numpy
from cases import FLOAT32, FLOAT64, allowance, assert_within, mixed_gradients
from rmsprop import DIALECTS, PRESETS, Rule, reference
from rmsprop.numpy import Optimizer, RMSprop
from rmsprop.state import State

# Keras's own reading of its variables, under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS, SIZE = 200, 24
Array = np.ndarray[Any, Any]
# In numbers that float32 holds, as Keras keeps them in float32; the rate changes at every step.
WD = float(np.float32(0.01))
LRS = [float(np.float32(0.02 * x)) for x in np.random.default_rng(1).uniform(0.5, 1.5, STEPS)]


@dataclass(frozen=True, eq=False)
class Case:
    """A rule, and how to run the framework that it is to equal."""

    name: str
    rule: Rule
    record: Callable[[dict[str, Any], Array, Array], dict[str, Array]]
    """(options, p, grads [steps, size]) -> p, v, m, b [steps + 1, size], as far as it keeps them."""
    options: dict[str, Any] = field(default_factory=dict)
    ulps: float = FLOAT32.ulps


# Recorders: what the frameworks do.


def by_torch(kept: dict[str, str]) -> Callable[[dict[str, Any], Array, Array], dict[str, Array]]:
    """An optimizer of torch.optim, whose state has these names."""

    def record(options: dict[str, Any], p: Array, grads: Array) -> dict[str, Array]:
        torch = needs.package("torch")
        weight = torch.nn.Parameter(torch.tensor(p))
        options = dict(options)
        optimizer = getattr(torch.optim, options.pop("class"))([weight], lr=1.0, **options)
        seen = {"p": [p], **{slot: [np.zeros_like(p)] for slot in kept}}
        for lr, g in zip(LRS, grads, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            weight.grad = torch.tensor(g)
            optimizer.step()
            seen["p"].append(weight.detach().numpy().copy())
            for slot, name in kept.items():
                seen[slot].append(optimizer.state[weight][name].numpy().copy())
        return {name: np.stack(values) for name, values in seen.items()}

    return record


def in_precision(dtype: np.dtype[Any]) -> Any:
    """A context in which JAX keeps float64 as float64, if that is the dtype."""
    jax = needs.package("jax")
    home = jax if hasattr(jax, "enable_x64") else needs.package("jax.experimental")
    return home.enable_x64(dtype == np.float64)


def by_keras(options: dict[str, Any], p: Array, grads: Array) -> dict[str, Array]:
    keras = needs.package("keras")

    def read(variable: Any) -> Array:
        return np.array(keras.ops.convert_to_numpy(variable))

    with in_precision(p.dtype):
        weight = keras.Variable(p, dtype=p.dtype.name)
        optimizer = keras.optimizers.RMSprop(learning_rate=1.0, **options)
        optimizer.build([weight])
        kept = zip("vbm", ("_velocities", "_momentums", "_average_gradients"), strict=True)
        lists = {slot: getattr(optimizer, name) for slot, name in kept}
        parts = {"p": weight, **{slot: known[0] for slot, known in lists.items() if known}}
        seen = {name: [read(variable)] for name, variable in parts.items()}
        for lr, g in zip(LRS, grads, strict=True):
            optimizer.learning_rate = lr
            optimizer.apply_gradients([(keras.ops.convert_to_tensor(g), weight)])
            for name, variable in parts.items():
                seen[name].append(read(variable))
    return {name: np.stack(values) for name, values in seen.items()}


def by_optax(options: dict[str, Any], p: Array, grads: Array) -> dict[str, Array]:
    jax, optax = needs.package("jax"), needs.package("optax")
    jnp = jax.numpy
    options = dict(options)
    decay = options.pop("weight_decay")

    def leaves(state: Any) -> Iterator[tuple[str, Any]]:
        for name in getattr(state, "_fields", ()):
            if name in ("nu", "mu", "trace"):
                part = getattr(state, name)
                yield {"nu": ("v", part), "mu": ("m", part), "trace": ("b", -part)}[name]
        if isinstance(state, tuple):
            for part in state:
                yield from leaves(part)

    with in_precision(p.dtype):
        rates = jnp.asarray(LRS, p.dtype)
        first = optax.add_decayed_weights(decay) if decay else optax.identity()
        both = optax.chain(first, optax.rmsprop(lambda count: rates[count], **options))

        def body(carry: Any, g: Any) -> Any:
            updates, state = both.update(g, carry[1], carry[0])
            weight = optax.apply_updates(carry[0], updates)
            return (weight, state), {"p": weight, **dict(leaves(state))}

        start = (jnp.asarray(p), both.init(jnp.asarray(p)))
        _, seen = jax.jit(lambda: jax.lax.scan(body, start, jnp.asarray(grads)))()
        before = {"p": start[0], **dict(leaves(start[1]))}
        return {k: np.concatenate([np.asarray(before[k])[None], np.asarray(seen[k])]) for k in seen}


def by_formula(
    step: Callable[[SimpleNamespace, Array, float, SimpleNamespace], None], start: float
) -> Callable[[dict[str, Any], Array, Array], dict[str, Array]]:
    """A formula written down below: it moves `s.p`, `s.v`, `s.m`, `s.b`; v begins at `start`."""

    def record(options: dict[str, Any], p: Array, grads: Array) -> dict[str, Array]:
        zeros = np.zeros_like(p)
        s = SimpleNamespace(p=p, v=np.full_like(p, start), m=zeros, b=zeros)
        seen = [vars(s).copy()]
        for lr, g in zip(LRS, grads, strict=True):
            step(s, g, lr, SimpleNamespace(**options))
            seen.append(vars(s).copy())
        return {name: np.stack([row[name] for row in seen]) for name in "pvmb"}

    return record


def timm(s: SimpleNamespace, g: Array, lr: float, o: SimpleNamespace) -> None:
    """timm.optim.RMSpropTF.step, pytorch-image-models, timm/optim/rmsprop_tf.py."""
    rest = 1.0 - o.alpha
    if o.decoupled_decay:
        s.p = s.p * (1.0 - lr * o.weight_decay)
    elif o.weight_decay:
        g = g + o.weight_decay * s.p
    s.v = s.v + rest * (g**2 - s.v)
    if o.centered:
        s.m = s.m + rest * (g - s.m)
    root = np.sqrt((s.v - s.m * s.m) + o.eps)
    if not o.momentum:
        s.p = s.p - lr * g / root
    elif o.lr_in_momentum:
        s.b = o.momentum * s.b + lr * g / root
        s.p = s.p - s.b
    else:
        s.b = o.momentum * s.b + g / root
        s.p = s.p - lr * s.b


def sb3(s: SimpleNamespace, g: Array, lr: float, o: SimpleNamespace) -> None:
    """RMSpropTFLike.step, stable_baselines3/common/sb2_compat/rmsprop_tf_like.py."""
    if o.weight_decay:
        g = g + o.weight_decay * s.p
    s.v = o.alpha * s.v + (1 - o.alpha) * g * g
    if o.centered:
        s.m = o.alpha * s.m + (1 - o.alpha) * g
    root = np.sqrt((s.v - s.m * s.m) + o.eps)
    if o.momentum:
        s.b = o.momentum * s.b + g / root
        s.p = s.p - lr * s.b
    else:
        s.p = s.p - lr * g / root


def tf1(s: SimpleNamespace, g: Array, lr: float, o: SimpleNamespace) -> None:
    """ApplyRMSProp and ApplyCenteredRMSProp, tensorflow/core/kernels/training_ops.cc: the dense path.

    Its scalars are tensors of the variable's dtype, so that 1 - rho is taken in that dtype.
    """
    one, rho, mu, eps, rate = (s.p.dtype.type(x) for x in (1, o.rho, o.momentum, o.epsilon, lr))
    s.v = s.v + (g * g - s.v) * (one - rho)
    if o.centered:
        s.m = s.m + (g - s.m) * (one - rho)
    s.b = s.b * mu + (g * rate) / np.sqrt((s.v - s.m * s.m) + eps)
    s.p = s.p - s.b


def graves(s: SimpleNamespace, g: Array, lr: float, o: SimpleNamespace) -> None:
    """Equations 38 to 45 of arXiv:1308.0850, where b is minus its Delta."""
    aleph, beth, daleth = 0.95, 0.9, 1e-4
    s.v = aleph * s.v + (1 - aleph) * g**2
    s.m = aleph * s.m + (1 - aleph) * g
    s.b = -(beth * -s.b - lr * g / np.sqrt(s.v - s.m**2 + daleth))
    s.p = s.p - s.b


def hinton(s: SimpleNamespace, g: Array, lr: float, o: SimpleNamespace) -> None:
    """Slide 29 of lecture 6: MeanSquare(t) = 0.9 MeanSquare(t-1) + 0.1 g^2; g over its root."""
    s.v = 0.9 * s.v + 0.1 * g**2
    s.p = s.p - lr * g / (np.sqrt(s.v) + 1e-8)


# The cases: momentum x centered x weight decay, with the framework's own defaults for the rest.


def rule_of(dialect: str, **fields: Any) -> Rule:
    return Rule.from_dialect(dialect, **({"lr": 1.0} | fields))


def cases() -> Iterator[Case]:
    rms = {"v": "square_avg", "m": "grad_avg", "b": "momentum_buffer"}
    for mu, centered, wd in itertools.product((0.0, 0.9), (False, True), (0.0, WD)):
        name = f"mu{mu:g}{'-centered' if centered else ''}-wd{wd:.2g}"
        numbers: dict[str, Any] = {"momentum": mu, "centered": centered}
        decayed: dict[str, Any] = {**numbers, "weight_decay": wd}

        rule = rule_of("torch", **decayed)
        kept = {slot: rms[slot] for slot in rule.slots}
        yield Case(f"torch-{name}", rule, by_torch(kept), {"class": "RMSprop", **decayed})
        yield Case(
            f"keras-{name}",
            rule_of("keras", **decayed),
            by_keras,
            {**numbers, "weight_decay": wd or None},
        )
        yield Case(
            f"optax-{name}",
            rule_of("optax", **decayed),
            by_optax,
            {"centered": centered, "momentum": mu or None, "weight_decay": wd},
        )
        yield Case(
            f"sb3-{name}",
            rule_of("sb3", **decayed),
            by_formula(sb3, 1.0),
            {"alpha": 0.99, "eps": 1e-8, **decayed},
        )
        for decoupled, inside in itertools.product((False, True), (False, True)):
            if (decoupled and not wd) or (not inside and not mu):
                continue  # the switch has nothing to act on
            yield Case(
                f"timm-{name}{'-decoupled' if decoupled else ''}{'' if inside else '-lr-outside'}",
                rule_of("timm", **decayed, decoupled_weight_decay=decoupled, lr_in_momentum=inside),
                by_formula(timm, 1.0),
                {
                    "alpha": 0.9,
                    "eps": 1e-10,
                    **decayed,
                    "decoupled_decay": decoupled,
                    "lr_in_momentum": inside,
                },
            )
        if not wd:
            # In float32, 1 - 0.9 is itself 4 units away from the 0.1 that everybody else uses.
            options = {"rho": 0.9, "epsilon": 1e-10, **numbers}
            rule = rule_of("tf1", **numbers)
            yield Case(f"tf1-{name}", rule, by_formula(tf1, 1.0), options, ulps=8)

    rule = rule_of("torch", maximize=True, momentum=0.9, weight_decay=0.01)
    options = {"class": "RMSprop", "maximize": True, "momentum": 0.9, "weight_decay": 0.01}
    kept = {"v": rms["v"], "b": rms["b"]}
    yield Case("torch-maximize", rule, by_torch(kept), options)

    # Every pair of optax's switches, both ways: momentum, centered, nesterov, eps inside, corrected.
    for row in (
        "00011",
        "01000",
        "01011",
        "00001",
        "11100",
        "11111",
        "10110",
        "10101",
        "10010",
        "11001",
    ):
        mu, centered, nesterov, inside, corrected = (digit == "1" for digit in row)
        mu = 0.9 * mu
        switches: dict[str, Any] = {
            "centered": centered, "nesterov": nesterov, "eps_in_sqrt": inside,
            "bias_correction": corrected, "initial_scale": 0.25, "decay": 0.97, "eps": 1e-5,
        }  # fmt: skip
        on = [
            key
            for key in ("centered", "nesterov", "eps_in_sqrt", "bias_correction")
            if switches[key]
        ]
        yield Case(
            "-".join([f"optax-mu{mu:g}", *on]),
            rule_of("optax", **switches, momentum=mu),
            by_optax,
            {**switches, "momentum": mu or None, "weight_decay": 0.0},
        )

    yield Case("graves", rule_of("graves"), by_formula(graves, 0.0))
    yield Case("hinton", rule_of("hinton"), by_formula(hinton, 0.0))
    yield from presets()


def presets() -> Iterator[Case]:
    sgd, adam = by_torch({}), by_torch({"v": "exp_avg_sq", "b": "exp_avg"})
    heavy, sums = by_torch({"b": "momentum_buffer"}), by_torch({"v": "sum"})
    for wd in (0.0, WD):
        with_wd: dict[str, Any] = {"weight_decay": wd}
        yield Case(f"sgd-wd{wd:.2g}", rule_of("sgd", **with_wd), sgd, {"class": "SGD", **with_wd})
        for nesterov in (False, True):
            options = {"momentum": 0.9, "nesterov": nesterov, **with_wd}
            name = "nesterov" if nesterov else "momentum"
            rule = rule_of(name, **with_wd)
            yield Case(f"{name}-wd{wd:.2g}", rule, heavy, {"class": "SGD", **options})
        rule = rule_of("adagrad", **with_wd)
        yield Case(f"adagrad-wd{wd:.2g}", rule, sums, {"class": "Adagrad", **with_wd})
        rule = rule_of("adam", **with_wd)
        yield Case(f"adam-wd{wd:.2g}", rule, adam, {"class": "Adam", **with_wd})
    yield Case("adamw", rule_of("adamw"), adam, {"class": "AdamW"})
    rule = rule_of("adamw", weight_decay=0.1, maximize=True)
    options = {"class": "AdamW", "weight_decay": 0.1, "maximize": True}
    yield Case("adamw-maximize", rule, adam, options)


CASES = {case.name: case for case in cases()}


@functools.cache
def recorded(name: str, dtype: str) -> tuple[Array, dict[str, Array]]:
    """The gradients, and what the framework did with them."""
    case = CASES[name]
    grads = mixed_gradients(STEPS, SIZE, np.dtype(dtype))
    p = np.random.default_rng(2).normal(0, 1, SIZE).astype(dtype)
    seen = case.record(case.options, p, grads)
    kept = {name: seen[name] for name in ("p", *case.rule.slots)}
    assert all(x.dtype == dtype and x.shape == (STEPS + 1, SIZE) for x in kept.values())
    assert all(np.isfinite(x).all() for x in kept.values())
    return grads, kept


def assert_follows(name: str, mine: list[dict[str, Array]]) -> None:
    """A free run in float64 against the framework's, at every step."""
    _, kept = recorded(name, "float64")
    for letter, theirs in kept.items():
        ours = np.stack([row[letter] for row in mine])
        largest = np.maximum.accumulate(np.abs(theirs), axis=0)[1:]
        assert_within(ours, theirs[1:], FLOAT64.rtol * largest, f"{letter}[step, element]")


@functools.cache
def allowed(name: str) -> dict[str, Array]:
    """What each of the 200 single steps in float32 may be off by."""
    grads, kept = recorded(name, "float32")
    case, zeros = CASES[name], np.zeros_like(grads)
    column = np.arange(STEPS).reshape(-1, 1)
    before = reference.State(column, *(kept[s][:-1] if s in kept else zeros for s in "vmb"))  # type: ignore[arg-type]
    rates = np.array(LRS).reshape(-1, 1)
    return allowance(case.rule, kept["p"][:-1], grads, before, FLOAT32.dtype, case.ulps, rates)


def assert_steps(
    name: str, step: Callable[[Rule, Array, Array, reference.State], dict[str, Array]]
) -> None:
    """In float32, 200 single steps, each from the framework's state."""
    grads, kept = recorded(name, "float32")
    zeros, found = np.zeros(SIZE, np.float32), []
    for t, (lr, g) in enumerate(zip(LRS, grads, strict=True)):
        before = reference.State(t, *(kept[s][t] if s in kept else zeros for s in "vmb"))
        found.append(step(CASES[name].rule.replace(lr=lr), kept["p"][t], g, before))
    for letter, theirs in kept.items():
        ours = np.stack([row[letter] for row in found])
        assert ours.dtype == np.float32
        assert_within(ours, theirs[1:], allowed(name)[letter], f"{letter}[step, element]")


@pytest.mark.parametrize("name", CASES)
class TestFrameworks:
    def test_reference_float64(self, name: str) -> None:
        grads, kept = recorded(name, "float64")
        rule, p, mine = CASES[name].rule, kept["p"][0], []
        state = reference.init(rule, p)
        for lr, g in zip(LRS, grads, strict=True):
            p, state = reference.update(rule.replace(lr=lr), p, g, state)
            mine.append({"p": p, **state._asdict()})
        assert_follows(name, mine)

    def test_kernel_float64(self, name: str) -> None:
        grads, kept = recorded(name, "float64")
        p, mine = kept["p"][0].copy(), []
        optimizer = Optimizer(CASES[name].rule, learning_rate=lambda step: LRS[step])
        for g in grads:
            optimizer.update(p, g)
            state = {
                slot: optimizer.state.slots[slot][""].copy() for slot in CASES[name].rule.slots
            }
            mine.append({"p": p.copy(), **state})
        assert_follows(name, mine)

    def test_reference_float32(self, name: str) -> None:
        def step(rule: Rule, p: Array, g: Array, before: reference.State) -> dict[str, Array]:
            moved, after = reference.update(rule, p, g, before)
            return {"p": moved, **after._asdict()}

        assert_steps(name, step)

    def test_kernel_float32(self, name: str) -> None:
        def step(rule: Rule, p: Array, g: Array, before: reference.State) -> dict[str, Array]:
            state = State(before.t, {slot: {"": getattr(before, slot)} for slot in rule.slots})
            moved, after = rmsprop.numpy.step(rule, p, g, state)
            return {"p": moved, **{slot: after.slots[slot][""] for slot in rule.slots}}

        assert_steps(name, step)


def test_every_dialect_and_preset_has_a_case() -> None:
    assert {name.split("-")[0] for name in CASES} == {*DIALECTS, *PRESETS}
    assert len(CASES) == len(list(cases())), "two cases with one name"


class TestDefaults:
    """The numbers that a framework uses when the user gives none."""

    @pytest.mark.parametrize(
        ("dialect", "name"),
        [
            ("torch", "RMSprop"),
            ("sgd", "SGD"),
            ("adagrad", "Adagrad"),
            ("adam", "Adam"),
            ("adamw", "AdamW"),
        ],
    )
    def test_torch(self, dialect: str, name: str) -> None:
        torch = needs.package("torch")
        theirs = getattr(torch.optim, name)([torch.zeros(1)]).defaults
        rule = Rule.from_dialect(dialect)
        betas = theirs.get("betas", (theirs.get("momentum", 0.0), theirs.get("alpha", rule.decay)))
        assert rule.lr == theirs["lr"]
        assert (rule.momentum, rule.decay) == betas
        assert rule.eps == theirs.get("eps", rule.eps)
        assert rule.weight_decay == theirs["weight_decay"]
        assert rule.initial_scale == theirs.get("initial_accumulator_value", 0.0)

    def test_keras(self) -> None:
        theirs = needs.package("keras").optimizers.RMSprop().get_config()
        rule = Rule.from_dialect("keras")
        assert rule.lr == pytest.approx(theirs["learning_rate"], rel=1e-7)
        assert (rule.decay, rule.momentum, rule.eps) == tuple(
            theirs[name] for name in ("rho", "momentum", "epsilon")
        )
        assert rule.centered == theirs["centered"]

    def test_optax(self) -> None:
        known = inspect.signature(needs.package("optax").rmsprop).parameters
        assert known["learning_rate"].default is inspect.Parameter.empty
        rule = Rule.from_dialect("optax", lr=1.0)
        for name in (
            "decay",
            "eps",
            "initial_scale",
            "eps_in_sqrt",
            "centered",
            "nesterov",
            "bias_correction",
        ):
            assert getattr(rule, name) == known[name].default, name


class TestTraps:
    """What the frameworks fall into, and this rule does not."""

    # Of any one constant, v - m^2 may or may not round below zero; of 1,000 some do.
    CONSTANT = np.random.default_rng(0).normal(0, 1, 1000).astype(np.float32)

    @pytest.mark.parametrize("dialect", ["torch", "keras", "graves"])
    def test_centered_with_a_constant_gradient_stays_finite(self, dialect: str) -> None:
        rule = Rule.from_dialect(dialect, centered=True)
        p, q = np.ones(1000, np.float32), np.ones(1000, np.float32)
        optimizer, state = Optimizer(rule), reference.init(rule, q)
        clamped = 0
        for t in range(1, 2001):
            optimizer.update(p, self.CONSTANT)
            q, state = reference.update(rule, q, self.CONSTANT, state)
            clamped += int((state.v - state.m**2 < 0).sum())
            assert np.isfinite(p).all(), t
            assert np.isfinite(q).all(), t
        assert clamped, "there was something to clamp"

    def test_where_torch_gives_nan(self) -> None:
        torch = needs.package("torch")
        weight = torch.nn.Parameter(torch.ones(1000))
        optimizer = torch.optim.RMSprop([weight], centered=True)
        weight.grad = torch.tensor(self.CONSTANT)
        steps = 0
        while steps < 2000 and not torch.isnan(weight).any():
            optimizer.step()
            steps += 1
        assert 1100 < steps < 1300, "about 1,210 was seen"

    def test_where_keras_gives_nan(self) -> None:
        keras = needs.package("keras")
        weight = keras.Variable(np.ones(1000, np.float32))
        optimizer = keras.optimizers.RMSprop(centered=True)
        g = keras.ops.convert_to_tensor(self.CONSTANT * 10)
        steps = 0
        while steps < 500 and not np.isnan(keras.ops.convert_to_numpy(weight)).any():
            optimizer.apply_gradients([(g, weight)])
            steps += 1
        assert 110 < steps < 160, "about 132 was seen"

    @pytest.mark.parametrize("dialect", [*DIALECTS, *PRESETS])
    def test_float16_zero_gradients_give_no_nan(self, dialect: str) -> None:
        optimizer = RMSprop(0.1, dialect=dialect, weight_decay=0.0)
        p = np.ones(5, np.float16)
        for _ in range(3):
            optimizer.update(p, np.zeros(5, np.float16))
        assert p.tolist() == [1.0] * 5

    def test_where_torch_gives_nan_in_float16(self) -> None:
        torch = needs.package("torch")
        weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float16))
        weight.grad = torch.zeros(1, dtype=torch.float16)
        torch.optim.RMSprop([weight]).step()
        assert torch.isnan(weight).all(), "eps of 1e-8 underflows there, and 0/0 is NaN"

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize(("momentum", "centered"), [(0.0, False), (0.9, False), (0.9, True)])
    def test_nan_and_infinity_reach_the_parameters_as_in_torch(
        self, momentum: float, centered: bool, dtype: str
    ) -> None:
        torch = needs.package("torch")
        start = np.linspace(1, 2, 6).astype(dtype)
        weight = torch.nn.Parameter(torch.tensor(start))
        theirs = torch.optim.RMSprop([weight], momentum=momentum, centered=centered)
        ours = RMSprop(dialect="torch", momentum=momentum, centered=centered)
        p, rng = start.copy(), np.random.default_rng(0)
        for t in range(4):
            g = rng.normal(0, 1, 6).astype(dtype)
            if t == 1:
                g[1:4] = np.nan, np.inf, -np.inf
            weight.grad = torch.tensor(g)
            theirs.step()
            ours.update(p, g)
            expected = weight.detach().numpy()
            # inf - inf^2 is NaN there and here; a rounding below zero is not in this short run.
            np.testing.assert_array_equal(np.isnan(p), np.isnan(expected))
            np.testing.assert_allclose(p, expected, rtol=1e-5, atol=1e-6)
        assert np.isnan(p[1:4]).all()
        assert np.isfinite(p[[0, 4, 5]]).all(), "the other elements are not touched by it"

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_bias_corrected_centered_first_step(self, dtype: str) -> None:
        """The variance of one gradient is zero: rounding may not make it a NaN, nor the step endless."""
        rng = np.random.default_rng(0)
        g = np.concatenate([rng.normal(0, 10, 1000), [0.0]]).astype(dtype)
        for inside in (False, True):
            rule = Rule(lr=0.01, eps=1e-4, centered=True, bias_correction=True, eps_in_sqrt=inside)
            p, q = np.zeros_like(g), np.zeros_like(g)
            optimizer, state = Optimizer(rule), reference.init(rule, q)
            largest = rule.lr * np.abs(g) / (np.sqrt(rule.eps) if inside else rule.eps)
            optimizer.update(p, g)
            q, state = reference.update(rule, q, g, state)
            for moved in (p, q):
                assert np.isfinite(moved).all()
                assert (np.abs(moved) <= largest * 1.001).all(), "d >= 0, so u is at most g/eps"
                assert ((moved * g < 0) | (g == 0)).all(), "downhill"

    def test_momentum_switched_on_and_off_mid_run(self) -> None:
        """torch raises KeyError 'momentum_buffer'; here the buffer starts empty."""
        rng = np.random.default_rng(0)
        optimizer = RMSprop(dialect="torch")
        p = rng.normal(0, 1, 9)
        q, state = p.copy(), reference.init(optimizer.rule, p)
        for momentum in (0.0, 0.9, 0.0, 0.5):
            optimizer.rule = rule = optimizer.rule.replace(momentum=momentum)
            state = state._replace(b=np.zeros(9))
            for _ in range(5):
                g = rng.normal(0, 1, 9)
                optimizer.update(p, g)
                q, state = reference.update(rule, q, g, state)
                np.testing.assert_allclose(p, q, rtol=1e-13)
        torch = needs.package("torch")
        weight = torch.nn.Parameter(torch.ones(1))
        weight.grad = torch.ones(1)
        theirs = torch.optim.RMSprop([weight])
        theirs.step()
        theirs.param_groups[0]["momentum"] = 0.9
        with pytest.raises(KeyError, match="momentum_buffer"):
            theirs.step()
