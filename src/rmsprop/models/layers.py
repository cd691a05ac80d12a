"""Activations and losses on arrays in place, each with its derivative."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

# Activations. Forward turns z into a = f(z). Backward turns dL/da into dL/dz = dL/da * f'(z), from
# a alone, and spends a, which the next forward pass writes again.


def relu(z: Array) -> None:
    zeros = np.zeros(z.shape[1], z.dtype)  # 2.7us, against 6.2us with the scalar 0 (128x128)
    np.maximum(z, zeros, out=z)


def relu_backward(a: Array, delta: Array) -> None:
    np.greater(a, 0, out=a)
    np.multiply(delta, a, out=delta)


def sigmoid(z: Array) -> None:
    np.negative(z, out=z)
    np.exp(z, out=z)  # overflows to inf, whose reciprocal 0 is the right answer
    np.add(z, 1, out=z)
    np.reciprocal(z, out=z)


def sigmoid_backward(a: Array, delta: Array) -> None:
    np.multiply(delta, a, out=delta)
    np.subtract(1, a, out=a)
    np.multiply(delta, a, out=delta)


def tanh(z: Array) -> None:
    np.tanh(z, out=z)


def tanh_backward(a: Array, delta: Array) -> None:
    np.multiply(a, a, out=a)
    np.subtract(1, a, out=a)
    np.multiply(delta, a, out=delta)


ACTIVATIONS: dict[str, tuple[Callable[[Array], None], Callable[[Array, Array], None]]] = {
    "relu": (relu, relu_backward),
    "sigmoid": (sigmoid, sigmoid_backward),
    "tanh": (tanh, tanh_backward),
}


# Losses. Each returns the mean over the batch and leaves dL/dz in place of the outputs z. The mean is
# add.reduce and a division, 2.3us; np.mean takes 6.3us (128 rows).


def binary_cross_entropy(z: Array, y: Array) -> float:
    z = z[:, 0]
    losses = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    sigmoid(z)
    z -= y
    z *= 1 / len(z)
    return float(np.add.reduce(losses)) / len(z)


def softmax_cross_entropy(z: Array, y: Array) -> float:
    rows = np.arange(len(z))
    z -= z[rows, z.argmax(axis=1)][:, None]  # 3.6us; maximum.reduce takes 6.8us (128x10)
    true = z[rows, y]
    np.exp(z, out=z)
    total = np.add.reduce(z, axis=1, keepdims=True)
    z *= 1 / (len(z) * total)
    z[rows, y] -= 1 / len(z)
    return float(np.add.reduce(np.log(total[:, 0]) - true)) / len(z)


def squared_error(z: Array, y: Array) -> float:
    z -= y
    loss = np.vdot(z, z) / z.size
    z *= 2 / z.size
    return float(loss)


LOSSES: dict[str, Callable[[Array, Array], float]] = {
    "binary_cross_entropy": binary_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
    "squared_error": squared_error,
}
