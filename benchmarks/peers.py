"""What ours is measured against: the memory limit, the seeds' NumPy, and PyTorch's optimizers."""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numba import njit, prange, types

from rmsprop import Rule
from rmsprop.kernels.cpu import GRAIN, KINDS, Batch, flags_of, scalars_of
from rmsprop.kernels.threads import threads
from rmsprop.numpy import Optimizer

Array = np.ndarray[Any, Any]
Run = Callable[[], Any]
Shapes = Iterable[tuple[int, ...]]

RULE = Rule.from_dialect("torch", lr=1e-3)

LIMIT = "memory limit: v+=g; p-=g"
KERNEL = "ours, the kernel alone"
OURS = "ours, update()"
FRESH = "ours, new gradient arrays"
SEEDS = "seeds' NumPy"
LOOP = "torch RMSprop, loop"
FOREACH = "torch RMSprop, foreach"
COMPILED = "torch RMSprop, compiled"
ADAGRAD = "torch Adagrad, fused"


def limit(p: Array, g: Array, *slots: Array) -> Run:
    """A loop that moves the bytes of a step over flat arrays and computes next to nothing.

    It reads g, and reads and writes p and the state arrays (at most three), cut and shared out among
    threads as our kernel does. float16 is added as integers, which costs what the bytes cost.
    """
    if p.dtype == np.float16:
        p, g = p.view(np.int16), g.view(np.int16)
    run = _limit(len(slots), types.float64 if p.dtype == np.float64 else types.float32)
    kept = [*slots, p, p, p][:3]
    parts = max(1, min(p.size // GRAIN, threads()))
    walk = run[0] if parts == 1 else run[1]
    return lambda: walk(p, g, *kept, parts)


def _limit(slots: int, real: Any) -> tuple[Any, Any]:
    @njit(inline="always")
    def part(p, g, a, b, c, low, high):
        for i in range(low, high):
            x = real(g[i])
            if slots > 0:
                a[i] += x
            if slots > 1:
                b[i] += x
            if slots > 2:
                c[i] += x
            p[i] -= g[i]

    @njit
    def serial(p, g, a, b, c, parts):
        part(p, g, a, b, c, 0, p.size)

    @njit(parallel=True)
    def spread(p, g, a, b, c, parts):
        n = p.size
        for k in prange(parts):
            part(p, g, a, b, c, n * k // parts, n * (k + 1) // parts)

    return serial, spread


class SeedsRMSprop:
    """The optimizer of the seeds (slide B4): a new array for each operation."""

    def __init__(self, learning_rate: float = 0.01, decay_rate: float = 0.9, epsilon: float = 1e-8):
        self.learning_rate = learning_rate
        self.decay_rate = decay_rate
        self.epsilon = epsilon
        self.cache: dict[str, Array] = {}

    def update(self, params: dict[str, Array], grads: dict[str, Array]) -> dict[str, Array]:
        for name in params:
            if name not in self.cache:
                self.cache[name] = np.zeros_like(params[name])
            self.cache[name] = self.decay_rate * self.cache[name] + (1 - self.decay_rate) * np.square(
                grads[name]
            )
            params[name] -= (
                self.learning_rate * grads[name] / (np.sqrt(self.cache[name]) + self.epsilon)
            )
        return params


class Workload:
    """Parameters and gradients of given shapes, shared by all contenders; each keeps its own state."""

    def __init__(self, shapes: Shapes, dtype: Any = np.float32, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.p = {str(k): np.zeros(shape, dtype) for k, shape in enumerate(shapes)}
        self.g = {k: _drawn(rng, p.shape, dtype) for k, p in self.p.items()}
        self.size = sum(p.size for p in self.p.values())

    def limit(self) -> Run:
        """The limit of one array of as many elements: many arrays are no excuse."""
        return limit(*(np.ones(self.size, np.float32) for _ in range(3)))

    def kernel(self, rule: Rule = RULE) -> Run:
        """Our kernel without a front-end."""
        rows = []
        for k, p in self.p.items():
            v = np.zeros(p.size, p.dtype)
            rows.append((p.reshape(-1), self.g[k].reshape(-1), v, None, None))
        kind = KINDS[rows[0][0].dtype.name]
        batch, flags, h = Batch(rows, (kind, kind, kind)), flags_of(rule), scalars_of(rule, rule.lr, 1)
        return lambda: batch.step(flags, h)

    def update(self, rule: Rule = RULE) -> Run:
        """Our NumPy optimizer, checks and Python included, on the same arrays at every step."""
        optimizer = Optimizer(rule)
        return lambda: optimizer.update(self.p, self.g)

    def update_fresh(self, rule: Rule = RULE) -> Run:
        """The same when every step brings gradients in array objects that it has not seen before."""
        optimizer = Optimizer(rule)

        def run() -> None:
            grads, self._next = self._next, {k: g.view() for k, g in self.g.items()}
            optimizer.update(self.p, grads)

        return run

    def seeds(self, rule: Rule = RULE) -> Run:
        optimizer = SeedsRMSprop(rule.lr, rule.decay, rule.eps)
        return lambda: optimizer.update(self.p, self.g)


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    """Normal numbers; for large arrays the same million again and again, as drawing takes long."""
    return np.resize(rng.standard_normal(min(int(np.prod(shape)), 1 << 20)).astype(dtype), shape)
