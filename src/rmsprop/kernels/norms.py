"""Sums of squares of many gradients: what clipping by norm and the NaN policy need, in one pass.

The sums are taken in float64 over pieces of fixed size and added in order, so the bits do not depend on
the number of threads.  A sum is NaN or infinite exactly where a float16 or float32 gradient holds a NaN or
an infinity; a float64 gradient can also overflow, which `norms` then takes apart.
"""

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit, prange, types

from rmsprop.kernels.threads import INTERPRETED, compiled, starting, threads

PIECE = 1 << 15
Array = np.ndarray[Any, Any]


# "reassoc" lets the compiler keep several partial sums; their order is fixed when it compiles.
@njit(nogil=True, fastmath={"contract", "reassoc"})
def _piece(g):
    s = 0.0
    # 1.3us for 32,768 elements; 34us as `for x in g`, which is not vectorised.
    for i in range(g.size):
        s += np.float64(g[i]) * np.float64(g[i])
    return s


# Two bodies, as Numba's disk cache does not tell parallel from serial code of one function.
def _serial(g):
    total = np.zeros((g.size + PIECE - 1) // PIECE)
    for k in range(total.size):
        total[k] = _piece(g[k * PIECE : (k + 1) * PIECE])
    return total


def _spread(g):
    total = np.zeros((g.size + PIECE - 1) // PIECE)
    for k in prange(total.size):
        total[k] = _piece(g[k * PIECE : (k + 1) * PIECE])
    return total


@functools.cache
def _compiled(kind: str, parallel: bool) -> Any:
    body = _spread if parallel else _serial
    element = types.float64 if kind == "f64" else types.float32
    array = types.Array(element, 1, "C", readonly=True)  # a mutable one is accepted too
    return compiled(
        lambda cache: njit([types.float64[::1](array)], parallel=parallel, cache=cache, nogil=True)(
            body
        )
    )


def sum_squares(g: Array) -> float:
    """The sum of the squares of a flat, contiguous array, in float64."""
    if g.size <= PIECE or INTERPRETED:
        wide = g.astype(np.float64)
        # Not wide @ wide: from 10,000 elements on, OpenBLAS shares it out among its threads, and the bits
        # follow their number.
        with np.errstate(over="ignore"):
            return float(np.square(wide, out=wide).sum())
    if g.dtype == np.float16:
        g = g.astype(np.float32)
    parallel = threads() > 1
    # A forked child is never parallel, so it cannot wait for a lock that its parent held.
    with starting if parallel else contextlib.nullcontext():
        pieces = _compiled("f64" if g.dtype == np.float64 else "f32", parallel)(g)
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
