"""Where the parameters and the state of one step lie, and whether they still lie there."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmsprop.kernels.element import flags_of
from rmsprop.rule import Rule
from rmsprop.torch.memory import (
    EXPONENT,
    Entry,
    aligned,
    dense,
    is_distributed,
    kept,
    local,
    names,
    rows,
)

KINDS = {
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float32: "f32",
    torch.float64: "f64",
}
_STORED = KINDS | {torch.bfloat16: "bf16s", torch.uint8: "u8"}
_PLAIN = getattr(Tensor, "__torch_dispatch__")  # noqa: B009 (the type checker knows it as a method)
Array = np.ndarray[Any, Any]


def refusal(p: Tensor, g: Tensor) -> str | None:
    """Why no kernel that walks memory can step this parameter, or None."""
    for t in (p, g):
        kind: Any = type(t)
        if kind.__torch_dispatch__ is not _PLAIN and not is_distributed(t):
            return f"{kind.__name__} is a tensor subclass"
    if p.dtype not in KINDS or g.dtype not in KINDS:
        return f"it steps float16, bfloat16, float32 and float64, not {p.dtype} with {g.dtype}"
    if local(p).is_neg():
        return "the parameter is a view that says minus"
    return None


class Table(abc.ABC):
    """The parameters of one step and their state; the gradients may lie anywhere.

    What it costs in Python at each step is to ask every tensor where it lies: a microsecond for each.

    Parameters
    ----------
    rule, group
        The update, and whether bfloat16 parameters are rounded stochastically.
    params, grads, entries
        Parameters that `refusal` lets pass, gradients of the dtypes to come, and the state, complete for the
        rule.
    seeds
        A number for each parameter, from which stochastic rounding draws.
    """

    def __init__(
        self, rule: Rule, group: dict[str, Any], params: list[Tensor], grads: list[Tensor],
        entries: list[Entry], seeds: Sequence[int],
    ):  # fmt: skip
        self.rule, self.group = rule, group
        self.flags = flags_of(rule)
        self.params = params
        self.entries = entries
        self.seeds = np.array([seed & (2**63 - 1) for seed in seeds], dtype=np.uint64)
        self.distributed = any([is_distributed(p) for p in params])
        here = self._here()
        # A parameter whose memory has gaps is stepped in a copy.
        self.dense = [p if dense(p) else torch.empty_like(p) for p in here]
        self.copied = [(p, q) for p, q in zip(here, self.dense, strict=True) if p is not q]
        for p, entry in zip(self.dense, entries, strict=True):
            _align(p, entry)
        self.state = [
            (entry, name)
            for entry in entries
            for name in ("step", *[n for slot in rule.slots for n in names(entry, slot)])
        ]
        self.lie = self._lie()
        self.sizes = [p.numel() for p in here]
        self.contiguous = [p.is_contiguous() for p in here]
        self.straight = all(self.contiguous)
        self.shapes = [rows(p) for p in self.dense]
        if [local(g).numel() for g in grads] != self.sizes:
            raise RuntimeError(
                "a gradient has another size than its parameter: call zero_grad() after a parameter was "
                "given new data"
            )
        dtypes = [g.dtype for g in grads]
        self.bytes = [n * t.itemsize for n, t in zip(self.sizes, dtypes, strict=True)]
        groups: dict[Any, list[int]] = {}
        for k, (p, dtype, entry) in enumerate(zip(here, dtypes, entries, strict=True)):
            p_kind, v, mb = _kinds(p, entry, rule, group["stochastic_rounding"])
            groups.setdefault((p_kind, KINDS[dtype], v, mb), []).append(k)
        self.parts = [self._part(kinds, np.array(members)) for kinds, members in groups.items()]

    def holds(self, grads: list[Tensor]) -> bool:
        """Whether parameters and state lie where they lay, and gradients have the sizes that they had."""
        if self.distributed:
            grads = [local(g) for g in grads]
        try:
            return self._lie() == self.lie and [g.nbytes for g in grads] == self.bytes
        except (AttributeError, KeyError, RuntimeError):  # what is not there, no tensor, or sparse
            return False

    def _here(self) -> list[Tensor]:
        return [local(p) for p in self.params] if self.distributed else self.params

    def _lie(self) -> tuple[list[int], list[int], list[bool]]:
        """Where parameters and state lie. Nothing here keeps the state alive: it may be put elsewhere."""
        here, kept = self._here(), [entry[name] for entry, name in self.state]
        if self.distributed:
            kept = [local(t) for t in kept]
        return (
            [p.data_ptr() for p in here],
            [t.data_ptr() for t in kept],
            [p.is_contiguous() for p in here],
        )

    def bind(self, grads: list[Tensor]) -> tuple[list[Tensor], Array]:
        """The gradients in their parameters' layouts, and their addresses."""
        if self.distributed:
            grads = [local(g) for g in grads]
        if any(
            [g.is_neg() for g in grads]
        ):  # views that say minus, as autograd makes of complex ones
            grads = [g.resolve_neg() for g in grads]
        if [g.is_contiguous() for g in grads] != self.contiguous or not self.straight:
            grads = [_laid(g, p) for g, p in zip(grads, self.dense, strict=True)]
        where = [g.data_ptr() for g in grads]
        if 0 in where:  # no memory of its own: empty, or zeros that are not stored
            grads = [
                g if at or not g.numel() else torch.empty_like(p, dtype=g.dtype).copy_(g)
                for g, p, at in zip(grads, self.dense, where, strict=True)
            ]
            where = [g.data_ptr() for g in grads]
        return grads, np.array(where, dtype=np.int64)

    @abc.abstractmethod
    def _part(self, kinds: Any, members: Array) -> Any:
        """What steps the parameters of one combination of formats."""

    def row(self, k: int) -> list[int]:
        """Addresses of p, nothing yet for g, v, m, b and the exponents; 0 for what the rule has not."""
        entry = self.entries[k]
        found = [kept(entry, slot) if slot in self.rule.slots else None for slot in "vmb"]
        exponents = entry.get(EXPONENT)
        return [self.dense[k].data_ptr(), 0] + [
            0 if t is None else local(t).data_ptr() for t in (*found, exponents)
        ]

    def copy_in(self) -> None:
        """Read the parameters that are stepped in a copy."""
        for p, q in self.copied:
            q.copy_(p)

    def changed(self) -> None:
        """Write the copies back, and tell autograd that the parameters are not what they were."""
        for p, q in self.copied:
            p.copy_(q)
        torch.autograd.graph.increment_version(self.params)


def _align(p: Tensor, entry: Entry) -> None:
    """Bring a state that came from elsewhere to the parameter's device and layout."""
    count = entry["step"]
    if count.dtype != torch.float32 or count.device != p.device:
        entry["step"] = count.to(p.device, torch.float32)
    aligned(entry, p)


def _kinds(p: Tensor, entry: Entry, rule: Rule, stochastic: bool) -> tuple[str, str, str]:
    """The formats of p, of v, and of m and b."""
    kind = _STORED[p.dtype] if stochastic else KINDS[p.dtype]
    found = {slot: kept(entry, slot) for slot in rule.slots}
    kinds = {slot: _STORED[t.dtype] for slot, t in found.items() if t is not None}
    others = {kinds[slot] for slot in "mb" if slot in kinds}
    if len(others) > 1:
        raise RuntimeError(
            f"the optimizer's grad_avg and momentum_buffer have different dtypes ({sorted(others)}): "
            "give both one, or load the state again"
        )
    other = others.pop() if others else ""
    first = kinds.get("v") or other or "f32"
    return kind, first, other or ("bf16s" if first == "u8" else first)


def _laid(g: Tensor, p: Tensor) -> Tensor:
    """The gradient in the order of its parameter's memory."""
    if g.stride() == p.stride() or (g.is_contiguous() and p.is_contiguous()):
        return g
    return torch.empty_like(p, dtype=g.dtype).copy_(g)
