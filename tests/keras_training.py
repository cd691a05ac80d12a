"""Checks of rmsprop.keras in `fit`: learning, saving, loading, mixed precision, an embedding."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_checks import (
    BACKEND,
    Array,
    assert_equal,
    check,
    everything,
    fit,
    keras,
    net,
)  # fmt: skip
from rmsprop import Rule
from rmsprop.keras import RMSprop, from_rule


def whole(model: Any) -> list[Array]:
    return everything(model.optimizer, model.trainable_variables)


@check
def fit_learns_as_keras(folder: Path) -> None:
    ours = fit(net(RMSprop(0.01, momentum=0.5)), 6)
    theirs = fit(net(keras.optimizers.RMSprop(0.01, momentum=0.5)), 6)
    assert ours[-1] < 0.7 * ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@check
def saved_in_the_middle(folder: Path) -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 5, 0.9)
    for k, optimizer in enumerate(
        (
            RMSprop(schedule, momentum=0.5, dialect="timm", weight_decay=0.01, centered=True),
            RMSprop(0.01, clipnorm=0.5, gradient_accumulation_steps=2, bias_correction=True),
            # On JAX, Keras's own cannot fit a second time with it: weight and average share a buffer.
            from_rule(
                Rule.from_dialect("adamw", lr=0.01, clip_value=0.5), use_ema=BACKEND != "jax"
            ),
        )
    ):
        model = net(optimizer)
        fit(model, 2)
        model.save(folder / f"{k}.keras")
        again = keras.models.load_model(folder / f"{k}.keras")
        assert type(again.optimizer) is type(optimizer)
        assert again.optimizer.get_config() == optimizer.get_config()
        assert again.optimizer.rule == optimizer.rule
        assert_equal(whole(again), whole(model))
        assert fit(model, 2) == fit(again, 2)
        assert_equal(whole(again), whole(model))


@check
def weights_only(folder: Path) -> None:
    model = net(RMSprop(0.01, momentum=0.5))
    fit(model, 1)
    model.save_weights(folder / "some.weights.h5")
    again = net(RMSprop(0.01, momentum=0.5))
    again.optimizer.build(again.trainable_variables)
    again.load_weights(folder / "some.weights.h5")
    assert_equal(whole(again), whole(model))


@check
def mixed_precision(folder: Path) -> None:
    for policy in ("mixed_float16", "mixed_bfloat16"):
        model = net(RMSprop(0.01, dialect="torch"), dtype=policy)
        losses = fit(model, 6)
        assert losses[-1] < 0.8 * losses[0]
        assert all(w.dtype == "float32" for w in model.trainable_variables)


@check
def embedding_trains(folder: Path) -> None:
    uniform = keras.initializers.RandomUniform(seed=0)
    embedding = keras.layers.Embedding(10, 4, embeddings_initializer=uniform)
    last = keras.layers.Dense(1, kernel_initializer="ones")
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), embedding, keras.layers.Flatten(), last]
    )
    model.compile(RMSprop(0.02), loss="mse")
    x = np.random.default_rng(0).integers(0, 10, (64, 3))
    y = x.sum(axis=1, keepdims=True).astype("float32") / 10
    losses = model.fit(x, y, epochs=5, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
