"""The memory limit: what a step costs if only its bytes count."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange, types

from rmsprop.kernels.cpu import GRAIN
from rmsprop.kernels.threads import threads

Array = np.ndarray[Any, Any]


def limit(p: Array, g: Array, *slots: Array) -> Callable[[], None]:
    """A loop that moves the bytes of a step over flat arrays and computes next to nothing.

    It reads g, and reads and writes p and the state arrays (at most three), cut and shared out among
    threads as our kernel does. float16 is added as integers, which costs what the bytes cost.
    """
    real = types.float64 if p.dtype == np.float64 else types.float32
    if p.dtype == np.float16:
        p, g = p.view(np.int16), g.view(np.int16)
    a, b, c = [*slots, p, p, p][:3]
    parts = max(1, min(p.size // GRAIN, threads()))
    walk = _limit(len(slots), real, parallel=parts > 1)
    return lambda: walk(p, g, a, b, c, parts)


def _limit(slots: int, real: Any, parallel: bool) -> Any:
    def walk(p, g, a, b, c, parts):
        n = p.size
        for k in prange(parts):
            part = slice(
                n * k // parts, n * (k + 1) // parts
            )  # indices from 0 on: else not vectorised
            q, h, u, v, w = p[part], g[part], a[part], b[part], c[part]
            for i in range(q.size):
                x = real(h[i])
                if slots > 0:
                    u[i] += x
                if slots > 1:
                    v[i] += x
                if slots > 2:
                    w[i] += x
                q[i] -= h[i]

    return njit(parallel=parallel)(walk)
