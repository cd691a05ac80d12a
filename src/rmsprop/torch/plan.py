"""Who steps which parameter: the compiled kernels where they can serve, PyTorch elsewhere."""

import math
from collections.abc import Callable
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmsprop.rule import Rule
from rmsprop.torch import cpu, foreach, gpu, memory
from rmsprop.torch.groups import OPTIONS

Entry = dict[str, Any]


class Plan:
    """The parameters of a group that have a gradient, shared out among the backends.

    Parameters
    ----------
    rule, group
        The update, and how to compute it.
    params, grads, entries
        Parameters, their gradients and their state, complete for the rule.
    seeds
        A number for each parameter, from which stochastic rounding draws.
    """

    def __init__(
        self,
        rule: Rule,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        entries: list[Entry],
        seeds: list[int],
    ):
        self.rule, self.params, self.entries = rule, params, entries
        self.options = _options(group)
        members: dict[Any, list[int]] = {}
        for k, (p, g) in enumerate(zip(params, grads, strict=True)):
            members.setdefault((choose(p, g, group), p.device), []).append(k)
        self.parts: list[tuple[list[int], Any]] = []
        for (backend, _), at in members.items():
            make = {"numba": cpu.CpuTable, "triton": gpu.GpuTable, "foreach": foreach.Rows}[backend]
            part = make(
                rule,
                group,
                [params[k] for k in at],
                [entries[k] for k in at],
                [seeds[k] for k in at],
            )
            self.parts.append((at, part))

    def holds(
        self, rule: Rule, group: dict[str, Any], params: list[Tensor], find: Callable[[Any], Any]
    ) -> bool:
        """Whether nothing has changed since: the rule, the options, the parameters, where they lie."""
        return (
            rule is self.rule
            and len(params) == len(self.params)
            and all(map(is_, params, self.params))
            and all(map(is_, map(find, params), self.entries))
            and _options(group) == self.options
            and all([part.holds() for _, part in self.parts])
        )

    def step(self, lr: Any, grads: list[Tensor], scale: Any, found_inf: Any) -> None:
        """One step with these gradients, times 1/scale, unless an infinity was found; both may be None."""
        for g in grads:
            if g.layout is not torch.strided:
                raise RuntimeError(
                    f"RMSprop does not support sparse gradients (layout {g.layout}): use "
                    "sparse=False in the embedding, or torch.optim.SparseAdam for these parameters"
                )
        gains = self._norm_gains(grads, scale)
        for at, part in self.parts:
            whole = len(at) == len(grads)
            part.step(
                lr,
                grads if whole else [grads[k] for k in at],
                gains if gains is None or whole else [gains[k] for k in at],
                scale,
                found_inf,
            )

    def _norm_gains(self, grads: list[Tensor], scale: Any) -> list[float] | None:
        rule = self.rule
        if not (rule.clip_norm or rule.clip_global_norm):
            return None
        norms = [memory.whole(x) for x in foreach.each._foreach_norm(grads, 2, dtype=torch.float64)]
        found = np.array([float(x) for x in norms]) / (1.0 if scale is None else float(scale))
        with np.errstate(divide="ignore", invalid="ignore"):
            if rule.clip_norm:
                return np.fmin(1.0, rule.clip_norm / found).tolist()
            total = np.hypot.reduce(found)
            factor = np.fmin(1.0, (rule.clip_global_norm or math.inf) / total)
        return [float(factor)] * len(grads)


def _options(group: dict[str, Any]) -> tuple[Any, ...]:
    return tuple([group[key] for key in OPTIONS])


def choose(p: Tensor, g: Tensor, group: dict[str, Any]) -> str:
    """The backend for a parameter; RuntimeError where the one asked for by name cannot serve."""
    wanted = group["backend"]
    if wanted == "auto" and (group["foreach"] or group["differentiable"]):
        return "foreach"
    if wanted == "foreach":
        return wanted
    if group["differentiable"]:
        raise RuntimeError(
            f"backend={wanted!r} cannot be differentiated: use backend='foreach', or 'auto'"
        )
    reasons = {"numba": cpu.refusal, "triton": gpu.refusal}
    for backend in [wanted] if wanted != "auto" else reasons:
        reason = reasons[backend](p, g)
        if reason is None and group["capturable"] and backend == "numba":
            reason = "capturable=True is for CUDA graphs"
        if reason is None:
            return backend
        if backend == wanted:
            raise RuntimeError(
                f"backend={wanted!r} cannot step a parameter of shape {tuple(p.shape)}: {reason}; use "
                "backend='auto', which takes PyTorch's own operations there"
            )
    return "foreach"
