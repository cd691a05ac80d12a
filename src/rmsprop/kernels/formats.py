"""How numbers are stored: float16, bfloat16, and one byte with an exponent for a block of 256.

A kind names a format: "f16", "f32", "f64", "bf16" (rounded to the nearest), "bf16s" (rounded
stochastically) and "u8" (for v, rounded stochastically).  The kernel computes in float32, or in float64
for float64 parameters, and stores with `narrow`.

**Stochastic rounding** rounds up with the probability that makes the stored number right on average, so
that an average whose increments are below half a unit in the last place moves all the same: E[stored] = x.

**One byte for v**, which is never negative: the upper bits of a float32, five of the exponent and three of
the mantissa, less what its block's own exponent e (one byte for 256 numbers) takes off:

    x = the float32 with the bits (code + 8*max(e - 30, 0)) << 20
    e = the exponent of the block's largest number

so a block spans 31 octaves of v, a factor of 46,000 in the gradient.  A stored number is within 1/8 of what
was stored, and right on average.  A number below the span is held at its floor: v is then too large
and the step too small, never the other way.  Zero is a code only in a block whose largest number is
below 2^-97; and each step divides by the v that it has just computed, its own gradient included, not by
what was stored.  What is not finite counts as the largest of its block, so it does not harm its neighbours.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

BLOCK = 256
"""Numbers that share an exponent and a draw of noise. 2,048 is no faster."""

SPAN = 30
"""Octaves of v in a block below the octave of its largest number."""

ELEMENT_TYPES = {
    "f16": types.uint16,
    "bf16": types.uint16,
    "bf16s": types.uint16,
    "u8": types.uint8,
    "f32": types.float32,
    "f64": types.float64,
}
"""What Numba reads and writes; it has no half-precision numbers on the CPU."""

DTYPES = {
    "f16": np.float16,
    "bf16": np.uint16,
    "bf16s": np.uint16,
    "u8": np.uint8,
    "f32": np.float32,
    "f64": np.float64,
}
"""The same as NumPy's, for the uncompiled loop; NumPy has no bfloat16."""

STOCHASTIC = ("bf16s", "u8")

# Numba widens sums of int32 to int64, which halves the width of vector code: hence a cast after each.
# The noise of an element is a number of this table plus a number drawn for its block: uniform, and
# independent from step to step. To hash for every element takes twice the time of the whole step.
NOISE = np.random.default_rng(0x5EED).integers(0, 1 << 20, 4096).astype(np.int32)

_INFINITY = np.int32(0x7F800000)
_POSITIVE = np.int32(0x7FFFFFFF)
_LOW20 = np.int32(0xFFFFF)
_TOP = np.int32(248)  # the largest code: twice the power of two of the block's largest number
_ONE, _LOW16, _HALF16, _QUIET = (np.int32(x) for x in (1, 0xFFFF, 0x7FFF, 0x7FC0))


@intrinsic
def _half_to_float(context, bits) -> Any:
    def generate(_context, builder, _signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _float_to_half(context, x) -> Any:
    def generate(_context, builder, _signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def _bits_to_float(context, bits) -> Any:
    def generate(_context, builder, _signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _float_to_bits(context, x) -> Any:
    def generate(_context, builder, _signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


def bits(x: Any) -> Any:
    """The bits of a float32, as an int32."""
    return np.float32(x).view(np.int32)


def from_bits(k: Any) -> Any:
    """The float32 with these bits."""
    return np.int32(k).view(np.float32)


@overload(bits)
def _bits(x):
    return lambda x: _float_to_bits(np.float32(x))  # type: ignore[call-arg]


@overload(from_bits)
def _from_bits(k):
    return lambda k: _bits_to_float(np.int32(k))  # type: ignore[call-arg]


def widen(kind: str, x: Any, base: Any) -> Any:
    """A stored number as the number to compute with; `base` is `base_of` its block's exponent."""
    if kind in ("bf16", "bf16s"):
        return from_bits(np.uint32(int(x) << 16).astype(np.int32))
    if kind == "u8":
        return from_bits((int(x) << 20) + int(base))
    return np.float32(x) if kind == "f16" else x


def narrow(kind: str, x: Any, noise: Any) -> Any:
    """A computed number as it is stored; `noise` has 20 random bits."""
    if kind in ("bf16", "bf16s"):
        return _round16(kind, bits(x), int(noise))
    return x  # the assignment does it


def _round16(kind: str, k: Any, noise: int) -> Any:
    if np.isnan(from_bits(k)):
        return np.uint16(_QUIET)
    k = int(k) & 0xFFFFFFFF
    step = noise & 0xFFFF if kind == "bf16s" else 0x7FFF + ((k >> 16) & 1)
    return np.uint16(((k + step) >> 16) & 0xFFFF)


@overload(widen)
def _widen(kind, x, base):
    if not isinstance(kind, types.StringLiteral):
        return None  # Numba asks again with the literal type
    if kind.literal_value == "f16":
        return lambda kind, x, base: _half_to_float(x)  # type: ignore[call-arg]
    if kind.literal_value in ("bf16", "bf16s"):
        return lambda kind, x, base: from_bits(np.int32(x) << np.int32(16))
    if kind.literal_value == "u8":
        return lambda kind, x, base: from_bits((np.int32(x) << np.int32(20)) + base)
    return lambda kind, x, base: x


@overload(narrow)
def _narrow(kind, x, noise):
    if not isinstance(kind, types.StringLiteral):
        return None
    if kind.literal_value == "f16":
        return lambda kind, x, noise: _float_to_half(np.float32(x))  # type: ignore[call-arg]
    if kind.literal_value == "bf16":

        def nearest(kind, x, noise):
            k = bits(x)
            k = np.int32(k + np.int32(_HALF16 + np.int32(np.int32(k >> np.int32(16)) & _ONE)))
            return np.uint16(np.int32(k >> np.int32(16)) if x == x else _QUIET)

        return nearest
    if kind.literal_value == "bf16s":

        def stochastic(kind, x, noise):
            k = np.int32(bits(x) + np.int32(noise & _LOW16))
            return np.uint16(np.int32(k >> np.int32(16)) if x == x else _QUIET)

        return stochastic
    return lambda kind, x, noise: x


@njit(inline="always")
def magnitude(x):
    """The bits of a number's magnitude, as a float32's."""
    return np.int32(bits(x) & _POSITIVE)


@njit(inline="always")
def finite(k):
    """The bits of a number that is not negative; 0 where it is infinite or no number."""
    return k if k < _INFINITY else np.int32(0)


@njit(inline="always")
def exponent_of(largest):
    """The exponent to store for a block, from the bits of its largest number."""
    return np.uint8(min(np.int32(largest) >> np.int32(23), np.int32(253)))


@njit(inline="always")
def base_of(exponent):
    """What a block's codes stand above, in the bits of a float32."""
    return np.int32(max(np.int32(exponent) - np.int32(SPAN), np.int32(0)) << np.int32(23))


@njit(inline="always")
def code_of(k, noise, base):
    """The code of the number with the bits `k`, rounded up with the probability of what is cut off."""
    k = min(k, _INFINITY)  # or the sum may overflow
    code = np.int32(np.int32(k + np.int32(noise & _LOW20)) >> np.int32(20))
    code = np.int32(code - np.int32(base >> np.int32(20)))
    return np.uint8(max(np.int32(0), min(_TOP, code)))


@njit(inline="always")
def mix(x):
    """A number of 64 random bits from a number (splitmix64)."""
    x = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def mixed(seeds: np.ndarray[Any, Any], steps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For arrays of seeds (uint64) and steps, what the kernel draws its noise from, int64."""
    mixer = getattr(mix, "py_func", mix)
    return mixer(mixer(seeds) + steps.astype(np.uint64)).view(np.int64)
