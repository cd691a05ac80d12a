"""State in bfloat16, rounded stochastically: E[stored] = x.

Where an average moves by less than half a unit in its last place, rounding to the nearest would hold it
still; bfloat16 keeps 8 bits, so that is soon.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

DTYPES = ("float32", "bfloat16")
_LOW16 = 0xFFFF


def stochastic(x: jax.Array, seed: Any) -> jax.Array:
    """x in bfloat16, rounded up with the probability of what is cut off.

    Parameters
    ----------
    x
        float32 or float64. A NaN stays one, and so does an infinity.
    seed
        Two numbers, uint32: the same, the same bits.

    Examples
    --------
    >>> third = jnp.full(100_000, 1 / 3)
    >>> rounded = stochastic(third, jnp.array([1, 2], jnp.uint32))
    >>> sorted(set(rounded.tolist()))
    [0.33203125, 0.333984375]
    >>> print(f"{rounded.astype(jnp.float32).mean():.4f}")
    0.3333
    """
    x = x.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + (_noise(x.shape, seed) & _LOW16)
    cut = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isnan(x), x.astype(jnp.bfloat16), cut)


def _noise(shape: tuple[int, ...], seed: Any) -> jax.Array:
    """32 bits for each element, from its place.

    They are computed within the loop of the update, wherever an element lies. On one core 25 million take
    10 ms beside the 24 ms of reading and writing; with `jax.random.bits` it is 325 ms.
    """
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) & 0xFFFFFFFF
        place = place + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    return _mix(_mix(place + seed[0]) + seed[1])


def _mix(x: jax.Array) -> jax.Array:
    """MurmurHash3's last step: each bit of x changes each of the result with a probability of about 1/2."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def key_data(key: Any) -> tuple[jax.Array, Any]:
    """A key as plain numbers, which any checkpoint can hold, and the generator that it is for.

    Parameters
    ----------
    key
        A seed, a `jax.random.key`, or the numbers of one; None is seed 0.

    Raises
    ------
    TypeError, ValueError
        For what is no key, or more than one.

    Examples
    --------
    >>> data, _ = key_data(jax.random.key(7))
    >>> print(data)
    [0 7]
    """
    key = jnp.asarray(0 if key is None else key)
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.ndim:
            raise ValueError(f"key must be one key; got an array of them, {key.shape}")
    elif not jnp.issubdtype(key.dtype, jnp.integer) or key.ndim > 1:
        raise TypeError(
            f"key must be a seed or a jax.random.key; got an array of {key.dtype}{key.shape}"
        )
    else:
        key = jax.random.key(key) if key.ndim == 0 else jax.random.wrap_key_data(key)
    return jax.random.key_data(key), jax.random.key_impl(key)


def draw(data: jax.Array, generator: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The key for the next step, and what `seed_of` makes this step's seeds from.

    Examples
    --------
    >>> data, generator = key_data(0)
    >>> following, drawn = draw(data, generator)
    >>> bool((following == data).all())
    False
    """
    following, now = jax.random.split(jax.random.wrap_key_data(data, impl=generator))
    drawn = jax.random.bits(now, (2,), jnp.uint32)
    return jax.random.key_data(following), (drawn[0], drawn[1])


def seed_of(drawn: tuple[jax.Array, jax.Array], n: int) -> tuple[jax.Array, jax.Array]:
    """The seed for the n-th array of a step.

    Slices of one large draw would do, but XLA then compiles a step of 1,000 arrays for 59 s; this way for
    29 s, and without rounding for 3 s.

    Examples
    --------
    >>> drawn = jnp.uint32(1), jnp.uint32(2)
    >>> seed_of(drawn, 3) == seed_of(drawn, 4)
    False
    """
    apart = jnp.uint32(n * 0x9E3779B9 & 0xFFFFFFFF)
    return drawn[0] + apart, _mix(drawn[1] + apart)
