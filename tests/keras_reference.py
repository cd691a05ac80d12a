"""Checks of rmsprop.keras against the reference: every rule, compiled steps, numbers that vary."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import needs
from cases import FLOAT64, RULES, allowance, assert_within
from keras_checks import (
    BACKEND,
    SHAPES,
    SLOTS,
    Array,
    Float64,
    apply,
    arrays,
    assert_equal,
    check,
    read,
    state,
    tensors,
    variables,
)  # fmt: skip
from rmsprop import Rule, reference
from rmsprop.keras import from_rule

STEPS = 8


def as_keras_clips(rule: Rule) -> Rule:
    """Keras takes the numbers to clip by as float32."""
    kept = rule.to_dict().items()
    return rule.replace(**{k: float(np.float32(x)) for k, x in kept if k.startswith("clip") and x})


@check
def single_steps(folder: Path) -> None:
    """Every rule in float64, each step from the reference's state, to 4 units in the last place."""
    with Float64():
        for name, rule in RULES.items():
            rule = as_keras_clips(rule)
            weights = variables(arrays(0))
            optimizer = from_rule(rule)
            optimizer.build(weights)
            values, states = arrays(0), [reference.init(rule, p) for p in arrays(0)]
            # On PyTorch, Keras's clipping by norms passes through float32.
            norms = BACKEND == "torch" and (rule.clip_norm or rule.clip_global_norm)
            for t in range(5):
                for k, weight in enumerate(weights):
                    weight.assign(values[k])
                    for slot in rule.slots:
                        getattr(optimizer, SLOTS[slot])[k].assign(getattr(states[k], slot))
                grads = arrays(t + 1)
                apply(optimizer, weights, grads)
                clipped, before, start = reference.clip(rule, grads), states, values
                values, states = reference.step(rule, values, grads, states)
                for k, weight in enumerate(weights):
                    ulps = 2.0**30 if norms else FLOAT64.ulps
                    off = allowance(rule, start[k], clipped[k], before[k], FLOAT64.dtype, ulps)
                    assert_within(read(weight), values[k], off["p"], f"{name} p")
                    for slot in rule.slots:
                        found = state(optimizer, slot)[k]
                        expected = getattr(states[k], slot)
                        assert_within(found, expected, off[slot], f"{name} {slot}")


def free_run(rule: Rule, weights: list[Any], step: Callable[[list[Array]], None]) -> None:
    """Let an optimizer and the reference run side by side, each from its own state."""
    values = [read(w) for w in weights]
    states = [reference.init(rule, p) for p in values]
    for t in range(STEPS):
        grads = arrays(t + 1)
        step(grads)
        values, states = reference.step(rule, values, grads, states)
        assert_equal([read(w) for w in weights], values, rtol=1e-12, atol=1e-12)


@check
def free_runs(folder: Path) -> None:
    """Every rule in float64 but those whose first step divides rounding by rounding."""
    with Float64():
        for rule in map(as_keras_clips, RULES.values()):
            ill = rule.centered and rule.bias_correction
            norms = BACKEND == "torch" and (rule.clip_norm or rule.clip_global_norm)
            if ill or norms:
                continue
            weights, optimizer = variables(arrays(0)), from_rule(rule)
            free_run(rule, weights, lambda g, o=optimizer, w=weights: apply(o, w, g))


@check
def one_by_one(folder: Path) -> None:
    """Without the kernel, where there is one: the path of a GPU."""
    with Float64():
        for name in ("decoupled", "corrected", "nesterov-in", "adagrad-all", "adam-coupled"):
            weights, optimizer = variables(arrays(0)), from_rule(RULES[name])
            optimizer._fused = None
            free_run(RULES[name], weights, lambda g, o=optimizer, w=weights: apply(o, w, g))


def compiled(optimizer: Any, weights: list[Any]) -> Callable[[list[Array]], None]:
    """A step as the backend compiles it."""
    optimizer.build(weights)
    if BACKEND == "tensorflow":
        tf = needs.package("tensorflow")
        traced = tf.function(lambda grads: optimizer.apply(grads), jit_compile=True)
        return lambda grads: traced(tensors(grads))
    if BACKEND == "torch":
        torch = needs.package("torch")
        traced = torch.compile(lambda grads: optimizer.apply(grads), backend="eager")

        def step(grads: list[Array]) -> None:
            with torch.no_grad():
                traced(tensors(grads))

        return step
    pure = needs.package("jax").jit(optimizer.stateless_apply)

    def stateless(grads: list[Array]) -> None:
        kept = [v.value for v in optimizer.variables]
        moved, kept = pure(kept, tensors(grads), [w.value for w in weights])
        for variable, value in zip((*weights, *optimizer.variables), (*moved, *kept), strict=True):
            variable.assign(value)

    return stateless


@check
def compiled_runs(folder: Path) -> None:
    with Float64():
        for name in ("centered-all", "corrected-decoupled"):
            weights, optimizer = variables(arrays(0)), from_rule(RULES[name])
            free_run(RULES[name], weights, compiled(optimizer, weights))


@check
def changing_numbers(folder: Path) -> None:
    """The learning rate, weight decay, what has a gradient, and who decays: all may vary."""
    for decoupled in (False, True):
        rule = Rule(lr=0.5, momentum=0.9, weight_decay=0.25, decoupled_weight_decay=decoupled)
        with Float64():
            weights, optimizer = variables(arrays(0)), from_rule(rule)
            optimizer.exclude_from_weight_decay(var_names=["w1"])
            optimizer.build(weights)
        values, states = arrays(0), [reference.init(rule, p) for p in arrays(0)]
        for t in range(STEPS):
            optimizer.learning_rate = lr = 0.5 / 2**t
            optimizer.weight_decay = wd = (0.25, 0.125, None)[t % 3]
            present = [k for k in range(len(SHAPES)) if (k + t) % 4]
            grads = arrays(t + 1)
            optimizer.apply(tensors([grads[k] for k in present]), [weights[k] for k in present])
            for k in present:
                decay = 0.0 if k == 1 or wd is None else wd
                now = rule.replace(lr=lr, weight_decay=decay)
                values[k], states[k] = reference.update(now, values[k], grads[k], states[k])
            assert_equal([read(w) for w in weights], values, rtol=1e-12, atol=1e-12)
            assert optimizer.rule == rule.replace(lr=lr, weight_decay=wd or 0.0)
