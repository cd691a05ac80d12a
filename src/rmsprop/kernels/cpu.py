"""One step of a rule over many arrays in one pass over memory: Numba, all cores, in place.

A step is bound by memory: it reads p, g, v and writes p, v, once.  `specialise` compiles the loop over
one contiguous run for the switches and dtypes at hand (0.3 s, then cached on disk) to a plain C
function.  `Batch` lists the addresses of many arrays in a table, and one compiled call walks the
table: each thread takes an equal share of all elements, wherever arrays begin and end.  The arithmetic is
element by element, so the bits depend neither on the number of threads nor on how arrays are cut.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic, overload

from rmsprop.kernels.element import FINGERPRINT, HAS_B, HAS_M, HAS_V, element
from rmsprop.kernels.element import flags_of as flags_of
from rmsprop.kernels.element import scalars_of as scalars_of
from rmsprop.kernels.threads import INTERPRETED, compiled, starting, threads

# "contract" alone: fused multiply-add, in vector and scalar code alike. Anything that reorders would
# make the bits depend on where a run of memory begins.
FASTMATH = {"contract"}
# Below this many elements a thread, starting threads costs more than it saves (3 to 20 us a start).
GRAIN = 1 << 16

Array = np.ndarray[Any, Any]
KINDS = {"float16": "f16", "float32": "f32", "float64": "f64"}
_ELEMENT_TYPES = {"f16": types.uint16, "f32": types.float32, "f64": types.float64}
_ITEMSIZES = {"f16": 2, "f32": 4, "f64": 8}


def widen(x: Any) -> Any:
    """A stored number as the number to compute with: float16 becomes float32."""
    return np.float32(x) if type(x) is np.float16 else x


def narrow(kind: str, x: Any) -> Any:
    """A computed number as it is stored; the assignment does it where nothing is compiled."""
    return x


@intrinsic
def _from_half(context, bits) -> Any:
    def generate(_context, builder, _signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _to_half(context, x) -> Any:
    def generate(_context, builder, _signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@overload(widen)
def _widen(x):
    if x == types.uint16:
        return lambda x: _from_half(x)  # type: ignore[call-arg]
    return lambda x: x


@overload(narrow)
def _narrow(kind, x):
    if not isinstance(kind, types.StringLiteral):
        return None  # Numba asks again with the literal type
    if kind.literal_value == "f16":
        return lambda kind, x: _to_half(x)  # type: ignore[call-arg]
    return lambda kind, x: x


@functools.cache
def specialise(flags: int, param: str, grad: str, state: str) -> Any:
    """The loop over one contiguous run of memory, compiled for these switches and dtypes.

    Returns a C function of (p, g, v, m, b: addresses; n: elements; scale: of the gradient; h: address of
    `scalars_of`), or with NUMBA_DISABLE_JIT=1 the Python function, which takes arrays.
    """
    real = types.float64 if param == "f64" else types.float32
    has_v, has_m, has_b = flags & HAS_V, flags & HAS_M, flags & HAS_B
    arithmetic = FINGERPRINT  # `run` must close over it, and so name it

    def run(p, g, v, m, b, n, scale, h):
        zero = real(0 * arithmetic)
        factor = real(scale)
        hyper = (
            real(h[0]), real(h[1]), real(h[2]), real(h[3]), real(h[4]), real(h[5]),
            real(h[6]), real(h[7]), real(h[8]), real(h[9]), real(h[10]), zero,
        )  # fmt: skip
        for i in range(n):
            x, y, mean, buf = element(
                flags,
                real(widen(p[i])),
                real(widen(g[i])),
                real(widen(v[i])) if has_v else zero,
                real(widen(m[i])) if has_m else zero,
                real(widen(b[i])) if has_b else zero,
                factor,
                hyper,
            )
            p[i] = narrow(param, x)
            if has_v:
                v[i] = narrow(state, y)
            if has_m:
                m[i] = narrow(state, mean)
            if has_b:
                b[i] = narrow(state, buf)

    if INTERPRETED:
        return run
    to = {kind: types.CPointer(_ELEMENT_TYPES[kind]) for kind in _ELEMENT_TYPES}
    signature = types.void(
        to[param], to[grad], to[state], to[state], to[state],
        types.intp, types.float64, types.CPointer(types.float64),
    )  # fmt: skip
    return compiled(
        lambda cache: numba.cfunc(signature, cache=cache, fastmath=FASTMATH, error_model="numpy")(
            run
        )
    )


@intrinsic
def _call(context, function, p, g, v, m, b, n, scale, h):
    """Call a compiled `run` by its address."""

    def generate(_context, builder, _signature, args):
        word, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer] * 5 + [word, ir.DoubleType(), pointer])
        target = builder.inttoptr(args[0], kind.as_pointer())
        cast = [builder.inttoptr(a, pointer) for a in args[1:6]]
        last = builder.inttoptr(args[8], pointer)
        builder.call(target, [*cast, args[6], args[7], last])
        return _context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, i64, i64, i64, types.float64, i64), generate


@njit(nogil=True)
def _walk(function, table, starts, sizes, scales, h, low, high):
    """Step the elements low to high of the concatenation of all arrays."""
    k = np.searchsorted(starts, low, side="right") - 1
    while low < high:
        n = min(high, starts[k + 1]) - low
        if n > 0:
            o = low - starts[k]
            a = table[k]
            _call(  # type: ignore[call-arg]
                function,
                a[0] + o * sizes[0],
                a[1] + o * sizes[1],
                a[2] + o * sizes[2],
                a[3] + o * sizes[2],
                a[4] + o * sizes[2],
                n,
                scales[k],
                h.ctypes.data,
            )
        low += n
        k += 1


def _serial(function, table, starts, sizes, scales, h, parts):
    _walk(function, table, starts, sizes, scales, h, 0, starts[-1])


def _spread(function, table, starts, sizes, scales, h, parts):
    total = starts[-1]
    for part in prange(parts):
        low = total * part // parts // 16 * 16
        high = total if part == parts - 1 else total * (part + 1) // parts // 16 * 16
        _walk(function, table, starts, sizes, scales, h, low, high)


@functools.cache
def _driver(parallel: bool) -> Any:
    """The compiled walk over the whole table, on the calling thread or on `parts` threads."""
    i64, f64 = types.int64, types.float64
    signature = types.void(i64, i64[:, ::1], i64[::1], i64[::1], f64[::1], f64[::1], i64)
    body = _spread if parallel else _serial
    return compiled(
        lambda cache: njit([signature], cache=cache, nogil=True, parallel=parallel)(body)
    )


class Batch:
    """Many arrays of the same dtypes, as the kernel sees them: a table of addresses.

    Parameters
    ----------
    arrays
        For each parameter the tuple (p, g, v, m, b) of flat, contiguous arrays of one length; v, m or b
        is None where the rule does not keep it. p and g, and v, m and b, have one dtype over the batch.
    """

    def __init__(self, arrays: Sequence[tuple[Array | None, ...]], kinds: tuple[str, str, str]):
        self.arrays = [tuple(row) for row in arrays]  # keeps the memory alive
        self.kinds = kinds
        self.table = np.array(
            [[0 if a is None else address(a) for a in row] for row in arrays], dtype=np.int64
        ).reshape(-1, 5)
        lengths = [0] + [row[0].size for row in arrays if row[0] is not None]
        self.starts = np.cumsum(lengths, dtype=np.int64)
        self.sizes = np.array([_ITEMSIZES[kind] for kind in kinds], dtype=np.int64)
        self.ones = np.ones(len(self.arrays))

    def point_grads(self, grads: Sequence[Array], addresses: Array) -> None:
        """Read the gradients from these flat arrays, of the dtype of those before, at these addresses."""
        self.arrays = [(row[0], g, *row[2:]) for row, g in zip(self.arrays, grads, strict=True)]
        self.table[:, 1] = addresses

    def step(self, flags: int, h: Array, scales: Array | None = None) -> None:
        """Update every array in place.

        Parameters
        ----------
        flags, h
            `flags_of(rule)` and `scalars_of(rule, lr, t)`.
        scales
            A factor for each array's gradient, float64; used if the rule clips by norm or maximizes.
        """
        function = specialise(flags, *self.kinds)
        scales = self.ones if scales is None else scales
        if INTERPRETED:
            with np.errstate(all="ignore"):
                for row, scale in zip(self.arrays, scales, strict=True):
                    function(*row, row[0].size, scale, h)  # type: ignore[union-attr]
            return
        args = (function.address, self.table, self.starts, self.sizes, scales, h)
        total = int(self.starts[-1])
        parts = min(total // GRAIN, threads())
        if parts <= 1:
            _driver(parallel=False)(*args, 1)
        else:
            with starting:
                _driver(parallel=True)(*args, parts)


def address(array: Array) -> int:
    """Where a contiguous array's first element lies."""
    try:  # five times as fast as the interface dict
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # read-only, or empty
        return array.__array_interface__["data"][0]
