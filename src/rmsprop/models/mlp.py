"""A multi-layer perceptron in plain NumPy, for optimizers that step a dict of arrays in place.

After the first step at a batch size, a step allocates nothing as large as a layer: activations,
deltas and gradients live in buffers made once, and every operation writes in place.
"""

import difflib
import operator
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rmsprop.models.layers import ACTIVATIONS, LOSSES

Array: TypeAlias = NDArray[Any]

EVAL_ELEMENTS = 2**20  # of the widest layer in one batch of an evaluation: 4 MB in float32
CACHED_VIEWS = 4  # batch sizes: the full one and the last short one, in training and in evaluation


class Workspace(NamedTuple):
    """Buffers for one batch of n rows; a smaller batch sees the first rows of the same memory.

    Examples
    --------
    >>> ws = Workspace.allocate(4, (3, 2), np.dtype(np.float32))
    >>> [z.shape for z in ws.outputs], [d.shape for d in ws.deltas]
    ([(4, 3), (4, 2)], [(4, 3)])
    """

    outputs: list[Array]  # each layer (n, width): its activations; in the last, z and then dL/dz
    deltas: list[Array]  # each hidden layer (n, width): dL/da and then dL/dz
    ones: Array  # (n,): ones @ delta is the bias gradient, .9us; add.reduce takes 3.9us (128x128)

    @classmethod
    def allocate(cls, n: int, widths: Sequence[int], dtype: np.dtype[Any]) -> "Workspace":
        """New buffers for n rows, one output for each width.

        Examples
        --------
        >>> Workspace.allocate(2, (1,), np.dtype(np.float64)).ones.tolist()
        [1.0, 1.0]
        """
        outputs, deltas = ([np.empty((n, k), dtype) for k in ks] for ks in (widths, widths[:-1]))
        return cls(outputs, deltas, np.ones(n, dtype))

    def first(self, n: int) -> "Workspace":
        """Views of the first n rows.

        Examples
        --------
        >>> Workspace.allocate(4, (3, 2), np.dtype(np.float32)).first(1).outputs[0].shape
        (1, 3)
        """
        return Workspace([a[:n] for a in self.outputs], [d[:n] for d in self.deltas], self.ones[:n])


class MLP:
    """A multi-layer perceptron whose parameters any optimizer can update in place.

    Forward, for layers i = 1..L, with a_0 = x and f the activation; no f on the last layer::

        z_i = a_{i-1} w_i + b_i        a_i = f(z_i)        scores = z_L

    Loss L, a mean over the n rows of a batch, and d_L = dL/dz_L::

        softmax_cross_entropy  mean(log(sum_j exp(z_j)) - z_y)             (softmax(z) - 1[y]) / n
        binary_cross_entropy   mean(max(z, 0) - z y + log(1 + exp(-|z|)))  (sigmoid(z) - y) / n
        squared_error          mean((z - y)^2) over rows and k outputs     2 (z - y) / (n k)

    Backward, for i = L..1::

        dL/dw_i = a_{i-1}^T d_i     dL/db_i = sum_rows d_i     d_{i-1} = (d_i w_i^T) * f'(z_{i-1})

    `squared_error` has no factor 1/2: it is torch.nn.MSELoss and sklearn's mean_squared_error;
    sklearn's MLPRegressor minimises half of it.

    A diverged model, with inf or nan in its parameters, gives an inf or nan loss and no warning.
    The buffers make a model unfit for two threads at once: give each thread its own.

    Parameters
    ----------
    sizes
        Widths (inputs, hidden..., outputs); without a hidden width the model is linear.
    activation
        Of the hidden layers: "relu", "sigmoid" or "tanh".
    loss
        "softmax_cross_entropy" (labels 0 to k-1), "binary_cross_entropy" (one output, labels
        0 and 1) or "squared_error" (real targets).
    init
        Weights are normal draws of variance 2 / inputs of the layer ("he") or
        2 / (inputs + outputs) ("xavier"); "auto" is "he" for relu, else "xavier". Biases are 0.
    seed
        Of `np.random.default_rng`; float32 and float64 models start from the same draws.
    dtype
        float32 or float64, of the parameters and the arithmetic; x is converted to it.

    Attributes
    ----------
    params
        {"w1": (inputs, hidden), "b1": (hidden,), "w2": ...}, to be updated in place.

    Raises
    ------
    TypeError
        For sizes that are not integers, another dtype, x or y that are not numbers.
    ValueError
        For a size below 1, an unknown name, outputs that do not fit the loss, x or y of another
        shape, an empty batch, labels that are out of range or not whole.

    Examples
    --------
    >>> import numpy as np
    >>> from rmsprop.models import MLP
    >>> x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    >>> model = MLP((2, 8, 1), activation="tanh", loss="binary_cross_entropy")
    >>> for _ in range(500):
    ...     loss, grads = model.loss_and_grads(x, y)
    ...     for name, p in model.params.items():
    ...         p -= 0.5 * grads[name]
    >>> model.predict(x)
    array([0, 1, 1, 0])

    References
    ----------
    Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward networks.
    He, Zhang, Ren and Sun 2015, Delving deep into rectifiers.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "relu",
        loss: str = "softmax_cross_entropy",
        init: str = "auto",
        seed: int | None = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.activation = one_of("activation", activation, ACTIVATIONS)
        self.loss_name = one_of("loss", loss, LOSSES)
        self.sizes = checked_sizes(sizes, loss)
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64; got {self.dtype}. Use np.float32.")
        self.init = one_of("init", init, ("auto", "he", "xavier"))
        if init == "auto":
            self.init = "he" if activation == "relu" else "xavier"
        self.params = self._drawn(np.random.default_rng(seed))
        self._grads = {name: np.zeros_like(p) for name, p in self.params.items()}
        self._largest = Workspace.allocate(0, self.sizes[1:], self.dtype)
        self._views: dict[int, Workspace] = {}

    def _drawn(self, rng: np.random.Generator) -> dict[str, Array]:
        params: dict[str, Array] = {}
        for i, (inputs, outputs) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True), 1):
            variance = 2 / inputs if self.init == "he" else 2 / (inputs + outputs)
            w = rng.normal(0, variance**0.5, (inputs, outputs))
            params[f"w{i}"] = w.astype(self.dtype)
            params[f"b{i}"] = np.zeros(outputs, self.dtype)
        return params

    @np.errstate(all="ignore")  # .7us a call; a diverged model may overflow anywhere
    def loss_and_grads(self, x: ArrayLike, y: ArrayLike) -> tuple[float, dict[str, Array]]:
        """The mean loss of a batch and its gradient, named and shaped as `params`.

        The gradients are the same arrays at every call: copy what must outlive the next one.

        Parameters
        ----------
        x
            (n, inputs); used without a copy when C-contiguous and of the model's dtype.
        y
            (n,) or (n, 1) labels; for squared_error (n, outputs), or (n,) for one output.

        Examples
        --------
        >>> loss, grads = MLP((2, 1), loss="squared_error").loss_and_grads([[1, 0]], [0])
        >>> {name: g.shape for name, g in grads.items()}
        {'w1': (2, 1), 'b1': (1,)}
        """
        x = checked_inputs(x, self.sizes[0])
        y = self._checked_targets(y, len(x))
        x = np.ascontiguousarray(x, self.dtype)
        ws = self._workspace(len(x))
        loss = LOSSES[self.loss_name](self._forward(x, ws), y)
        self._backward(x, ws)
        return loss, dict(self._grads)

    @np.errstate(all="ignore")
    def loss(self, x: ArrayLike, y: ArrayLike) -> float:
        """The mean loss, of any number of rows, forward only and in bounded memory.

        Examples
        --------
        >>> MLP((2, 1), loss="squared_error").loss([[0, 0]], [3])
        9.0
        """
        x = checked_inputs(x, self.sizes[0])
        y = self._checked_targets(y, len(x))
        mean_loss = LOSSES[self.loss_name]
        return sum(mean_loss(z, y[rows]) * len(z) for rows, z in self._batches(x)) / len(x)

    @np.errstate(all="ignore")
    def scores(self, x: ArrayLike) -> Array:
        """The last layer's z, a new array (n, outputs): logits, or the outputs of a regression.

        Examples
        --------
        >>> MLP((2, 3)).scores([[0, 0]]).tolist()
        [[0.0, 0.0, 0.0]]
        """
        x = checked_inputs(x, self.sizes[0])
        scores = np.empty((len(x), self.sizes[-1]), self.dtype)
        for rows, z in self._batches(x):
            scores[rows] = z
        return scores

    def predict(self, x: ArrayLike) -> Array:
        """Class labels (n,); for squared_error outputs (n, outputs), or (n,) if there is one.

        Examples
        --------
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
        return scores[:, 0] if self.sizes[-1] == 1 else scores

    @np.errstate(all="ignore")
    def predict_proba(self, x: ArrayLike) -> Array:
        """The probability of each class, (n, classes): for one output too, (n, 2), as sklearn.

        Raises ValueError for a regression.

        Examples
        --------
        >>> MLP((2, 1), loss="binary_cross_entropy").predict_proba([[0, 0]]).tolist()
        [[0.5, 0.5]]
        """
        self._require_classes("predict_proba")
        z = self.scores(x)
        if self.loss_name == "binary_cross_entropy":
            z = np.hstack([np.zeros_like(z), z])  # the softmax of (0, z) is (1 - p, p)
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        return z

    def accuracy(self, x: ArrayLike, y: ArrayLike) -> float:
        """The fraction of rows whose predicted class is y.

        Raises ValueError for a regression.

        Examples
        --------
        >>> MLP((2, 2)).accuracy([[0, 0], [0, 0]], [0, 1])
        0.5
        """
        self._require_classes("accuracy")
        return self.score(x, y)

    @np.errstate(all="ignore")
    def score(self, x: ArrayLike, y: ArrayLike) -> float:
        """Accuracy; for squared_error R^2, at best 1.

        ::

            R^2 = 1 - sum((y - z)^2) / sum((y - mean(y))^2)

        R^2 is the mean over outputs; a constant target counts 1 if met exactly, else 0, as sklearn.

        Examples
        --------
        >>> MLP((2, 1), loss="squared_error").score([[0, 0], [0, 0]], [-1, 1])
        0.0
        """
        x = checked_inputs(x, self.sizes[0])
        y = self._checked_targets(y, len(x))
        if self.loss_name != "squared_error":
            return float(np.mean(self.predict(x) == y))
        y = y.astype(np.float64)
        residual = np.sum((y - self.scores(x)) ** 2, axis=0)
        spread = np.sum((y - y.mean(axis=0)) ** 2, axis=0)
        return float(np.mean(np.where(spread == 0, residual == 0, 1 - residual / spread)))

    def _forward(self, x: Array, ws: Workspace) -> Array:
        forward, _ = ACTIVATIONS[self.activation]
        a = x
        for i, z in enumerate(ws.outputs, 1):
            np.matmul(a, self.params[f"w{i}"], out=z)
            np.add(z, self.params[f"b{i}"], out=z)
            if i < len(ws.outputs):
                forward(z)
            a = z
        return a

    def _backward(self, x: Array, ws: Workspace) -> None:
        _, backward = ACTIVATIONS[self.activation]
        delta = ws.outputs[-1]
        for i in range(len(ws.outputs), 0, -1):
            a = ws.outputs[i - 2] if i > 1 else x
            np.matmul(a.T, delta, out=self._grads[f"w{i}"])
            np.matmul(ws.ones, delta, out=self._grads[f"b{i}"])
            if i > 1:
                delta = np.matmul(delta, self.params[f"w{i}"].T, out=ws.deltas[i - 2])
                backward(a, delta)

    def _workspace(self, n: int) -> Workspace:
        if n not in self._views:
            if n > len(self._largest.ones):
                self._largest = Workspace.allocate(n, self.sizes[1:], self.dtype)
                self._views.clear()
            elif len(self._views) == CACHED_VIEWS:
                del self._views[next(iter(self._views))]
            self._views[n] = self._largest.first(n)
        return self._views[n]

    def _batches(self, x: Array) -> Iterator[tuple[slice, Array]]:
        """The last layer's z, a bounded number of rows at a time, in one buffer."""
        size = max(1, EVAL_ELEMENTS // max(self.sizes))
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            batch = np.ascontiguousarray(x[rows], self.dtype)
            yield rows, self._forward(batch, self._workspace(len(batch)))

    def _checked_targets(self, y: ArrayLike, n: int) -> Array:
        outputs = self.sizes[-1]
        if self.loss_name == "squared_error":
            return checked_targets(y, n, outputs)
        return checked_labels(y, n, max(outputs, 2))

    def _require_classes(self, method: str) -> None:
        if self.loss_name == "squared_error":
            raise ValueError(f"{method} needs classes; got squared_error. Use predict or score.")


# Checks: each error gives the rule, the value and the remedy.


def checked_inputs(x: ArrayLike, width: int) -> Array:
    """x as an array (batch, width), or an error.

    Examples
    --------
    >>> checked_inputs([[1, 2]], 2).shape
    (1, 2)
    """
    x = checked_numbers("x", x)
    if x.ndim != 2 or x.shape[1] != width or len(x) == 0:
        raise ValueError(
            f"x must have shape (batch, {width}), with at least one row; got {x.shape}."
            f" Use x.reshape(-1, {width}) for one row or for pictures, or change sizes."
        )
    return x


def checked_labels(y: ArrayLike, n: int, classes: int) -> Array:
    """y as n whole labels below `classes`, flat, or an error.

    Examples
    --------
    >>> checked_labels([[0.0], [1.0]], 2, 2).tolist()
    [0, 1]
    """
    y = checked_numbers("labels", y)
    if y.shape not in ((n,), (n, 1)):
        raise ValueError(
            f"labels must have shape ({n},) or ({n}, 1), one for each row of x; got {y.shape}."
            " Use y.argmax(axis=1) if they are one-hot."
        )
    y = y.reshape(n)
    labels = y.astype(np.intp, copy=False)
    if y.dtype.kind == "f" and (labels != y).any():
        raise ValueError(f"labels must be whole; got {y[labels != y][0]}. Round or drop them.")
    low, high = np.minimum.reduce(labels), np.maximum.reduce(labels)
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must be 0 to {classes - 1} here; got {low if low < 0 else high}."
            " Renumber them with np.unique(y, return_inverse=True)[1], or change sizes."
        )
    return labels


def checked_targets(y: ArrayLike, n: int, outputs: int) -> Array:
    """y as an array (n, outputs), or an error.

    Examples
    --------
    >>> checked_targets([1, 2], 2, 1).shape
    (2, 1)
    """
    y = checked_numbers("targets", y)
    if y.shape != (n, outputs) and not (outputs == 1 and y.shape == (n,)):
        raise ValueError(
            f"targets must have shape ({n}, {outputs}), or ({n},) for one output; got {y.shape}."
            " Reshape them, or change the last of sizes."
        )
    return y.reshape(n, outputs)


def checked_numbers(name: str, values: ArrayLike) -> Array:
    """The values as an array of real numbers, or an error.

    Examples
    --------
    >>> checked_numbers("x", [1, 2]).tolist()
    [1, 2]
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{name} must be real numbers; got dtype {array.dtype}. Convert with .astype(float),"
            " or names of classes with np.unique(y, return_inverse=True)[1]."
        )
    return array


def checked_sizes(sizes: Sequence[int], loss: str) -> tuple[int, ...]:
    """The sizes as integers that fit the loss, or an error.

    Examples
    --------
    >>> checked_sizes([784, 10], "softmax_cross_entropy")
    (784, 10)
    """
    remedy = "Give (inputs, hidden..., outputs), for instance (784, 128, 10)."
    try:
        widths = tuple(operator.index(size) for size in sizes)
    except TypeError:
        raise TypeError(f"sizes must be integers; got {sizes!r}. {remedy}") from None
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"sizes must be two or more, each at least 1; got {sizes!r}. {remedy}")
    if loss != "squared_error" and (loss == "binary_cross_entropy") != (widths[-1] == 1):
        raise ValueError(
            "sizes must end with 1 for binary_cross_entropy, with 2 or more for"
            f" softmax_cross_entropy; got {sizes!r} for {loss}. Change sizes or the loss."
        )
    return widths


def one_of(name: str, value: str, options: Collection[str]) -> str:
    """The value if it is one of the options, or an error that names the near one.

    Examples
    --------
    >>> one_of("activation", "rely", ("relu", "tanh"))
    Traceback (most recent call last):
    ValueError: activation must be one of relu, tanh; got 'rely'. Did you mean 'relu'?
    """
    if value in options:
        return value
    near = difflib.get_close_matches(str(value), options, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(options)}; got {value!r}.{hint}")
