"""From the states of all steps to one vector for each row, and back."""

from abc import ABC, abstractmethod

import numpy as np

from rmsprop.models.layers import Array
from rmsprop.models.packing import Memory, Packing


class Pool(ABC):
    """What becomes of the states h_t (n + packed, hidden) of one batch."""

    delta: Array  # dL/dpooled, from `start` on

    def __init__(self, packing: Packing, memory: Memory) -> None:
        self.packing, self.memory = packing, memory

    @abstractmethod
    def forward(self, states: Array) -> Array:
        """The pooled states (n, hidden), in the packing's order."""

    def start(self, delta: Array) -> Array:
        """From dL/dpooled (n, hidden), which is kept, to what dL/dh of the last states starts at."""
        self.delta = delta
        carry = self.memory.array("carry", delta.shape)
        carry.fill(0)
        return carry

    @abstractmethod
    def arrive(self, step: int, d: Array) -> None:
        """Add to d, dL/dh of the rows of this step, what comes through the pooled vector."""


class Last(Pool):
    """The state after a row's last step."""

    def forward(self, states: Array) -> Array:
        out = self.memory.array("pooled", (self.packing.rows, states.shape[1]))
        return np.take(states, self.packing.last(), axis=0, out=out, mode="clip")

    def start(self, delta: Array) -> Array:
        return delta

    def arrive(self, step: int, d: Array) -> None:
        pass


class Mean(Pool):
    """The mean of a row's states: dL/dh_t = dL/dpooled / steps."""

    def forward(self, states: Array) -> Array:
        n = self.packing.rows
        pooled = self.memory.array("pooled", (n, states.shape[1]))
        pooled.fill(0)
        for start, end in self.packing.spans:
            head = pooled[: end - start]
            np.add(head, states[n + start : n + end], out=head)
        pooled /= self.packing.lengths[:, None]
        return pooled

    def start(self, delta: Array) -> Array:
        delta /= self.packing.lengths[:, None]
        return super().start(delta)

    def arrive(self, step: int, d: Array) -> None:
        np.add(d, self.delta[: len(d)], out=d)


class Max(Pool):
    """The largest of a row's states, unit by unit; the first of equal ones takes the gradient."""

    def forward(self, states: Array) -> Array:
        n, hidden = self.packing.rows, states.shape[1]
        pooled = self.memory.array("pooled", (n, hidden))
        self.where = self.memory.array("where", (n, hidden), np.int32)
        self.mask = self.memory.array("mask", (n, hidden), np.bool_)
        pooled[:] = states[n : 2 * n]
        self.where.fill(0)
        for step, (start, end) in enumerate(self.packing.spans[1:], 1):
            k, h = end - start, states[n + start : n + end]
            higher = np.greater(h, pooled[:k], out=self.mask[:k])
            np.maximum(h, pooled[:k], out=pooled[:k])
            np.copyto(self.where[:k], step, where=higher)
        return pooled

    def arrive(self, step: int, d: Array) -> None:
        k = len(d)
        here = np.equal(self.where[:k], step, out=self.mask[:k])
        np.add(d, self.delta[:k], out=d, where=here)


POOLS: dict[str, type[Pool]] = {"last": Last, "mean": Mean, "max": Max}
