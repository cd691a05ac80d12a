"""What scores mean: probabilities, and how near values come to their targets."""

import numpy as np

from rmsprop.models.layers import Array


@np.errstate(all="ignore")  # of a diverged model the scores are inf or nan
def probabilities(z: Array) -> Array:
    """The probability of each class (n, classes) from scores: a softmax; of one score the logistic, (n, 2).

    Examples
    --------
    >>> probabilities(np.array([[0.0]])).tolist()
    [[0.5, 0.5]]
    """
    if z.shape[1] == 1:
        z = np.hstack([np.zeros_like(z), z])  # the softmax of (0, z) is (1 - p, p)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@np.errstate(all="ignore")
def r_squared(y: Array, z: Array) -> float:
    """R^2 of values z for targets y, both (n, outputs): 1 is perfect, 0 is predicting the mean.

    ::

        R^2 = 1 - sum((y - z)^2) / sum((y - mean(y))^2)

    It is the mean over outputs; a constant target counts 1 if met exactly, else 0, as in scikit-learn.

    Examples
    --------
    >>> r_squared(np.array([[-1.0], [1.0]]), np.array([[0.0], [0.0]]))
    0.0
    """
    y = y.astype(np.float64)
    residual = np.sum((y - z) ** 2, axis=0)
    spread = np.sum((y - y.mean(axis=0)) ** 2, axis=0)
    return float(np.mean(np.where(spread == 0, residual == 0, 1 - residual / spread)))
