"""Many copies of one multi-layer perceptron, each with parameters of its own, on the same rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rmsprop.models import MLP
from rmsprop.models.checks import checked_count, checked_inputs, checked_labels, checked_targets
from rmsprop.models.layers import ACTIVATIONS, Array
from rmsprop.models.mlp import EVAL_ELEMENTS
from rmsprop.stacked.losses import LOSSES, scores_of

MEASURED = (
    2**18
)  # elements of the widest layer, of some copies together, in a batch of an evaluation
CACHED_VIEWS = 8  # batch sizes: the full one and the last short one, in training and in evaluations


class Workspace(NamedTuple):
    """Buffers for n rows of C copies, each array contiguous: views of the stack's memory."""

    outputs: list[Array]  # each layer (C, n, width): its activations; in the last, z and then dL/dz
    deltas: list[Array]  # each hidden layer (C, n, width): dL/da and then dL/dz
    ones: Array  # (1, n): ones @ delta is the bias gradient


class StackedMLP:
    """C copies of an MLP that see the same rows and have parameters of their own.

    ::

        z_ci = a_c,i-1 w_ci + b_ci        a_ci = f(z_ci)        scores_c = z_cL        a_c0 = x

    The equations, losses and gradients of each copy are those of `rmsprop.models.MLP`, in the same order.
    The parameters of a copy lie one after the other in a row of `flat`, so that an optimizer's step is one
    pass over a table; every layer's products are one call over all copies.

    The buffers make a stack unfit for two threads at once: give each thread its own.

    Parameters
    ----------
    model
        What each copy is at the start: its parameters, of float32 or float64, are copied.
    copies
        C, 1 or more.

    Attributes
    ----------
    params
        {"w1": (C, inputs, hidden), "b1": (C, hidden), "w2": ...}: views of `flat`, to be updated in place.
    grads
        The same of the gradients: views of `flat_grads`.
    flat, flat_grads
        (C, parameters of a copy).
    starts
        Where each array begins in a row, and the end of the last: (arrays + 1,).

    Raises
    ------
    TypeError
        For a model that is not an MLP, or a number of copies that is not whole.
    ValueError
        For less than one copy; x or y of another shape, labels out of range.

    Examples
    --------
    >>> stack = StackedMLP(MLP((2, 8, 1), loss="binary_cross_entropy"), copies=3)
    >>> losses = stack.losses_and_grads([[0, 0], [0, 1]], [0, 1])
    >>> losses.shape, stack.grads["w1"].shape, stack.flat.shape
    ((3,), (3, 2, 8), (3, 33))
    """

    def __init__(self, model: MLP, copies: int):
        if not isinstance(model, MLP):
            raise TypeError(
                f"model must be an rmsprop.models.MLP; got {type(model).__name__}: train others one by one"
            )
        copies = checked_count("copies", copies)
        self.model, self.dtype, self.sizes = model, model.dtype, model.sizes
        self.loss_name, self.outputs = model.loss_name, model.outputs
        row = np.concatenate([p.reshape(-1) for p in model.params.values()])
        sizes = [p.size for p in model.params.values()]
        self.starts = np.append(0, np.cumsum(sizes)).astype(np.int64)
        self._hold(np.tile(row, (copies, 1)))

    @property
    def copies(self) -> int:
        """How many there are."""
        return len(self.flat)

    def _hold(self, flat: Array) -> None:
        """Take these parameters, (C, parameters of a copy), as the stack's own."""
        self.flat, self.flat_grads = flat, np.zeros_like(flat)
        self.params, self.grads = self._split(self.flat), self._split(self.flat_grads)
        self._memory = np.empty(0, self.dtype)
        self._views: dict[tuple[int, int], Workspace] = {}
        layers = range(1, len(self.sizes))
        self._w = [self.params[f"w{i}"] for i in layers]
        self._w_turned = [w.transpose(0, 2, 1) for w in self._w]
        self._b = [self.params[f"b{i}"][:, None, :] for i in layers]
        self._dw = [self.grads[f"w{i}"] for i in layers]
        self._db = [self.grads[f"b{i}"][:, None, :] for i in layers]

    def _split(self, flat: Array) -> dict[str, Array]:
        spans = zip(self.starts[:-1], self.starts[1:], self.model.params.items(), strict=True)
        return {name: flat[:, a:b].reshape(-1, *p.shape) for a, b, (name, p) in spans}

    def keep(self, which: Sequence[int] | Array) -> None:
        """Go on with these copies alone, in this order.

        Examples
        --------
        >>> stack = StackedMLP(MLP((2, 2)), copies=3)
        >>> stack.keep([0, 2])
        >>> stack.copies
        2
        """
        self._hold(self.flat[which])

    def part(self, which: Sequence[int] | Array) -> "StackedMLP":
        """A new stack of these copies, as they are now.

        Examples
        --------
        >>> StackedMLP(MLP((2, 2)), copies=3).part([1]).copies
        1
        """
        stack = StackedMLP(self.model, 1)
        stack._hold(self.flat[which])
        return stack

    def checked(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """x and y as the methods below use them, or an error.

        Returns
        -------
        tuple
            x (n, inputs), contiguous and of the stack's dtype; y (n,) labels, or targets (n, outputs).

        Examples
        --------
        >>> x, y = StackedMLP(MLP((2, 2)), copies=1).checked([[0, 1]], [[1]])
        >>> x.dtype, y.shape
        (dtype('float32'), (1,))
        """
        x = checked_inputs(x, self.sizes[0])
        if self.loss_name == "squared_error":
            y = checked_targets(y, len(x), self.outputs)
        else:
            y = checked_labels(y, len(x), max(self.outputs, 2))
        return np.ascontiguousarray(x, self.dtype), y

    def losses_and_grads(self, x: ArrayLike, y: ArrayLike) -> Array:
        """The mean losses of a batch, (C,) float64; `grads` then holds their gradients.

        Parameters
        ----------
        x
            (n, inputs), the same for all copies.
        y
            (n,) or (n, 1) labels; for squared_error (n, outputs), or (n,) for one output.

        Examples
        --------
        >>> stack = StackedMLP(MLP((2, 1), loss="squared_error"), copies=2)
        >>> stack.params["w1"][1] = 0
        >>> float(stack.losses_and_grads([[1, 0]], [2])[1]), stack.grads["w1"][1].tolist()
        (4.0, [[-4.0], [0.0]])
        """
        with np.errstate(all="ignore"):  # a diverged copy may overflow anywhere
            return self.descend(*self.checked(x, y))

    def descend(self, x: Array, y: Array) -> Array:
        """As `losses_and_grads`, of what `checked` returned; warnings are the caller's to silence."""
        ws = self._workspace(len(x))
        losses = LOSSES[self.loss_name](self._forward(x, ws), y)
        self._backward(x, ws)
        return losses

    def _forward(self, x: Array, ws: Workspace, part: slice = slice(None)) -> Array:
        forward, _ = ACTIVATIONS[self.model.activation]
        a = x
        for i, z in enumerate(ws.outputs):
            np.matmul(a, self._w[i][part], out=z)
            np.add(z, self._b[i][part], out=z)
            if i < len(ws.outputs) - 1:
                forward(_rows(z))
            a = z
        return a

    def _backward(self, x: Array, ws: Workspace) -> None:
        _, backward = ACTIVATIONS[self.model.activation]
        delta = ws.outputs[-1]
        for i in range(len(ws.outputs) - 1, -1, -1):
            a = ws.outputs[i - 1].transpose(0, 2, 1) if i else x.T
            np.matmul(a, delta, out=self._dw[i])
            np.matmul(ws.ones, delta, out=self._db[i])
            if i:
                delta = np.matmul(delta, self._w_turned[i], out=ws.deltas[i - 1])
                backward(_rows(ws.outputs[i - 1]), _rows(delta))

    def _workspace(self, n: int, copies: int | None = None) -> Workspace:
        """Views of one memory, each contiguous: for the full batch, the last one, those of an evaluation."""
        copies = copies or self.copies
        if (n, copies) not in self._views:
            if len(self._views) == CACHED_VIEWS:
                del self._views[next(iter(self._views))]
            outputs, deltas = self._carved(n, copies)
            self._views[n, copies] = Workspace(outputs, deltas, np.ones((1, n), self.dtype))
        return self._views[n, copies]

    def _carved(self, n: int, copies: int) -> tuple[list[Array], list[Array]]:
        layers = len(self.sizes) - 1
        widths = [*self.sizes[1:], *self.sizes[1:-1]]
        ends = np.cumsum([copies * n * k for k in widths])
        if ends[-1] > self._memory.size:
            self._memory = np.empty(ends[-1], self.dtype)
            self._views.clear()
        pieces = np.split(self._memory[: ends[-1]], ends[:-1])
        shaped = [a.reshape(copies, n, k) for a, k in zip(pieces, widths, strict=True)]
        return shaped[:layers], shaped[layers:]

    def measure(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """Mean losses and scores of any number of rows, each (C,) float64, in bounded memory.

        The score is the accuracy, or R^2 for squared_error, as `rmsprop.models.MLP.score`.

        Examples
        --------
        >>> stack = StackedMLP(MLP((2, 1), loss="squared_error"), copies=2)
        >>> stack.flat[:] = 0
        >>> [a.tolist() for a in stack.measure([[0, 0], [0, 0]], [-1, 1])]
        [[1.0, 1.0], [0.0, 0.0]]
        """
        with np.errstate(all="ignore"):
            return self.judge(*self.checked(x, y))

    def judge(self, x: Array, y: Array) -> tuple[Array, Array]:
        """As `measure`, of what `checked` returned; warnings are the caller's to silence."""
        # The rows are cut as `MLP.loss` cuts them, and then the copies, so that the bits are the same.
        size = min(len(x), max(1, EVAL_ELEMENTS // max(self.sizes)))
        some = max(1, MEASURED // (size * max(self.sizes)))
        parts = [slice(c, min(c + some, self.copies)) for c in range(0, self.copies, some)]
        found = [self._judge(x, y, size, part) for part in parts]
        losses, scores = (np.concatenate(figures) for figures in zip(*found, strict=True))
        return losses, scores

    def _judge(self, x: Array, y: Array, size: int, part: slice) -> tuple[Array, Array]:
        """Losses and scores of these copies, so many rows at a time."""
        copies = part.stop - part.start
        losses, scores = np.zeros(copies), np.empty((copies, len(x), self.outputs), self.dtype)
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            z = self._forward(x[rows], self._workspace(rows.stop - start, copies), part)
            scores[:, rows] = z
            losses += LOSSES[self.loss_name](z, y[rows]) * (rows.stop - start)
        return losses / len(x), scores_of(self.loss_name, scores, y)


def _rows(a: Array) -> Array:
    """The rows of all copies as one matrix, for operations that work element by element."""
    return a.reshape(-1, a.shape[2])


def elements_of(model: Any, rows: int) -> int:
    """The numbers that a copy of a model and its buffers for so many rows hold, gradients included.

    Examples
    --------
    >>> elements_of(MLP((2, 8, 1), loss="binary_cross_entropy"), rows=10)
    236
    """
    widths = [*model.sizes[1:], *model.sizes[1:-1]]
    return 2 * sum(p.size for p in model.params.values()) + rows * sum(widths)
