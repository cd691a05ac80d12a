"""The loop over one parameter's memory, compiled for the switches and the formats at hand.

`specialise` gives a plain C function (0.3 s, then cached on disk).  Where nothing is rounded
stochastically it walks single elements, which the compiler turns into vector code.  Otherwise it walks
blocks of 256: each draws its noise from its own number, the array's and the step's, so the bits depend
on nothing else; and where v is one byte, a second pass over the block, in the first-level cache by then,
stores v.
"""

import functools
from typing import Any

import numba
import numpy as np
from numba import types

from rmsprop.kernels import element as arithmetic
from rmsprop.kernels import formats
from rmsprop.kernels.element import HAS_B, HAS_M, HAS_V, element, fingerprint
from rmsprop.kernels.formats import (
    BLOCK,
    ELEMENT_TYPES,
    STOCHASTIC,
    base_of,
    code_of,
    exponent_of,
    finite,
    magnitude,
    mix,
    narrow,
    widen,
)
from rmsprop.kernels.threads import INTERPRETED, compiled

# "contract" alone: fused multiply-add, in vector and scalar code alike. Anything that reorders would
# make the bits depend on where a run of memory begins.
FASTMATH = {"contract"}
FINGERPRINT = fingerprint(arithmetic.__name__) ^ fingerprint(formats.__name__)

Kinds = tuple[str, str, str, str]
"""The formats of p, of g, of v, and of m and b."""


def in_blocks(kinds: Kinds) -> bool:
    """Whether the loop for these formats counts in blocks, or else in elements."""
    return any(kind in STOCHASTIC for kind in kinds)


@functools.cache
def specialise(flags: int, kinds: Kinds) -> Any:
    """The loop, compiled for these switches (bits of `element`) and formats.

    Returns a C function of the addresses of p, g, v, m, b, the exponents and the noise; low and high, the
    elements or blocks to step; width, the elements of a row (blocks do not cross rows); the scale of the
    gradient; the seed; and the address of `scalars_of`. With NUMBA_DISABLE_JIT=1 it is the Python
    function, which takes arrays.
    """
    body = _blocks(flags, kinds) if in_blocks(kinds) else _elements(flags, kinds)
    if INTERPRETED:
        return body
    to = {kind: types.CPointer(ELEMENT_TYPES[kind]) for kind in kinds}
    p, g, v, mb = (to[kind] for kind in kinds)
    i64, f64 = types.int64, types.float64
    signature = types.void(
        p, g, v, mb, mb, types.CPointer(types.uint8), types.CPointer(types.int32),
        i64, i64, i64, f64, i64, types.CPointer(f64),
    )  # fmt: skip
    return compiled(
        lambda cache: numba.cfunc(signature, cache=cache, fastmath=FASTMATH, error_model="numpy")(
            body
        )
    )


def _elements(flags: int, kinds: Kinds) -> Any:
    kp, kg, kv, kb = kinds
    real = types.float64 if kp == "f64" else types.float32
    has_v, has_m, has_b = flags & HAS_V, flags & HAS_M, flags & HAS_B
    version = FINGERPRINT  # the loop must close over it, and so name it

    def run(p, g, v, m, b, exponents, noise, low, high, width, scale, seed, h):
        zero = real(0 * version)
        factor = real(scale)
        hyper = (
            real(h[0]), real(h[1]), real(h[2]), real(h[3]), real(h[4]), real(h[5]),
            real(h[6]), real(h[7]), real(h[8]), real(h[9]), real(h[10]), zero,
        )  # fmt: skip
        for i in range(low, high):
            x, y, mean, buf = element(
                flags,
                real(widen(kp, p[i], 0)),
                real(widen(kg, g[i], 0)),
                real(widen(kv, v[i], 0)) if has_v else zero,
                real(widen(kb, m[i], 0)) if has_m else zero,
                real(widen(kb, b[i], 0)) if has_b else zero,
                factor,
                hyper,
            )
            p[i] = narrow(kp, x, 0)
            if has_v:
                v[i] = narrow(kv, y, 0)
            if has_m:
                m[i] = narrow(kb, mean, 0)
            if has_b:
                b[i] = narrow(kb, buf, 0)

    return run


def _blocks(flags: int, kinds: Kinds) -> Any:
    kp, kg, kv, kb = kinds
    real = types.float64 if kp == "f64" else types.float32
    has_v, has_m, has_b = flags & HAS_V, flags & HAS_M, flags & HAS_B
    coded = has_v and kv == "u8"
    version = FINGERPRINT

    def run(p, g, v, m, b, exponents, noise, low, high, width, scale, seed, h):
        zero = real(0 * version)
        factor = real(scale)
        hyper = (
            real(h[0]), real(h[1]), real(h[2]), real(h[3]), real(h[4]), real(h[5]),
            real(h[6]), real(h[7]), real(h[8]), real(h[9]), real(h[10]), zero,
        )  # fmt: skip
        k = np.empty(BLOCK, np.int32)  # the bits of v, for the second pass
        per_row = (width + BLOCK - 1) // BLOCK
        for unit in range(low, high):
            row = unit // per_row
            at = (unit - row * per_row) * BLOCK
            first, n = row * width + at, min(BLOCK, width - at)
            draw = mix(np.uint64(seed) + np.uint64(unit))
            more = mix(~draw)
            # Where the block's noise begins in the table, and what is added to it, for p, m, b and v.
            o = np.int64(draw & np.uint64(511))
            np_ = np.int32((draw >> np.uint64(9)) & np.uint64(0xFFFF))
            nm = np.int32((draw >> np.uint64(25)) & np.uint64(0xFFFF))
            nb = np.int32((draw >> np.uint64(41)) & np.uint64(0xFFFF))
            nv = np.int32(more & np.uint64(0xFFFFF))
            base = base_of(exponents[unit]) if coded else np.int32(0)
            largest = np.int32(0)
            for j in range(n):
                i = first + j
                x, y, mean, buf = element(
                    flags,
                    real(widen(kp, p[i], 0)),
                    real(widen(kg, g[i], 0)),
                    real(widen(kv, v[i], base)) if has_v else zero,
                    real(widen(kb, m[i], 0)) if has_m else zero,
                    real(widen(kb, b[i], 0)) if has_b else zero,
                    factor,
                    hyper,
                )
                p[i] = narrow(kp, x, np.int32(noise[o + j] + np_))
                if has_m:
                    m[i] = narrow(kb, mean, np.int32(noise[o + 1024 + j] + nm))
                if has_b:
                    b[i] = narrow(kb, buf, np.int32(noise[o + 2048 + j] + nb))
                if coded:
                    k[j] = magnitude(y)
                    largest = max(largest, finite(k[j]))
                elif has_v:
                    v[i] = narrow(kv, y, np.int32(noise[o + 3072 + j] + nv))
            if coded:
                exponents[unit] = exponent_of(largest)
                base = base_of(exponents[unit])
                for j in range(n):
                    v[first + j] = code_of(k[j], np.int32(noise[o + 3072 + j] + nv), base)

    return run
