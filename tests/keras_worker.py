"""What test_keras.py runs in a process of its own for each of Keras's backends.

    KERAS_BACKEND=jax python keras_worker.py FOLDER

runs every check below and prints one line of JSON: of each check, "" or the traceback.
"""

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import needs
from cases import FLOAT64, RULES, allowance, assert_within
from rmsprop import Rule, reference

keras = needs.package("keras")
ops, BACKEND = keras.ops, keras.backend.backend()

from rmsprop.keras import RMSprop, from_rule  # noqa: E402

Array = np.ndarray[Any, Any]
STEPS, SHAPES = 8, ((3, 5), (7,), (), (0,))
SLOTS = {"v": "_velocities", "m": "_average_gradients", "b": "_momentums"}
CHECKS: dict[str, Callable[[Path], None]] = {}


def check(function: Callable[[Path], None]) -> Callable[[Path], None]:
    CHECKS[function.__name__] = function
    return function


def arrays(seed: int, dtype: str = "float64") -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(0, 1, shape), dtype) for shape in SHAPES]


def variables(values: list[Array]) -> list[Any]:
    made = [keras.Variable(x, dtype=x.dtype.name, name=f"w{k}") for k, x in enumerate(values)]
    assert [v.dtype for v in made] == [x.dtype.name for x in values]
    return made


def read(variable: Any) -> Array:
    return np.array(ops.convert_to_numpy(variable))


def tensors(values: list[Array]) -> list[Any]:
    return [ops.convert_to_tensor(x) for x in values]


def state(optimizer: Any, slot: str) -> list[Array]:
    return [read(x) for x in getattr(optimizer, SLOTS[slot])]


def apply(optimizer: Any, weights: list[Any], grads: list[Array]) -> None:
    optimizer.apply(tensors(grads), weights)


def everything(optimizer: Any, weights: list[Any]) -> list[Array]:
    return [read(x) for x in (*weights, *optimizer.variables)]


def assert_equal(
    found: list[Array], expected: list[Array], rtol: float = 0.0, atol: float = 0.0
) -> None:
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def as_keras_clips(rule: Rule) -> Rule:
    """Keras takes the numbers to clip by as float32."""
    kept = rule.to_dict().items()
    return rule.replace(**{k: float(np.float32(x)) for k, x in kept if k.startswith("clip") and x})


class Float64:
    """Numbers that the optimizer keeps, as the learning rate, in float64."""

    def __enter__(self) -> None:
        keras.config.set_floatx("float64")

    def __exit__(self, *_: Any) -> None:
        keras.config.set_floatx("float32")


# Against the reference.


@check
def single_steps(folder: Path) -> None:
    """Every rule in float64, each step from the reference's state, to 4 units in the last place."""
    with Float64():
        for name, rule in RULES.items():
            rule = as_keras_clips(rule)
            weights = variables(arrays(0))
            optimizer = from_rule(rule)
            optimizer.build(weights)
            values, states = arrays(0), [reference.init(rule, p) for p in arrays(0)]
            # On PyTorch, Keras's clipping by norms passes through float32.
            norms = BACKEND == "torch" and (rule.clip_norm or rule.clip_global_norm)
            for t in range(5):
                for k, weight in enumerate(weights):
                    weight.assign(values[k])
                    for slot in rule.slots:
                        getattr(optimizer, SLOTS[slot])[k].assign(getattr(states[k], slot))
                grads = arrays(t + 1)
                apply(optimizer, weights, grads)
                clipped, before, start = reference.clip(rule, grads), states, values
                values, states = reference.step(rule, values, grads, states)
                for k, weight in enumerate(weights):
                    ulps = 2.0**30 if norms else FLOAT64.ulps
                    off = allowance(rule, start[k], clipped[k], before[k], FLOAT64.dtype, ulps)
                    assert_within(read(weight), values[k], off["p"], f"{name} p")
                    for slot in rule.slots:
                        found = state(optimizer, slot)[k]
                        expected = getattr(states[k], slot)
                        assert_within(found, expected, off[slot], f"{name} {slot}")


def free_run(rule: Rule, weights: list[Any], step: Callable[[list[Array]], None]) -> None:
    """Let an optimizer and the reference run side by side, each from its own state."""
    values = [read(w) for w in weights]
    states = [reference.init(rule, p) for p in values]
    for t in range(STEPS):
        grads = arrays(t + 1)
        step(grads)
        values, states = reference.step(rule, values, grads, states)
        assert_equal([read(w) for w in weights], values, rtol=1e-12, atol=1e-12)


@check
def free_runs(folder: Path) -> None:
    """Every rule in float64 but those whose first step divides rounding by rounding."""
    with Float64():
        for rule in map(as_keras_clips, RULES.values()):
            ill = rule.centered and rule.bias_correction
            norms = BACKEND == "torch" and (rule.clip_norm or rule.clip_global_norm)
            if ill or norms:
                continue
            weights, optimizer = variables(arrays(0)), from_rule(rule)
            free_run(rule, weights, lambda g, o=optimizer, w=weights: apply(o, w, g))


@check
def one_by_one(folder: Path) -> None:
    """Without the kernel, where there is one: the path of a GPU."""
    with Float64():
        for name in ("decoupled", "corrected", "nesterov-in", "adagrad-all", "adam-coupled"):
            weights, optimizer = variables(arrays(0)), from_rule(RULES[name])
            optimizer._fused = None
            free_run(RULES[name], weights, lambda g, o=optimizer, w=weights: apply(o, w, g))


def compiled(optimizer: Any, weights: list[Any]) -> Callable[[list[Array]], None]:
    """A step as the backend compiles it."""
    optimizer.build(weights)
    if BACKEND == "tensorflow":
        tf = needs.package("tensorflow")
        traced = tf.function(lambda grads: optimizer.apply(grads), jit_compile=True)
        return lambda grads: traced(tensors(grads))
    if BACKEND == "torch":
        torch = needs.package("torch")
        traced = torch.compile(lambda grads: optimizer.apply(grads), backend="eager")

        def step(grads: list[Array]) -> None:
            with torch.no_grad():
                traced(tensors(grads))

        return step
    pure = needs.package("jax").jit(optimizer.stateless_apply)

    def stateless(grads: list[Array]) -> None:
        kept = [v.value for v in optimizer.variables]
        moved, kept = pure(kept, tensors(grads), [w.value for w in weights])
        for variable, value in zip((*weights, *optimizer.variables), (*moved, *kept), strict=True):
            variable.assign(value)

    return stateless


@check
def compiled_runs(folder: Path) -> None:
    with Float64():
        for name in ("centered-all", "corrected-decoupled"):
            weights, optimizer = variables(arrays(0)), from_rule(RULES[name])
            free_run(RULES[name], weights, compiled(optimizer, weights))


@check
def changing_numbers(folder: Path) -> None:
    """The learning rate, weight decay, what has a gradient, and who decays: all may vary."""
    for decoupled in (False, True):
        rule = Rule(lr=0.5, momentum=0.9, weight_decay=0.25, decoupled_weight_decay=decoupled)
        with Float64():
            weights, optimizer = variables(arrays(0)), from_rule(rule)
            optimizer.exclude_from_weight_decay(var_names=["w1"])
            optimizer.build(weights)
        values, states = arrays(0), [reference.init(rule, p) for p in arrays(0)]
        for t in range(STEPS):
            optimizer.learning_rate = lr = 0.5 / 2**t
            optimizer.weight_decay = wd = (0.25, 0.125, None)[t % 3]
            present = [k for k in range(len(SHAPES)) if (k + t) % 4]
            grads = arrays(t + 1)
            optimizer.apply(tensors([grads[k] for k in present]), [weights[k] for k in present])
            for k in present:
                decay = 0.0 if k == 1 or wd is None else wd
                now = rule.replace(lr=lr, weight_decay=decay)
                values[k], states[k] = reference.update(now, values[k], grads[k], states[k])
            assert_equal([read(w) for w in weights], values, rtol=1e-12, atol=1e-12)
            assert optimizer.rule == rule.replace(lr=lr, weight_decay=wd or 0.0)


# Against Keras's own.

WD = 2.0**-5


def twins(dtype: str, **options: Any) -> None:
    """Ours and Keras's own with the same arguments, from the same start: weights and state."""
    excluded = options.pop("excluded", None)
    pair = []
    for kind in (RMSprop, keras.optimizers.RMSprop):
        given: dict[str, Any] = {"learning_rate": 2.0**-6}
        given |= {k: x() if k == "learning_rate" else x for k, x in options.items()}
        optimizer = kind(**given)
        weights = variables(arrays(0, dtype)[:2])
        if excluded:
            optimizer.exclude_from_weight_decay(var_names=excluded)
        optimizer.build(weights)
        pair.append((optimizer, weights))
    (ours, mine), (theirs, others) = pair
    names = [[v.path.partition("/")[2] for v in x.variables] for x in (ours, theirs)]
    assert names[0] == names[1], "variables have Keras's names and order"
    tolerance = 1e-12 if dtype == "float64" else 1e-7
    for t in range(6):
        grads = arrays(t + 1, dtype)[:2]
        for optimizer, weights in pair:
            apply(optimizer, weights, grads)
        found, expected = everything(ours, mine), everything(theirs, others)
        for x, y in zip(found, expected, strict=True):
            # In units of the largest number there, for what cancels.
            atol = tolerance * (1 + t) * max(1.0, np.abs(y).max(initial=0.0))
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=atol)
    for optimizer, weights in pair:
        optimizer.finalize_variable_values(weights)
    assert_equal([read(w) for w in mine], [read(w) for w in others], atol=20 * tolerance)


@check
def keras_numbers(folder: Path) -> None:
    for dtype in ("float32", "float64"):
        keras.config.set_floatx(dtype)
        try:
            for momentum in (0.0, 0.5):
                for centered in (False, True):
                    for wd in (None, WD):
                        twins(dtype, momentum=momentum, centered=centered, weight_decay=wd)
        finally:
            keras.config.set_floatx("float32")


@check
def keras_features(folder: Path) -> None:
    decay = keras.optimizers.schedules.ExponentialDecay
    for options in (
        {"clipnorm": 0.5},
        {"clipvalue": 0.25},
        {"global_clipnorm": 0.5},
        {"use_ema": True, "ema_momentum": 0.75},
        {"use_ema": True, "ema_momentum": 0.75, "ema_overwrite_frequency": 3},
        {"loss_scale_factor": 8.0},
        {"gradient_accumulation_steps": 3, "momentum": 0.5, "centered": True, "weight_decay": WD},
        {"learning_rate": lambda: decay(2.0**-6, 2, 0.5), "momentum": 0.5},
        {"learning_rate": lambda: lambda: 2.0**-7},
        {"weight_decay": WD, "excluded": ["w1"]},
    ):
        twins("float32", **options)


@check
def keras_state(folder: Path) -> None:
    """A run that Keras's own began goes on with ours, from its variables."""
    options: dict[str, Any] = {"learning_rate": 2.0**-6, "momentum": 0.5, "centered": True}
    theirs, others = keras.optimizers.RMSprop(**options), variables(arrays(0, "float32"))
    for t in range(3):
        apply(theirs, others, arrays(t, "float32"))
    ours, mine = RMSprop(**options), variables([read(w) for w in others])
    ours.build(mine)
    ours.set_weights([read(v) for v in theirs.variables])
    for t in range(3, 6):
        apply(theirs, others, arrays(t, "float32"))
        apply(ours, mine, arrays(t, "float32"))
    assert_equal(everything(ours, mine), everything(theirs, others), rtol=1e-6, atol=1e-7)


# Training, saving, loading.


def net(optimizer: Any, **options: Any) -> Any:
    # Not keras.utils.set_random_seed, which takes seconds to load what else there is to be seeded.
    options["kernel_initializer"] = keras.initializers.GlorotUniform(seed=0)
    hidden = keras.layers.Dense(8, activation="tanh", **options)
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(1, **options)])
    model.compile(optimizer, loss="mse")
    return model


def data() -> tuple[Array, Array]:
    x = np.random.default_rng(0).normal(0, 1, (64, 4)).astype("float32")
    return x, np.sin(x.sum(axis=1, keepdims=True))


def fit(model: Any, epochs: int) -> list[float]:
    past = model.fit(*data(), batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return past.history["loss"]


def whole(model: Any) -> list[Array]:
    return everything(model.optimizer, model.trainable_variables)


@check
def fit_learns_as_keras(folder: Path) -> None:
    ours = fit(net(RMSprop(0.01, momentum=0.5)), 6)
    theirs = fit(net(keras.optimizers.RMSprop(0.01, momentum=0.5)), 6)
    assert ours[-1] < 0.7 * ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@check
def saved_in_the_middle(folder: Path) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 5, 0.9)
    for k, optimizer in enumerate(
        (
            RMSprop(schedule, momentum=0.5, dialect="timm", weight_decay=0.01, centered=True),
            RMSprop(0.01, clipnorm=0.5, gradient_accumulation_steps=2, bias_correction=True),
            # On JAX, Keras's own cannot fit a second time with it: weight and average share a buffer.
            from_rule(
                Rule.from_dialect("adamw", lr=0.01, clip_value=0.5), use_ema=BACKEND != "jax"
            ),
        )
    ):
        model = net(optimizer)
        fit(model, 2)
        model.save(folder / f"{k}.keras")
        again = keras.models.load_model(folder / f"{k}.keras")
        assert type(again.optimizer) is type(optimizer)
        assert again.optimizer.get_config() == optimizer.get_config()
        assert again.optimizer.rule == optimizer.rule
        assert_equal(whole(again), whole(model))
        assert fit(model, 2) == fit(again, 2)
        assert_equal(whole(again), whole(model))


@check
def weights_only(folder: Path) -> None:
    model = net(RMSprop(0.01, momentum=0.5))
    fit(model, 1)
    model.save_weights(folder / "some.weights.h5")
    again = net(RMSprop(0.01, momentum=0.5))
    again.optimizer.build(again.trainable_variables)
    again.load_weights(folder / "some.weights.h5")
    assert_equal(whole(again), whole(model))


# Precision.


@check
def half_parameters(folder: Path) -> None:
    """State in float32, each step that of float32 rounded once, and zero over zero is no NaN."""
    for dtype in ("float16", "bfloat16"):
        for name in ("plain", "centered-all", "adamw"):
            rule = RULES[name].replace(clip_global_norm=None)
            weights = [keras.Variable(x, dtype=dtype) for x in arrays(0, "float32")]
            wide = variables([read(ops.cast(w, "float32")) for w in weights])
            narrow, full = from_rule(rule), from_rule(rule)
            for t in range(3):
                grads = [
                    read(ops.cast(ops.cast(g, dtype), "float32")) * (t != 1)
                    for g in arrays(t + 1, "float32")
                ]
                narrow.apply([ops.cast(g, dtype) for g in grads], weights)
                assert all(
                    v.dtype == "float32"
                    for s in rule.slots for v in getattr(narrow, SLOTS[s])
                )  # fmt: skip
                apply(full, wide, grads)
                rounded = [read(ops.cast(ops.cast(w, dtype), "float32")) for w in wide]
                found = [read(ops.cast(w, "float32")) for w in weights]
                unit = float(np.finfo("float16").eps) if dtype == "float16" else 2.0**-7
                assert_equal(found, rounded, rtol=unit, atol=1e-7)
                for w, x in zip(wide, found, strict=True):
                    w.assign(x)


@check
def mixed_precision(folder: Path) -> None:
    for policy in ("mixed_float16", "mixed_bfloat16"):
        model = net(RMSprop(0.01, dialect="torch"), dtype=policy)
        losses = fit(model, 6)
        assert losses[-1] < 0.8 * losses[0]
        assert all(w.dtype == "float32" for w in model.trainable_variables)


@check
def constant_gradient_centered(folder: Path) -> None:
    """Keras's own is NaN at step 132 or so: v - m^2 rounds below zero."""
    optimizer, weight = RMSprop(0.001, centered=True), keras.Variable(np.ones(3, "float32"))
    optimizer.build([weight])
    gradient = [ops.convert_to_tensor(np.array([0.3, 1.7, 30.0], "float32"))]
    for _ in range(200):
        optimizer.apply(gradient)
    assert np.isfinite(read(weight)).all()


# What only one backend has.


@check
def sparse_gradient(folder: Path) -> None:
    """A sparse gradient is as its dense one: rows that are not touched decay and move too."""
    rule = Rule.from_dialect("torch", lr=0.125, momentum=0.5, clip_value=0.5)
    rows, places = np.array([[1.0, -2.0], [0.25, 0.5], [4.0, 0.125]]), [2, 0, 2]
    full = np.zeros((4, 2))
    np.add.at(full, places, rows)
    with Float64():
        optimizer, weight = from_rule(rule), keras.Variable(np.ones((4, 2)), dtype="float64")
    gradient = tensors([full])[0]
    if BACKEND == "tensorflow":
        tf = needs.package("tensorflow")
        gradient = tf.IndexedSlices(tf.constant(rows), tf.constant(places), tf.constant([4, 2]))
    elif BACKEND == "jax":
        gradient = needs.package("jax.experimental.sparse").BCOO.fromdense(full)
    else:
        gradient = gradient.to_sparse()
    p, kept = np.ones((4, 2)), reference.init(rule, np.ones((4, 2)))
    for some, g in ((gradient, full), (tensors([full / 2])[0], full / 2), (gradient, full)):
        optimizer.apply([some], [weight])
        p, kept = reference.update(rule, p, reference.clip(rule, [g])[0], kept)
        assert_equal([read(weight), *state(optimizer, "v")], [p, kept.v], rtol=1e-12)
    assert (p[1] == 1).all()
    assert (p[3] == 1).all()


@check
def embedding_trains(folder: Path) -> None:
    uniform = keras.initializers.RandomUniform(seed=0)
    embedding = keras.layers.Embedding(10, 4, embeddings_initializer=uniform)
    last = keras.layers.Dense(1, kernel_initializer="ones")
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), embedding, keras.layers.Flatten(), last]
    )
    model.compile(RMSprop(0.02), loss="mse")
    x = np.random.default_rng(0).integers(0, 10, (64, 3))
    y = x.sum(axis=1, keepdims=True).astype("float32") / 10
    losses = model.fit(x, y, epochs=5, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


@check
def stateless_steps_change_nothing(folder: Path) -> None:
    optimizer, weights = RMSprop(0.5, momentum=0.5), variables(arrays(0, "float32"))
    optimizer.build(weights)
    if BACKEND == "tensorflow":
        try:
            optimizer.stateless_apply([], [], [])
        except ValueError as error:
            assert "not supported with the TensorFlow backend" in str(error)  # noqa: PT017
            return
        raise AssertionError("Keras has come to allow it: test it")
    before = everything(optimizer, weights)
    lent = [ops.convert_to_tensor(x) for x in before]
    count = len(weights)
    moved, kept = optimizer.stateless_apply(
        lent[count:], tensors(arrays(1, "float32")), lent[:count]
    )
    assert_equal([read(x) for x in lent], before)
    assert_equal(everything(optimizer, weights), before)
    apply(optimizer, weights, arrays(1, "float32"))
    after = everything(optimizer, weights)
    assert_equal([read(x) for x in (*moved, *kept)], after, rtol=1e-6, atol=1e-7)
    assert abs(after[0] - before[0]).max() > 0.1


@check
def kernel_serves(folder: Path) -> None:
    """On PyTorch the kernel steps what it can, and again after variables were put elsewhere."""
    optimizer, weights = RMSprop(0.5, momentum=0.5), variables(arrays(0, "float32"))
    apply(optimizer, weights, arrays(1, "float32"))
    if BACKEND != "torch":
        assert optimizer._fused is None
        return
    (part,) = optimizer._fused.plans.values()
    assert [type(table).__name__ for _, table in part.plan.parts] == ["CpuTable"]
    weights[0]._value.data = weights[0]._value.data.clone()
    apply(optimizer, weights, arrays(2, "float32"))
    (moved,) = optimizer._fused.plans.values()
    assert moved is not part
    other, theirs = keras.optimizers.RMSprop(0.5, momentum=0.5), variables(arrays(0, "float32"))
    for t in (1, 2):
        apply(other, theirs, arrays(t, "float32"))
    assert_equal(everything(optimizer, weights), everything(other, theirs), rtol=1e-5, atol=1e-6)


def main() -> None:
    folder, found = Path(sys.argv[1]), {}
    if BACKEND == "jax":
        needs.package("jax").config.update("jax_enable_x64", True)
    warnings.simplefilter("error")
    # Keras's own reading of its variables, under NumPy 2.
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    for name, run in CHECKS.items():
        try:
            run(folder)
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
