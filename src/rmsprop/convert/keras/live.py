"""Live Keras models: their parameters and the state of their optimizers, out and in."""

from typing import Any

import numpy as np

from rmsprop.convert.checkpoint import Array, Checkpoint
from rmsprop.convert.keras import flatten as keras_flatten
from rmsprop.convert.keras import layers as keras_layers
from rmsprop.convert.keras import state as keras_state
from rmsprop.convert.keras.compose import (
    composed,
    flat,
    iteration_of,
    one_rule,
    same_names,
    same_shapes,
    unique,
)
from rmsprop.convert.keras.layers import Variable
from rmsprop.convert.keras.state import Setting
from rmsprop.rule import Rule


def of_model(model: Any, told: dict[str, Any]) -> Checkpoint:
    """The parameters of a live compiled model and the state of its RMSprop; also of (optimizer, variables).

    Raises ValueError where its optimizer is none, or another than RMSprop and the rules of this package.
    """
    optimizer, variables, names = _live(model)
    setting, notes = _live_setting(optimizer), []
    state = keras_state.divided(setting, [_array(v) for v in optimizer.variables])
    values = [_array(v) for v in variables]
    found = composed(setting, state, told, names, values, notes)
    still = _undecayed(optimizer, variables)
    if any(still) and not all(still):  # groups of their own
        found.groups.append(found.groups[0] | {"weight_decay": 0.0})
        for entry, apart in zip(found.entries.values(), still, strict=True):
            entry.group = int(apart)
    elif all(still) and still:
        found.groups[0]["weight_decay"] = 0.0
    return keras_flatten.marked(found, _config(model))


def _undecayed(optimizer: Any, variables: list[Any]) -> list[bool]:
    """Of each variable whether it was excluded from weight decay, which only the live optimizer knows."""
    decays = getattr(optimizer, "weight_decay", None) and hasattr(optimizer, "_use_weight_decay")
    return [bool(decays) and not optimizer._use_weight_decay(v) for v in variables]


def own_rate(model: Any) -> float | None:
    """The learning rate that a compiled model has; None under a schedule."""
    optimizer, _, _ = _live(model)
    setting = _live_setting(optimizer)
    return None if setting.schedule else float(optimizer.learning_rate)


def rounded(checkpoint: Checkpoint, model: Any) -> list[str]:
    """The names of what variables of two bytes would round."""
    import keras

    _, variables, names = _live(model)
    found = []
    for variable, name in zip(variables, [n.name for n in names], strict=True):
        entry = checkpoint.entries.get(name)
        if entry is None or variable.dtype not in ("bfloat16", "float16"):
            continue
        for a in [*entry.slots.values(), *([] if entry.value is None else [entry.value])]:
            narrow = keras.ops.cast(keras.ops.convert_to_tensor(a), variable.dtype)
            back = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(narrow, "float32")))
            if not np.array_equal(back, a) and name not in found:
                found.append(name)
    return found


def _config(model: Any) -> dict[str, Any]:
    """What the model would be saved as; nothing for what cannot be."""
    try:
        return {"config": model.get_config()}
    except (AttributeError, NotImplementedError):
        return {}


def into_model(checkpoint: Checkpoint, model: Any) -> None:
    """Load a translated checkpoint into a live compiled model, or (optimizer, variables).

    The learning rate stays the model's own.

    Raises ValueError, before anything is changed, where the model's names, shapes or rule are others.
    """
    optimizer, variables, names = _live(model)
    setting = _live_setting(optimizer)
    own = Rule.from_dialect(setting.dialect, **{"lr": 0.0} | setting.fields).to_dict()
    wanted = one_rule(checkpoint).to_dict()
    differ = [
        f"{k} {own[k]}, not {wanted[k]}"
        for k in own
        if own[k] != wanted[k] and k not in ("lr", "initial_scale", *_idle(own))
    ]
    if differ:
        raise ValueError(f"the model's optimizer computes another rule: {', '.join(differ)}")
    if any(_undecayed(optimizer, variables)):
        raise ValueError(
            "the model's optimizer excludes parameters from weight decay, and the checkpoint does not: "
            "compile without exclude_from_weight_decay"
        )
    if setting.ema:
        raise ValueError(
            "the model's optimizer keeps averages of the parameters: compile without use_ema"
        )
    same_names([n.name for n in names], checkpoint)
    entries = [checkpoint.entries[n.name] for n in names]
    same_shapes(names, [tuple(v.shape) for v in variables], entries, setting.slots)
    if not optimizer.built:
        optimizer.build(variables)
    for variable, entry in zip(variables, entries, strict=True):
        if entry.value is not None:
            variable.assign(entry.value)
    found = [np.asarray(iteration_of(checkpoint, setting))]
    found += [] if setting.schedule else [_array(optimizer.variables[1])]
    found += flat(setting, entries)
    for variable, array in zip(optimizer.variables, found, strict=True):
        variable.assign(array)


def _idle(fields: dict[str, Any]) -> tuple[str, ...]:
    """Switches that change nothing: of weight decay and momentum where there is none."""
    decay = () if fields["weight_decay"] else ("decoupled_weight_decay",)
    return decay + (() if fields["momentum"] else ("lr_in_momentum",))


def _live(model: Any) -> tuple[Any, list[Any], list[Variable]]:
    """A model's optimizer, its trained variables, and what they are called."""
    if isinstance(model, tuple):
        optimizer, variables = model
        return optimizer, list(variables), unique([Variable("", v.path) for v in variables])
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError("the model has no optimizer: compile it with RMSprop")
    called: dict[int, Variable] = {}
    _call(model, "", called)
    variables = list(model.trainable_variables)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    kept = getattr(inner, "_trainable_variables", None) if inner.built else None
    if kept and [id(v) for v in kept] != [id(v) for v in variables]:
        raise ValueError(
            "the model's optimizer keeps the state of other variables than the model now trains "
            "(trainable was changed): compile the model again, or set trainable as it was"
        )
    named = [called.get(id(v), Variable("", v.path)) for v in variables]
    return getattr(optimizer, "inner_optimizer", optimizer), variables, unique(named)


def _call(layer: Any, prefix: str, called: dict[int, Variable]) -> None:
    """Name the variables of a layer, and of those in it, as `keras_layers` does."""
    kind = type(layer).__name__ if type(layer).__module__.startswith("keras.") else ""
    for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
        known = kind in keras_layers.OWN
        role = keras_layers.role_of(kind, variable.name) if known else ""
        called.setdefault(id(variable), Variable("", prefix + variable.name, role))
    for below in layer._layers:
        _call(below, f"{prefix}{below.name}/", called)


def _live_setting(optimizer: Any) -> Setting:
    module = type(optimizer).__module__
    own = module.startswith("rmsprop.keras")
    name = f"rmsprop>{type(optimizer).__name__}" if own else type(optimizer).__name__
    setting = keras_state.setting_of(
        {
            "module": module,
            "class_name": type(optimizer).__name__,
            "registered_name": name if own else None,
            "config": optimizer.get_config(),
        }
    )
    if setting is None:
        raise ValueError(
            f"the optimizer is {type(optimizer).__name__}, not RMSprop: compile the model with "
            "keras.optimizers.RMSprop or rmsprop.keras"
        )
    return setting


def _array(variable: Any) -> Array:
    """A variable's value; bfloat16, which NumPy lacks, and float16 as float32."""
    import keras

    array = np.asarray(keras.ops.convert_to_numpy(variable.value))
    return array.astype(np.float32) if array.dtype.name in ("bfloat16", "float16") else array
