"""What Keras asks of its own RMSprop, with its numbers, of ours: keras/src/optimizers/rmsprop_test.py."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_checks import check, read, tensors
from rmsprop.keras import RMSprop


def variable(value: Any, name: str = "w") -> Any:
    return keras.Variable(np.asarray(value, np.float32), name=name)


@check
def golden_single_step(folder: Path) -> None:
    weights = variable([1.0, 2.0, 3.0, 4.0])
    grads = tensors([np.array([1.0, 6.0, 7.0, 2.0], np.float32)])
    RMSprop(learning_rate=0.5).apply_gradients(zip(grads, [weights], strict=True))
    np.testing.assert_allclose(read(weights), [-0.5811, 0.4189, 1.4189, 2.4189], atol=1e-4)


@check
def golden_centered_steps(folder: Path) -> None:
    """After a first gradient of .01 everywhere, the same from .1 to 1: all move alike."""
    optimizer, weights = RMSprop(centered=True), variable(np.ones(10))
    grads = tensors([np.full(10, 0.01, np.float32)])
    for expected in (0.9967, 0.9933, 0.9908, 0.9885, 0.9864):
        optimizer.apply_gradients(zip(grads, [weights], strict=True))
        np.testing.assert_allclose(read(weights), np.full(10, expected), rtol=5e-4, atol=5e-4)
        grads = tensors([np.arange(0.1, 1.1, 0.1).astype(np.float32)])


@check
def golden_weight_decay(folder: Path) -> None:
    """2*(1 - .004*1) three times would be below; excluded ones stay, by name and as variables."""
    zero = tensors([np.zeros((), np.float32)])
    decayed, by_name, itself = variable(2.0), variable(2.0, "exclude"), variable(2.0)
    RMSprop(1.0, weight_decay=0.004).apply_gradients([(zero[0], decayed)])
    assert abs(float(read(decayed)) - 1.992) < 1e-6
    for spared, words in ((by_name, {"var_names": ["exclude"]}), (itself, {"var_list": [itself]})):
        optimizer = RMSprop(1.0, weight_decay=0.004)
        optimizer.exclude_from_weight_decay(**words)
        optimizer.apply_gradients([(zero[0], decayed), (zero[0], spared)])
        assert float(read(spared)) == 2.0
    assert abs(float(read(decayed)) - 1.9760959) < 1e-6


@check
def golden_clips(folder: Path) -> None:
    grads = [np.array([100.0, 100.0], np.float32)]
    cases: Any = ({"clipnorm": 1}, 2**0.5 / 2), ({"clipvalue": 1}, 1.0)
    for words, expected in cases:
        clipped = RMSprop(**words)._clip_gradients(tensors(grads))
        found: Any = keras.ops.convert_to_numpy(clipped[0])
        np.testing.assert_allclose(found, [expected, expected], rtol=1e-6)


@check
def golden_config(folder: Path) -> None:
    given: dict[str, Any] = {
        "learning_rate": 0.5,
        "rho": 0.8,
        "momentum": 0.05,
        "epsilon": 1e-6,
        "centered": True,
    }
    optimizer = RMSprop(**given)
    again = RMSprop.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    for word in ("rho", "momentum"):
        for value in (-0.1, 1.1, 2.0):
            spoilt: dict[str, Any] = given | {word: value}
            with pytest.raises(ValueError, match=f"{word} must be"):
                RMSprop(**spoilt)
    for word, value in (("rho", 0.0), ("momentum", 0.0), ("momentum", 1.0), ("epsilon", 1e-12)):
        fine: dict[str, Any] = given | {word: value}
        RMSprop(**fine)
