"""Where the parameters and the state of one step lie, and whether they still lie there."""

from collections.abc import Sequence
from itertools import chain
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmsprop.kernels.element import flags_of
from rmsprop.rule import Rule
from rmsprop.torch.memory import EXPONENT, aligned, dense, is_distributed, kept, local, rows

KINDS = {
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float32: "f32",
    torch.float64: "f64",
}
_STORED = KINDS | {torch.bfloat16: "bf16s", torch.uint8: "u8"}
_PLAIN = getattr(Tensor, "__torch_dispatch__")  # noqa: B009 (the type checker knows it as a method)
Array = np.ndarray[Any, Any]
Entry = dict[str, Any]


def refusal(p: Tensor, g: Tensor) -> str | None:
    """Why no kernel that walks memory can step this parameter, or None."""
    kind: Any = type(p)
    if kind.__torch_dispatch__ is not _PLAIN and not is_distributed(p):
        return f"{type(p).__name__} is a tensor subclass"
    if p.dtype not in KINDS or g.dtype not in KINDS:
        return f"it steps float16, bfloat16, float32 and float64, not {p.dtype} with {g.dtype}"
    return None


class Table:
    """The parameters of one step and their state; the gradients may lie anywhere.

    What it costs in Python at each step is to ask every tensor where it lies: half a microsecond for each.

    Parameters
    ----------
    rule, group
        The update, and whether bfloat16 parameters are rounded stochastically.
    params, entries
        Parameters that `refusal` lets pass, and their state, complete for the rule.
    seeds
        A number for each parameter, from which stochastic rounding draws.
    """

    def __init__(
        self, rule: Rule, group: dict[str, Any], params: list[Tensor], entries: list[Entry],
        seeds: Sequence[int],
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
            self._align(p, entry)
        self.values = list(chain.from_iterable([entry.values() for entry in entries]))
        self.memory = [local(t) for t in self.values]
        self.addresses = [t.data_ptr() for t in chain(here, self.memory)]
        self.sizes = [p.numel() for p in here]
        self.contiguous = [p.is_contiguous() for p in here]
        self.straight = all(self.contiguous)
        self.shapes = [rows(p) for p in self.dense]
        stochastic = group["stochastic_rounding"]
        self._kinds = [_kinds(p, entry, stochastic) for p, entry in zip(here, entries, strict=True)]
        self.dtypes: list[torch.dtype] = []
        self.parts: list[Any] = []

    def holds(self) -> bool:
        """Whether the parameters and their state lie where they lay."""
        kept = chain.from_iterable([entry.values() for entry in self.entries])
        here = self._here()
        return (
            [t.data_ptr() for t in chain(here, self.memory)] == self.addresses
            and [p.numel() for p in here] == self.sizes
            and all(map(is_, kept, self.values))
        )

    def _here(self) -> list[Tensor]:
        return [local(p) for p in self.params] if self.distributed else self.params

    def bind(self, grads: list[Tensor]) -> tuple[list[Tensor], Array]:
        """The gradients in their parameters' layouts, and their addresses; parts for their dtypes."""
        if self.distributed:
            grads = [local(g) for g in grads]
        if [g.is_contiguous() for g in grads] != self.contiguous or not self.straight:
            grads = [_laid(g, p) for g, p in zip(grads, self.dense, strict=True)]
        dtypes = [g.dtype for g in grads]
        if dtypes != self.dtypes:
            self._group(dtypes)
        return grads, np.array([g.data_ptr() for g in grads], dtype=np.int64)

    def _group(self, dtypes: list[torch.dtype]) -> None:
        """A part for each combination of formats."""
        groups: dict[Any, list[int]] = {}
        for k, (dtype, (p, v, mb)) in enumerate(zip(dtypes, self._kinds, strict=True)):
            groups.setdefault((p, KINDS[dtype], v, mb), []).append(k)
        self.parts = [self._part(kinds, np.array(members)) for kinds, members in groups.items()]
        self.dtypes = dtypes

    def _part(self, kinds: Any, members: Array) -> Any:
        """What steps the parameters of one combination of formats."""
        raise NotImplementedError

    def _align(self, p: Tensor, entry: Entry) -> None:
        """Bring a state that came from elsewhere into the parameter's layout."""
        aligned(entry, p)

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

    def copy_out(self) -> None:
        """Write them back."""
        for p, q in self.copied:
            p.copy_(q)


def _kinds(p: Tensor, entry: Entry, stochastic: bool) -> tuple[str, str, str]:
    """The formats of p, of v, and of m and b."""
    kind = _STORED[p.dtype] if stochastic else KINDS[p.dtype]
    found = [kept(entry, slot) for slot in "vmb"]
    v, m, b = ("" if t is None else _STORED[t.dtype] for t in found)
    first = v or m or b or "f32"
    return kind, first, m or b or ("bf16s" if first == "u8" else first)


def _laid(g: Tensor, p: Tensor) -> Tensor:
    """The gradient in the order of its parameter's memory."""
    if g.stride() == p.stride() or (g.is_contiguous() and p.is_contiguous()):
        return g
    return torch.empty_like(p, dtype=g.dtype).copy_(g)
