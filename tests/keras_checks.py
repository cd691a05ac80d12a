"""What the checks of rmsprop.keras share: their table, variables and steps on any backend, a small model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import needs

keras = needs.package("keras")
ops, BACKEND = keras.ops, keras.backend.backend()

Array = np.ndarray[Any, Any]
SHAPES = ((3, 5), (7,), (), (0,))
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


class Float64:
    """Numbers that the optimizer keeps, as the learning rate, in float64."""

    def __enter__(self) -> None:
        keras.config.set_floatx("float64")

    def __exit__(self, *_: Any) -> None:
        keras.config.set_floatx("float32")


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
