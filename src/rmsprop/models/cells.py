"""Recurrent cells, forward and back through time, on packed rows.

A cell's arrays have the gate first, so that one gate of one step is one contiguous block: adding two
such blocks takes .97us, against 4.5us side by side as in (rows, gates * hidden) (64x128). One matmul
multiplies all gates at the same speed either way.

Each `forward` computes the input's share of every step in one matmul, then walks. Each `backward`
computes what does not depend on dL/dh for all steps at once, before it walks back.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from rmsprop.models.layers import Array
from rmsprop.models.packing import Memory, Packing

Arrive = Callable[[int, Array], None]  # adds to dL/dh of a step what comes from the pooling


class Cell(ABC):
    """One step from the state before and an input to the state after.

    Parameters of g gates: w (g, inputs, hidden), u (g, hidden, hidden), b (g, hidden), and what else
    `extra` names, (hidden,) each.
    """

    gates: int
    extra: tuple[str, ...] = ()

    @abstractmethod
    def forward(
        self, params: dict[str, Array], x: Array, packing: Packing, memory: Memory
    ) -> Array:
        """The states (n + packed, hidden) for inputs x (packed, inputs), after n rows of zeros."""

    @abstractmethod
    def backward(
        self,
        params: dict[str, Array],
        grads: dict[str, Array],
        x: Array,
        packing: Packing,
        memory: Memory,
        carry: Array,
        arrive: Arrive,
    ) -> Array:
        """Fill the gradients, after `forward`, and return the delta of each gate's input share.

        Parameters
        ----------
        params, grads
            By name; the gradients are overwritten.
        x, packing, memory
            As in `forward`, which left its states and gates there.
        carry
            (n, hidden): dL/dh of each row's last state so far; spent.
        arrive
            Called for each step, the last first, with its number and dL/dh of its rows, to add to.

        Returns
        -------
        (gates, packed, hidden): dL/d(x w + b), the order of gates that of w.
        """


class Plain(Cell):
    """The recurrent cell of Elman.

    ::

        h_t = tanh(x_t w + h_{t-1} u + b)

    Back, from d_t = dL/dh_t::

        a_t = d_t (1 - h_t^2)     dL/dw = sum_t x_t^T a_t       dL/db = sum_t a_t
        d_{t-1} += a_t u^T        dL/du = sum_t h_{t-1}^T a_t

    References
    ----------
    Elman 1990, Finding structure in time.
    """

    gates = 1

    def forward(
        self, params: dict[str, Array], x: Array, packing: Packing, memory: Memory
    ) -> Array:
        n, hidden, u = packing.rows, params["u"].shape[2], params["u"][0]
        states = memory.array("states", (n + len(x), hidden))
        states[:n] = 0
        np.matmul(x, params["w"][0], out=states[n:])
        np.add(states[n:], params["b"], out=states[n:])
        share = memory.array("share", (n, hidden))
        h = states[:n]
        for start, end in packing.spans:
            k = end - start
            after = states[n + start : n + end]
            np.add(after, np.matmul(h[:k], u, out=share[:k]), out=after)
            h = np.tanh(after, out=after)
        return states

    def backward(
        self,
        params: dict[str, Array],
        grads: dict[str, Array],
        x: Array,
        packing: Packing,
        memory: Memory,
        carry: Array,
        arrive: Arrive,
    ) -> Array:
        n, hidden = carry.shape
        states = memory.array("states", (n + len(x), hidden))
        delta = memory.array("delta", (1, len(x), hidden))
        np.multiply(states[n:], states[n:], out=delta[0])
        np.subtract(1, delta, out=delta)
        u = params["u"][0].T
        for step in range(len(packing.spans) - 1, -1, -1):
            start, end = packing.spans[step]
            d, a = carry[: end - start], delta[0, start:end]
            arrive(step, d)
            np.multiply(a, d, out=a)
            np.matmul(a, u, out=d)
        before = states_before(states, packing, memory)
        np.matmul(x.T, delta, out=grads["w"])
        np.matmul(before.T, delta, out=grads["u"])
        np.matmul(ones(memory, len(x)), delta, out=grads["b"])
        return delta


class Gated(Cell):
    """The gated recurrent unit, in the form of cuDNN and torch.nn.GRU; gates r, z, n in this order.

    ::

        r_t = sigmoid(x_t w_r + h_{t-1} u_r + b_r)
        z_t = sigmoid(x_t w_z + h_{t-1} u_z + b_z)
        m_t = h_{t-1} u_n + c
        n_t = tanh(x_t w_n + b_n + r_t m_t)
        h_t = (1 - z_t) n_t + z_t h_{t-1}

    c is torch's b_hn; its b_hr and b_hz add to b_r and b_z and are left out. Back, from
    d_t = dL/dh_t, with the a of the three gates, and a_m of m_t::

        a_n = d_t (1 - z)(1 - n^2)      a_r = a_n m r (1 - r)
        a_z = d_t (h_{t-1} - n) z (1 - z)        a_m = a_n r
        d_{t-1} += d_t z + a_r u_r^T + a_z u_z^T + a_m u_n^T
        dL/dw_g = sum_t x_t^T a_g       dL/db_g = sum_t a_g       dL/dc = sum_t a_m
        dL/du_r, u_z, u_n = sum_t h_{t-1}^T (a_r, a_z, a_m)

    References
    ----------
    Cho et al. 2014, Learning phrase representations using RNN encoder-decoder.
    """

    gates = 3
    extra = ("c",)

    def forward(
        self, params: dict[str, Array], x: Array, packing: Packing, memory: Memory
    ) -> Array:
        n, hidden = packing.rows, len(params["c"])
        w, u, b = (self._halved(params[name], name, memory) for name in "wub")
        gates = memory.array("gates", (3, len(x), hidden))
        np.matmul(x, w, out=gates)
        np.add(gates, b[:, None], out=gates)
        states = memory.array("states", (n + len(x), hidden))
        states[:n] = 0
        shares = memory.array("shares", (3, len(x), hidden))  # of the state; m is kept there
        h = states[:n]
        for start, end in packing.spans:
            share, now = shares[:, start:end], gates[:, start:end]
            h, after = h[: end - start], states[n + start : n + end]
            np.matmul(h, u, out=share)
            both, candidate, m = now[:2], now[2], share[2]
            np.add(both, share[:2], out=both)
            # sigmoid(a) = tanh(a / 2) / 2 + 1 / 2; tanh takes 1.5us, exp 2.5us (64x64).
            np.tanh(both, out=both)
            np.multiply(both, 0.5, out=both)
            np.add(both, 0.5, out=both)
            np.add(m, params["c"], out=m)
            np.multiply(now[0], m, out=after)
            np.add(candidate, after, out=candidate)
            np.tanh(candidate, out=candidate)
            np.subtract(h, candidate, out=after)  # h = n + z (h - n)
            np.multiply(after, now[1], out=after)
            h = np.add(after, candidate, out=after)
        return states

    def backward(
        self,
        params: dict[str, Array],
        grads: dict[str, Array],
        x: Array,
        packing: Packing,
        memory: Memory,
        carry: Array,
        arrive: Arrive,
    ) -> Array:
        n, hidden = carry.shape
        states = memory.array("states", (n + len(x), hidden))
        before = states_before(states, packing, memory)
        z = memory.array("gates", (3, len(x), hidden))[1]
        delta = self._slopes(before, memory)
        parts = memory.array("parts", (4, n, hidden))
        u = params["u"].transpose(0, 2, 1)
        for step in range(len(packing.spans) - 1, -1, -1):
            start, end = packing.spans[step]
            d, a, part = carry[: end - start], delta[:, start:end], parts[:, : end - start]
            arrive(step, d)
            np.multiply(a, d, out=a)
            np.multiply(d, z[start:end], out=part[0])
            np.matmul(a[1:], u, out=part[1:])
            np.add.reduce(part, axis=0, out=d)
        np.matmul(before.T, delta[1:], out=grads["u"])
        sums = np.matmul(ones(memory, len(x)), delta)
        grads["c"][:] = sums[3]
        delta[3] = delta[0]  # a_m is spent; r, z, n are now in the order of w
        grads["b"][:2], grads["b"][2] = sums[1:3], sums[0]
        np.matmul(x.T, delta[1:], out=grads["w"])
        return delta[1:]

    @staticmethod
    def _slopes(before: Array, memory: Memory) -> Array:
        """a_n, a_r, a_z, a_m (4, packed, hidden), each without its factor d_t."""
        r, z, new = memory.array("gates", (3, *before.shape))
        m = memory.array("shares", (3, *before.shape))[2]
        slopes = memory.array("delta", (4, *before.shape))
        a_n, a_r, a_z, a_m = slopes
        np.multiply(new, new, out=a_n)
        np.subtract(1, a_n, out=a_n)
        np.subtract(1, z, out=a_m)
        np.multiply(a_n, a_m, out=a_n)
        np.subtract(before, new, out=a_z)
        np.multiply(a_z, z, out=a_z)
        np.multiply(a_z, a_m, out=a_z)
        np.multiply(a_n, r, out=a_m)
        np.subtract(1, r, out=a_r)
        np.multiply(a_r, m, out=a_r)
        np.multiply(a_r, a_m, out=a_r)
        return slopes

    @staticmethod
    def _halved(p: Array, name: str, memory: Memory) -> Array:
        """A copy with r and z halved, for the sigmoid by tanh; halving is exact."""
        copy = memory.array(f"half {name}", p.shape)
        np.multiply(p[:2], 0.5, out=copy[:2])
        copy[2] = p[2]
        return copy


CELLS: dict[str, type[Cell]] = {"rnn": Plain, "gru": Gated}


def states_before(states: Array, packing: Packing, memory: Memory) -> Array:
    """The state before each packed row, (packed, hidden); a view where all rows have all steps.

    Examples
    --------
    >>> packing = Packing.of(np.array([1, 2]))
    >>> states_before(np.arange(5.0)[:, None], packing, Memory(np.dtype(np.float64)))[:, 0].tolist()
    [0.0, 1.0, 2.0]
    """
    total = packing.spans[-1][1]
    if packing.lengths[0] == packing.lengths[-1]:
        return states[:total]
    out = memory.array("before", (total, states.shape[1]))
    return np.take(states, packing.before(), axis=0, out=out, mode="clip")


def ones(memory: Memory, n: int) -> Array:
    """n ones: a matmul with them sums rows faster than add.reduce.

    Examples
    --------
    >>> ones(Memory(np.dtype(np.float64)), 2).tolist()
    [1.0, 1.0]
    """
    out = memory.array("ones", (n,))
    out.fill(1)
    return out
