"""Checks of rmsprop.keras against Keras's own RMSprop: the same arguments, variables and numbers."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_checks import (
    apply,
    arrays,
    assert_equal,
    check,
    everything,
    keras,
    read,
    variables,
)  # fmt: skip
from rmsprop.keras import RMSprop

WD = 2.0**-5


def twins(dtype: str, **options: Any) -> None:
    """Ours and Keras's own with the same arguments, from the same start: weights and state."""
    excluded = options.pop("excluded", None)
    pair = []
    for kind in (RMSprop, keras.optimizers.RMSprop):
        given: dict[str, Any] = {"learning_rate": 2.0**-6}
        given |= {k: x() if k == "learning_rate" else x for k, x in options.items()}
        optimizer = kind(**given)
        weights = variables(arrays(0, dtype)[:2])
        if excluded:
            optimizer.exclude_from_weight_decay(var_names=excluded)
        optimizer.build(weights)
        pair.append((optimizer, weights))
    (ours, mine), (theirs, others) = pair
    names = [[v.path.partition("/")[2] for v in x.variables] for x in (ours, theirs)]
    assert names[0] == names[1], "variables have Keras's names and order"
    tolerance = 1e-12 if dtype == "float64" else 1e-7
    for t in range(6):
        grads = arrays(t + 1, dtype)[:2]
        for optimizer, weights in pair:
            apply(optimizer, weights, grads)
        found, expected = everything(ours, mine), everything(theirs, others)
        for x, y in zip(found, expected, strict=True):
            # In units of the largest number there, for what cancels.
            atol = tolerance * (1 + t) * max(1.0, np.abs(y).max(initial=0.0))
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=atol)
    for optimizer, weights in pair:
        optimizer.finalize_variable_values(weights)
    assert_equal([read(w) for w in mine], [read(w) for w in others], atol=20 * tolerance)


@check
def keras_numbers(folder: Path) -> None:
    for dtype in ("float32", "float64"):
        keras.config.set_floatx(dtype)
        try:
            for momentum in (0.0, 0.5):
                for centered in (False, True):
                    for wd in (None, WD):
                        twins(dtype, momentum=momentum, centered=centered, weight_decay=wd)
        finally:
            keras.config.set_floatx("float32")


@check
def keras_features(folder: Path) -> None:
    decay = keras.optimizers.schedules.ExponentialDecay
    for options in (
        {"clipnorm": 0.5},
        {"clipvalue": 0.25},
        {"global_clipnorm": 0.5},
        {"use_ema": True, "ema_momentum": 0.75},
        {"use_ema": True, "ema_momentum": 0.75, "ema_overwrite_frequency": 3},
        {"loss_scale_factor": 8.0},
        {"gradient_accumulation_steps": 3, "momentum": 0.5, "centered": True, "weight_decay": WD},
        {"learning_rate": lambda: decay(2.0**-6, 2, 0.5), "momentum": 0.5},
        {"learning_rate": lambda: lambda: 2.0**-7},
        {"weight_decay": WD, "excluded": ["w1"]},
    ):
        twins("float32", **options)


@check
def keras_state(folder: Path) -> None:
    """A run that Keras's own began goes on with ours, from its variables."""
    options: dict[str, Any] = {"learning_rate": 2.0**-6, "momentum": 0.5, "centered": True}
    theirs, others = keras.optimizers.RMSprop(**options), variables(arrays(0, "float32"))
    for t in range(3):
        apply(theirs, others, arrays(t, "float32"))
    ours, mine = RMSprop(**options), variables([read(w) for w in others])
    ours.build(mine)
    ours.set_weights([read(v) for v in theirs.variables])
    for t in range(3, 6):
        apply(theirs, others, arrays(t, "float32"))
        apply(ours, mine, arrays(t, "float32"))
    assert_equal(everything(ours, mine), everything(theirs, others), rtol=1e-6, atol=1e-7)
