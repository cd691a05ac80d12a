"""A Keras optimizer's variables as a checkpoint, and a checkpoint as its variables."""

from typing import Any

import numpy as np

from rmsprop.convert.checkpoint import SLOTS, Array, Checkpoint, Entry
from rmsprop.convert.keras import hdf5
from rmsprop.convert.keras import state as keras_state
from rmsprop.convert.keras.layers import Variable
from rmsprop.convert.keras.state import Setting, State
from rmsprop.convert.losses import Loss
from rmsprop.rule import Rule

_LEFT = {"average": "average of the parameter (use_ema)", "accumulator": "sum of gradients"}


def composed(
    setting: Setting,
    state: State,
    told: dict[str, Any],
    names: list[Variable],
    values: list[Any],
    notes: list[str],
) -> Checkpoint:
    """A checkpoint of an optimizer's variables."""
    fields = dict(told) | setting.fields
    if state.rate is not None:
        fields["lr"] = keras_state.rate_of(setting, state.rate)
    if setting.schedule:
        notes.append(
            f"the learning rate is a schedule ({setting.schedule}): say the next step's, --lr"
        )
    if len(names) != len(next(iter(state.lists.values()), names)):
        raise ValueError(
            f"the optimizer's state is of other than the {len(names)} trained variables"
        )
    entries = {}
    for k, (variable, value) in enumerate(zip(names, values, strict=True)):
        name = variable.name
        slots = {
            s: floats(state.lists[s][k], f"{s} of {name}") for s in setting.slots if state.lists
        }
        value = None if value is None else floats(value, name)
        entries[name] = Entry(
            dict(sorted(slots.items(), key=lambda s: SLOTS.index(s[0]))), value, 0, variable.role
        )
        if any(a.shape != entries[name].shape for a in slots.values()):
            raise ValueError(f"the state of {name} has another shape than the parameter")
    left = {}
    for kind, what in _LEFT.items():
        there = names if kind in state.lists else []
        left |= {f"{kind} of {variable.name}": what for variable in there}
    step = state.iteration // setting.accumulate
    made = Checkpoint("keras", setting.dialect, [fields], entries, step, "keras", True, left, notes)
    if any(np.any(loose(a)) for a in state.lists.get("accumulator", [])):
        why = "gradients were being accumulated: the sums of this round are left out"
        notes.append(why)
        made.losses.append(Loss("accumulation", why))
    elif setting.accumulate > 1:
        notes.append(f"each step was made with the mean gradient of {setting.accumulate} batches")
    if setting.ema:
        made.losses.append(
            Loss("ema", "the averages of the parameters (use_ema), which Keras puts in their place, "
                 "are left out")
        )  # fmt: skip
    return made


def flat(setting: Setting, entries: list[Entry]) -> list[Array]:
    """What comes after the iteration and the learning rate."""
    zeros = [np.zeros_like(e.slots["v"] if e.slots else e.value) for e in entries]
    lists = {s: [e.slots[s] for e in entries] for s in setting.slots}
    return [a for name in setting.lists for a in lists.get(name, zeros)]


def iteration_of(checkpoint: Checkpoint, setting: Setting) -> int:
    rule = one_rule(checkpoint)
    if checkpoint.step is None and rule.bias_correction:
        raise ValueError(
            "the number of steps is not known, and bias_correction needs it: give --step"
        )
    return (checkpoint.step or 0) * setting.accumulate


def one_rule(checkpoint: Checkpoint) -> Rule:
    used = sorted({e.group for e in checkpoint.entries.values()}) or [0]
    rules = [checkpoint.rule(k) for k in used]
    if any(rule != rules[0] for rule in rules):
        raise ValueError(
            "a Keras optimizer has one rule for all parameters, and the checkpoint's groups differ: "
            + " and ".join(map(repr, rules))
        )
    return rules[0]


def same_names(own: list[str], checkpoint: Checkpoint) -> None:
    lacking = [n for n in own if n not in checkpoint.entries]
    unknown = [n for n in checkpoint.entries if n not in set(own)]
    if lacking or unknown:
        raise ValueError(
            f"the model and the checkpoint have other parameters: the checkpoint lacks {lacking[:8]}, "
            f"the model lacks {unknown[:8]}; --map names.toml renames"
        )


def same_shapes(
    names: list[Variable], shapes: list[Any], entries: list[Entry], slots: tuple[str, ...]
) -> None:
    for variable, shape, entry in zip(names, shapes, entries, strict=True):
        lacking = [s for s in slots if s not in entry.slots]
        if lacking:
            raise ValueError(f"{variable.name} has no {lacking[0]}, which the rule keeps")
        arrays = [*entry.slots.values(), *([] if entry.value is None else [entry.value])]
        for array in arrays:
            if array.shape != tuple(shape):
                raise ValueError(
                    f"{variable.name} is {array.shape}, and in the model {tuple(shape)}"
                )


def unique(variables: list[Variable]) -> list[Variable]:
    """The same, with a number after a name that came before."""
    taken: set[str] = set()
    found = []
    for variable in variables:
        name, number = variable.name, 1
        while name in taken:
            name, number = f"{variable.name}_{number}", number + 1
        taken.add(name)
        found.append(variable._replace(name=name))
    return found


def floats(array: Array, called: str) -> Array:
    if array.dtype.kind == "c":
        raise ValueError(
            f"{called} is complex: torch averages real and imaginary parts apart, Optax |g|^2"
        )
    return hdf5.numbers(array, called)


def loose(array: Array) -> Array:
    return hdf5.numbers(array, "the optimizer's state")
