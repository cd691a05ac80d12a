"""What is kept for a parameter, in which format, and the memory that kernels may walk.

One byte for v (`kernels.formats`) is `square_avg` as uint8 with `square_avg_exponent`, one byte for each
block of 256 elements of a row; a row is what stands under one index of the first dimension, so that both
are sharded alike. The order is that of memory: a layout that is not contiguous adds a dimension of one to the
exponents' shape, so that a checkpoint of the one is not mistaken for the other.
"""

from typing import Any

import torch
from torch import Tensor

from rmsprop.kernels.formats import BLOCK, SPAN
from rmsprop.rule import Rule
from rmsprop.state import SLOTS

SMALL, SMALL_VECTOR = 1 << 12, 1 << 20
"""Matrices and vectors of fewer elements keep float32 in place of one byte: 1% of a network."""

EXPONENT = "square_avg_exponent"

if torch.distributed.is_available():
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torch.distributed.tensor import zeros as _distributed_zeros
else:  # pragma: no cover
    DTensor = None


def is_distributed(t: Tensor) -> bool:
    """Whether this is a DTensor: `local` is then this process's part of it."""
    return DTensor is not None and isinstance(t, DTensor)


def local(t: Tensor) -> Tensor:
    """The tensor itself, or this process's part of a DTensor; call without grad."""
    return t.to_local() if is_distributed(t) else t  # type: ignore[attr-defined]


def whole(t: Tensor) -> Tensor:
    """The tensor itself, or all of a DTensor, which every process takes part in."""
    return t.full_tensor() if is_distributed(t) else t  # type: ignore[attr-defined]


def dense(t: Tensor) -> bool:
    """Whether the elements fill one run of memory, in any order."""
    if t.is_contiguous():
        return True
    expected = 1
    for size, stride in sorted(zip(t.shape, t.stride(), strict=True), key=lambda x: x[1]):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def flat(t: Tensor) -> Tensor:
    """A dense tensor as one run, in the order of memory."""
    return t.as_strided((t.numel(),), (1,))


def rows(t: Tensor) -> tuple[int, int]:
    """(rows, elements of a row) of a dense tensor's memory: a row is one index of dimension 0."""
    if t.dim() < 2 or not t.numel() or t.stride(0) != t.numel() // t.shape[0]:
        return 1, t.numel()
    return t.shape[0], t.numel() // t.shape[0]


def real_dtype(p: Tensor) -> torch.dtype:
    """What a step of this parameter computes in."""
    return torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32


def state_dtypes(p: Tensor, wanted: torch.dtype | None) -> dict[str, torch.dtype]:
    """The dtypes of `square_avg`, `grad_avg` and `momentum_buffer`."""
    plain = p.dtype if p.is_complex() else real_dtype(p)
    if wanted == torch.uint8 and not p.is_complex() and not _takes_codes(p):
        wanted = None
    if wanted is None or p.is_complex():
        v = other = plain
    else:
        v, other = wanted, torch.bfloat16 if wanted == torch.uint8 else wanted
    return {SLOTS["v"]: v, SLOTS["m"]: other, SLOTS["b"]: other}


def _takes_codes(p: Tensor) -> bool:
    if p.numel() < (SMALL if p.dim() > 1 else SMALL_VECTOR):
        return False
    if not is_distributed(p):
        return True
    # Exponents are sharded with their rows. Other placements would cut through a block.
    return p.dim() > 1 and all(
        isinstance(x, Replicate) or (type(x) is Shard and x.dim == 0)
        for x in p.placements  # type: ignore[attr-defined]
    )


def start(entry: dict[str, Any], p: Tensor, rule: Rule, group: dict[str, Any]) -> None:
    """Make what the rule keeps and the parameter's state lacks."""
    if rule.centered and SLOTS["v"] in entry and SLOTS["m"] not in entry:
        raise ValueError(
            "centered=True was switched on after the first step, and no mean of the gradients was kept: "
            "set it from the start, or drop this parameter's state"
        )
    if "step" not in entry:
        on = p.device if group["capturable"] or _fused(p, group) else "cpu"
        entry["step"] = torch.zeros((), dtype=torch.float32, device=on)
    for slot in rule.slots:
        name = SLOTS[slot]
        if name not in entry:
            dtype = state_dtypes(p, group["state_dtype"])[name]
            entry[name] = torch.zeros_like(
                p, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False
            )
            if dtype == torch.uint8:
                entry[EXPONENT] = exponents_for(p, entry[name])
            if slot == "v" and rule.initial_scale:
                fill(entry, rule.initial_scale)


def _fused(p: Tensor, group: dict[str, Any]) -> bool:
    return group["backend"] == "triton" and p.device.type != "cpu"


def exponents_for(p: Tensor, codes: Tensor) -> Tensor:
    """Zeros of the shape that the exponents of these codes have, placed as the parameter is."""
    if is_distributed(p):
        many = p.shape[0], -(-(p.numel() // max(p.shape[0], 1)) // BLOCK)
        shape = many if local(codes).is_contiguous() else (*many, 1)
        return _distributed_zeros(
            *shape,
            dtype=torch.uint8,
            device_mesh=p.device_mesh,  # type: ignore[attr-defined]
            placements=p.placements,  # type: ignore[attr-defined]
        )
    count, width = rows(codes)
    shape = (count, -(-width // BLOCK)) if codes.is_contiguous() else (count, -(-width // BLOCK), 1)
    return torch.zeros(shape, dtype=torch.uint8, device=p.device)


def fill(entry: dict[str, Any], value: float) -> None:
    """Set v to one value."""
    v = local(entry[SLOTS["v"]])
    if v.dtype == torch.uint8:
        store(v, torch.full_like(v, value, dtype=torch.float32), local(entry[EXPONENT]), None)
    else:
        v.fill_(value)


def restore(entry: dict[str, Any], saved: dict[str, Any], p: Tensor, wanted: Any) -> None:
    """Put a saved state in place, in the dtypes that are kept here; exactly, where these are the same."""
    dtypes = state_dtypes(p, wanted)
    for name, dtype in dtypes.items():
        if name not in saved:
            continue
        t = saved[name].to(p.device)
        exponents = saved.get(EXPONENT) if t.dtype == torch.uint8 else None
        if t.dtype == dtype:
            entry[name] = t
            if exponents is not None:
                entry[EXPONENT] = exponents.to(p.device)
        else:
            values = load(local(t), torch.float32, local(exponents)) if exponents is not None else t
            entry[name] = torch.zeros_like(t, dtype=dtype)
            entry.pop(EXPONENT, None)
            if dtype == torch.uint8:
                entry[EXPONENT] = exponents_for(p, entry[name])
            codes = local(entry[EXPONENT]) if dtype == torch.uint8 else None
            store(local(entry[name]), local(values), codes, None)


def aligned(entry: dict[str, Any], name: str, p: Tensor) -> None:
    """Bring a state tensor that came from elsewhere into the layout of its parameter (local, dense)."""
    t = local(entry[name])
    if t.shape != p.shape or t.device != p.device:
        raise RuntimeError(
            f"the optimizer's {name} has shape {tuple(t.shape)} on {t.device}, but its parameter has "
            f"{tuple(p.shape)} on {p.device}: load the state again, or make a new optimizer"
        )
    if t.stride() == p.stride() or (t.is_contiguous() and p.is_contiguous()):
        return
    if is_distributed(entry[name]):
        raise RuntimeError(f"the optimizer's {name} is laid out otherwise than its parameter")
    found = torch.empty_like(p, dtype=t.dtype)
    if t.dtype == torch.uint8:
        values = load(t, torch.float32, entry[EXPONENT])
        entry[EXPONENT] = exponents_for(p, found)
        store(found, values, entry[EXPONENT], None)
    else:
        found.copy_(t)
    entry[name] = found


# Reading and writing the formats with PyTorch's own operations: for any device, and for loading.


def load(t: Tensor, dtype: torch.dtype, exponents: Tensor | None = None) -> Tensor:
    """A stored tensor as numbers of this dtype; the tensor itself if it has it."""
    if exponents is None:
        return t.to(dtype)
    count, width = rows(t)
    base = (exponents.reshape(count, -1).int() - SPAN).clamp_(min=0) << 23
    codes = flat(t).view(count, width).int() << 20
    bits = codes + base.repeat_interleave(BLOCK, dim=1)[:, :width]
    return _like(t, bits.view(torch.float32).to(dtype))


def store(t: Tensor, x: Tensor, exponents: Tensor | None, noise: torch.Generator | None) -> None:
    """Write numbers into a stored tensor, rounded to the nearest, or stochastically with noise."""
    if t.dtype == torch.uint8 and exponents is not None:
        _encode(t, x, exponents, noise)
    elif t.dtype == torch.bfloat16 and noise is not None:
        bits = x.float().view(torch.int32)
        drawn = _drawn(16, bits, noise)
        bits = (bits + drawn) & -(1 << 16)
        t.copy_(torch.where(x.isnan(), x.float(), bits.view(torch.float32)))
    else:
        t.copy_(x)


def _encode(t: Tensor, x: Tensor, exponents: Tensor, noise: torch.Generator | None) -> None:
    count, width = rows(t)
    padded = torch.nn.functional.pad(
        flat(torch.empty_like(t, dtype=torch.float32).copy_(x)).view(count, width),
        (0, -width % BLOCK),
    )
    bits = padded.view(torch.int32).view(count, -1, BLOCK) & 0x7FFFFFFF
    known = torch.where(bits < 0x7F800000, bits, 0)
    if not known.numel():
        return
    exponent = (known.amax(dim=2, keepdim=True) >> 23).clamp_(max=253)
    exponents.copy_(exponent.reshape(exponents.shape))
    base = (exponent - SPAN).clamp_(min=0) << 3
    half = 1 << 19
    drawn: Any = half
    if noise is not None:
        drawn = _drawn(20, bits, noise)
    codes = (((known + drawn) >> 20) - base).clamp_(0, 248)
    codes = torch.where(bits < 0x7F800000, codes, 248)  # as the largest of the block
    flat(t).copy_(codes.view(count, -1)[:, :width].reshape(-1))


def _drawn(width: int, like: Tensor, noise: torch.Generator) -> Tensor:
    return torch.randint(
        0, 1 << width, like.shape, generator=noise, device=like.device, dtype=torch.int32
    )


def _like(t: Tensor, values: Tensor) -> Tensor:
    """Numbers in the order of memory, as a tensor of t's shape and layout."""
    found = torch.empty_like(t, dtype=values.dtype)
    flat(found).copy_(values.reshape(-1))
    return found

