"""A recurrent network in plain NumPy, for optimizers that step a dict of arrays in place.

Back-propagation through time is written out in `cells`; `packing` says how rows of unequal length
become steps without padding. States, gates and gradients live in buffers that only ever grow; a step
allocates the batch in packed order, and with an embedding one array as large as that.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from rmsprop.models.cells import CELLS, ones
from rmsprop.models.checks import (
    checked_count,
    checked_dtype,
    checked_fraction,
    checked_outputs,
    checked_series,
    checked_tokens,
    one_of,
)
from rmsprop.models.layers import LOSSES, Array
from rmsprop.models.model import Model
from rmsprop.models.packing import Memory, Packing
from rmsprop.models.pooling import POOLS, Pool

EVAL_ELEMENTS = 2**20  # of all gates at all steps in one batch of an evaluation: 4 MB in float32


class Recurrent(Model):
    """A recurrent network over token ids or series of numbers, whose parameters any optimizer can update.

    Forward, for the steps t of each row, then for the row::

        e_t = embedding[x_t], or x_t itself            h_t = cell(e_t, h_{t-1}), h before step 0 is 0
        p = h_last, mean_t h_t or max_t h_t            scores = z = dropout(p) w_out + b_out

    The cells, forward and back: `rmsprop.models.cells.Plain` and `rmsprop.models.cells.Gated`. The
    losses are those of `MLP`. Back, with d = dL/dz and dropout's factor k::

        dL/dw_out = (k p)^T d       dL/db_out = sum_rows d       dL/dp = k (d w_out^T)
        dL/dh_t, beside what comes from step t+1:  dL/dp at the last t; dL/dp / steps; dL/dp where
            h_t is the first to be largest
        dL/dembedding[i] = sum of dL/de_t where x_t = i

    A diverged model, with inf or nan in its parameters, gives an inf or nan loss and no warning.
    The buffers make a model unfit for two threads at once: give each thread its own.

    Parameters
    ----------
    inputs
        Numbers in one step; with `words`, the width of the embedding.
    hidden
        Units of the state.
    outputs
        Scores of a row: 1 for binary_cross_entropy, classes for softmax_cross_entropy.
    cell
        "gru", gated as torch.nn.GRU, or "rnn", plain tanh as torch.nn.RNN.
    words
        None: x is (n, steps, inputs), or (n, steps * inputs), which is cut into steps (pictures are
        read row by row). A number of words: x is (n, steps) token ids below it, each row padded at
        its end with 0. Padding changes no state, counts in no pooling and trains no embedding.
    pool
        What the scores are computed from: the state after the "last" step, the "mean" of all states,
        or the "max" of each unit.
    dropout
        The chance of a pooled unit to be 0 in `loss_and_grads`, where the others grow by
        1 / (1 - dropout). Nothing is dropped elsewhere.
    loss
        "binary_cross_entropy" (one output, labels 0 and 1), "softmax_cross_entropy" (labels 0 to
        outputs - 1) or "squared_error" (real targets).
    seed
        Of `np.random.default_rng`; float32 and float64 models start from the same draws. u is
        orthogonal for each gate, w and w_out normal of variance 2 / (inputs + outputs of the
        layer), the embedding normal of deviation 0.1; biases and the embedding of padding are 0.
    dtype
        float32 or float64, of the parameters and the arithmetic; x is converted to it.

    Attributes
    ----------
    params
        {"embedding": (words, inputs), "w": (gates, inputs, hidden), "u": (gates, hidden, hidden),
        "b": (gates, hidden), "c": (hidden,), "w_out": (hidden, outputs), "b_out": (outputs,)}, to be
        updated in place. Gates are r, z, n for "gru", one for "rnn"; "c" is of "gru" only,
        "embedding" of models with `words`.
    rng
        The generator that dropout draws from.

    Raises
    ------
    TypeError
        For sizes that are not integers, another dtype, x or y of the wrong kind of numbers.
    ValueError
        For a size below 1, an unknown name, outputs that do not fit the loss, x or y of another
        shape, an empty batch, token ids out of range, a row without a token, padding before a token,
        labels that are out of range or not whole.

    Examples
    --------
    >>> import numpy as np
    >>> from rmsprop.models import Recurrent
    >>> x = np.array([[1, 2, 0], [2, 1, 1], [2, 0, 0], [1, 1, 0]])
    >>> y = np.array([1, 0, 0, 1])  # whether a row begins with token 1
    >>> model = Recurrent(4, 8, 1, words=3)
    >>> for _ in range(100):
    ...     loss, grads = model.loss_and_grads(x, y)
    ...     for name, p in model.params.items():
    ...         p -= 0.5 * grads[name]
    >>> model.predict(x)
    array([1, 0, 0, 1])

    References
    ----------
    Werbos 1990, Backpropagation through time: what it does and how to do it.
    Saxe, McClelland and Ganguli 2014, Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks (orthogonal weights).
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        cell: str = "gru",
        words: int | None = None,
        pool: str = "last",
        dropout: float = 0.0,
        loss: str = "binary_cross_entropy",
        seed: int | None = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.inputs = checked_count("inputs", inputs)
        self.hidden = checked_count("hidden", hidden)
        self.cell_name = one_of("cell", cell, CELLS)
        self.words = None if words is None else checked_count("words", words, 2)
        self.pool_name = one_of("pool", pool, POOLS)
        self.dropout = checked_fraction("dropout", dropout)
        self.loss_name = one_of("loss", loss, LOSSES)
        self.outputs = checked_outputs(outputs, loss)
        self.dtype = checked_dtype(dtype)
        self.cell = CELLS[cell]()
        draws = np.random.default_rng(seed)
        self.params = {name: p.astype(self.dtype) for name, p in self._drawn(draws).items()}
        self.rng = draws.spawn(1)[0]
        self._grads = {name: np.zeros_like(p) for name, p in self.params.items()}
        self._memory = Memory(self.dtype)

    def _drawn(self, rng: np.random.Generator) -> dict[str, Array]:
        gates, inputs, hidden, outputs = self.cell.gates, self.inputs, self.hidden, self.outputs
        params: dict[str, Array] = {}
        if self.words is not None:
            params["embedding"] = rng.normal(0, 0.1, (self.words, inputs))
            params["embedding"][0] = 0
        params["w"] = rng.normal(0, (2 / (inputs + hidden)) ** 0.5, (gates, inputs, hidden))
        q, r = np.linalg.qr(rng.normal(size=(gates, hidden, hidden)))
        # With the signs of r's diagonal, q is uniform among orthogonal matrices.
        params["u"] = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]
        params["b"] = np.zeros((gates, hidden))
        params.update({name: np.zeros(hidden) for name in self.cell.extra})
        params["w_out"] = rng.normal(0, (2 / (hidden + outputs)) ** 0.5, (hidden, outputs))
        params["b_out"] = np.zeros(outputs)
        return params

    @np.errstate(all="ignore")
    def loss_and_grads(self, x: ArrayLike, y: ArrayLike) -> tuple[float, dict[str, Array]]:
        """The mean loss of a batch and its gradient, named and shaped as `params`.

        The gradients are the same arrays at every call: copy what must outlive the next one.

        Parameters
        ----------
        x
            (n, steps) token ids with `words`; else (n, steps, inputs) or (n, steps * inputs).
        y
            (n,) or (n, 1) labels; for squared_error (n, outputs), or (n,) for one output.

        Examples
        --------
        >>> model = Recurrent(2, 3, 1, cell="rnn", loss="squared_error")
        >>> loss, grads = model.loss_and_grads([[[1, 0], [0, 1]]], [0])
        >>> {name: g.shape for name, g in grads.items()}
        {'w': (1, 2, 3), 'u': (1, 3, 3), 'b': (1, 3), 'w_out': (3, 1), 'b_out': (1,)}
        """
        x = self._checked_inputs(x)
        y = self._checked_targets(y, len(x))
        packing, rows = self._packed(x)
        steps = self._read(rows)
        pool, pooled = self._pooled(steps, packing)
        kept = self._drop(pooled)
        z = self._scored(pooled)
        loss = LOSSES[self.loss_name](z, y[packing.order])
        self._backward(rows, steps, pool, pooled, kept, z)
        return loss, dict(self._grads)

    def _checked_inputs(self, x: ArrayLike) -> Array:
        if self.words is None:
            return checked_series(x, self.inputs)
        return checked_tokens(x, self.words)

    def _packed(self, x: Array) -> tuple[Packing, Array]:
        """How the rows of x lie without padding, and x so: ids (packed,), or (packed, inputs)."""
        n, longest = x.shape[:2]
        lengths = np.count_nonzero(x, axis=1) if self.words else np.full(n, longest)
        packing = Packing.of(lengths)
        return packing, x.reshape(n * longest, *x.shape[2:])[packing.sources(longest)]

    def _read(self, rows: Array) -> Array:
        """What the cell reads at each packed row, (packed, inputs)."""
        steps = self._memory.array("steps", (len(rows), self.inputs))
        if self.words is None:
            steps[:] = rows
        else:
            np.take(self.params["embedding"], rows, axis=0, out=steps, mode="clip")
        return steps

    def _pooled(self, steps: Array, packing: Packing) -> tuple[Pool, Array]:
        states = self.cell.forward(self.params, steps, packing, self._memory)
        pool = POOLS[self.pool_name](packing, self._memory)
        return pool, pool.forward(states)

    def _drop(self, pooled: Array) -> Array | None:
        """Drop from the pooled states in place; the factor of each, or None without dropout."""
        if not self.dropout:
            return None
        kept = self._memory.array("kept", pooled.shape)
        self.rng.random(out=kept, dtype=self.dtype.type)
        np.greater_equal(kept, self.dropout, out=kept)
        np.multiply(kept, 1 / (1 - self.dropout), out=kept)
        np.multiply(pooled, kept, out=pooled)
        return kept

    def _scored(self, pooled: Array) -> Array:
        z = self._memory.array("scores", (len(pooled), self.outputs))
        np.matmul(pooled, self.params["w_out"], out=z)
        return np.add(z, self.params["b_out"], out=z)

    def _backward(
        self, rows: Array, steps: Array, pool: Pool, pooled: Array, kept: Array | None, z: Array
    ) -> None:
        """The gradients, where z has become dL/dz."""
        params, grads, memory = self.params, self._grads, self._memory
        np.matmul(pooled.T, z, out=grads["w_out"])
        np.matmul(ones(memory, len(z)), z, out=grads["b_out"])
        delta = np.matmul(z, params["w_out"].T, out=memory.array("pooled delta", pooled.shape))
        if kept is not None:
            np.multiply(delta, kept, out=delta)
        carry = pool.start(delta)
        gates = self.cell.backward(params, grads, steps, pool.packing, memory, carry, pool.arrive)
        if self.words is not None:
            parts = memory.array("step deltas", (len(gates), *steps.shape))
            np.matmul(gates, params["w"].transpose(0, 2, 1), out=parts)
            np.add.reduce(parts, axis=0, out=steps)
            add_rows(rows, steps, grads["embedding"])

    def _batches(self, x: Array) -> Iterator[tuple[slice | Array, Array]]:
        """Rows and their scores, a bounded number of rows at a time, in one buffer."""
        widest = max(self.cell.gates * self.hidden, self.inputs)
        size = max(1, EVAL_ELEMENTS // (x.shape[1] * widest))
        for start in range(0, len(x), size):
            packing, rows = self._packed(x[start : start + size])
            _, pooled = self._pooled(self._read(rows), packing)
            yield start + packing.order, self._scored(pooled)


def add_rows(ids: Array, rows: Array, out: Array) -> None:
    """Set each row i of out to the sum of the rows whose id is i.

    Examples
    --------
    >>> out = np.empty((3, 1))
    >>> add_rows(np.array([2, 0, 2]), np.array([[1.0], [2.0], [3.0]]), out)
    >>> out[:, 0].tolist()
    [2.0, 0.0, 4.0]
    """
    # Here, since it loads slowly and only embeddings need it.
    from scipy.sparse import csc_array

    # 1,500 rows of 64: .1ms, against .3ms sorted with add.reduceat and .9ms with add.at.
    one_each = np.ones(len(ids), out.dtype), ids, np.arange(len(ids) + 1)
    out[:] = csc_array(one_each, shape=(len(out), len(ids))) @ rows
