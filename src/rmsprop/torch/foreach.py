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
from rmsprop.torch.memory import EXPONENT, Entry, kept, load, local, real_dtype, store

each: Any = torch  # its functions on lists are public in all but the name
Tensors = list[Tensor]


class Rows:
    """Parameters of one group, stepped by PyTorch; the parameters of `table.Table`."""

    def __init__(
        self, rule: Rule, group: dict[str, Any], params: Tensors, grads: Tensors,
        entries: list[Entry], seeds: Sequence[int],
    ):  # fmt: skip
        self.rule, self.group, self.params, self.entries = rule, group, params, entries
        self.seeds = list(seeds)

    def holds(self, grads: Tensors) -> bool:
        """Whether all have a gradient; nothing is kept of where things lie."""
        return all([g is not None for g in grads])

    def step(self, lr: Any, grads: Tensors, gains: Any, scale: Any, found_inf: Any) -> None:
        """Update parameters and state with these gradients, times gains (one for each) over scale."""
        if found_inf is not None and float(found_inf):
            return
        with torch.set_grad_enabled(bool(self.group["differentiable"])):
            self._step(lr, grads, gains, scale)

    def _step(self, lr: Any, grads: Tensors, gains: Any, scale: Any) -> None:
        rule, entries = self.rule, self.entries
        sparse(grads)
        counts = [entry["step"] for entry in entries]
        each._foreach_add_(counts, 1)
        wide = [real_dtype(p) for p in self.params]
        stored = {"p": [_real(p) for p in self.params]}
        for slot in rule.slots:
            stored[slot] = [_real(kept(entry, slot)) for entry in entries]
        work = {
            name: [
                t if t.dtype == dtype else load(t, dtype, _exponents(entry, t))
                for t, dtype, entry in zip(column, wide, entries, strict=True)
            ]
            for name, column in stored.items()
        }
        g = [_real(g).to(dtype) for g, dtype in zip(grads, wide, strict=True)]
        factor = (-1.0 if rule.maximize else 1.0) / (1.0 if scale is None else float(scale))
        scaled = gains is not None or factor != 1.0
        if scaled:
            g = each._foreach_mul(g, [factor * gain for gain in gains or [1.0] * len(g)])
        Arithmetic(rule, lr, bool(self.group["differentiable"])).step(
            g, scaled, _corrections(rule, counts, self.group), **work
        )
        for k, entry in enumerate(entries):
            self._store(k, entry, {name: (stored[name][k], work[name][k]) for name in work})

    def _store(self, k: int, entry: Entry, columns: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Write back what was computed in another precision than it is kept in."""
        changed = {name: pair for name, pair in columns.items() if pair[0] is not pair[1]}
        if not changed:
            return
        noise = torch.Generator(columns["p"][0].device)
        seed = np.array([self.seeds[k] & (2**63 - 1)], np.uint64)
        noise.manual_seed(int(mixed(seed, np.array([float(entry["step"])]))[0]))
        for name, (t, x) in changed.items():
            exact = name == "p" and not self.group["stochastic_rounding"]
            store(t, x, _exponents(entry, t), None if exact else noise)


def sparse(grads: Tensors) -> None:
    """Raise for a gradient that is not stored as a whole."""
    for g in grads:
        if g.layout is not torch.strided:
            raise RuntimeError(
                f"RMSprop does not support sparse gradients (layout {g.layout}): use sparse=False in "
                "the embedding, or torch.optim.SparseAdam for these parameters"
            )


class Arithmetic:
    """The equations of `rmsprop.reference.update`.

    Parameters
    ----------
    rule, lr
        The update, and the learning rate: a number or a tensor of one element.
    graph
        Whether autograd looks on: temporaries are then not written over, nor used before a change in place.
    """

    def __init__(self, rule: Rule, lr: Any, graph: bool):
        self.rule, self.lr, self.graph = rule, lr, graph

    def step(
        self, g: Tensors, fresh: bool, fixes: tuple[Any, Any], p: Tensors,
        v: Any = None, m: Any = None, b: Any = None,
    ) -> None:  # fmt: skip
        """Change p, v, m and b in place; `fresh`: g may be written over, too."""
        rule, wd = self.rule, self.rule.weight_decay
        if rule.clip_value is not None:
            g = self._on(fresh, "clamp_max", g, rule.clip_value)
            g, fresh = self._on(True, "clamp_min", g, -rule.clip_value), True
        if wd and not rule.decoupled_weight_decay:
            g, fresh = self._on(fresh, "add", g, self._before_change(p), alpha=wd), True
        if wd and rule.decoupled_weight_decay:
            each._foreach_sub_(p, each._foreach_mul(self._before_change(p), self.lr * wd))
        if rule.second_moment == "ema":
            each._foreach_mul_(v, rule.decay)
        if rule.second_moment != "none":
            each._foreach_addcmul_(v, g, g, 1 - rule.decay if rule.second_moment == "ema" else 1.0)
        u = g
        if rule.first_moment == "before":
            each._foreach_mul_(b, rule.momentum)
            each._foreach_add_(b, g, alpha=1 - rule.momentum)
            u, fresh = self._before_change(b), self.graph
            if fixes[1] is not None:
                u, fresh = each._foreach_mul(b, fixes[1]), True
        d = self._denominator(g, fixes[0], v, m) if rule.second_moment != "none" else None
        self._move(u, fresh, d, p, b)

    def _denominator(self, g: Tensors, fix: Any, v: Tensors, m: Any) -> Tensors:
        rule = self.rule
        d, fresh = (v, False) if fix is None else (each._foreach_mul(v, fix), True)
        if rule.centered:
            each._foreach_mul_(m, rule.decay)
            each._foreach_add_(m, g, alpha=1 - rule.decay)
            mean = self._before_change(m) if fix is None else each._foreach_mul(m, fix)
            d = self._on(True, "clamp_min", self._on(fresh, "addcmul", d, mean, mean, -1.0), 0.0)
            fresh = True
        if rule.eps_in_sqrt:
            return self._on(True, "sqrt", self._on(fresh, "add", d, rule.eps))
        return self._on(True, "add", self._on(fresh, "sqrt", d), rule.eps)

    def _move(self, u: Tensors, fresh: bool, d: Tensors | None, p: Tensors, b: Any) -> None:
        """p by u/d, straight or through the buffer."""
        rule, lr = self.rule, self.lr
        number: Any = lr
        buffered = rule.momentum > 0 and rule.first_moment == "after"
        if isinstance(lr, Tensor) and (rule.lr_in_momentum or not buffered):
            u, number = (
                self._on(fresh, "mul", u, lr),
                1.0,
            )  # a number only may stand in what follows
        if not buffered:
            _add(p, u, d, -number)
            return
        gain = number if rule.lr_in_momentum else 1.0
        each._foreach_mul_(b, rule.momentum)
        _add(b, u, d, gain)
        move = b
        if rule.nesterov:
            move = each._foreach_mul(self._before_change(b), rule.momentum)
            _add(move, u, d, gain)
        if rule.lr_in_momentum:
            each._foreach_sub_(p, move)
        elif isinstance(lr, Tensor):
            each._foreach_sub_(p, each._foreach_mul(self._before_change(move), lr))
        else:
            each._foreach_add_(p, move, alpha=-lr)

    def _on(self, fresh: bool, name: str, x: Tensors, *args: Any, **kwargs: Any) -> Tensors:
        """An operation, in place on a temporary unless autograd may need what it was."""
        if not fresh or self.graph:
            return getattr(each, f"_foreach_{name}")(x, *args, **kwargs)
        getattr(each, f"_foreach_{name}_")(x, *args, **kwargs)
        return x

    def _before_change(self, x: Tensors) -> Tensors:
        """What is later changed in place, as autograd may keep it."""
        return [t.clone() for t in x] if self.graph else x


def _add(x: Tensors, u: Tensors, d: Tensors | None, factor: float) -> None:
    if d is None:
        each._foreach_add_(x, u, alpha=factor)
    else:
        each._foreach_addcdiv_(x, u, d, factor)


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


def _real(t: Any) -> Tensor:
    t = local(t)
    return torch.view_as_real(t) if t.is_complex() else t


def _exponents(entry: Entry, t: Tensor) -> Tensor | None:
    return local(entry[EXPONENT]) if t.dtype == torch.uint8 else None
