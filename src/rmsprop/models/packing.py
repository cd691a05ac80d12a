"""Rows of unequal length, step after step without their padding, and buffers that keep their memory.

The rows of a batch are sorted, longest first. Step t then concerns the first `count` rows alone, so a
recurrent model needs no masks, spends nothing on padding, and reads all steps as one matrix::

    lengths 3, 2, 1:    packed rows   0  1  2 | 3  4 | 5
                        step          0  0  0 | 1  1 | 2
                        row           0  1  2 | 0  1 | 0
"""

import math
from typing import Any, NamedTuple

import numpy as np

from rmsprop.models.layers import Array


class Packing(NamedTuple):
    """Where each step of each row lies; states come after n rows of zeros, the states before step 0.

    Examples
    --------
    >>> packing = Packing.of(np.array([1, 3, 2]))
    >>> packing.order.tolist(), packing.spans
    ([1, 2, 0], [(0, 3), (3, 5), (5, 6)])
    >>> packing.steps.tolist(), packing.places.tolist()
    ([0, 0, 0, 1, 1, 2], [0, 1, 2, 0, 1, 0])
    """

    order: Array  # (n,) rows of the batch, longest first
    lengths: Array  # (n,) of those rows
    spans: list[tuple[int, int]]  # of each step: its first packed row, and the one after its last
    steps: Array  # (packed,) the step of each packed row
    places: Array  # (packed,) and its place in `order`

    @classmethod
    def of(cls, lengths: Array) -> "Packing":
        """The packing of rows that have 1 or more steps each.

        Examples
        --------
        >>> Packing.of(np.array([2, 2])).spans
        [(0, 2), (2, 4)]
        """
        order = np.argsort(-lengths, kind="stable")
        lengths = lengths[order]
        counts = np.searchsorted(-lengths, -np.arange(lengths[0]))
        ends = np.cumsum(counts)
        starts = ends - counts
        steps = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(ends[-1]) - starts[steps]
        return cls(
            order, lengths, list(zip(starts.tolist(), ends.tolist(), strict=True)), steps, places
        )

    @property
    def rows(self) -> int:
        """How many rows the batch has.

        Examples
        --------
        >>> Packing.of(np.array([2, 1])).rows
        2
        """
        return len(self.order)

    def sources(self, longest: int) -> Array:
        """The row of each packed row in a batch of `longest` steps laid out as (n * longest, ...).

        Examples
        --------
        >>> Packing.of(np.array([1, 2])).sources(5).tolist()
        [5, 0, 6]
        """
        return self.order[self.places] * longest + self.steps

    def before(self) -> Array:
        """The row of the state before each packed row.

        Examples
        --------
        >>> Packing.of(np.array([1, 2])).before().tolist()
        [0, 1, 2]
        """
        starts = np.array([0, *(self.rows + start for start, _ in self.spans[:-1])])
        return starts[self.steps] + self.places

    def last(self) -> Array:
        """The row of the state after the last step of each row of the batch, in `order`.

        Examples
        --------
        >>> Packing.of(np.array([1, 2])).last().tolist()
        [4, 3]
        """
        starts = np.array([self.rows + start for start, _ in self.spans])
        return starts[self.lengths - 1] + np.arange(self.rows)


class Memory:
    """Arrays by name, contiguous, of any shape at each call, in memory that only ever grows.

    Examples
    --------
    >>> memory = Memory(np.dtype(np.float32))
    >>> states = memory.array("states", (4, 3))
    >>> np.shares_memory(states, memory.array("states", (2, 5)))
    True
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._blocks: dict[tuple[str, np.dtype[Any]], Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """An array whose values are what was left there.

        Examples
        --------
        >>> Memory(np.dtype(np.float32)).array("gates", (3, 2, 4)).shape
        (3, 2, 4)
        """
        key = name, np.dtype(dtype or self.dtype)
        size = math.prod(shape)
        block = self._blocks.get(key)
        if block is None or block.size < size:
            # A quarter more: batches of texts have other totals each time.
            block = self._blocks[key] = np.empty(size + size // 4, key[1])
        return block[:size].reshape(shape)
