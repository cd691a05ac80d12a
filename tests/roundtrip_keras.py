"""What test_convert_round_trips.py runs in a process of its own for each of Keras's backends.

    KERAS_BACKEND=jax python roundtrip_keras.py begin FOLDER
    KERAS_BACKEND=jax python roundtrip_keras.py finish FOLDER JOBS.json

The first trains all cases with keras.optimizers.RMSprop; the second goes on from translated files.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

import rmsprop.keras  # noqa: F401  (its optimizers, for load_model)
from roundtrip_nets import (
    BOUNDARIES,
    CASES,
    INPUT,
    NUMBERS,
    STEPS,
    Case,
    Params,
    data,
    grads,
    initial,
)


def settle(case: Case) -> None:
    keras.config.set_floatx(case.dtype)
    keras.config.set_dtype_policy(case.dtype)


def model_of(case: Case) -> Any:
    settle(case)
    layers = keras.layers
    first: Any = (
        layers.Conv2D(3, 3, activation="tanh", name="first")
        if case.net == "conv"
        else layers.Dense(4, activation="tanh", name="first")
    )
    flat = [layers.Flatten()] if case.net == "conv" else []
    model = keras.Sequential(
        [keras.Input(INPUT[case.net]), first, *flat, layers.Dense(4, name="last")]
    )
    model.set_weights(list(initial(case).values()))
    return model


def own(case: Case) -> Any:
    rate: Any = NUMBERS["lr"]
    if case.scheduled:
        rates = [NUMBERS["lr"] * 0.5**k for k in range(len(BOUNDARIES) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(list(BOUNDARIES), rates)
    numbers: dict[str, Any] = {
        "rho": NUMBERS["decay"],
        "epsilon": NUMBERS["eps"],
        "momentum": case.momentum,
    }
    return keras.optimizers.RMSprop(rate, **numbers, centered=case.centered)


def compile_(model: Any, optimizer: Any) -> None:
    eager = keras.backend.backend() != "jax"
    model.compile(optimizer, loss="mse", run_eagerly=eager, jit_compile=False)


def train(case: Case, model: Any) -> None:
    """By Keras's own loop; in float64 with gradients from NumPy, for Keras's layers round to float32."""
    x, y = data(case)
    for _ in range(STEPS):
        if case.dtype == "float32":
            model.train_on_batch(x, y)
            continue
        found = [keras.ops.convert_to_tensor(g) for g in grads(case, params(model)).values()]
        model.optimizer.apply(found, model.trainable_variables)


def params(model: Any) -> Params:
    found: dict[str, Any] = {
        v.path: keras.ops.convert_to_numpy(v.value) for v in model.trainable_variables
    }
    return {"/".join(path.split("/")[-2:]): a for path, a in found.items()}


def save(path: Path, found: dict[str, Any]) -> None:
    np.savez(path, **found)


def begin(folder: Path) -> None:
    for name, case in CASES.items():
        model = model_of(case)
        compile_(model, own(case))
        train(case, model)
        model.save(folder / f"{name}.keras")
        train(case, model)
        save(folder / f"{name}.npz", params(model))


def finish(folder: Path, jobs: dict[str, list[str]]) -> None:
    for job, (name, path) in jobs.items():
        case = CASES[name]
        settle(case)
        model: Any = keras.saving.load_model(path)  # whose schedule is the template's
        compile_(model, model.optimizer)
        train(case, model)
        save(folder / f"{job}.npz", params(model))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "begin":
        begin(Path(sys.argv[2]))
    else:
        finish(Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
