"""One step in JAX, compiled and with donated memory, against optax.rmsprop on the same trees.

A tree of 8 matrices with 25 million parameters, and one of 1,000 arrays of 64, all float32: the update and
`optax.apply_updates` in one jitted function, whose parameters and state are donated.  Before anything is
timed, three steps on small arrays must agree: those of float32 state with Optax's, those of bfloat16 state
nearly.  The limit is a compiled loop that moves the bytes of a float32 step over one array; XLA chooses its
own threads.

Targets: no slower than optax.rmsprop with float32 state.

    python benchmarks/jax_train.py [--quick] [--json [FILE]]
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from limit import limit
from rmsprop.environment import describe
from tables import Report, main

OPTAX, OURS = "optax.rmsprop", "ours: rmsprop.jax"
BFLOAT16 = "ours, bfloat16 state"
LIMIT = "memory limit: v+=g; p-=g"
LR = 1e-3


def optimizers() -> dict[str, Any]:
    import optax

    from rmsprop.jax import rmsprop

    return {
        OURS: rmsprop(LR),
        BFLOAT16: rmsprop(LR, state_dtype="bfloat16"),
        OPTAX: optax.rmsprop(LR),
    }


class Steps:
    """Parameters and state of one optimizer; each call is a step with the same gradients."""

    def __init__(self, optimizer: Any, grads: Any):
        import jax
        import optax

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.params = jax.tree.map(lambda g: g * 0, grads)
        self.state, self.grads = optimizer.init(self.params), grads
        start = time.perf_counter()
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(self.params, self.state, grads)
        self.step, self.wait = compiled.compile(), jax.block_until_ready
        self.note = f"compiles for {time.perf_counter() - start:.1f} s"

    def __call__(self) -> None:
        self.params, self.state = self.wait(self.step(self.params, self.state, self.grads))


def tree(shapes: list[tuple[int, ...]]) -> Any:
    """Gradients of these shapes."""
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    draw = rng.standard_normal
    return {f"{k:04}": jnp.asarray(draw(shape, np.float32)) for k, shape in enumerate(shapes)}


def verify() -> None:
    """Stop unless all take the same steps."""
    grads, made = tree([(300, 70), (64,), (1,), ()]), optimizers()
    moved = {}
    for name, optimizer in made.items():
        run = Steps(optimizer, grads)
        for _ in range(3):
            run()
        moved[name] = run.params
    for ours, digits in ((OURS, 2e-6), (BFLOAT16, 2e-2)):
        for path, p in moved[OPTAX].items():
            np.testing.assert_allclose(moved[ours][path], p, rtol=digits, err_msg=f"{ours} {path}")


def measure(report: Report) -> None:
    try:
        import jax
        import optax  # noqa: F401
    except ModuleNotFoundError as reason:
        print(f"left out: {reason}")
        return
    report.environment["versions"] |= describe(("jax", "jaxlib", "optax"))["versions"]
    where = jax.devices()[0].platform
    verify()
    width = 256 if report.quick else 1768
    trees: dict[str, list[tuple[int, ...]]] = {
        f"8 matrices, {8 * width**2 / 1e6:.1f}M parameters": [(width, width)] * 8,
        "1,000 arrays of 64": [(64,)] * 1000,
    }
    for case, shapes in trees.items():
        grads = tree(shapes)
        made = {name: Steps(optimizer, grads) for name, optimizer in optimizers().items()}
        notes, runs = (
            {name: run.note for name, run in made.items()},
            dict[str, Callable[[], Any]](made),
        )
        if where == "cpu":
            p, g, v = np.zeros((3, sum(x.size for x in grads.values())), np.float32)
            runs[LIMIT] = limit(p, g, v)
        times = report.race(runs, 15)
        bound = LIMIT if where == "cpu" else None
        report.table(f"{case}, on the {where}", times, base=OURS, limit=bound, notes=notes)
        ratio = times.ratio(OPTAX, OURS)
        report.target(f"{case}: x faster than optax.rmsprop", ratio, at_least=0.97)


if __name__ == "__main__":
    main("jax_train", __doc__, measure)
