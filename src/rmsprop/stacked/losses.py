"""Losses and scores of many copies at once: those of `rmsprop.models`, with an axis of copies in front.

Each does the operations of its namesake in `rmsprop.models`, sums in their order, so that a copy's figures
are those of a model of its own.
"""

from collections.abc import Callable

import numpy as np

from rmsprop.models.layers import Array, sigmoid


def binary_cross_entropy(z: Array, y: Array) -> Array:
    """The mean losses (C,) of scores z (C, n, 1) and labels y (n,), 0 or 1; z becomes dL/dz.

    ::

        L_c = mean(max(z, 0) - z y + log(1 + exp(-|z|)))        dL_c/dz = (sigmoid(z) - y) / n

    Examples
    --------
    >>> z = np.zeros((2, 1, 1))
    >>> binary_cross_entropy(z, np.array([1])).round(4).tolist(), z[:, 0, 0].tolist()
    ([0.6931, 0.6931], [-0.5, -0.5])
    """
    z = z[:, :, 0]
    n = z.shape[1]
    losses = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    sigmoid(z)
    z -= y
    z *= 1 / n
    return np.add.reduce(losses, axis=1).astype(np.float64) / n


def softmax_cross_entropy(z: Array, y: Array) -> Array:
    """The mean losses (C,) of scores z (C, n, k) and labels y (n,), 0 to k-1; z becomes dL/dz.

    ::

        L_c = mean(log(sum_j exp(z_j)) - z_y)        dL_c/dz = (softmax(z) - 1[y]) / n

    Examples
    --------
    >>> z = np.zeros((2, 1, 2))
    >>> softmax_cross_entropy(z, np.array([1])).round(4).tolist(), z[0].tolist()
    ([0.6931, 0.6931], [[0.5, -0.5]])
    """
    copies, n, k = z.shape
    rows = z.reshape(-1, k)
    # Turned, so that maxima and products are over whole rows: .72us a copy, 1.29us as it lies (64 copies of
    # 32x10). The sums are taken as it lies, in the order of the namesake.
    turned = np.ascontiguousarray(rows.T)
    flat = turned.reshape(-1)
    at_y = np.tile(y * len(rows), copies) + np.arange(len(rows))
    turned -= np.maximum.reduce(turned, axis=0)
    true = flat[at_y]
    np.exp(turned, out=turned)
    rows[...] = turned.T
    total = np.add.reduce(rows, axis=1)
    turned *= 1 / (n * total)
    flat[at_y] -= 1 / n
    rows[...] = turned.T
    losses = np.log(total) - true
    return np.add.reduce(losses.reshape(copies, n), axis=1).astype(np.float64) / n


def squared_error(z: Array, y: Array) -> Array:
    """The mean squared errors (C,) of outputs z (C, n, k) and targets y (n, k); z becomes dL/dz.

    ::

        L_c = mean((z - y)^2)        dL_c/dz = 2 (z - y) / (n k)

    Examples
    --------
    >>> z = np.array([[[3.0]], [[0.0]]])
    >>> squared_error(z, np.array([[1.0]])).tolist(), z[:, 0, 0].tolist()
    ([4.0, 1.0], [4.0, -2.0])
    """
    z -= y
    flat = z.reshape(len(z), -1)
    losses = np.vecdot(flat, flat) / flat.shape[1]
    z *= 2 / flat.shape[1]
    return losses.astype(np.float64)


LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "binary_cross_entropy": binary_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
    "squared_error": squared_error,
}


def scores_of(loss: str, z: Array, y: Array) -> Array:
    """The scores (C,) of outputs z (C, n, k): accuracy, or R^2 for squared_error, as `Model.score`.

    ::

        R^2 = mean over k of 1 - sum((y - z)^2) / sum((y - mean(y))^2)

    Examples
    --------
    >>> scores_of("binary_cross_entropy", np.array([[[1.0], [1.0]]]), np.array([0, 1])).tolist()
    [0.5]
    """
    if loss == "squared_error":
        wide = y.astype(np.float64)
        residual = np.sum((wide - z) ** 2, axis=1)
        spread = np.sum((wide - wide.mean(axis=0)) ** 2, axis=0)
        return np.mean(np.where(spread == 0, residual == 0, 1 - residual / spread), axis=1)
    predicted = z.argmax(axis=2) if z.shape[2] > 1 else z[:, :, 0] > 0
    return np.mean(predicted == y, axis=1)
