"""What the tests of rmsprop.jax share: small trees, runs in one program, transformations side by side."""

from typing import Any

import numpy as np

import needs

jax = needs.package("jax")
optax = needs.package("optax")

import rmsprop.jax  # noqa: E402

make: Any = rmsprop.jax.rmsprop
from_rule: Any = rmsprop.jax.from_rule

Array = np.ndarray[Any, Any]
SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 3), "one": ()}


def some(seed: int, steps: int | None = None) -> dict[str, Array]:
    """Arrays of SHAPES, or as many rows of them."""
    rng, lead = np.random.default_rng(seed), () if steps is None else (steps,)
    return {name: rng.normal(0, 1, (*lead, *shape)) for name, shape in SHAPES.items()}


def run(optimizer: Any, params: Any, grads: Any) -> Any:
    """Parameters and states after each of the steps, stacked."""

    def step(carry: Any, g: Any) -> Any:
        updates, state = optimizer.update(g, carry[1], carry[0])
        carry = optax.apply_updates(carry[0], updates), state
        return carry, carry

    return jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), grads)[1])(params)


def together(each: dict[str, Any]) -> Any:
    """Transformations side by side, as one; a dict has for each its parameters, and its state."""

    def update(grads: Any, states: Any, params: Any) -> Any:
        both = {name: x.update(grads[name], states[name], params[name]) for name, x in each.items()}
        return {k: pair[0] for k, pair in both.items()}, {k: pair[1] for k, pair in both.items()}

    return optax.GradientTransformationExtraArgs(
        lambda params: {name: x.init(params[name]) for name, x in each.items()}, update
    )
