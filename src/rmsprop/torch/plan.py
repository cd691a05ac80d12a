"""Who steps which parameter: the compiled kernels where they can serve, PyTorch elsewhere."""

import math
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmsprop.kernels.element import flags_of
from rmsprop.rule import Rule
from rmsprop.torch import cpu, foreach, gpu, memory
from rmsprop.torch.groups import OPTIONS
from rmsprop.torch.memory import Entry

MAKERS: dict[str, Any] = {"numba": cpu.CpuTable, "triton": gpu.GpuTable, "foreach": foreach.Rows}


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
        foreach.sparse(grads)
        self.rule, self.params, self.entries = rule, params, entries
        self.options = _options(group)
        shared = overlapping(params)
        members: dict[Any, list[int]] = {}
        for k, (p, g) in enumerate(zip(params, grads, strict=True)):
            # Those that share memory go one after the other.
            key = choose(p, g, group, k in shared), p.device, k if k in shared else -1
            members.setdefault(key, []).append(k)
        self.parts: list[tuple[list[int], Any]] = []
        for (backend, *_), at in members.items():
            columns = ([column[k] for k in at] for column in (params, grads, entries, seeds))
            self.parts.append((at, MAKERS[backend](rule, group, *columns)))

    def holds(
        self, rule: Rule, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]
    ) -> bool:
        """Whether nothing has changed since but numbers: switches, options, what lies where."""
        if rule is not self.rule:
            if rule.slots != self.rule.slots or flags_of(rule) != flags_of(self.rule):
                return False
            self.rule = rule
            for _, part in self.parts:
                part.rule = rule
        return (
            len(params) == len(self.params)
            and all(map(is_, params, self.params))
            and _options(group) == self.options
            and all([part.holds(_at(at, grads)) for at, part in self.parts])
        )

    def step(
        self, lr: Any, grads: list[Tensor], scale: Any, found_inf: Any, joint: float | None
    ) -> None:
        """One step with these gradients.

        Parameters
        ----------
        scale, found_inf
            What the gradients are divided by, and whether there is to be no step; or None.
        joint
            The joint norm of all gradients (over the scale), where the rule clips by it.
        """
        gains = self._norm_gains(grads, scale, joint)
        for at, part in self.parts:
            mine = None if gains is None else _at(at, gains)
            try:
                part.step(lr, _at(at, grads), mine, scale, found_inf)
            except RuntimeError:
                foreach.sparse(grads)  # which have no memory to ask for
                raise

    def _norm_gains(self, grads: list[Tensor], scale: Any, joint: float | None) -> Any:
        """A factor for each gradient from clipping by norm."""
        rule = self.rule
        if not (rule.clip_norm or rule.clip_global_norm):
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            if rule.clip_norm:
                return np.fmin(1.0, rule.clip_norm / norms(grads, scale)).tolist()
            limit = np.float64(rule.clip_global_norm or math.inf)
            return [float(np.fmin(1.0, limit / np.float64(joint)))] * len(grads)


def _at(at: list[int], column: list[Any]) -> list[Any]:
    return column if len(at) == len(column) else [column[k] for k in at]


def norms(grads: list[Tensor], scale: Any) -> np.ndarray[Any, Any]:
    """The Euclidean norm of each gradient over the scale; of DTensors, of the whole."""
    found = foreach.each._foreach_norm(grads, 2, dtype=torch.float64)
    divisor = 1.0 if scale is None else float(scale)
    return np.array([float(memory.whole(x)) for x in found]) / divisor


def _options(group: dict[str, Any]) -> tuple[Any, ...]:
    return tuple([group[key] for key in OPTIONS])


def overlapping(params: list[Tensor]) -> set[int]:
    """The positions of parameters that share memory with another."""
    spans = []
    for k, p in enumerate(params):
        here = memory.local(p)
        if here.device.type != "meta" and here.layout is torch.strided and here.numel():
            extent = 1 + sum([(n - 1) * s for n, s in zip(here.shape, here.stride(), strict=True)])
            low = here.data_ptr()
            spans.append((str(here.device), low, low + extent * here.element_size(), k))
    found: set[int] = set()
    spans.sort()
    reach, owner, where = -math.inf, -1, ""
    for device, low, high, k in spans:
        if device == where and low < reach:
            found |= {owner, k}
        if device != where or high > reach:
            reach, owner, where = high, k, device
    return found


def choose(p: Tensor, g: Tensor, group: dict[str, Any], shared: bool = False) -> str:
    """The backend for a parameter; RuntimeError where the one asked for by name cannot serve."""
    wanted = group["backend"]
    if wanted == "auto" and (group["foreach"] or group["differentiable"]):
        return "foreach"
    if wanted == "foreach":
        return wanted
    refusals = {"numba": cpu.refusal, "triton": gpu.refusal}
    for backend in [wanted] if wanted != "auto" else refusals:
        reason = refusals[backend](p, g)
        if shared:
            reason = "it shares memory with another parameter, which kernels would step at once"
        if group["differentiable"]:
            reason = "no kernel can be differentiated"
        if reason is None and group["capturable"] and backend == "numba":
            reason = "capturable=True is for CUDA graphs"
        if reason is None:
            return backend
        if backend == wanted:
            raise RuntimeError(
                f"backend={wanted!r} cannot step a parameter of shape {tuple(p.shape)}: {reason}; use "
                "backend='auto' or backend='foreach', which take PyTorch's own operations there"
            )
    return "foreach"
