"""One step of a rule over many arrays in one pass over memory: Numba, all cores, in place.

A step is bound by memory: it reads p, g, v and writes p, v, once.  `Batch` lists the addresses of many
arrays in a table, and one compiled call walks it: each thread takes an equal share of all elements, wherever
arrays begin and end, and calls the loop of `loops.specialise` by its address.  The arithmetic is element by
element, so the bits depend neither on the number of threads nor on how arrays are cut.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from rmsprop.kernels.element import flags_of as flags_of
from rmsprop.kernels.element import scalars_of as scalars_of
from rmsprop.kernels.formats import BLOCK, DTYPES, NOISE
from rmsprop.kernels.loops import Kinds, in_blocks, specialise
from rmsprop.kernels.threads import INTERPRETED, compiled, starting, threads

# Below this many elements a thread, starting threads costs more than it saves (3 to 20 us a start).
GRAIN = 1 << 16

_NOISE_AT = NOISE.ctypes.data

Array = np.ndarray[Any, Any]
KINDS = {"float16": "f16", "float32": "f32", "float64": "f64"}
"""The format of a NumPy dtype."""


@intrinsic
def _call(context, function, row, noise, low, high, width, scale, seed, h):
    """Call a compiled loop by its address; `row` and `noise` are addresses too."""

    def generate(_context, builder, _signature, args):
        word, double = ir.IntType(64), ir.DoubleType()
        pointer = ir.IntType(8).as_pointer()
        kinds = [pointer] * 7 + [word] * 3 + [double, word, pointer]
        kind = ir.FunctionType(ir.VoidType(), kinds)
        target = builder.inttoptr(args[0], kind.as_pointer())
        table = builder.inttoptr(args[1], word.as_pointer())
        entries = [
            builder.inttoptr(builder.load(builder.gep(table, [ir.Constant(word, j)])), pointer)
            for j in range(6)
        ]
        builder.call(
            target,
            [*entries, builder.inttoptr(args[2], pointer), *args[3:8],
             builder.inttoptr(args[8], pointer)],
        )  # fmt: skip
        return _context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, i64, i64, types.float64, i64, i64), generate


@njit(nogil=True)
def _walk(function, table, noise, starts, widths, scales, seeds, h, low, high):
    """Step the units low to high of the concatenation of all arrays."""
    k = np.searchsorted(starts, low, side="right") - 1
    while low < high:
        stop = min(high, starts[k + 1])
        if stop > low:
            _call(  # type: ignore[call-arg]
                function,
                table[k].ctypes.data,
                noise,
                low - starts[k],
                stop - starts[k],
                widths[k],
                scales[k],
                seeds[k],
                h[min(k, h.shape[0] - 1)].ctypes.data,
            )
        low = stop
        k += 1


def _serial(function, table, noise, starts, widths, scales, seeds, h, parts, grain):
    _walk(function, table, noise, starts, widths, scales, seeds, h, 0, starts[-1])


def _spread(function, table, noise, starts, widths, scales, seeds, h, parts, grain):
    total = starts[-1]
    for part in prange(parts):
        low = total * part // parts // grain * grain
        high = total if part == parts - 1 else total * (part + 1) // parts // grain * grain
        _walk(function, table, noise, starts, widths, scales, seeds, h, low, high)


@functools.cache
def _driver(parallel: bool) -> Any:
    """The compiled walk over the whole table, on the calling thread or on `parts` threads."""
    i64, f64 = types.int64, types.float64
    signature = types.void(
        i64, i64[:, ::1], i64, i64[::1], i64[::1], f64[::1], i64[::1], f64[:, ::1], i64, i64
    )
    body = _spread if parallel else _serial
    return compiled(
        lambda cache: njit([signature], cache=cache, nogil=True, parallel=parallel)(body)
    )


@intrinsic
def _count(context, where):
    """Add one to the float32 at an address; the sum."""

    def generate(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], ir.FloatType().as_pointer())
        found = builder.fadd(builder.load(pointer), ir.Constant(ir.FloatType(), 1.0))
        builder.store(found, pointer)
        return found

    return types.float32(types.int64), generate


def _advance(addresses, steps):
    for k in range(addresses.size):
        steps[k] = _count(addresses[k])  # type: ignore[call-arg]


@functools.cache
def _advancer() -> Any:
    signature = types.void(types.int64[::1], types.float64[::1])
    return compiled(lambda cache: njit([signature], cache=cache)(_advance))


def advance(addresses: Array) -> Array:
    """Add one to the float32 counters at these addresses, and return them as float64."""
    steps = np.empty(len(addresses))
    if INTERPRETED:
        for k, where in enumerate(addresses.tolist()):
            counter = ctypes.c_float.from_address(where)
            counter.value += 1
            steps[k] = counter.value
    else:
        _advancer()(addresses, steps)
    return steps


class Batch:
    """Many arrays of the same formats, as the kernel sees them: a table of addresses.

    Parameters
    ----------
    table
        Addresses [arrays, 6], int64: of p, g, v, m, b and the exponents of v; 0 for what the rule does not
        keep. The memory is contiguous, and the caller keeps it alive.
    shapes
        (rows, width) of each array, [arrays, 2]: an exponent's block does not cross rows.
    kinds
        The formats of p, g, v, and of m and b (`formats`).
    """

    def __init__(self, table: Array, shapes: Array, kinds: Kinds):
        self.kinds = kinds
        self.table = np.ascontiguousarray(table, dtype=np.int64).reshape(-1, 6)
        shapes = np.asarray(shapes, dtype=np.int64).reshape(-1, 2)
        self.elements = int(shapes.prod(axis=1).sum())
        self.widths = shapes[:, 1].copy()
        units = shapes.prod(axis=1)
        if in_blocks(kinds):
            units = shapes[:, 0] * -(-shapes[:, 1] // BLOCK)
        self.starts = np.append(0, np.cumsum(units)).astype(np.int64)
        self.kept: list[Any] = []  # what must live as long as the table
        self.ones = np.ones(len(shapes))
        self.zeros = np.zeros(len(shapes), np.int64)

    @classmethod
    def of(cls, rows: Sequence[tuple[Array | None, ...]], kinds: tuple[str, str, str]) -> "Batch":
        """Flat, contiguous arrays (p, g, v, m, b) of the formats of p, of g and of the state."""
        table = [[0 if a is None else address(a) for a in row] + [0] for row in rows]
        shapes = [(1, row[0].size) for row in rows if row[0] is not None]
        batch = cls(np.array(table), np.array(shapes), (*kinds, kinds[2]))
        batch.kept = [tuple(row) for row in rows]
        return batch

    def step(
        self,
        flags: int,
        h: Array,
        scales: Array | None = None,
        seeds: Array | None = None,
        most: int | None = None,
    ) -> None:
        """Update every array in place.

        Parameters
        ----------
        flags, h
            `flags_of(rule)` and `scalars_of(rule, lr, t)`, or a row of them for each array.
        scales
            A factor for each array's gradient, float64; used with the flag SCALE.
        seeds
            A number for each array and step, int64: what stochastic rounding draws from.
        most
            The most threads to use; default Numba's number.
        """
        if not self.starts[-1]:
            return
        h = h.reshape(-1, h.shape[-1])
        scales = self.ones if scales is None else scales
        seeds = self.zeros if seeds is None else seeds
        function = specialise(flags, self.kinds)
        if INTERPRETED:
            self._interpret(function, h, scales, seeds)
            return
        args = (
            function.address, self.table, NOISE.ctypes.data, self.starts, self.widths, scales, seeds, h
        )  # fmt: skip
        parts = self.elements // GRAIN
        if parts > 1:
            parts = min(parts, threads(), most or parts)
        grain = 1 if in_blocks(self.kinds) else 16
        if parts <= 1:
            _driver(parallel=False)(*args, 1, grain)
        else:
            with starting:
                _driver(parallel=True)(*args, parts, grain)

    def _interpret(self, function: Any, h: Array, scales: Array, seeds: Array) -> None:
        """The same with NUMBA_DISABLE_JIT=1: the loops as Python, over arrays made of the addresses."""
        kp, kg, kv, kb = self.kinds
        with np.errstate(all="ignore"):
            for k, row in enumerate(self.table):
                units = int(self.starts[k + 1] - self.starts[k])
                most = units * BLOCK if in_blocks(self.kinds) else units
                arrays = [
                    _view(int(where), DTYPES[kind], count)
                    for where, kind, count in zip(
                        row, (kp, kg, kv, kb, kb, "u8"), [most] * 5 + [units], strict=True
                    )
                ]
                last = h[min(k, len(h) - 1)]
                function(*arrays, NOISE, 0, units, int(self.widths[k]), scales[k], seeds[k], last)


def _view(where: int, dtype: Any, count: int) -> Array | None:
    """Memory as an array; it may reach over the end, where nothing is touched."""
    if not where or not count:
        return None
    memory: Any = (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(where)
    return np.frombuffer(memory, dtype)


def address(array: Array) -> int:
    """Where a contiguous array's first element lies."""
    try:  # five times as fast as the interface dict
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # read-only, or empty
        return array.__array_interface__["data"][0]
