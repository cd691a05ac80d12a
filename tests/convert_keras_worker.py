"""What test_convert_keras.py runs in a process of its own, on Keras's torch backend, the quickest here.

KERAS_BACKEND=torch python -m pytest convert_keras_worker.py
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
from rmsprop import Rule
from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.keras.files import into_model, of_model, read, write

keras = needs.package("keras")
needs.package(keras.backend.backend())
h5py = needs.package("h5py")

from rmsprop.keras import RMSprop, from_rule  # noqa: E402

layers = keras.layers
# Keras's own reading of its variables, under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LISTS = {"v": "_velocities", "b": "_momentums", "m": "_average_gradients"}
NATIVE = keras.optimizers.RMSprop


def mlp(dtype: str = "float32") -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, "tanh", name="first", dtype=dtype),
            layers.BatchNormalization(name="norm", dtype=dtype),
            layers.Dense(2, name="dense", dtype=dtype),
        ]
    )


def wide() -> Any:
    """Every layer with a name of its own for its variables, nested, shared and frozen ones among them."""
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.DepthwiseConv2D(3, use_bias=False)(x)
    x = layers.SeparableConv2D(4, 3, padding="same")(x)
    x = layers.Conv2DTranspose(4, 1)(x) + 1.0
    x = layers.Reshape((16, 4))(x)
    x = layers.PReLU()(layers.Conv1D(4, 3, padding="same")(x))
    x = layers.Bidirectional(layers.GRU(2, return_sequences=True))(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(4)], return_sequences=True)(x)
    x = layers.TimeDistributed(layers.Dense(3))(x)
    x = layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d")(x)
    shared = layers.Dense(3)
    x = layers.Dropout(0.1)(shared(shared(x)))
    x = layers.Dense(3, trainable=False)(layers.LayerNormalization()(x))
    inner = keras.Sequential([keras.Input((16, 3)), layers.LSTM(3), layers.Dense(2)], name="inner")
    return keras.Model(inputs, inner(x))


def words() -> Any:
    inputs = keras.Input((5,), dtype="int32")
    x = layers.GRU(3, name="gru")(layers.Embedding(9, 4, name="embedding")(inputs))
    return keras.Model(inputs, layers.Dense(1, name="dense")(x))


def data(model: Any, step: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(step)
    shape = (8, *model.input_shape[1:])
    x = (
        rng.integers(0, 9, shape)
        if "int" in str(model.inputs[0].dtype)
        else rng.normal(0, 1, shape)
    )
    return x, rng.normal(0, 1, (8, *model.output_shape[1:]))


def train(model: Any, start: int, stop: int) -> None:
    for step in range(start, stop):
        model.train_on_batch(*data(model, step))


def trained(model: Any, optimizer: Any, steps: int = 3) -> Any:
    model.compile(optimizer, loss="mse", run_eagerly=True)  # quicker here than to compile
    train(model, 0, steps)
    return model


def moved(model: Any, optimizer: Any) -> Any:
    """As `trained`, with gradients from nowhere, for models that take long to run."""
    model.compile(optimizer, loss="mse")
    rng = np.random.default_rng(0)
    for _ in range(3):
        grads = [rng.normal(0, 1, v.shape).astype(np.float32) for v in model.trainable_variables]
        model.optimizer.apply(
            list(map(keras.ops.convert_to_tensor, grads)), model.trainable_variables
        )
    return model


def value(variable: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(variable.value))


def names_of(model: Any) -> list[str]:
    """Keras's paths, without the name of an outermost Sequential."""
    own = f"{model.name}/"
    return [v.path.removeprefix(own) for v in model.trainable_variables]


def saved(model: Any, path: Path) -> Path:
    model.save(path) if path.suffix == ".keras" else model.save_weights(path)
    return path


def assert_holds(checkpoint: Checkpoint, model: Any) -> None:
    """Names, values and state, bit for bit."""
    assert list(checkpoint.entries) == names_of(model)
    for k, variable in enumerate(model.trainable_variables):
        entry = checkpoint.entries[names_of(model)[k]]
        np.testing.assert_array_equal(entry.value, value(variable))
        for slot, kept in LISTS.items():
            lists = getattr(model.optimizer, kept)
            assert (slot in entry.slots) == bool(lists)
            if lists:
                np.testing.assert_array_equal(entry.slots[slot], value(lists[k]))


def assert_same(one: Any, two: Any) -> None:
    for a, b in zip(one.variables, two.variables, strict=True):
        np.testing.assert_array_equal(value(a), value(b), err_msg=a.path)
    for a, b in zip(one.optimizer.variables, two.optimizer.variables, strict=True):
        np.testing.assert_array_equal(value(a), value(b), err_msg=a.path)


def complete(checkpoint: Checkpoint, **fields: Any) -> Checkpoint:
    """As `translate` gives it: with all fields of the rule."""
    checkpoint.groups = [checkpoint.groups[0] | fields]
    checkpoint.groups = [checkpoint.rule().to_dict()]
    return checkpoint


@pytest.mark.parametrize("make", [mlp, wide, words])
def test_names_values_and_state_are_those_of_the_model(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    model = (moved if make is wide else trained)(make(), NATIVE(0.01, momentum=0.9, centered=True))
    found = read(saved(model, tmp_path / "m.keras"), {})
    assert_holds(found, model)
    assert (found.kind, found.dialect, found.layout, found.step, found.named) == (
        "keras",
        "keras",
        "keras",
        3,
        True,
    )
    assert found.rule() == Rule.from_dialect("keras", lr=0.01, momentum=0.9, centered=True)
    assert not found.notes


def test_what_is_not_trained_is_left(tmp_path: Path) -> None:
    model = moved(wide(), NATIVE())
    left = read(saved(model, tmp_path / "m.keras"), {}).left
    still = [v for v in model.non_trainable_variables if "seed" not in v.path]
    assert [*left.values()].count("not trained") == len(still) == 4
    assert "layers/batch_normalization/vars/2" in left


def test_roles(tmp_path: Path) -> None:
    found = read(saved(moved(wide(), NATIVE()), tmp_path / "m.keras"), {})
    roles = {e.role for e in found.entries.values()}
    assert roles == {
        "kernel", "bias", "beta", "gamma", "alpha", "depthwise_kernel", "pointwise_kernel",
        "conv_transpose/kernel", "einsum/kernel", "einsum/bias",
        *(f"{cell}/kernel" for cell in ("gru", "lstm", "simple_rnn")),
        *(f"{cell}/recurrent_kernel" for cell in ("gru", "lstm", "simple_rnn")),
        *(f"{cell}/bias" for cell in ("gru", "lstm", "simple_rnn")),
    }  # fmt: skip
    live = of_model(moved(wide(), NATIVE()), {})
    assert {e.role for e in live.entries.values()} == roles


def optimizers() -> dict[str, Callable[[], Any]]:
    cosine = keras.optimizers.schedules.CosineDecay(0.05, 10)
    adam = Rule.from_dialect("adam", lr=0.01)
    return {
        "native": lambda: NATIVE(0.01),
        "native, all": lambda: NATIVE(0.01, 0.8, 0.9, 1e-5, True, weight_decay=0.01, clipnorm=0.5),
        "native, schedule": lambda: NATIVE(cosine, momentum=0.9),
        "native, accumulating": lambda: NATIVE(0.01, centered=True, gradient_accumulation_steps=3),
        "torch": lambda: RMSprop(0.01, momentum=0.9, centered=True, dialect="torch"),
        "tf1, schedule": lambda: RMSprop(cosine, momentum=0.5, dialect="tf1", nesterov=True),
        "adam": lambda: from_rule(adam),
        "sgd": lambda: from_rule(Rule(lr=0.1, second_moment="none")),
    }


@pytest.mark.parametrize("name", optimizers())
def test_a_model_goes_on_from_a_file_that_was_written(name: str, tmp_path: Path) -> None:
    model = trained(mlp(), optimizers()[name]())
    found = complete(read(saved(model, tmp_path / "m.keras"), {"lr": 0.01}))
    other = trained(mlp(), optimizers()[name](), steps=6)  # elsewhere
    write(tmp_path / "n.keras", found, saved(other, tmp_path / "like.keras"))
    again = keras.saving.load_model(tmp_path / "n.keras")
    for layer in model.layers:  # what is not trained comes from the template
        if layer.name == "norm":
            again.get_layer(index=1).set_weights(layer.get_weights())
    assert_same(model, again)
    train(model, 3, 6)
    train(again, 3, 6)
    assert_same(model, again)


def test_native_where_keras_computes_the_rule(tmp_path: Path) -> None:
    like = saved(trained(mlp(), NATIVE()), tmp_path / "like.keras")
    found = complete(read(like, {}))
    for changes, kind in (({}, NATIVE), ({"eps_in_sqrt": False}, type(from_rule(Rule())))):
        found.groups = [found.groups[0] | changes]
        write(tmp_path / "n.keras", found, like)
        assert isinstance(keras.saving.load_model(tmp_path / "n.keras").optimizer, kind)


@pytest.mark.parametrize("kind", ["uncompiled", "adam", "another rule"])
def test_a_template_without_an_rmsprop(kind: str, tmp_path: Path) -> None:
    model = trained(mlp(), NATIVE(0.01, momentum=0.9))
    found = complete(read(saved(model, tmp_path / "m.keras"), {}))
    other = mlp()
    if kind != "uncompiled":
        trained(other, keras.optimizers.Adam() if kind == "adam" else from_rule(Rule(lr=0.1)))
    like = read(saved(other, tmp_path / "like.keras"), {})
    assert list(like.entries) == names_of(model)
    assert {"uncompiled": ["the file holds parameters only"], "another rule": []}.get(
        kind, ["the optimizer is Adam, not RMSprop: only the parameters are read"]
    ) == like.notes
    write(tmp_path / "n.keras", found, tmp_path / "like.keras")
    again = keras.saving.load_model(tmp_path / "n.keras")
    assert_holds(read(saved(again, tmp_path / "o.keras"), {}), again)
    for a, b in zip(model.trainable_variables, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(value(a), value(b))
    for a, b in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(value(a), value(b))


@pytest.mark.parametrize("make", [mlp, words])
def test_weights_alone(make: Callable[[], Any], tmp_path: Path) -> None:
    model = trained(make(), NATIVE(0.01, momentum=0.9))
    found = read(saved(model, tmp_path / "m.weights.h5"), {"momentum": 0.9})
    assert_holds(found, model)
    assert (found.step, found.groups[0]["lr"], found.dialect) == (3, 0.01, "keras")
    complete(found)
    for ending in ("keras", "weights.h5"):
        other = trained(make(), NATIVE(0.01, momentum=0.9), steps=6)
        write(tmp_path / "n.weights.h5", found, saved(other, tmp_path / f"like.{ending}"))
        other.load_weights(tmp_path / "n.weights.h5")
        assert_holds(read(saved(other, tmp_path / "o.keras"), {}), model)


def test_weights_with_two_averages_need_a_word(tmp_path: Path) -> None:
    path = saved(trained(mlp(), NATIVE(0.01, centered=True)), tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="say which, --from keras:momentum="):
        read(path, {})
    assert "m" in next(iter(read(path, {"centered": True, "momentum": 0.0}).entries.values())).slots
    with pytest.raises(ValueError, match="not those of an RMSprop"):
        read(path, {"momentum": 0.9, "centered": True})


def test_an_order_that_shapes_do_not_tell_is_not_guessed(tmp_path: Path) -> None:
    net = keras.Sequential(
        [
            keras.Input((3,)),
            layers.LayerNormalization(),
            layers.BatchNormalization(),
            layers.Dense(3),
        ]
    )
    path = saved(trained(net, NATIVE()), tmp_path / "m.weights.h5")
    found = read(path, {})
    assert (list(found.entries), found.named) == (["0", "1", "2", "3", "4", "5"], False)
    assert all(entry.value is None for entry in found.entries.values())
    assert "more than one" in found.notes[-1]
    with pytest.raises(ValueError, match="the order of the template's variables is not known"):
        write(tmp_path / "n.weights.h5", complete(found), path)
    assert_holds(read(saved(net, tmp_path / "m.keras"), {}), net)


@pytest.mark.parametrize("name", optimizers())
def test_a_live_model(name: str) -> None:
    model, other = (trained(mlp(), optimizers()[name](), steps) for steps in (3, 5))
    found = complete(of_model(model, {"lr": 0.01}))
    into_model(found, other)
    other.get_layer(index=1).set_weights(model.get_layer(index=1).get_weights())
    assert_same(model, other)


def test_a_live_model_that_was_not_built() -> None:
    model, other = trained(mlp(), NATIVE(0.01)), mlp()
    other.compile(NATIVE(0.01), loss="mse")
    into_model(complete(of_model(model, {})), other)
    assert_holds(of_model(other, {}), model)


def test_a_loaded_model_has_the_names_of_its_file(tmp_path: Path) -> None:
    path = saved(moved(wide(), NATIVE()), tmp_path / "m.keras")
    assert list(of_model(keras.saving.load_model(path), {}).entries) == list(read(path, {}).entries)


def test_an_optimizer_and_its_variables() -> None:
    weight, optimizer = keras.Variable(np.ones((2, 3))), NATIVE(0.5)
    optimizer.apply([keras.ops.ones((2, 3))], [weight])
    found = of_model((optimizer, [weight]), {})
    assert (found.step, list(found.entries)) == (1, [weight.path])
    np.testing.assert_array_equal(
        found.entries[weight.path].slots["v"], value(optimizer.variables[2])
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_is_widened_exactly(dtype: str, tmp_path: Path) -> None:
    model = trained(mlp(dtype), NATIVE(0.01, epsilon=0.01))
    path = saved(model, tmp_path / "m.keras")
    found = read(path, {})
    for k, variable in enumerate(model.trainable_variables):
        entry = found.entries[names_of(model)[k]]
        assert entry.value is not None
        assert entry.value.dtype == np.float32
        np.testing.assert_array_equal(entry.value, value(variable).astype(np.float32))
    write(tmp_path / "n.keras", complete(found), path)
    again = keras.saving.load_model(tmp_path / "n.keras")
    assert isinstance(again.optimizer, NATIVE)
    assert_same(model, again)
    found.entries["first/kernel"].slots["v"][:] = 1 / 3  # Keras's own would round it
    write(tmp_path / "n.keras", found, path)
    again = keras.saving.load_model(tmp_path / "n.keras")
    assert value(again.optimizer._velocities[0])[0, 0] == np.float32(1 / 3)


def test_averages_accumulators_and_the_scale_of_the_loss_are_left(tmp_path: Path) -> None:
    optimizer = NATIVE(0.01, momentum=0.9, use_ema=True, gradient_accumulation_steps=2)
    model = trained(mlp(), optimizer)
    found = read(saved(model, tmp_path / "m.keras"), {})
    assert_holds(found, model)
    assert found.step == 1
    assert found.notes == ["gradients were being accumulated: the sums of this round are left out"]
    assert found.left["average of first/kernel"] == "average of the parameter (use_ema)"
    assert found.left["accumulator of dense/bias"] == "sum of gradients"
    with pytest.raises(ValueError, match="save it without use_ema"):
        write(tmp_path / "n.keras", complete(found), tmp_path / "m.keras")
    scaled = trained(mlp(), keras.optimizers.LossScaleOptimizer(NATIVE(0.01)))
    found = read(saved(scaled, tmp_path / "s.keras"), {})
    assert found.left["optimizer/vars/3"] == "state of the loss scale"
    k = value(scaled.optimizer.inner_optimizer._velocities[0])
    np.testing.assert_array_equal(found.entries["first/kernel"].slots["v"], k)
    with pytest.raises(ValueError, match="scales its loss"):
        write(tmp_path / "n.keras", complete(found), tmp_path / "s.keras")


def archive(path: Path, members: list[tuple[str, bytes]], packed: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packed) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def test_refusals_of_writing(tmp_path: Path) -> None:
    like = saved(trained(mlp(), NATIVE()), tmp_path / "like.keras")
    plain = saved(trained(mlp(), NATIVE()), tmp_path / "like.weights.h5")
    found = complete(read(like, {}))
    target = tmp_path / "n.keras"
    target.write_text("before")

    def refuses(message: str, checkpoint: Checkpoint = found, like: Any = like) -> None:
        with pytest.raises(ValueError, match=message):
            write(target, checkpoint, like)
        assert target.read_text() == "before"

    def changed(**entries: Entry) -> Checkpoint:
        return found.with_entries(
            found.entries | {n.replace("_", "/"): e for n, e in entries.items()}
        )

    refuses("a .keras file holds the model too: give --like", like=None)
    refuses("needs a .keras template", like=plain)
    refuses("the model lacks \\['other'\\]", changed(other=Entry()))
    v = np.ones((4, 3), np.float32)
    refuses(
        "first/kernel is \\(3, 4\\), and in the model \\(4, 3\\)",
        changed(first_kernel=Entry({"v": v.T})),
    )
    refuses("first/kernel has no v, which the rule keeps", changed(first_kernel=Entry({}, v)))
    refuses(
        "float64, and the template keeps float32",
        changed(first_kernel=Entry({"v": v / np.float64(3)})),
    )
    other = changed(first_kernel=Entry({"v": v}, group=1))
    other.groups = [found.groups[0], found.groups[0] | {"lr": 0.5}]
    refuses("one rule for all parameters", other)
    more = {n: Entry(e.slots | {"b": e.slots["v"]}, e.value) for n, e in found.entries.items()}
    buffered = found.with_entries(more)
    buffered.groups = [found.groups[0] | {"momentum": 0.9}]
    with pytest.raises(ValueError, match="keeps 8 variables and this rule 14"):
        write(tmp_path / "n.weights.h5", buffered, plain)
    with pytest.raises(ValueError, match=r"end in .keras or .weights.h5"):
        write(tmp_path / "n.h5", found, like)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write(target, found, tmp_path / "lacking.keras")


def test_refusals_of_live_models() -> None:
    found = complete(of_model(trained(mlp(), NATIVE(0.01)), {}))
    with pytest.raises(ValueError, match="another rule: centered True, not False"):
        into_model(found, trained(mlp(), NATIVE(0.01, centered=True)))
    with pytest.raises(ValueError, match="the optimizer is Adam, not RMSprop"):
        of_model(trained(mlp(), keras.optimizers.Adam()), {})
    with pytest.raises(ValueError, match="compile it with RMSprop"):
        of_model(mlp(), {})


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    path = saved(trained(mlp(), NATIVE()), tmp_path / "m.keras")
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    config = json.loads(members["config.json"])
    config["compile_config"]["optimizer"]["config"]["rho"] = 2
    members["config.json"] = json.dumps(config).encode()
    with pytest.raises(
        ValueError, match=r"m.keras: the optimizer's config is damaged: decay must be"
    ):
        read(archive(tmp_path / "m.keras", [*members.items()]), {})
