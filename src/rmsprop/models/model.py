"""What every model of this package does with its scores: loss, predictions, accuracy."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rmsprop.models.checks import checked_labels, checked_targets
from rmsprop.models.layers import LOSSES, Array
from rmsprop.models.outputs import probabilities, r_squared


class Model(ABC):
    """A model that gives scores (n, outputs) to rows of inputs, a bounded number of rows at a time.

    Attributes
    ----------
    params
        The arrays to train, by name; an optimizer updates them in place.
    loss_name
        "softmax_cross_entropy", "binary_cross_entropy" or "squared_error".
    outputs
        How many scores a row gets.
    dtype
        float32 or float64, of the parameters and the arithmetic.
    """

    params: dict[str, Array]
    loss_name: str
    outputs: int
    dtype: np.dtype[Any]

    @abstractmethod
    def loss_and_grads(self, x: ArrayLike, y: ArrayLike) -> tuple[float, dict[str, Array]]:
        """The mean loss of a batch and its gradient, named and shaped as `params`."""

    @abstractmethod
    def _checked_inputs(self, x: ArrayLike) -> Array:
        """x as an array with at least one row, or an error."""

    @abstractmethod
    def _batches(self, x: Array) -> Iterator[tuple[slice | Array, Array]]:
        """Which rows of x, and their scores in a buffer that the next batch overwrites."""

    @np.errstate(all="ignore")
    def loss(self, x: ArrayLike, y: ArrayLike) -> float:
        """The mean loss, of any number of rows, forward only and in bounded memory.

        Examples
        --------
        >>> from rmsprop.models import MLP
        >>> MLP((2, 1), loss="squared_error").loss([[0, 0]], [3])
        9.0
        """
        x = self._checked_inputs(x)
        y = self._checked_targets(y, len(x))
        mean_loss = LOSSES[self.loss_name]
        return sum(mean_loss(z, y[rows]) * len(z) for rows, z in self._batches(x)) / len(x)

    @np.errstate(all="ignore")
    def scores(self, x: ArrayLike) -> Array:
        """The last layer's z, a new array (n, outputs): logits, or the outputs of a regression.

        Examples
        --------
        >>> from rmsprop.models import MLP
        >>> MLP((2, 3)).scores([[0, 0]]).tolist()
        [[0.0, 0.0, 0.0]]
        """
        x = self._checked_inputs(x)
        scores = np.empty((len(x), self.outputs), self.dtype)
        for rows, z in self._batches(x):
            scores[rows] = z
        return scores

    def predict(self, x: ArrayLike) -> Array:
        """Class labels (n,); for squared_error outputs (n, outputs), or (n,) if there is one.

        Examples
        --------
        >>> from rmsprop.models import MLP
        >>> model = MLP((2, 3))
        >>> model.params["b1"][:] = 0, 1, 0
        >>> model.predict([[0, 0]])
        array([1])
        """
        scores = self.scores(x)
        if self.loss_name == "softmax_cross_entropy":
            return scores.argmax(axis=1)
        if self.loss_name == "binary_cross_entropy":
            return (scores[:, 0] > 0).astype(np.intp)
        return scores[:, 0] if self.outputs == 1 else scores

    @np.errstate(all="ignore")
    def predict_proba(self, x: ArrayLike) -> Array:
        """The probability of each class, (n, classes): for one output too, (n, 2), as sklearn.

        Raises ValueError for a regression.

        Examples
        --------
        >>> from rmsprop.models import MLP
        >>> MLP((2, 1), loss="binary_cross_entropy").predict_proba([[0, 0]]).tolist()
        [[0.5, 0.5]]
        """
        self._require_classes("predict_proba")
        return probabilities(self.scores(x))

    def accuracy(self, x: ArrayLike, y: ArrayLike) -> float:
        """The fraction of rows whose predicted class is y.

        Raises ValueError for a regression.

        Examples
        --------
        >>> from rmsprop.models import MLP
        >>> MLP((2, 2)).accuracy([[0, 0], [0, 0]], [0, 1])
        0.5
        """
        self._require_classes("accuracy")
        return self.score(x, y)

    @np.errstate(all="ignore")
    def score(self, x: ArrayLike, y: ArrayLike) -> float:
        """Accuracy; for squared_error R^2, at best 1, as `outputs.r_squared` says.

        Examples
        --------
        >>> from rmsprop.models import MLP
        >>> MLP((2, 1), loss="squared_error").score([[0, 0], [0, 0]], [-1, 1])
        0.0
        """
        x = self._checked_inputs(x)
        y = self._checked_targets(y, len(x))
        if self.loss_name != "squared_error":
            return float(np.mean(self.predict(x) == y))
        return r_squared(y, self.scores(x))

    def _checked_targets(self, y: ArrayLike, n: int) -> Array:
        if self.loss_name == "squared_error":
            return checked_targets(y, n, self.outputs)
        return checked_labels(y, n, max(self.outputs, 2))

    def _require_classes(self, method: str) -> None:
        if self.loss_name == "squared_error":
            raise ValueError(f"{method} needs classes; got squared_error. Use predict or score.")
