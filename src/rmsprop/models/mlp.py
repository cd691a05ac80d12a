"""A multi-layer perceptron in plain NumPy, for optimizers that step a dict of arrays in place.

After the first step at a batch size, a step allocates nothing as large as a layer: activations,
deltas and gradients live in buffers made once, and every operation writes in place.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from rmsprop.models.checks import checked_dtype, checked_inputs, checked_sizes, one_of
from rmsprop.models.layers import ACTIVATIONS, LOSSES, Array
from rmsprop.models.model import Model

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


class MLP(Model):
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
        self.outputs = self.sizes[-1]
        self.dtype = checked_dtype(dtype)
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
        x = self._checked_inputs(x)
        y = self._checked_targets(y, len(x))
        x = np.ascontiguousarray(x, self.dtype)
        ws = self._workspace(len(x))
        loss = LOSSES[self.loss_name](self._forward(x, ws), y)
        self._backward(x, ws)
        return loss, dict(self._grads)

    def _checked_inputs(self, x: ArrayLike) -> Array:
        return checked_inputs(x, self.sizes[0])

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
