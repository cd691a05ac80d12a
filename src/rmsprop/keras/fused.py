"""All variables at once on Keras's PyTorch backend, by the compiled kernel of `rmsprop.torch`.

Keras's own RMSprop makes eight passes over memory there; the kernel makes one
(`benchmarks/keras_train.py`).
"""

import functools
from operator import is_
from typing import Any

import torch

from rmsprop.rule import Rule
from rmsprop.state import SLOTS
from rmsprop.torch import groups
from rmsprop.torch.plan import Plan

PLANS = 8
"""How many plans are kept, for gradients that come and go."""

Tensors = list[Any]


class Fused:
    """What steps the variables of one optimizer.

    Parameters
    ----------
    rule
        The update. Clipping is Keras's, and has been done.
    """

    def __init__(self, rule: Rule):
        self.rule = rule.replace(clip_value=None, clip_norm=None, clip_global_norm=None)
        self.plans: dict[Any, _Part] = {}

    def __reduce__(self) -> Any:
        return Fused, (self.rule,)  # plans know addresses: a copy makes its own

    @torch.no_grad()
    def step(self, optimizer: Any, grads: Tensors, variables: list[Any], lr: Any) -> bool:
        """Step these variables, and say so; False, and nothing is done, where the kernel cannot serve."""
        if torch.compiler.is_compiling():
            return False
        places = [optimizer._get_variable_index(v) for v in variables]
        params = [v.value for v in variables]
        kept = {
            "v": optimizer._velocities,
            "m": optimizer._average_gradients,
            "b": optimizer._momentums,
        }
        slots = {s: [known[k].value for k in places] for s, known in kept.items() if known}
        if not _serves(params, grads, slots):
            return False
        rate = float(lr)
        steps = int(optimizer.iterations) if self.rule.bias_correction else 0
        for wd, at in _by_weight_decay(optimizer, variables).items():
            columns = [[column[k] for k in at] for column in (params, grads, *slots.values())]
            part = self._part(wd, tuple([places[k] for k in at]), columns, list(slots))
            part.counts.fill_(steps)
            part.plan.step(rate, columns[1], None, None, None)
        return True

    def _part(
        self, wd: float, places: tuple[int, ...], columns: list[Tensors], slots: list[str]
    ) -> "_Part":
        rule = _with_weight_decay(self.rule, wd)
        part = self.plans.pop(key := (wd > 0, places), None)
        if part is None or not part.holds(rule, columns):
            part = _Part(rule, columns, slots)
        while len(self.plans) >= PLANS:
            del self.plans[next(iter(self.plans))]
        self.plans[key] = part
        return part


@functools.lru_cache
def _with_weight_decay(rule: Rule, wd: float) -> Rule:
    """The rule for variables that decay so: some may be excluded, and somebody may have set another."""
    return rule.replace(weight_decay=wd)


class _Part:
    """Variables with one rule, and their plan.

    Parameters
    ----------
    columns
        Parameters, gradients, and the state by slot: a list for each.
    """

    def __init__(self, rule: Rule, columns: list[Tensors], slots: list[str]):
        params, grads, *state = columns
        self.state = state
        self.counts = torch.zeros(len(params), device="cpu")
        names = ["step", *(SLOTS[slot] for slot in slots)]
        rows = zip(self.counts, *state, strict=True)
        entries = [dict(zip(names, row, strict=True)) for row in rows]
        self.group = groups.of_rule(rule) | groups.OPTIONS
        self.plan = Plan(rule, self.group, params, grads, entries, [0] * len(params))

    def holds(self, rule: Rule, columns: list[Tensors]) -> bool:
        """Whether the plan still stands for this rule and these tensors."""
        params, grads, *state = columns
        same = [all(map(is_, new, old)) for new, old in zip(state, self.state, strict=True)]
        return all(same) and self.plan.holds(rule, self.group, params, grads)


def _serves(params: Tensors, grads: Tensors, slots: dict[str, Tensors]) -> bool:
    """Whether all lies on the CPU, in the variables' own memory: not what a stateless scope has lent."""
    ours = [t for column in (params, *slots.values()) for t in column]
    return all(
        [isinstance(t, torch.nn.Parameter) and t.is_contiguous() and t.is_cpu for t in ours]
    ) and all(
        [isinstance(g, torch.Tensor) and g.is_cpu and g.layout is torch.strided for g in grads]
    )


def _by_weight_decay(optimizer: Any, variables: list[Any]) -> dict[float, list[int]]:
    """The positions of the variables by the weight decay that each has."""
    if not (wd := optimizer.weight_decay):
        return {0.0: list(range(len(variables)))}
    found: dict[float, list[int]] = {}
    for k, variable in enumerate(variables):
        found.setdefault(wd if optimizer._use_weight_decay(variable) else 0.0, []).append(k)
    return found
