"""A step of many GPU tensors by one launch of the Triton kernel for each combination of formats."""

import contextlib
import functools
import math
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmsprop.kernels.element import SCALE, scalars_of
from rmsprop.torch import foreach, table
from rmsprop.torch.memory import local
from rmsprop.torch.table import Array, Table

DEVICES = ("cuda", "xpu")


@functools.cache
def kernel() -> Any:
    """`rmsprop.kernels.gpu`, which imports Triton; None where there is none."""
    try:
        from rmsprop.kernels import gpu
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "triton":
            raise
        return None
    return gpu


def refusal(p: Tensor, g: Tensor) -> str | None:
    """Why the kernel cannot step this parameter, or None."""
    where = local(p).device.type
    interpreted = where == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if where not in DEVICES and not interpreted:
        return f"it steps {' and '.join(DEVICES)} tensors, not {where}"
    if kernel() is None:
        return "Triton is not installed: pip install triton"
    if interpreted and not kernel().INTERPRETED:
        return "TRITON_INTERPRET was set after Triton was imported"
    return table.refusal(p, g)


class GpuTable(Table):
    """A `Table` of the tensors of one GPU."""

    def __init__(self, *args: Any):
        self._scalars: Tensor | None = None
        self._numbers: list[float] = []
        super().__init__(*args)

    @property
    def device(self) -> torch.device:
        """Of all its tensors."""
        return local(self.params[0]).device

    def step(self, lr: Any, grads: list[Tensor], gains: Any, scale: Any, found_inf: Any) -> None:
        """Update parameters and state with these gradients, times gains (one for each) over scale.

        Nothing waits for the device: `lr` and `scale` may be tensors on it, and where `found_inf` is not zero
        the kernel changes nothing.
        """
        numbers = self._scalars_of(0.0 if isinstance(lr, Tensor) else float(lr))
        rate = lr.to(self.device) if isinstance(lr, Tensor) else None
        grads, where = self.bind(grads)
        self.copy_in()
        counts = [entry["step"] for entry in self.entries]
        one: Any = 1.0
        if found_inf is not None:  # a sum over devices
            one = (found_inf.to(self.device).reshape(()) == 0).to(torch.float32)
        foreach.each._foreach_add_(counts, one)
        for part in self.parts:
            part.launch(numbers, where, gains, rate, scale, found_inf)
        self.changed()

    def _scalars_of(self, lr: float) -> Tensor:
        """The rule's numbers on the device, sent there when they change."""
        rule = self.rule
        logs = [math.log(x) if x else -math.inf for x in (rule.decay, rule.momentum)]
        numbers = [*scalars_of(rule, lr, 1).tolist(), *logs]
        if self._scalars is None or numbers != self._numbers:
            self._scalars = _sent(np.array(numbers), self.device)
            self._numbers = numbers
        return self._scalars

    def _part(self, kinds: Any, members: Array) -> "_Part":
        return _Part(self, kinds, members)


class _Part:
    """The parameters of one combination of formats: a launch."""

    def __init__(self, whole: GpuTable, kinds: tuple[str, str, str, str], members: Array):
        self.whole, self.members, self.kinds, self.flags = whole, members, kinds, whole.flags
        gpu, self.device = kernel(), whole.device
        rows = [[*whole.row(k), whole.entries[k]["step"].data_ptr()] for k in members]
        self.table = np.array(rows, dtype=np.int64).reshape(-1, gpu.COLUMNS)
        shapes = np.array([whole.shapes[k] for k in members], dtype=np.int64).reshape(-1, 2)
        sizes = shapes.prod(axis=1)
        tiles = -(-sizes // gpu.TILE)
        if "u8" in kinds:
            blocks = shapes[:, 0] * -(-shapes[:, 1] // gpu.formats.BLOCK)
            tiles = np.where(sizes > 0, -(-blocks // (gpu.TILE // gpu.formats.BLOCK)), 0)
        self.programs = int(tiles.sum())
        owner = np.repeat(np.arange(len(tiles), dtype=np.int32), tiles)
        starts = np.cumsum(tiles) - tiles
        part = np.arange(self.programs) - starts[owner]
        seeds = whole.seeds[members].astype(np.int64)
        self.fixed = [
            _sent(np.ascontiguousarray(x), self.device)
            for x in (owner, part.astype(np.int32), sizes, shapes[:, 1], seeds)
        ]
        self.sent: Tensor | None = None

    def launch(
        self, numbers: Tensor, where: Array, gains: Any, rate: Any, scale: Any, found: Any
    ) -> None:
        """Step these parameters; `where` are the addresses of the whole table's gradients."""
        if not self.programs:
            return
        gpu = kernel()
        where = where[self.members]
        if self.sent is None or (where != self.table[:, 1]).any():
            self.table[:, 1] = where
            self.sent = _sent(self.table.copy(), self.device)
        owner, part, sizes, widths, seeds = self.fixed
        none = numbers  # a pointer that is not read
        factors = none
        if gains is not None:
            factors = _sent(np.array(gains)[self.members], self.device)
        p, g, v, mb = (_types()[kind] for kind in self.kinds)
        scaled = gains is not None or scale is not None or self.whole.rule.maximize
        flags = self.flags | (SCALE if scaled else 0)
        with _on(self.device):
            gpu.step[(self.programs,)](
                self.sent, owner, part, sizes, widths, factors, seeds, numbers,
                none if rate is None else rate, none if scale is None else scale.to(self.device),
                none if found is None else found.to(self.device),
                FLAGS=flags, REAL=gpu.tl.float64 if self.kinds[0] == "f64" else gpu.tl.float32,
                P=p, G=g, V=v, MB=mb, NOISY_P=self.kinds[0] == "bf16s", CODED="u8" in self.kinds,
                SIGN=-1.0 if self.whole.rule.maximize else 1.0,
                LR=rate is not None, GAINS=gains is not None, GRAD_SCALE=scale is not None,
                FOUND=found is not None,
                ALIGNED=bool((self.table[:, :5] % 16 == 0).all()), N=gpu.TILE, num_warps=gpu.WARPS,
            )  # fmt: skip


_CAPTURED: list[Tensor] = []
"""What graphs copy from at each replay: it must not go."""


def _sent(array: Array, device: torch.device) -> Tensor:
    """An array on the device; what a graph that is being captured sends, it sends at each replay."""
    host = torch.from_numpy(array)
    if device.type != "cuda":
        return host.to(device)
    host = host.pin_memory()
    if torch.cuda.is_current_stream_capturing():
        _CAPTURED.append(host)
    return host.to(device, non_blocking=True)


def _on(device: torch.device) -> Any:
    """Triton launches on the current device."""
    if device.type == "cpu":  # interpreted
        return contextlib.nullcontext()
    return torch.get_device_module(device).device(device)


@functools.cache
def _types() -> dict[str, Any]:
    tl = kernel().tl
    return {
        "f16": tl.float16, "bf16": tl.bfloat16, "bf16s": tl.bfloat16, "f32": tl.float32,
        "f64": tl.float64, "u8": tl.uint8,
    }  # fmt: skip
