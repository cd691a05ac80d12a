"""Sums of squares of many gradients: what clipping by norm and the NaN policy need, in one pass.

The sums are taken in float64 over pieces of fixed size and added in order, so the bits do not depend on
the number of threads.  A sum is NaN or infinite exactly where a float16 or float32 gradient holds a NaN or
an infinity; a float64 gradient can also overflow, which `norms` then takes apart.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit, prange, types

from rmsprop.kernels.threads import INTERPRETED, compiled, starting, threads

PIECE = 1 << 15
Array = np.ndarray[Any, Any]


def _sum_squares(g):
    total = np.zeros((g.size + PIECE - 1) // PIECE)
    for k in prange(total.size):
        s = 0.0
        for x in g[k * PIECE : (k + 1) * PIECE]:
            s += np.float64(x) * np.float64(x)
        total[k] = s
    return total


@functools.cache
def _compiled(kind: str, parallel: bool) -> Any:
    # "reassoc" lets the compiler keep several partial sums; their order is fixed when it compiles.
    array = types.float64[::1] if kind == "f64" else types.float32[::1]
    return compiled(
        lambda cache: njit(
            [types.float64[::1](array)],
            parallel=parallel,
            cache=cache,
            nogil=True,
            fastmath={"contract", "reassoc"},
        )(_sum_squares)
    )


def sum_squares(g: Array) -> float:
    """The sum of the squares of a flat, contiguous array, in float64."""
    if g.size <= PIECE or INTERPRETED:
        wide = g.astype(np.float64)
        with np.errstate(over="ignore"):
            return float(wide @ wide)
    if g.dtype == np.float16:
        g = g.astype(np.float32)
    with starting:
        pieces = _compiled("f64" if g.dtype == np.float64 else "f32", threads() > 1)(g)
    return float(pieces.sum())


def norms(grads: Sequence[Array]) -> Array:
    """The Euclidean norm of each array, float64; NaN or infinite where a gradient is.

    Parameters
    ----------
    grads
        Flat, contiguous arrays of float16, float32 or float64.

    Examples
    --------
    >>> norms([np.array([3.0, 4.0]), np.array([1e200, 0.0])]).tolist()
    [5.0, 1e+200]
    """
    found = np.sqrt(np.array([sum_squares(g) for g in grads]))
    for k in np.flatnonzero(~np.isfinite(found)).tolist():
        largest = float(np.max(np.abs(grads[k])))
        if math.isfinite(largest):  # the squares overflowed, not the gradient
            found[k] = largest * math.sqrt(sum_squares(grads[k] / largest))
    return found
