"""A checkpoint into a template that Keras saved."""

import json
from typing import Any

import numpy as np

from rmsprop.convert.checkpoint import Array, Checkpoint, Entry
from rmsprop.convert.keras import hdf5
from rmsprop.convert.keras import layers as keras_layers
from rmsprop.convert.keras import state as keras_state
from rmsprop.convert.keras.archive import INNER, OPTIMIZER, Parts, ordered
from rmsprop.convert.keras.compose import (
    flat,
    iteration_of,
    one_rule,
    same_names,
    same_shapes,
    unique,
)
from rmsprop.convert.keras.hdf5 import Tree
from rmsprop.convert.keras.layers import Variable
from rmsprop.convert.keras.state import Setting
from rmsprop.rule import Rule


def fill(parts: Parts, checkpoint: Checkpoint, whole: bool) -> None:
    """Put a checkpoint into a template."""
    if whole and parts.config is None:
        raise ValueError(
            "the template is a .weights.h5 file; a .keras file needs a .keras template"
        )
    rule = one_rule(checkpoint)
    order = unique(_template_order(parts))
    same_names([v.name for v in order], checkpoint)
    entries = [checkpoint.entries[v.name] for v in order]
    slots = tuple(s for s in keras_state.ORDER if s in rule.slots)
    same_shapes(order, [parts.tree.arrays[v.path].shape for v in order], entries, slots)
    setting = _configured(parts, rule, order, entries)
    for variable, entry in zip(order, entries, strict=True):
        if entry.value is not None:
            dtype = parts.tree.arrays[variable.path].dtype
            parts.tree.arrays[variable.path] = hdf5.stored(entry.value, dtype, variable.name)
    kept = len(parts.state()[1])
    _replace_state(parts.tree, setting, checkpoint, rule, entries)
    made = len(parts.state()[1])
    if parts.config is None and kept > setting.first and kept != made:
        raise ValueError(
            f"the template's optimizer keeps {kept} variables and this rule {made}, so that Keras would not "
            "load them: save the template with the optimizer that is to go on"
        )


def _template_order(parts: Parts) -> list[Variable]:
    """The template's trained variables in the model's order."""
    group, arrays = parts.state()
    compiled = json.dumps(parts.compiled().get("optimizer"))
    policies = json.dumps((parts.config or {}).get("config"))
    if group == INNER or "LossScaleOptimizer" in compiled or '"mixed_float16"' in policies:
        raise ValueError(
            "the template scales its loss (LossScaleOptimizer, mixed_float16), which cannot be written"
        )
    node = parts.model()
    setting = keras_state.setting_of(parts.compiled().get("optimizer"))
    known = [setting] if setting else []
    if parts.config is None:
        known = keras_state.guessed(arrays, None, None)
    orders = []
    for each in known if arrays else []:
        state = keras_state.divided(each, arrays)
        order = ordered(parts, node, each, state) if state.lists else None
        if order and order not in orders:
            orders.append(order)
    order = orders[0] if len(orders) == 1 else keras_layers.certain(node)
    if order is None:
        raise ValueError(
            "the order of the template's variables is not known: compile its model with RMSprop, take a "
            "step, and save it as a .keras file"
        )
    return order


def _configured(parts: Parts, rule: Rule, order: list[Variable], entries: list[Entry]) -> Setting:
    """What the optimizer in the file will be; its config, where there is one, becomes that."""
    old = parts.compiled().get("optimizer")
    base = old.get("config") if isinstance(old, dict) else None
    base = base if isinstance(base, dict) else {}
    if base.get("use_ema"):
        raise ValueError("the template keeps averages of the parameters: save it without use_ema")
    exact = all(_fits(parts.tree.arrays[v.path], e) for v, e in zip(order, entries, strict=True))
    serialized = _serialized(rule, base, _is_native(rule) and exact)
    if parts.config is not None:
        settings = {"loss": None, "loss_weights": None, "metrics": None, "weighted_metrics": None}
        parts.config["compile_config"] = settings | parts.compiled() | {"optimizer": serialized}
        setting = keras_state.setting_of(serialized)
        assert setting is not None
        return setting
    slots = tuple(s for s in keras_state.ORDER if s in rule.slots)
    _, arrays = parts.state()
    scheduled = bool(arrays) and not (len(arrays) > 1 and arrays[1].shape == ())
    return Setting(slots=slots, schedule="a schedule" if scheduled else "")


def _serialized(rule: Rule, base: dict[str, Any], native: bool) -> dict[str, Any]:
    """An optimizer as Keras writes it into config.json."""
    rate = base.get("learning_rate")
    kept = {
        "name": "rm_sprop" if native else "rule_optimizer",
        "use_ema": False,
        "ema_momentum": 0.99,
        "ema_overwrite_frequency": None,
        "loss_scale_factor": base.get("loss_scale_factor"),
        "gradient_accumulation_steps": base.get("gradient_accumulation_steps"),
    }
    schedule = {"learning_rate": rate} if isinstance(rate, dict) else {}
    if not native:
        return {
            "module": "rmsprop.keras.optimizer",
            "class_name": "RuleOptimizer",
            "config": kept | {"rule": rule.to_dict()} | schedule,
            "registered_name": "rmsprop>RuleOptimizer",
        }
    words = {w: getattr(rule, n) for n, w in keras_state.WORDS.items()}
    words["weight_decay"] = rule.weight_decay or None
    return {
        "module": "keras.optimizers",
        "class_name": "RMSprop",
        "config": kept | words | schedule,
        "registered_name": None,
    }


def _replace_state(
    tree: Tree, setting: Setting, checkpoint: Checkpoint, rule: Rule, entries: list[Entry]
) -> None:
    """The optimizer's variables in the file."""
    old = tree.arrays.get(f"{OPTIMIZER}/0")
    iteration = np.asarray(iteration_of(checkpoint, setting))
    small = old is None or old.dtype != np.int64
    found: list[Array] = [iteration.astype(np.int32 if small and iteration < 2**31 else np.int64)]
    if not setting.schedule:
        before = tree.arrays.get(f"{OPTIMIZER}/1")
        wide = before is not None and before.shape == () and before.dtype == np.float64
        found.append(np.asarray(rule.lr, np.float64 if wide else np.float32))
    found += flat(setting, entries)
    for path in [p for p in tree.arrays if p.startswith("optimizer/")]:
        del tree.arrays[path]
    tree.names = {p: n for p, n in tree.names.items() if not p.startswith("optimizer/")}
    tree.names[OPTIMIZER] = "rm_sprop"
    tree.arrays |= {f"{OPTIMIZER}/{k}": a for k, a in enumerate(found)}


def _is_native(rule: Rule) -> bool:
    """Whether keras.optimizers.RMSprop computes it."""
    switches = rule.eps_in_sqrt and not (rule.nesterov or rule.bias_correction or rule.maximize)
    moments = rule.second_moment == "ema" and rule.first_moment == "after"
    buffer = rule.lr_in_momentum or rule.momentum == 0
    return (
        switches and moments and buffer and (rule.decoupled_weight_decay or not rule.weight_decay)
    )


def _fits(stored: Array, entry: Entry) -> bool:
    """Whether Keras's own state, which has the parameter's dtype, holds the slots as they are."""
    try:
        for slot in entry.slots.values():
            hdf5.stored(slot, stored.dtype, "the optimizer's state")
    except ValueError:
        if stored.dtype.itemsize > 2:
            raise
        return False
    return True
