"""The rule by PyTorch's own operations on lists of tensors: on any device, for any dtype, with autograd.

The lines of `rmsprop.reference`, in place. It serves what the kernels do not: other devices, complex numbers,
`differentiable=True`, tensor subclasses; and it is what the kernels are compared with.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmsprop.kernels.formats import mixed
from rmsprop.rule import Rule
from rmsprop.state import SLOTS
from rmsprop.torch.memory import EXPONENT, load, local, real_dtype, store

Tensors = list[Tensor]
Entry = dict[str, Any]


class Rows:
    """Parameters of one group, stepped by PyTorch; the parameters of `cpu.Table`."""

    def __init__(
        self, rule: Rule, group: dict[str, Any], params: Tensors, entries: list[Entry],
        seeds: Sequence[int],
    ):  # fmt: skip
        self.rule, self.group, self.params, self.entries, self.seeds = (
            rule, group, params, entries, list(seeds)
        )  # fmt: skip

    def holds(self) -> bool:
        """Always: nothing is kept of where things lie."""
        return True

    def step(self, lr: Any, grads: Tensors, gains: Any, scale: Any, found_inf: Any) -> None:
        """Update parameters and state with these gradients, times gains (one for each) over scale."""
        if found_inf is not None and float(found_inf):
            return
        with torch.set_grad_enabled(bool(self.group["differentiable"])):
            self._step(lr, grads, gains, scale)

    def _step(self, lr: Any, grads: Tensors, gains: Any, scale: Any) -> None:
        rule, entries = self.rule, self.entries
        counts = [entry["step"] for entry in entries]
        torch._foreach_add_(counts, 1)
        wide = [real_dtype(p) for p in self.params]
        stored = {"p": [_real(local(p)) for p in self.params]}
        for slot in rule.slots:
            stored[slot] = [_real(local(entry[SLOTS[slot]])) for entry in entries]
        work = {
            name: [
                t if t.dtype == dtype else load(t, dtype, _exponents(entry, t))
                for t, dtype, entry in zip(column, wide, entries, strict=True)
            ]
            for name, column in stored.items()
        }
        g = [_real(local(g)).to(dtype) for g, dtype in zip(grads, wide, strict=True)]
        factor = (-1.0 if rule.maximize else 1.0) / (1.0 if scale is None else float(scale))
        if gains is not None or factor != 1.0:
            gains = [factor * gain for gain in gains or [1.0] * len(g)]
            g = torch._foreach_mul(g, gains)
        fixes = _corrections(rule, counts, self.group)
        arithmetic(rule, lr, work["p"], g, *(work.get(slot, []) for slot in "vmb"), fixes)
        for k, entry in enumerate(entries):
            changed = {name: column[k] for name, column in stored.items()}
            self._store(k, entry, changed, {name: column[k] for name, column in work.items()})

    def _store(self, k: int, entry: Entry, stored: Any, found: Any) -> None:
        """Write back what was computed in another precision than it is kept in."""
        changed = [name for name in stored if stored[name] is not found[name]]
        if not changed:
            return
        noise = torch.Generator(found["p"].device)
        seed = mixed(np.array([self.seeds[k] & (2**63 - 1)], np.uint64), np.array([float(entry["step"])]))
        noise.manual_seed(int(seed[0]))
        for name in changed:
            exact = name == "p" and not self.group["stochastic_rounding"]
            t = stored[name]
            store(t, found[name], _exponents(entry, t), None if exact else noise)


def arithmetic(
    rule: Rule, lr: Any, p: Tensors, g: Tensors, v: Tensors, m: Tensors, b: Tensors,
    fixes: tuple[Any, Any],
) -> None:  # fmt: skip
    """The equations of `rmsprop.reference.update`; p, v, m and b change in place."""
    rho, mu, wd = rule.decay, rule.momentum, rule.weight_decay
    fix_v, fix_b = fixes
    if rule.clip_value is not None:
        g = torch._foreach_clamp_min(torch._foreach_clamp_max(g, rule.clip_value), -rule.clip_value)
    if wd and not rule.decoupled_weight_decay:
        g = torch._foreach_add(g, p, alpha=wd)
    if wd and rule.decoupled_weight_decay:
        torch._foreach_sub_(p, torch._foreach_mul(p, lr * wd))
    if rule.second_moment == "ema":
        torch._foreach_mul_(v, rho)
        torch._foreach_addcmul_(v, g, g, 1 - rho)
    elif rule.second_moment == "sum":
        torch._foreach_addcmul_(v, g, g, 1.0)
    u = g
    if rule.first_moment == "before":
        torch._foreach_mul_(b, mu)
        torch._foreach_add_(b, g, alpha=1 - mu)
        u = b if fix_b is None else torch._foreach_mul(b, fix_b)
    if rule.second_moment != "none":
        d = v if fix_v is None else torch._foreach_mul(v, fix_v)
        if rule.centered:
            torch._foreach_mul_(m, rho)
            torch._foreach_add_(m, g, alpha=1 - rho)
            mean = m if fix_v is None else torch._foreach_mul(m, fix_v)
            d = torch._foreach_addcmul(d, mean, mean, -1.0)
            torch._foreach_clamp_min_(d, 0.0)
        if rule.eps_in_sqrt:
            d = torch._foreach_sqrt(torch._foreach_add(d, rule.eps))
        else:
            d = torch._foreach_add(torch._foreach_sqrt(d), rule.eps)
        u = torch._foreach_div(u, d)
    if rule.momentum == 0 or rule.first_moment == "before":
        torch._foreach_sub_(p, torch._foreach_mul(u, lr))
        return
    if rule.lr_in_momentum:
        u = torch._foreach_mul(u, lr)
    torch._foreach_mul_(b, mu)
    torch._foreach_add_(b, u)
    move = torch._foreach_add(u, b, alpha=mu) if rule.nesterov else b
    torch._foreach_sub_(p, move if rule.lr_in_momentum else torch._foreach_mul(move, lr))


def _corrections(rule: Rule, counts: Tensors, group: dict[str, Any]) -> tuple[Any, Any]:
    """What v and m, and b, are multiplied by at these steps; None where the rule does not correct."""
    if not rule.bias_correction:
        return None, None
    tensors = group["capturable"] or group["differentiable"]
    ts = counts if tensors else [float(count) for count in counts]

    def fixes(decay: float) -> list[Any]:
        return [1 / (1 - decay**t) for t in ts]

    fix_v = fixes(rule.decay) if rule.second_moment == "ema" else None
    return fix_v, fixes(rule.momentum) if rule.first_moment == "before" else None


def _real(t: Tensor) -> Tensor:
    return torch.view_as_real(t) if t.is_complex() else t


def _exponents(entry: Entry, t: Tensor) -> Tensor | None:
    return local(entry[EXPONENT]) if t.dtype == torch.uint8 else None
