"""Kernels between Keras and PyTorch: the translated layer computes the same; names and their maps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs

keras, torch = needs.package("keras"), needs.package("torch")

from rmsprop.convert import Checkpoint, Entry  # noqa: E402
from rmsprop.convert.keras.flatten import flattened  # noqa: E402
from rmsprop.convert.layouts import (  # noqa: E402
    NAMES,
    Move,
    fitting,
    moved,
    moved_shape,
    of_role,
    with_gru_halves,
    without_gru_halves,
)  # fmt: skip
from rmsprop.convert.names import is_to_torch, places, read_map, renamed  # noqa: E402

# Keras's own reading of its variables, under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
Array = np.ndarray[Any, Any]
L, N = keras.layers, torch.nn


def flipped(x: Array) -> Array:
    """Channels first."""
    return np.moveaxis(x, -1, 1)


# For each: the Keras layer, PyTorch's, the shape of a batch in Keras's order, and the roles of the weights.
LAYERS: dict[str, tuple[Any, Any, tuple[int, ...], list[str]]] = {
    "dense": (L.Dense(3), N.Linear(5, 3), (2, 5), ["kernel", "bias"]),
    "square dense": (L.Dense(4), N.Linear(4, 4), (2, 4), ["kernel", "bias"]),
    "conv1d": (L.Conv1D(3, 2), N.Conv1d(4, 3, 2), (2, 6, 4), ["kernel", "bias"]),
    "conv2d": (L.Conv2D(3, (2, 3)), N.Conv2d(4, 3, (2, 3)), (2, 6, 5, 4), ["kernel", "bias"]),
    "conv3d": (L.Conv3D(3, 2), N.Conv3d(2, 3, 2), (2, 4, 3, 5, 2), ["kernel", "bias"]),
    "conv2d transposed": (
        L.Conv2DTranspose(3, 2, strides=2), N.ConvTranspose2d(4, 3, 2, stride=2), (2, 3, 5, 4),
        ["conv_transpose/kernel", "bias"],
    ),
    "depthwise": (
        L.DepthwiseConv2D(2, depth_multiplier=3), N.Conv2d(4, 12, 2, groups=4), (2, 6, 5, 4),
        ["depthwise_kernel", "bias"],
    ),
    "layer norm": (L.LayerNormalization(epsilon=1e-5), N.LayerNorm(5), (2, 5), ["gamma", "beta"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_translated_layer_computes_the_same(name: str) -> None:
    layer, module, shape, roles = LAYERS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    layer.build(shape)
    kernels = [rng.normal(size=w.shape).astype(np.float32) for w in layer.weights]
    layer.set_weights(kernels)
    with torch.no_grad():
        for p, role, kernel in zip(module.parameters(), roles, kernels, strict=True):
            move = of_role(role, kernel.shape)
            assert move is not None
            there = moved(move, kernel, to_torch=True)
            assert there.shape == moved_shape(move, kernel.shape, to_torch=True) == tuple(p.shape)
            np.testing.assert_array_equal(moved(move, there, to_torch=False), kernel)
            p.copy_(torch.tensor(there))
        channels_last = len(shape) > 2 and "norm" not in name
        found = module(torch.tensor(flipped(x) if channels_last else x)).numpy()
    expected = keras.ops.convert_to_numpy(layer(x))
    expected = flipped(expected) if channels_last else expected
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_dense_layer_after_flattening() -> None:
    """The trap of every port: Keras flattens height, width, channels; PyTorch channels first."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    dense = L.Dense(6)
    dense.build((2, 60))
    kernel, _ = dense.get_weights()
    move: Any = of_role("flatten3x4x5/kernel", kernel.shape)
    assert move == Move("flatten", (3, 4, 5))
    there = moved(move, kernel, to_torch=True)
    np.testing.assert_array_equal(moved(move, there, to_torch=False), kernel)
    expected = keras.ops.convert_to_numpy(dense(x.reshape(2, -1)))
    found = flipped(x).reshape(2, -1) @ there.T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def recurrent(name: str) -> tuple[Any, Any]:
    made: dict[str, Any] = {
        "gru": (L.GRU(3, return_sequences=True), N.GRU(4, 3, batch_first=True)),
        "lstm": (L.LSTM(3, return_sequences=True), N.LSTM(4, 3, batch_first=True)),
        "simple_rnn": (L.SimpleRNN(3, return_sequences=True), N.RNN(4, 3, batch_first=True)),
    }
    return made[name]


@pytest.mark.parametrize("name", ["gru", "lstm", "simple_rnn"])
def test_a_translated_recurrent_layer_computes_the_same(name: str) -> None:
    layer, module = recurrent(name)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    layer.build(x.shape)
    layer.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in layer.weights])
    kernel, recurrent_kernel, bias = layer.get_weights()
    parts = {f"{name}/kernel": kernel, f"{name}/recurrent_kernel": recurrent_kernel}
    moves = {role: of_role(role, a.shape) for role, a in parts.items()}
    weights = [moved(moves[role] or Move(), a, to_torch=True) for role, a in parts.items()]
    if name == "gru":
        whole = Checkpoint("keras", entries={"gru/bias": Entry(value=bias, role="gru/bias")})
        halves = with_gru_halves(whole)
        np.testing.assert_array_equal(without_gru_halves(halves).entries["gru/bias"].value, bias)
        biases: Any = [e.value for e in halves.entries.values()]
        biases = [moved(Move("gru bias"), a, to_torch=True) for a in biases]
    else:  # PyTorch has two biases, which no translation makes up: here one of them is zero
        biases = [bias, np.zeros_like(bias)]
    with torch.no_grad():
        for p, a in zip(module.parameters(), [*weights, *biases], strict=True):
            p.copy_(torch.tensor(a))
        found = module(torch.tensor(x))[0].numpy()
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(layer(x)), rtol=1e-5, atol=1e-5)
    for role, a, there in zip(parts, parts.values(), weights, strict=True):
        np.testing.assert_array_equal(moved(moves[role] or Move(), there, to_torch=False), a)


def test_moves_refuse_what_they_are_not_for() -> None:
    for name in NAMES[1:]:
        with pytest.raises(ValueError, match="is not for an array of shape"):
            moved(Move(name), np.zeros(()), to_torch=True)
    with pytest.raises(ValueError, match=r"10 inputs are not a flattened \[2, 3\]"):
        moved(Move("flatten", (2, 3)), np.zeros((10, 4)), to_torch=True)
    with pytest.raises(ValueError, match="three gates"):
        moved(Move("gru"), np.zeros((4, 7)), to_torch=True)
    with pytest.raises(ValueError, match=r"is not of \[2, 3\] filters"):
        moved(Move("depthwise", (2, 3)), np.zeros((5, 1, 2, 2)), to_torch=False)
    assert of_role("einsum/kernel", (2, 3, 4)) is None
    assert fitting((4, 4), (4, 4), to_torch=True) == [Move("same"), Move("transpose")]


# Names.


def checkpoint(
    layout: str, shapes: dict[str, tuple[int, ...]], *, named: bool = True
) -> Checkpoint:
    entries = {
        name: Entry({"v": np.zeros(shape)}, role=name.rpartition("/")[2] if "/" in name else "")
        for name, shape in shapes.items()
    }
    return Checkpoint(layout, entries=entries, layout=layout, named=named)


KERAS = checkpoint(
    "keras", {"a/kernel": (2, 3), "a/bias": (3,), "b/kernel": (3, 3), "b/bias": (3,)}
)
TORCH = checkpoint(
    "torch", {"a.weight": (3, 2), "a.bias": (3,), "b.weight": (3, 3), "b.bias": (3,)}
)
OTHER = checkpoint(
    "torch", {"x.weight": (3, 2), "x.bias": (3,), "y.weight": (3, 3), "y.bias": (3,)}
)


def names(found: dict[str, Any]) -> dict[str, str]:
    return {old: f"{place.name} {place.move}" for old, place in found.items()}


EXPECTED = {
    "a/kernel": "a.weight transpose",
    "a/bias": "a.bias same",
    "b/kernel": "b.weight transpose",
    "b/bias": "b.bias same",
}


def test_the_other_frameworks_names() -> None:
    assert names(places(KERAS, None, "torch", None)) == EXPECTED
    assert names(places(KERAS, TORCH, "torch", None)) == EXPECTED
    back = {new.split()[0]: f"{old} {new.split()[1]}" for old, new in EXPECTED.items()}
    assert names(places(TORCH, KERAS, "keras", None)) == back


def test_names_stay_where_the_target_has_none_of_its_own() -> None:
    assert names(places(KERAS, None, "keras", None)) == {n: f"{n} same" for n in KERAS.entries}
    assert names(places(TORCH, None, "torch", None)) == {n: f"{n} same" for n in TORCH.entries}


def test_by_order() -> None:
    found = places(KERAS, OTHER, "torch", "order")
    assert [place.name for place in found.values()] == list(OTHER.entries)
    nameless = checkpoint("torch", {"0": (3, 2), "1": (3,), "2": (3, 3), "3": (3,)}, named=False)
    assert [p.name for p in places(nameless, KERAS, "keras", None).values()] == list(KERAS.entries)
    with pytest.raises(ValueError, match="the order of what"):
        places(KERAS, None, "torch", "order")
    short = checkpoint("torch", {"x.weight": (3, 2)})
    with pytest.raises(
        ValueError, match="4 parameters there, 1 in the target: by order they must be"
    ):
        places(KERAS, short, "torch", "order")


def test_by_a_function_and_a_table(tmp_path: Path) -> None:
    def ours(name: str) -> str:
        return renamed(name, KERAS).replace("a.", "x.").replace("b.", "y.")

    expected = {old: new.replace("a.", "x.").replace("b.", "y.") for old, new in EXPECTED.items()}
    assert names(places(KERAS, OTHER, "torch", ours)) == expected
    table = tmp_path / "names.toml"
    table.write_text(
        '"a/kernel" = "x.weight"\n"a/bias" = "x.bias"\n"b/bias" = "y.bias"\n'
        '"b/kernel" = {to = "y.weight", layout = "same"}\n'
    )
    expected["b/kernel"] = "y.weight same"
    assert names(places(KERAS, OTHER, "torch", read_map(table))) == expected
    table.write_text("[names]\n" + table.read_text())
    assert names(places(KERAS, OTHER, "torch", read_map(table))) == expected


BAD_MAPS: dict[str, tuple[Any, str]] = {
    "of the source": ({"c/kernel": "x.weight"}, r"'c/kernel', which the source does not have \(a/kernel"),
    "of the target": ({"a/kernel": "z"}, r"'z', which the target does not have \(x.weight"),
    "twice": ({"a/bias": "x.bias", "b/bias": "x.bias"}, "two parameters would become 'x.bias'"),
    "a number": ({"a/bias": 3}, 'write "new name", or {to = "new name", layout = "transpose"}'),
    "a word": ({"a/bias": {"to": "x.bias", "lay": 1}}, "the map gives 'a/bias' as"),
    "layout": ({"a/bias": {"to": "x.bias", "layout": "diagonal"}}, "the layout 'diagonal'; known: same"),
    "sizes": (
        {"a/bias": {"to": "x.bias", "layout": "flatten", "sizes": [0]}}, r"they are whole numbers"
    ),
    "shape": ({"a/kernel": "y.weight"}, r"'y.weight' in the target is \[3, 3\]: correct the map"),
    "unfit": ({"a/bias": {"to": "x.bias", "layout": "conv"}}, "layout 'conv' does not bring there"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MAPS)
def test_bad_maps(name: str) -> None:
    table, message = BAD_MAPS[name]
    with pytest.raises(ValueError, match=message):
        places(KERAS, OTHER, "torch", table)


def test_bad_map_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_map(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    for content in (b"a = = b", b"\xff\xfe", b"a = " + b"[" * 5000):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="is not a TOML file"):
            read_map(bad)


def test_names_that_differ_ask_for_a_map() -> None:
    with pytest.raises(
        ValueError, match=r'the names differ.*--map names.toml with lines "a/kernel" = "x.w'
    ):
        places(KERAS, OTHER, "torch", None)


def test_a_square_matrix_without_a_role_is_not_guessed() -> None:
    plain = checkpoint("keras", {"w1": (2, 3), "w2": (3, 3)})
    like = checkpoint("torch", {"w1": (3, 2), "w2": (3, 3)})
    with pytest.raises(
        ValueError, match=r"whether 'w2', \[3, 3\], is to be transposed cannot be told"
    ):
        places(plain, like, "torch", None)
    table = {"w1": "w1", "w2": {"to": "w2", "layout": "transpose"}}
    assert names(places(plain, like, "torch", table)) == {
        "w1": "w1 transpose",
        "w2": "w2 transpose",
    }


def test_recurrent_names() -> None:
    roles = {
        "gru/gru_cell/kernel": "gru/kernel",
        "gru/gru_cell/recurrent_kernel": "gru/recurrent_kernel",
        "gru/gru_cell/bias/recurrent": "gru/bias",
        "embedding/embeddings": "embeddings",
        "norm/gamma": "gamma",
    }
    entries = {name: Entry(role=role) for name, role in roles.items()}
    found = [renamed(name, Checkpoint("keras", entries=entries, layout="keras")) for name in roles]
    assert found == [
        "gru.weight_ih_l0", "gru.weight_hh_l0", "gru.bias_hh_l0", "embedding.weight", "norm.weight"
    ]  # fmt: skip


def test_which_way_a_move_goes() -> None:
    assert [is_to_torch(a, b) for a, b in (("keras", "torch"), ("", "torch"), ("keras", ""))] == [
        True
    ] * 3
    assert [is_to_torch(a, b) for a, b in (("torch", "keras"), ("", "keras"), ("torch", ""))] == [
        False
    ] * 3


def test_layers_that_keras_numbers_anew_in_each_model() -> None:
    shapes = {"dense/kernel": (2, 3), "dense_1/kernel": (3, 3)}
    later = {"dense_1/kernel": (2, 3), "dense_2/kernel": (3, 3)}
    found = places(checkpoint("keras", shapes), checkpoint("keras", later), "keras", None)
    assert [place.name for place in found.values()] == list(later)


class TestFlatten:
    """Which dense layer stands behind a Flatten of what, by the config of the real model."""

    def sizes(self, *layers: Any, shape: tuple[int, ...] = (6, 6, 2)) -> dict[str, tuple[int, ...]]:
        model = keras.Sequential([keras.Input(shape), *layers])
        return flattened({"class_name": "Sequential", "config": model.get_config()})

    def test_behind_a_convolution(self) -> None:
        conv, last = L.Conv2D(3, 3, padding="same"), L.Dense(2, name="last")
        between = [L.Flatten(), L.Dropout(0.5), L.BatchNormalization(name="norm")]
        expected = {"norm": (6, 6, 3), "last": (6, 6, 3)}
        found = self.sizes(conv, *between, last, L.Dense(1, name="more"))
        assert {name: found[name] for name in expected} == expected
        assert "more" not in found

    def test_a_sequence_lies_alike_but_for_convolutions(self) -> None:
        last = L.Dense(2, name="last")
        assert "last" not in self.sizes(
            L.GRU(3, return_sequences=True), L.Flatten(), last, shape=(5, 4)
        )
        found = self.sizes(
            L.Conv1D(3, 2), L.ReLU(), L.Flatten(), L.Dense(2, name="last"), shape=(5, 4)
        )
        assert found["last"] == (4, 3)

    def test_without_flattening(self) -> None:
        assert self.sizes(L.GlobalAveragePooling2D(), L.Dense(2)) == {}
        assert self.sizes(L.Dense(2), shape=(4,)) == {}

    def test_in_a_functional_model_with_a_model_in_it(self) -> None:
        inner = keras.Sequential([keras.Input((4, 4, 2)), L.Flatten(), L.Dense(3, name="deep")])
        x = keras.Input((4, 4, 2))
        left = L.Dense(3, name="left")(L.Flatten()(L.Conv2D(5, 2, name="c")(x)))
        both = L.Concatenate()([left, inner(x)])
        model = keras.Model(x, L.Dense(1, name="top")(both))
        found = flattened({"class_name": "Functional", "config": model.get_config()})
        assert found["left"] == (3, 3, 5)
        assert found[f"{inner.name}/deep"] == (4, 4, 2)
        assert "top" not in found

    def test_a_vector_of_normalisation(self) -> None:
        gamma = np.arange(12.0)
        move = of_role("flatten2x3x2/gamma", gamma.shape)
        there = moved(move or Move(), gamma, to_torch=True)
        np.testing.assert_array_equal(there, np.moveaxis(gamma.reshape(2, 3, 2), -1, 0).ravel())
        np.testing.assert_array_equal(moved(move or Move(), there, to_torch=False), gamma)
