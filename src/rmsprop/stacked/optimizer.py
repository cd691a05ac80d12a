"""One step of many copies, each by the numbers of a rule of its own: one call of the kernel for all.

The switches are the same for all; the kernel takes a row of `scalars_of` for each array that it steps. So the
bits are those of `rmsprop.numpy.Optimizer`.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmsprop.kernels.cpu import KINDS, Batch
from rmsprop.kernels.element import CORRECT, HAS_B, HAS_M, HAS_V, SCALE, flags_of, scalars_of
from rmsprop.kernels.norms import PIECE, norms
from rmsprop.models.layers import Array
from rmsprop.rule import Rule


class StackedOptimizer:
    """Rules of the same switches, each of which steps a row of a table.

    ::

        row c of (p, v, m, b)  <-  one step of rules[c], as `rmsprop.numpy.Optimizer` makes it

    Parameters
    ----------
    rules
        A rule for each row; their `flags_of` are the same. Numbers may differ, `initial_scale` and how far
        gradients are clipped too.
    starts
        Where each parameter array begins in a row, and the end of the last: clipping by norm takes the norm
        of each array, or of all together.
    dtype
        float32 or float64.

    Attributes
    ----------
    v, m, b
        The state, (C, P) each; (C, 0) where the rules do not keep it.
    step_count
        Updates made so far.

    Raises
    ------
    ValueError
        For rules of different switches.

    Examples
    --------
    >>> optimizer = StackedOptimizer([Rule(lr=0.1), Rule(lr=0.2)], [0, 3], np.float64)
    >>> p = np.zeros((2, 3))
    >>> optimizer.step(p, np.ones((2, 3)), np.array([0.1, 0.2]))
    >>> p[:, 0].round(4).tolist()
    [-0.3162, -0.6325]
    """

    def __init__(self, rules: Sequence[Rule], starts: Any, dtype: Any):
        self.rules, self.flags = list(rules), flags_of(rules[0])
        if any(flags_of(rule) != self.flags for rule in rules):
            raise ValueError(
                "the rules of one stack must have the same switches: group them by flags_of"
            )
        self.starts, self.dtype = np.asarray(starts, np.int64).tolist(), np.dtype(dtype)
        self.step_count = 0

        def width(flag: int) -> int:
            return self.starts[-1] if self.flags & flag else 0

        self.v = np.empty((len(rules), width(HAS_V)), self.dtype)
        self.v[:] = np.array([rule.initial_scale for rule in rules])[:, None]
        self.m = np.zeros((len(rules), width(HAS_M)), self.dtype)
        self.b = np.zeros((len(rules), width(HAS_B)), self.dtype)
        self._take_numbers()

    def _take_numbers(self) -> None:
        """What the rules say of their rows."""
        rules, infinity = self.rules, float("inf")
        self._numbers = np.stack([scalars_of(rule, rule.lr, 1) for rule in rules])
        self._clip = np.array([rule.clip_norm or infinity for rule in rules])
        self._clip_global = np.array([rule.clip_global_norm or infinity for rule in rules])
        self._sign = np.array([-1.0 if rule.maximize else 1.0 for rule in rules])
        self._wants_norms = bool(np.isfinite([self._clip, self._clip_global]).any())
        self._batch: Batch | None = None

    def keep(self, which: Sequence[int] | Array) -> None:
        """Go on with these rows alone, in this order.

        Examples
        --------
        >>> optimizer = StackedOptimizer([Rule(), Rule()], [0, 3], np.float32)
        >>> optimizer.keep([1])
        >>> optimizer.v.shape
        (1, 3)
        """
        self.rules = [self.rules[c] for c in which]
        self.v, self.m, self.b = self.v[which], self.m[which], self.b[which]
        if self.rules:
            self._take_numbers()

    def step(self, p: Array, g: Array, lrs: Array) -> None:
        """Update p and the state in place, on the calling thread, without the GIL.

        Parameters
        ----------
        p, g
            Parameters and gradients (C, P), C-contiguous, of the dtype.
        lrs
            The learning rate of each row at this step, (C,) float64.

        Examples
        --------
        >>> optimizer, p = StackedOptimizer([Rule.from_dialect("sgd")], [0, 1], np.float64), np.ones((1, 1))
        >>> optimizer.step(p, p.copy(), np.array([0.5]))
        >>> p.tolist(), optimizer.step_count
        ([[0.5]], 1)
        """
        self.step_count += 1
        if self._batch is None or self._bound[0] is not p or self._bound[1] is not g:
            self._bind(p, g)
        assert self._batch is not None
        h = self._scalars(lrs)
        if not self.flags & SCALE:
            self._batch.step(self.flags, h, most=1)
            return
        scales = self._scales(g)
        h = np.repeat(h, scales.shape[1], axis=0)
        self._batch.step(self.flags, h, scales.reshape(-1), most=1)

    def _bind(self, p: Array, g: Array) -> None:
        """Tell the kernel where the rows lie: each as a whole, or array by array where scales differ."""
        starts = self.starts if self.flags & SCALE else [0, self.starts[-1]]
        tables = [a if a.shape[1] else None for a in (p, g, self.v, self.m, self.b)]
        rows = [
            tuple(None if a is None else a[c, low:high] for a in tables)
            for c in range(len(p))
            for low, high in itertools.pairwise(starts)
        ]
        kind = KINDS[self.dtype.name]
        self._batch, self._bound = Batch.of(rows, (kind, kind, kind)), (p, g)

    def _scalars(self, lrs: Array) -> Array:
        """`scalars_of` each rule at this step, (C, 11)."""
        h, t = self._numbers, self.step_count
        h[:, 0] = lrs
        h[:, 7] = lrs * h[:, 6]
        if self.flags & CORRECT:  # by Python's power, as `scalars_of`: NumPy's has other last bits
            h[:, 8] = [1 / (1 - rule.decay**t) for rule in self.rules]
            h[:, 9] = [1 / (1 - mu**t) if mu < 1 else 1.0 for mu in h[:, 4].tolist()]
        return h

    def _scales(self, g: Array) -> Array:
        """A factor for each copy's each gradient: clipping by norm, and the sign of maximize."""
        factors = np.repeat(self._sign[:, None], len(self.starts) - 1, axis=1)
        if self._wants_norms:
            # fmin passes over the NaN of 0/0 and of a gradient that is NaN itself.
            with np.errstate(all="ignore"):
                lengths = self._norms(g)
                factors *= np.fmin(1.0, self._clip[:, None] / lengths)
                joint = np.hypot.reduce(lengths, axis=1)
                factors *= np.fmin(1.0, self._clip_global / joint)[:, None]
        return factors

    def _norms(self, g: Array) -> Array:
        """The Euclidean norms (C, arrays), as `kernels.norms` has them."""
        found = np.empty((len(g), len(self.starts) - 1))
        for k, (low, high) in enumerate(itertools.pairwise(self.starts)):
            if high - low > PIECE:
                found[:, k] = norms([row[low:high] for row in g])
                continue
            wide = g[:, low:high].astype(np.float64)
            found[:, k] = np.sqrt(np.square(wide, out=wide).sum(axis=1))
            for c in np.flatnonzero(~np.isfinite(found[:, k])):  # squares may have overflowed
                found[c, k] = norms([g[c, low:high]])[0]
        return found
