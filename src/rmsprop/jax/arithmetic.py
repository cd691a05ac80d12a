"""The arithmetic of one step: the lines of `rmsprop.reference`, in `jax.numpy`.

The rule's switches are constants of the trace, so what a rule does not use is not compiled. Its numbers may
be traced, so nothing here branches on them.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rmsprop.rule import Rule


class Numbers(NamedTuple):
    """The numbers of a rule: Python's, or JAX's of one element."""

    lr: Any
    decay: Any
    eps: Any
    momentum: Any
    weight_decay: Any
    initial_scale: Any
    clip_value: Any
    clip_norm: Any
    clip_global_norm: Any

    def cast(self, dtype: Any) -> "Numbers":
        """JAX's in this dtype; Python's as they are, so that 1 - decay is taken in float64."""
        return Numbers(*[x.astype(dtype) if isinstance(x, jax.Array) else x for x in self])


class Slots(NamedTuple):
    """What one array's optimizer remembers; None is what the rule does not keep."""

    v: Any = None
    m: Any = None
    b: Any = None


def clip(rule: Rule, numbers: Numbers, grads: list[jax.Array]) -> list[jax.Array]:
    """The gradients of all arrays, clipped by value, by each array's norm or by the joint norm.

    Parameters
    ----------
    rule
        Says whether to clip, and by what.
    numbers
        Say how far.
    grads
        Arrays of float32 or float64.

    Examples
    --------
    >>> numbers = Numbers(0.1, 0.9, 1e-8, 0.0, 0.0, 0.0, 1.0, None, None)
    >>> print(clip(Rule(clip_value=1.0), numbers, [jnp.array([3.0, -4.0])])[0])
    [ 1. -1.]
    """
    if rule.clip_value is not None:
        bounds = [numbers.cast(g.dtype).clip_value for g in grads]
        return [jnp.clip(g, -x, x) for g, x in zip(grads, bounds, strict=True)]
    if rule.clip_norm is not None:
        return [_shorten([g], numbers.clip_norm)[0] for g in grads]
    if rule.clip_global_norm is not None and grads:
        return _shorten(grads, numbers.clip_global_norm)
    return grads


def _shorten(grads: list[jax.Array], most: Any) -> list[jax.Array]:
    """g*min(1, most/norm), also where the squares, or what 1/norm is, leave the dtype's range.

    Where the norm is no number, g stays: the reference's min and max leave such a norm out.
    """
    wide = jnp.result_type(*grads)
    limit, scale = (2.0**400, 2.0**700) if wide == jnp.float64 else (2.0**40, 2.0**100)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(g), initial=0).astype(wide) for g in grads]))
    scale = jnp.where(largest > limit, 1 / scale, jnp.where(largest < 1 / limit, scale, 1.0))
    scaled = [g.astype(wide) * scale for g in grads]
    norm = jnp.sqrt(jnp.sum(jnp.stack([jnp.sum(g * g) for g in scaled])))
    longer, gain = norm > most * scale, most / norm
    return [
        jnp.where(longer, (x * gain).astype(g.dtype), g) for g, x in zip(grads, scaled, strict=True)
    ]


def update(
    rule: Rule, numbers: Numbers, t: jax.Array, p: Any, g: jax.Array, slots: Slots
) -> tuple[jax.Array, Slots]:
    """One step of one array: what is to be added to the parameters, and the new slots.

    Parameters
    ----------
    rule, numbers
        The switches, and the numbers in g's dtype.
    t
        The step, counted from 1, in g's dtype.
    p, g
        Parameters and their (clipped) gradient: float32 or float64, of one shape. p may be None where the
        rule has no weight decay.
    slots
        As the step before returned them, in g's dtype.

    Examples
    --------
    >>> rule = Rule(lr=0.1, decay=0.0)
    >>> numbers = Numbers(0.1, 0.0, 1e-8, 0.0, 0.0, 0.0, None, None, None)
    >>> change, slots = update(rule, numbers, jnp.ones(()), None, jnp.full(1, 4.0), Slots(jnp.zeros(1)))
    >>> print(change, slots.v)
    [-0.1] [16.]
    """
    lr, rho, mu, wd = numbers.lr, numbers.decay, numbers.momentum, numbers.weight_decay
    v, m, b = slots
    if rule.maximize:
        g = -g
    if rule.weight_decay and not rule.decoupled_weight_decay:
        g = g + wd * p
    if rule.second_moment == "ema":
        v = rho * v + (1 - rho) * (g * g)
    elif rule.second_moment == "sum":
        v = v + g * g
    if rule.centered:
        m = rho * m + (1 - rho) * g
    u = g
    if rule.first_moment == "before":
        b = mu * b + (1 - mu) * g
        u = b / _correction(mu, t) if rule.bias_correction else b
    if rule.second_moment != "none":
        u = u / denominator(rule, numbers, v, m, t)
    if "b" not in rule.slots or rule.first_moment == "before":
        move = lr * u
    else:
        gain, rate = (lr, 1.0) if rule.lr_in_momentum else (1.0, lr)
        u = gain * u
        b = mu * b + u
        move = rate * (mu * b + u if rule.nesterov else b)
    if rule.weight_decay and rule.decoupled_weight_decay:
        move = lr * wd * p + move
    return -move, Slots(v, m, b)


def denominator(rule: Rule, numbers: Numbers, v: Any, m: Any, t: jax.Array) -> jax.Array:
    """What the gradient is divided by at step t: sqrt(d) + eps or sqrt(d + eps).

    Examples
    --------
    >>> numbers = Numbers(0.1, 0.9, 0.5, 0.0, 0.0, 0.0, None, None, None)
    >>> print(denominator(Rule(eps=0.5), numbers, jnp.full(1, 4.0), None, jnp.ones(())))
    [2.5]
    """
    corrected = rule.bias_correction and rule.second_moment == "ema"
    fix = _correction(numbers.decay, t) if corrected else 1.0
    d = v / fix if corrected else v
    if rule.centered:
        mean = m / fix if corrected else m
        d = jnp.maximum(d - mean * mean, 0)
    return jnp.sqrt(d + numbers.eps) if rule.eps_in_sqrt else jnp.sqrt(d) + numbers.eps


def _correction(rho: Any, t: jax.Array) -> jax.Array:
    """1 - rho^t. In float32, 1 - 0.999^1 is off by 1.7e-5 of it, and what stands here by 6e-8."""
    if t.dtype == jnp.float64:
        return 1 - rho**t
    if isinstance(rho, jax.Array):
        return -jnp.expm1(t * jnp.log(rho))
    return -jnp.expm1(t * (math.log(rho) if rho > 0 else -math.inf))
