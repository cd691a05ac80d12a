"""A step of many CPU tensors by the compiled kernel of the NumPy front-end, over their own memory."""

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from rmsprop.kernels.cpu import Batch, advance, scalars_of
from rmsprop.kernels.element import SCALE
from rmsprop.kernels.formats import mixed
from rmsprop.kernels.loops import in_blocks
from rmsprop.torch import table
from rmsprop.torch.memory import local
from rmsprop.torch.table import Array, Table


def refusal(p: Tensor, g: Tensor) -> str | None:
    """Why the kernel cannot step this parameter, or None."""
    where = local(p).device.type
    return f"it steps CPU tensors, not {where}" if where != "cpu" else table.refusal(p, g)


@functools.cache
def start_threads() -> None:
    """Start Numba's threads, which would set PyTorch's number to the processor's: both share OpenMP's."""
    known = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(known)


class CpuTable(Table):
    """A `Table` of CPU tensors."""

    def step(self, lr: Any, grads: list[Tensor], gains: Any, scale: Any, found_inf: Any) -> None:
        """Update parameters and state with these gradients, times gains (one for each) over scale."""
        if found_inf is not None and float(found_inf):
            return
        start_threads()
        rate, flags, factors = float(lr), self.flags, self._factors(gains, scale)
        if factors is not None:
            flags |= SCALE
        grads, where = self.bind(grads)
        self.copy_in()
        steps = advance(self.counts)
        h = self._scalars(rate, steps)
        for at, batch in self.parts:
            batch.table[:, 1] = where[at]
            batch.step(
                flags,
                h if len(h) == 1 else h[at],
                None if factors is None else factors[at],
                mixed(self.seeds[at], steps[at]) if in_blocks(batch.kinds) else None,
                torch.get_num_threads(),
            )
        self.changed()

    @functools.cached_property
    def counts(self) -> Array:
        """Where the steps are counted."""
        return np.array([entry["step"].data_ptr() for entry in self.entries], dtype=np.int64)

    def _factors(self, gains: Any, scale: Any) -> Array | None:
        """What each gradient is multiplied by; None for one."""
        if gains is None and scale is None and not self.rule.maximize:
            return None
        factor = (-1.0 if self.rule.maximize else 1.0) / (1.0 if scale is None else float(scale))
        return np.broadcast_to(1.0 if gains is None else gains, len(self.params)) * factor

    def _scalars(self, lr: float, steps: Array) -> Array:
        if not self.rule.bias_correction or (steps == steps[0]).all():
            return scalars_of(self.rule, lr, int(steps[0])).reshape(1, -1)
        return np.stack([scalars_of(self.rule, lr, int(t)) for t in steps])

    def _part(self, kinds: Any, members: Array) -> "_Part":
        rows = np.array([self.row(k) for k in members])
        return _Part(members, Batch(rows, np.array([self.shapes[k] for k in members]), kinds))


class _Part(NamedTuple):
    """The parameters of one combination of formats: a call of the kernel."""

    members: Array
    batch: Batch
