"""What is kept for a parameter, in which format, and the memory that kernels may walk.

One byte for v (`kernels.formats`) is, in place of `square_avg`, `square_avg_code` with
`square_avg_exponent`, one byte for each block of 256 elements of a row; a row is what stands under one
index of the first dimension, so that both are sharded alike. The order is that of memory: a layout that is
not contiguous adds a dimension of one to the exponents' shape. Names and shapes make sure that codes are
never read as what they are not: not by torch.optim, not from a checkpoint of another layout or sharding.
"""

import sys
from typing import Any

import torch
from torch import Tensor

from rmsprop.kernels.formats import BLOCK, SPAN
from rmsprop.rule import Rule
from rmsprop.state import SLOTS

SMALL, SMALL_VECTOR = 1 << 12, 1 << 20
"""Matrices and vectors of fewer elements keep float32 in place of one byte: 1% of a network."""

CODE, EXPONENT = "square_avg_code", "square_avg_exponent"
Entry = dict[str, Any]
"""What `torch.optim` keeps for one parameter."""


def is_distributed(t: Tensor) -> bool:
    """Whether this is a DTensor: `local` is then this process's part of it."""
    module = sys.modules.get("torch.distributed.tensor")  # whoever has one has imported it
    return module is not None and isinstance(t, module.DTensor)


def local(t: Tensor) -> Tensor:
    """The tensor itself, or this process's part of a DTensor; call without grad."""
    return t.to_local() if is_distributed(t) else t  # type: ignore[attr-defined]


def placements(t: Tensor) -> Any:
    """How a DTensor is shared out."""
    return t.placements  # type: ignore[attr-defined]


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
    """The dtypes of the state, by the rule's letters; uint8 stands for codes."""
    plain = p.dtype if p.is_complex() else real_dtype(p)
    if wanted == torch.uint8 and not p.is_complex() and not _takes_codes(p):
        wanted = None
    if wanted is None or p.is_complex():
        v = other = plain
    else:
        v, other = wanted, torch.bfloat16 if wanted == torch.uint8 else wanted
    return {"v": v, "m": other, "b": other}


def _takes_codes(p: Tensor) -> bool:
    if p.numel() < (SMALL if p.dim() > 1 else SMALL_VECTOR):
        return False
    if not is_distributed(p):
        return True
    # Exponents are sharded with their rows. Other placements would cut through a block.
    return p.dim() > 1 and all(
        [x.is_replicate() or (type(x).__name__ == "Shard" and x.is_shard(0)) for x in placements(p)]
    )


def kept(entry: Entry, slot: str) -> Tensor | None:
    """What a parameter's state keeps for the rule's "v", "m" or "b": numbers, or codes."""
    found = entry.get(SLOTS[slot])
    return entry.get(CODE) if found is None and slot == "v" else found


def names(entry: Entry, slot: str) -> list[str]:
    """Under which names that is."""
    if slot == "v" and SLOTS["v"] not in entry:
        return [CODE, EXPONENT]
    return [SLOTS[slot]]


def start(entry: Entry, p: Tensor, rule: Rule, group: dict[str, Any]) -> None:
    """Make what the rule keeps and the parameter's state lacks."""
    if rule.centered and kept(entry, "v") is not None and kept(entry, "m") is None:
        raise ValueError(
            "centered=True was switched on after the first step, and no mean of the gradients was kept: "
            "set it from the start, or drop this parameter's state"
        )
    if "step" not in entry:
        on = p.device if group["capturable"] else "cpu"  # a kernel brings it to its device
        entry["step"] = torch.zeros((), dtype=torch.float32, device=on)
    dtypes = state_dtypes(p, group["state_dtype"])
    for slot, other in ("mb", "bm"):  # they are of one dtype, also where one came later
        known = kept(entry, other)
        dtypes[slot] = dtypes[slot] if known is None else known.dtype
    for slot in rule.slots:
        if kept(entry, slot) is None:
            _add(entry, slot, p, dtypes[slot], rule.initial_scale if slot == "v" else 0.0)


def _add(entry: Entry, slot: str, p: Tensor, dtype: torch.dtype, value: float) -> None:
    t, exponents = _room(entry, slot, p, dtype)
    if value and exponents is not None:
        store(t, torch.full_like(t, value, dtype=torch.float32), exponents, None)
    elif value:
        (torch.view_as_real(t) if t.is_complex() else t).fill_(value)


def _room(
    entry: Entry, slot: str, like: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Zeros for a slot, and for its exponents if it is codes: this process's part of them."""
    t = torch.zeros_like(
        like, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False
    )
    if dtype != torch.uint8:
        entry[SLOTS[slot]] = t
        return local(t), None
    entry[CODE], entry[EXPONENT] = t, exponents_for(like, t)
    return local(t), local(entry[EXPONENT])


def exponents_for(p: Tensor, codes: Tensor) -> Tensor:
    """Zeros of the shape that the exponents of these codes have, placed as the parameter is."""
    shape = _shape(p if is_distributed(p) else codes, local(codes))
    if is_distributed(p):
        mesh: Any = p.device_mesh  # type: ignore[attr-defined]
        zeros = sys.modules["torch.distributed.tensor"].zeros
        return zeros(*shape, dtype=torch.uint8, device_mesh=mesh, placements=placements(p))
    return torch.zeros(shape, dtype=torch.uint8, device=p.device)


def _shape(t: Tensor, layout: Tensor) -> tuple[int, ...]:
    """Of the exponents of a tensor in a layout."""
    if is_distributed(t):
        count, width = t.shape[0], t.numel() // max(t.shape[0], 1)
    else:
        count, width = rows(t)
    blocks = count, -(-width // BLOCK)
    return blocks if layout.is_contiguous() else (*blocks, 1)


def _check_exponents(entry: Entry) -> None:
    """The kernels write where the codes' shape says that there are exponents."""
    codes, found = local(entry[CODE]), entry.get(EXPONENT)
    if not codes.numel():
        return
    expected = _shape(codes, codes)
    if found is None or local(found).shape != expected or found.dtype != torch.uint8:
        seen = (
            "there is none" if found is None else f"it is {found.dtype}{tuple(local(found).shape)}"
        )
        raise RuntimeError(
            f"the optimizer's {EXPONENT} does not belong to its {CODE}: it should be uint8{expected}, and "
            f"{seen}; load the state as it was saved, in the layout of memory that it had"
        )
    if not local(found).is_contiguous():
        raise RuntimeError(f"the optimizer's {EXPONENT} must be contiguous")


def restore(entry: Entry, saved: Entry, p: Tensor, wanted: Any) -> None:
    """Put a saved state in place, in the dtypes that are kept here; exactly, where these are the same."""
    for slot, dtype in state_dtypes(p, wanted).items():
        t = kept(saved, slot)
        if t is None:
            continue
        for name in (SLOTS[slot], *((CODE, EXPONENT) if slot == "v" else ())):
            entry.pop(name, None)
        t = t.to(p.device)
        coded = t.dtype == torch.uint8
        if coded:
            _check_exponents(saved)
        if coded and dtype == torch.uint8:
            entry[CODE], entry[EXPONENT] = t, saved[EXPONENT].to(p.device)
        elif t.dtype == dtype:
            entry[SLOTS[slot]] = t
        else:
            values = local(t)
            if coded:
                values = load(values, torch.float32, local(saved[EXPONENT]).to(p.device))
            found, exponents = _room(entry, slot, t, dtype)
            store(found, values, exponents, None)


def aligned(entry: Entry, p: Tensor) -> None:
    """Bring state tensors that came from elsewhere into the layout of their parameter (local, dense)."""
    if CODE in entry:
        _check_exponents(entry)
    for name in (*SLOTS.values(), CODE):
        if name not in entry:
            continue
        t = local(entry[name])
        if t.shape != p.shape or t.device != p.device:
            raise RuntimeError(
                f"the optimizer's {name} has shape {tuple(t.shape)} on {t.device}, but its parameter "
                f"has {tuple(p.shape)} on {p.device}: load the state again, or make a new optimizer"
            )
        if t.stride() == p.stride() or (t.is_contiguous() and p.is_contiguous()):
            continue
        if is_distributed(entry[name]):
            raise RuntimeError(f"the optimizer's {name} is laid out otherwise than its parameter")
        entry[name] = found = torch.empty_like(p, dtype=t.dtype)
        if name == CODE:
            values = load(t, torch.float32, entry[EXPONENT])
            entry[EXPONENT] = exponents_for(p, found)
            store(found, values, entry[EXPONENT], None)
        else:
            found.copy_(t)


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
    drawn = 1 << 19 if noise is None else _drawn(20, bits, noise)  # a half, to the nearest
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
