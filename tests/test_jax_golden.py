"""What Optax asks of its own RMSprop, of ours: the same path as jax.example_libraries' optimizers."""

from typing import Any

import numpy as np
import pytest

import needs

jax = needs.package("jax")
optax = needs.package("optax")

import jax.numpy as jnp  # noqa: E402
from jax.example_libraries import optimizers as old  # noqa: E402

from rmsprop.jax import rmsprop  # noqa: E402

LR, STEPS = 1e-2, 50
SCHEDULE = optax.piecewise_constant_schedule(LR, {STEPS // 2: 0.1})
PAIRS: dict[str, tuple[Any, Any]] = {
    "rmsprop": (rmsprop(LR, decay=0.9, eps=0.1), old.rmsprop(LR, 0.9, 0.1)),
    "momentum": (
        rmsprop(LR, decay=0.9, eps=0.1, momentum=0.9), old.rmsprop_momentum(LR, 0.9, 0.1, 0.9)
    ),
    "schedule": (rmsprop(SCHEDULE, decay=0.9, eps=0.1), old.rmsprop(SCHEDULE, 0.9, 0.1)),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_the_path_of_jaxs_old_optimizers(name: str) -> None:
    ours, theirs = PAIRS[name]
    start = (jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0, 5.0]))
    grads = (jnp.array([500.0, 5.0]), jnp.array([300.0, 3.0, 1.0]))
    init, move, params_of = theirs
    state, other, params = ours.init(start), init(start), start
    update = jax.jit(ours.update)
    for step in range(STEPS):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        other = move(step, grads, other)
    for a, b, p in zip(params, params_of(other), start, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
        assert np.all(np.abs(a - p) > 0.01)
