"""Keras: its own RMSprop against ours on each backend, the step alone and epochs of `fit`.

- step: `optimizer.apply` on ten layers of 512 x 512, as the backend runs it inside `fit`: compiled by XLA on
  TensorFlow and JAX, as it stands on PyTorch. The MLP's step is the same on its four small variables.
- epoch: `model.fit` of an MLP 784-128-10 at batch 128 on random numbers of MNIST's shapes.

A process for each backend; one that is not installed is left out. PyTorch has the kernel of `rmsprop.torch`,
the others what XLA makes of the rule, so that the target there is to be no slower.

    python benchmarks/keras_train.py [--quick] [--json [FILE]]
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from tables import Report, main
from timing import Times, race

BACKENDS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}
OURS, OWN = "ours", "keras.optimizers.RMSprop"
MLP = [(784, 128), (128,), (128, 10), (10,)]
DEEP = [(512, 512), (512,)] * 10
RULES: dict[str, dict[str, Any]] = {
    "": {},
    ", momentum, centered": {"momentum": 0.9, "centered": True},
}
EXAMPLES = 20 * 128


def optimizers() -> dict[str, Any]:
    return {
        OURS: import_module("rmsprop.keras").RMSprop,
        OWN: import_module("keras").optimizers.RMSprop,
    }


def step(kind: Any, shapes: list[tuple[int, ...]], options: dict[str, Any]) -> Callable[[], Any]:
    """One `apply` on variables of these shapes."""
    keras = import_module("keras")
    rng = np.random.default_rng(0)
    weights = [keras.Variable(rng.normal(0, 0.1, s).astype("float32")) for s in shapes]
    grads = [keras.ops.convert_to_tensor(rng.normal(0, 1, s).astype("float32")) for s in shapes]
    optimizer = kind(1e-5, **options)
    optimizer.build(weights)
    if keras.backend.backend() == "tensorflow":
        tf = import_module("tensorflow")
        return tf.function(lambda: optimizer.apply(grads), jit_compile=True)
    if keras.backend.backend() == "torch":
        return import_module("torch").no_grad()(lambda: optimizer.apply(grads))
    jax = import_module("jax")
    pure = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))
    kept = [[w.value for w in weights], [v.value for v in optimizer.variables]]

    def run() -> None:
        kept[:] = pure(kept[1], grads, kept[0])
        jax.block_until_ready(kept)

    return run


def epoch(kind: Any, options: dict[str, Any]) -> Callable[[], Any]:
    """One epoch of `fit`."""
    keras = import_module("keras")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((784,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kind(1e-5, **options), loss=loss)
    rng = np.random.default_rng(0)
    x, y = rng.random((EXAMPLES, 784), "float32"), rng.integers(0, 10, EXAMPLES)
    return lambda: model.fit(x, y, batch_size=128, verbose=0)


def work(rounds: int, patience: float) -> None:
    """All cases of this process's backend, a line of JSON each."""
    for label, options in RULES.items():
        cases = {
            f"step of 10 x 512 x 512{label}": lambda kind, o=options: step(kind, DEEP, o),
            f"step of an MLP 784-128-10{label}": lambda kind, o=options: step(kind, MLP, o),
            f"epoch of 20 batches{label}": lambda kind, o=options: epoch(kind, o),
        }
        for case, make in cases.items():
            times = race(
                {name: make(kind) for name, kind in optimizers().items()}, rounds, patience
            )
            seconds = {name: list(found) for name, found in times.seconds.items()}
            print(json.dumps([case, seconds, times.others]), flush=True)


def measure(report: Report) -> None:
    if find_spec("keras") is None:
        print("left out: Keras is not installed: pip install 'rmsprop[keras]'")
        return
    for backend, name in BACKENDS.items():
        if find_spec(backend) is None:
            print(f"\n{name} is not installed: left out")
            continue
        rounds = "3" if report.quick else "9"
        done = subprocess.run(
            [sys.executable, __file__, "--worker", rounds, str(report.patience)],
            env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        for case, seconds, busy in map(json.loads, done.stdout.splitlines()):
            times = Times({kind: np.array(found) for kind, found in seconds.items()}, busy)
            report.table(f"Keras on {name}: {case}", times, base=OURS)
            goal = 1.0 if backend == "torch" else 0.95
            claim = f"Keras on {name}, {case}: x faster than its own"
            report.target(claim, times.ratio(OWN, OURS), at_least=goal)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(int(sys.argv[2]), float(sys.argv[3]))
    else:
        main("keras_train", __doc__, measure)
