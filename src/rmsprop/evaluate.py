"""What a trained model does on rows that it has not seen: score, confusion, the worst mistakes."""

import math
from typing import Any

import numpy as np

from rmsprop.baseline import baseline
from rmsprop.models.outputs import probabilities, r_squared
from rmsprop.saved import Saved

PARTS = ("train", "validation", "test")
WORST = 20


def evaluate(saved: Saved, part: str = "test") -> dict[str, Any]:
    """Measure a model on a split of its data.

    Parameters
    ----------
    saved
        From `saved.load`.
    part
        "test", which nothing was chosen by, "validation" or "train".

    Returns
    -------
    dict
        Ready for JSON: `rows`, `loss`, `metric`, `score`. Of classes also the 95% `interval` of the accuracy
        over rows (Wilson), the `confusion` matrix (rows true, columns predicted), each class's `recall` and
        `precision`, and the `worst` mistakes as [row, predicted, true, probability of the prediction]; of a
        regression the `rmse` and the `worst` rows as [row, predicted, true]. Of texts the `baseline`.

    Raises
    ------
    ValueError
        For another part.

    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}; got {part!r}")
    split = getattr(saved.dataset, part)
    z = saved.scores(split.x)
    kind = saved.dataset.kind
    found = _of_values(z, split.y) if kind == "regression" else _of_classes(kind, z, split.y)
    found = {"data": saved.dataset.name, "part": part, "rows": len(split)} | found
    if kind != "regression":
        found["classes"] = list(saved.dataset.classes)
    if saved.dataset.vocabulary is not None and part == "test":
        found["baseline"] = baseline(saved.dataset)
    return found


def _of_classes(kind: str, z: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    p = probabilities(z.astype(np.float64))
    predicted = p.argmax(axis=1)
    k = p.shape[1]
    confusion = np.bincount(y * k + predicted, minlength=k * k).reshape(k, k)
    right = int(confusion.trace())
    wrong = np.flatnonzero(predicted != y)
    surest = wrong[np.argsort(-p[wrong, predicted[wrong]], kind="stable")][:WORST]
    return {
        "loss": _cross_entropy(kind, z, y),
        "metric": "accuracy",
        "score": right / len(y),
        "interval": wilson(right, len(y)),
        "confusion": confusion.tolist(),
        "recall": _shares(confusion.diagonal(), confusion.sum(axis=1)),
        "precision": _shares(confusion.diagonal(), confusion.sum(axis=0)),
        "worst": [
            [int(i), int(predicted[i]), int(y[i]), float(p[i, predicted[i]])] for i in surest
        ],
    }


def _of_values(z: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    residual = (y - z).astype(np.float64)
    squares = float((residual**2).sum())
    worst = np.argsort(-np.abs(residual[:, 0]), kind="stable")[:WORST]
    return {
        "loss": squares / residual.size,
        "metric": "R^2",
        "score": r_squared(y, z),
        "rmse": math.sqrt(squares / residual.size),
        "worst": [[int(i), float(z[i, 0]), float(y[i, 0])] for i in worst],
    }


def _cross_entropy(kind: str, z: np.ndarray, y: np.ndarray) -> float:
    """The mean of -log p(true class), from scores, so that no probability is rounded to 0 first."""
    z = z.astype(np.float64)
    if kind == "binary":
        z = np.hstack([np.zeros_like(z), z])
    top = z.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(z - top).sum(axis=1))
    return float(np.mean(log_sum - z[np.arange(len(y)), y]))


def wilson(right: int, n: int) -> list[float]:
    """The 95% interval of a share, after Wilson (1927): it stays within 0 and 1.

    ::

        (s + z^2/2n -+ z sqrt(s (1 - s) / n + z^2 / 4n^2)) / (1 + z^2/n),    s = right/n, z = 1.96

    Examples
    --------
    >>> [round(x, 3) for x in wilson(90, 100)]
    [0.826, 0.945]
    """
    z, s = 1.959963984540054, right / n
    middle = s + z * z / (2 * n)
    spread = z * math.sqrt(s * (1 - s) / n + z * z / (4 * n * n))
    return [
        max(0.0, (middle - spread) / (1 + z * z / n)),
        min(1.0, (middle + spread) / (1 + z * z / n)),
    ]


def _shares(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(part, whole, strict=True)]
