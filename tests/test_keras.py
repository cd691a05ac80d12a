"""rmsprop.keras on each of Keras's backends, in a process of its own (keras_worker.py); its arguments here.

The processes compare with the reference and with Keras's own RMSprop; a test below is one check of theirs.
"""

import functools
import inspect
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
from cases import RULES
from rmsprop import DIALECTS, Rule

keras = needs.package("keras")
needs.package(keras.backend.backend())

import keras_worker as worker  # noqa: E402
import rmsprop.keras  # noqa: E402
from keras_checks import read  # noqa: E402
from rmsprop.keras import RMSprop, RuleOptimizer, from_rule  # noqa: E402

# Keras's own reading of its variables, under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BACKENDS = ("jax", "tensorflow", "torch")
SOURCE = Path(rmsprop.keras.__file__).parents[2]
LIMIT = 300
"""Seconds that a backend's process may take; it needs 15 to 30."""

ALONE = """
import os, sys
if os.environ["KERAS_BACKEND"] != "tensorflow":
    sys.modules["tensorflow"] = None  # as if it were not installed: Keras loads it, for seconds, to save
import keras_worker
keras_worker.main()
"""


@functools.cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def found_on(backend: str) -> dict[str, str]:
    """What each check found on this backend: nothing, or a traceback."""
    needs.installed(backend)
    folder = Path(scratch().name) / backend
    folder.mkdir()
    tests = str(Path(__file__).parent)
    paths = os.pathsep.join([str(SOURCE), tests, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder)],
        env=os.environ
        | {"KERAS_BACKEND": backend, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", worker.CHECKS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_every_backend(backend: str, name: str) -> None:
    found = found_on(backend)
    assert not found[name], found[name]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_of_any_backend_opens_here(backend: str) -> None:
    found_on(backend)
    model = keras.models.load_model(Path(scratch().name) / backend / "0.keras")
    assert isinstance(model.optimizer, RMSprop)
    assert model.optimizer.dialect == "timm"
    assert int(model.optimizer.iterations) == 8
    assert len(model.optimizer.variables) == 1 + 3 * len(model.trainable_variables)
    assert all(np.isfinite(read(v)).all() for v in model.optimizer.variables)


# Arguments.


def test_signature_is_that_of_keras() -> None:
    ours = list(inspect.signature(RMSprop).parameters)
    theirs = list(inspect.signature(keras.optimizers.RMSprop).parameters)
    assert theirs[-1] == "kwargs"
    assert ours[: len(theirs) - 1] == theirs[:-1]
    assert ours[len(theirs) - 1 :] == ["dialect", "switches"]


def test_defaults_are_those_of_keras() -> None:
    theirs = keras.optimizers.RMSprop(name="x").get_config()  # which has the rate as float32 has it
    assert theirs["learning_rate"] == pytest.approx(0.001, rel=1e-7)
    expected = theirs | {"learning_rate": 0.001, "dialect": "keras"}
    assert RMSprop(name="x").get_config() == expected


def test_first_step_of_any_gradient() -> None:
    """v is (1-rho)*g^2, so that each moves by lr/sqrt(1-rho): 0.1*sqrt(10) here."""
    weight = keras.Variable([1.0, 2.0, 3.0])
    RMSprop(0.1).apply([keras.ops.convert_to_tensor([1.0, -6.0, 7.0])], [weight])
    np.testing.assert_allclose(read(weight), [0.683772, 2.316228, 2.683772], rtol=1e-5)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_defaults_are_those_of_the_dialect(dialect: str) -> None:
    if "lr" not in DIALECTS[dialect].fields:
        with pytest.raises(ValueError, match="no default learning rate: give learning_rate="):
            RMSprop(dialect=dialect)
    lr = DIALECTS[dialect].fields.get("lr", 0.01)
    optimizer = RMSprop(None if lr != 0.01 else 0.01, dialect=dialect)
    assert optimizer.rule == Rule.from_dialect(dialect, lr=lr)
    again = RMSprop.from_config(optimizer.get_config())
    assert (again.get_config(), again.rule) == (optimizer.get_config(), optimizer.rule)


EVERYTHING: dict[str, Any] = {
    "learning_rate": 0.25, "rho": 0.75, "momentum": 0.5, "epsilon": 0.125, "centered": True,
    "weight_decay": 0.0625, "clipnorm": 2.0, "use_ema": True, "ema_momentum": 0.5,
    "ema_overwrite_frequency": 3, "loss_scale_factor": 4.0, "gradient_accumulation_steps": 2,
    "name": "mine", "dialect": "torch",
}  # fmt: skip
SWITCHES = {"nesterov": True, "bias_correction": True, "maximize": True, "initial_scale": 0.5}


def test_every_argument_survives_a_round_trip() -> None:
    optimizer = RMSprop(**EVERYTHING, **SWITCHES)
    config = optimizer.get_config()
    assert config == EVERYTHING | SWITCHES | {"clipvalue": None, "global_clipnorm": None}
    plain = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    assert plain["registered_name"] == "rmsprop>RMSprop"
    again = keras.saving.deserialize_keras_object(plain)
    assert type(again) is RMSprop
    assert again.get_config() == config
    assert again.rule == optimizer.rule


@pytest.mark.parametrize("name", RULES)
def test_rule_survives_a_round_trip(name: str) -> None:
    optimizer = from_rule(RULES[name], use_ema=True)
    assert optimizer.rule == RULES[name]
    plain = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
    again = keras.saving.deserialize_keras_object(plain)
    assert type(again) is RuleOptimizer
    assert (again.rule, again.use_ema) == (RULES[name], True)


def test_schedule_brings_its_learning_rate() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    optimizer = RMSprop(schedule, dialect="optax")
    assert optimizer.rule.lr == 0.5
    optimizer.apply([keras.ops.ones(2)], [keras.Variable([1.0, 2.0])])
    assert optimizer.rule.lr == 0.25
    again = RMSprop.from_config(optimizer.get_config())
    assert again.get_config()["learning_rate"] == optimizer.get_config()["learning_rate"]
    assert from_rule(Rule(lr=3.0), lambda: 0.125).rule.lr == 0.125


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"dialect": "kears"}, ValueError, ["'kears'", "did you mean 'keras'"]),
        ({"dialect": "adam"}, ValueError, ["'adam'", "torch"]),
        ({"nestrov": True}, TypeError, ["'nestrov'", "did you mean 'nesterov'"]),
        ({"clip_norm": 1.0}, TypeError, ["'clip_norm'", "did you mean 'clipnorm'"]),
        ({"lr": 0.1}, TypeError, ["'lr'", "learning_rate"]),
        ({"learning_rate": -0.1}, ValueError, ["learning_rate must be", "at least 0", "-0.1"]),
        ({"learning_rate": "0.1"}, TypeError, ["learning_rate must be a number", "'0.1'"]),
        ({"rho": 1.0}, ValueError, ["rho must be", "[0, 1)", "1.0"]),
        ({"momentum": 1.5}, ValueError, ["momentum must be", "1.5"]),
        ({"epsilon": -1e-7}, ValueError, ["epsilon must be", "-1e-07"]),
        ({"centered": 1}, TypeError, ["centered is a switch", "True or False"]),
        ({"weight_decay": -1.0}, ValueError, ["weight_decay must be", "-1.0"]),
        ({"clipvalue": 0.0}, ValueError, ["clipvalue must be", "above 0", "None"]),
        ({"clipnorm": 1, "clipvalue": 1}, ValueError, ["clipvalue and clipnorm"]),
        ({"nesterov": True}, ValueError, ["nesterov=True needs momentum"]),
        ({"gradient_accumulation_steps": 1}, ValueError, ["gradient_accumulation_steps", ">= 2"]),
        ({"use_ema": True, "ema_momentum": 2.0}, ValueError, ["ema_momentum", "2.0"]),
    ],
)
def test_bad_arguments(given: dict[str, Any], kind: type[Exception], words: list[str]) -> None:
    with pytest.raises(kind) as caught:
        RMSprop(**given)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_rule_must_be_one() -> None:
    wrong: Any = "keras"
    with pytest.raises(TypeError, match=r"rule must be a Rule; got 'keras': Rule\.from_dialect"):
        from_rule(wrong)


def test_the_rule_follows_what_is_set() -> None:
    optimizer: Any = RMSprop(0.5, clipnorm=2.0, weight_decay=0.25)
    optimizer.learning_rate, optimizer.clipnorm, optimizer.weight_decay = 0.125, 0.0, None
    assert optimizer.rule == Rule.from_dialect("keras", lr=0.125)
    optimizer.global_clipnorm = 3.0
    assert optimizer.rule == Rule.from_dialect("keras", lr=0.125, clip_global_norm=3.0)


def test_numbers_of_the_rule_are_fixed() -> None:
    """A compiled step would not see a change."""
    optimizer: Any = RMSprop()
    for name in ("rho", "momentum", "epsilon", "centered"):
        with pytest.raises(AttributeError):
            setattr(optimizer, name, 0.5)


def test_without_keras() -> None:
    code = "import sys; sys.modules['keras'] = None; import rmsprop.keras"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )
    assert done.returncode
    last = done.stderr.splitlines()[-1]
    assert last == "ModuleNotFoundError: rmsprop.keras needs Keras 3: pip install 'rmsprop[keras]'"
